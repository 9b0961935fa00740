//! The holder: it gives its files to a node that copies them, and commits what that node becomes.

use landfall_proto::alpn::Alpn;
use landfall_proto::frame::{self, FrameError};
use landfall_proto::id::{Epoch, MemberId, VmId};
use landfall_proto::message::data::{CopyAnswer, CopyRequest};
use landfall_proto::model::{Command, Outcome, Replica};
use landfall_proto::{Class, Refusal};
use quinn::{RecvStream, SendStream};
use tokio::time::{sleep, timeout};

use super::{RETRY_PAUSE, STALL};
use crate::drive::copies::Pending;
use crate::drive::node::Node;
use crate::drive::replica::CopySource;
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;
use crate::drive::{broker, peers};

/// Tells the primary, once this node has applied the new assignment. The node that hands over does this: it is the one
/// that the sender talks to, so that telling where the replica went is one node's business, by notice or by answer.
pub async fn announce(node: Node, vm: VmId, epoch: Epoch) {
    if node.config.testing.drop_moved_notices {
        return;
    }
    let Ok(state) = node.proposer.applied(epoch.0, tokio::time::Instant::now() + STALL).await else { return };
    if let Some(replica) = state.replicas.get(&vm)
        && let Ok(at) = broker::location(&state, replica)
    {
        peers::announce_moved(&node, &state, &replica.primary, peers::moved(vm, at)).await;
    }
}

/// Who asks for a copy of which replica, from its holder at `epoch`.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The node that copies.
    pub to: MemberId,
    /// The VM.
    pub vm: VmId,
    /// The holder's assignment.
    pub epoch: Epoch,
}

/// Serves a copying session, as the holder.
pub async fn give(
    node: &Node,
    replicas: &Replicas,
    pending: &Pending,
    asked: Asked,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), FrameError> {
    let most = Alpn::Data.frame_max();
    let mut given = Given { node, replicas, pending, asked, source: None };
    loop {
        let next = timeout(STALL, frame::receive_or_end::<CopyRequest, _>(&mut receive, most));
        let Some(request) = next.await.unwrap_or(Err(FrameError::Late(STALL)))? else { return Ok(()) };
        let answer = given.answer(request).await.unwrap_or_else(CopyAnswer::Refused);
        let last = matches!(answer, CopyAnswer::Refused(_) | CopyAnswer::Handed(_) | CopyAnswer::Admitted);
        frame::send(&mut send, &answer, most).await?;
        if last {
            drop(send.finish());
            return Ok(());
        }
    }
}

struct Given<'a> {
    node: &'a Node,
    replicas: &'a Replicas,
    pending: &'a Pending,
    asked: Asked,
    source: Option<CopySource>,
}

impl Given<'_> {
    async fn answer(&mut self, request: CopyRequest) -> Result<CopyAnswer, Refusal> {
        match request {
            CopyRequest::List { freeze } => {
                let replica = self.held()?;
                let store = self.replicas.store(&replica).await?;
                let mut store = store.lock_owned().await;
                let source = blocking(move || store.copy_source(freeze)).await?;
                let listing = source.listing().clone();
                // The earlier one goes only now: what it has pinned is in the new one as it was.
                self.source = Some(source);
                Ok(CopyAnswer::Files(listing))
            }
            CopyRequest::Read { file, offset, length } => {
                let mut source = self.source.take().ok_or_else(not_listed)?;
                let (source, piece) = blocking(move || {
                    let piece = source.read(&file, offset, length)?;
                    Ok((source, piece))
                })
                .await?;
                self.source = Some(source);
                Ok(CopyAnswer::Piece(piece))
            }
            CopyRequest::Digests { file, offset, count } => {
                let mut source = self.source.take().ok_or_else(not_listed)?;
                let (source, digests) = blocking(move || {
                    let digests = source.digests(&file, offset, count)?;
                    Ok((source, digests))
                })
                .await?;
                self.source = Some(source);
                Ok(CopyAnswer::Digests(digests))
            }
            CopyRequest::Complete => {
                let replica = self.held()?;
                match replica.handover {
                    Some(_) if self.source.as_ref().is_some_and(CopySource::is_frozen) => {
                        self.hand(&replica).await.map(CopyAnswer::Handed)
                    }
                    Some(_) => Err(not_listed()),
                    None => self.admit(&replica).await.map(|()| CopyAnswer::Admitted),
                }
            }
        }
    }

    /// The replica, as long as this node holds it at the session's epoch and the asker is to copy it.
    fn held(&self) -> Result<Replica, Refusal> {
        let Asked { to, vm, epoch } = self.asked;
        let state = self.node.state();
        let replica = state.replicas.get(&vm).ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
        if replica.receiver() != self.node.me || replica.epoch != epoch || replica.copying_since(to).is_none() {
            let message = format!("{} is not to be copied from here at epoch {epoch}", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "stale_epoch", message).field("epoch"));
        }
        Ok(replica.clone())
    }

    fn admission(&self, replica: &Replica) -> Command {
        let Asked { to: member, vm, epoch } = self.asked;
        Command::Admit { vm, epoch, member, begun: replica.copying_since(member).unwrap_or_default() }
    }

    /// Commits the hand-over. Nothing is acknowledged here until its outcome is known, however long that takes.
    async fn hand(&self, replica: &Replica) -> Result<Epoch, Refusal> {
        let Asked { to, vm, epoch } = self.asked;
        self.settled(self.admission(replica)).await?;
        match self.settled(Command::Assign { vm, epoch, to }).await? {
            Outcome::Epoch(epoch) => {
                // Beside the answer, which a primary that does not answer must not hold up.
                tokio::spawn(announce(self.node.clone(), vm, epoch));
                Ok(epoch)
            }
            _ => Err(Refusal::new(Class::Failed, "protocol", "assigning gave an answer of another kind")),
        }
    }

    /// Has the asker join the in-sync set. From before that is proposed until its answer is there, whatever comes waits
    /// for the asker like for a member: it is thought of as one from the moment on at which it has all that is here.
    async fn admit(&mut self, replica: &Replica) -> Result<(), Refusal> {
        let Asked { to, vm, .. } = self.asked;
        let store = self.replicas.store(replica).await?;
        {
            let _alone = store.lock().await;
            let frozen = self.source.take().is_some_and(|source| source.is_frozen());
            if !frozen {
                // A change set had to go on meanwhile.
                return Err(not_listed());
            }
            self.pending.add(vm, to);
        }
        let (node, pending, command) = (self.node.clone(), self.pending.clone(), self.admission(replica));
        // Beside the session, which may break off: the answer is waited for all the same.
        let answer = tokio::spawn(async move {
            let answer = settled(&node, vm, command).await;
            pending.settle(vm, to);
            answer.map(drop)
        });
        answer.await.unwrap_or_else(|error| Err(Refusal::new(Class::Failed, "ended", error.to_string())))
    }

    async fn settled(&self, command: Command) -> Result<Outcome, Refusal> {
        settled(self.node, self.asked.vm, command).await
    }
}

/// Commits a command until the answer is known: without one it may still be applied.
async fn settled(node: &Node, vm: VmId, command: Command) -> Result<Outcome, Refusal> {
    loop {
        match node.proposer.commit(command.clone()).await {
            Ok((outcome, _)) => return Ok(outcome),
            Err(refusal) if refusal.class == Class::Unreachable => {
                tracing::warn!(%vm, %refusal, "a copy waits for its commit");
                sleep(RETRY_PAUSE).await;
            }
            Err(refusal) => return Err(refusal),
        }
    }
}

fn not_listed() -> Refusal {
    Refusal::new(
        Class::Usage,
        "not_listed",
        "list the files first, frozen if the copy is to be complete; change sets may have had to go on since",
    )
}
