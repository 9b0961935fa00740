//! Handing a replica from its holder to another node of the cluster, files and all.
//!
//! The committed state says that a hand-over to this node is wanted; this node then copies the replica from the holder,
//! which takes nothing new meanwhile, checks every point, and asks to be handed it. It is the holder that commits: first
//! that the other node has every acknowledged byte, then that it is the holder (R13). As long as the holder does not know
//! what became of those commits it acknowledges nothing, so nothing can be acknowledged that the new holder lacks.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Session;
use landfall_proto::frame::{self, FrameError};
use landfall_proto::id::{Epoch, MemberId, VmId};
use landfall_proto::message::data::{CopyAnswer, CopyRequest, Hello};
use landfall_proto::model::{Command, Outcome, Replica};
use landfall_proto::{Class, Refusal};
use quinn::{RecvStream, SendStream};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::drive::events::Happening;
use crate::drive::members::data_target;
use crate::drive::node::Node;
use crate::drive::replica::{CopySource, Import};
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;
use crate::drive::{broker, peers};

/// How often hand-overs are looked for without being told of a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long the other side may take to open, answer or ask: reading 512 KiB from a busy disk fits.
const STALL: Duration = Duration::from_secs(30);

/// Tries of one hand-over before it is given up: more means a fault that an operator must see.
const TRIES_MAX: u32 = 3;

/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Pieces that are asked for ahead of their answers: 8 MiB in flight.
const PIECES_AHEAD: usize = 16;

/// Takes over the replicas that are to be handed to this node, until the task is dropped.
pub async fn run(node: Node, replicas: Replicas) {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = node.consensus.watch_state();
    let mut failures: BTreeMap<(VmId, Epoch), u32> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            changed = state.changed() => if changed.is_err() { return },
        }
        let now = node.state();
        let wanted = now.replicas.values().find(|replica| {
            replica.handover.as_ref().is_some_and(|handover| handover.to == node.me) && replica.holder != node.me
        });
        let Some(replica) = wanted.cloned() else {
            failures.clear();
            continue;
        };
        if let Err(refusal) = take(&node, &replicas, &replica).await {
            let count = failures.entry((replica.vm.id, replica.epoch)).or_default();
            *count += 1;
            tracing::warn!(vm = %replica.vm.name, %refusal, tries = *count, "taking a replica over failed");
            if *count >= TRIES_MAX {
                give_up(&node, &replica, &refusal).await;
            }
            sleep(RETRY_PAUSE).await;
        }
    }
}

async fn give_up(node: &Node, replica: &Replica, refusal: &Refusal) {
    let command = Command::Handover { vm: replica.vm.id, epoch: replica.epoch, to: None };
    if node.proposer.commit(command).await.is_ok() {
        let told = format!("the hand-over of {} to this node was given up: {refusal}", replica.vm.name);
        node.events.record(Happening::warning("handover_given_up", told).vm(replica.vm.id).node(&node.name));
    }
}

/// Copies one replica from its holder, checks it, and has it handed over.
async fn take(node: &Node, replicas: &Replicas, replica: &Replica) -> Result<(), Refusal> {
    let vm = replica.vm.id;
    let state = node.state();
    let holder = data_target(&state, replica.holder).ok_or_else(|| Refusal::not_found("node", "the holder"))?;
    let folder = replicas.folder(&replica.storage, vm)?;
    replicas.close(vm).await;
    let began = node.outside.clock.now();
    let mut copy = Copy { session: node.calls.open(&holder, Alpn::Data, STALL).await? };
    copy.send(&Hello::Copy { vm, epoch: replica.epoch }).await?;
    let files = match copy.ask(&CopyRequest::List { freeze: true }).await? {
        CopyAnswer::Files(files) => files,
        other => return Err(unexpected(other)),
    };
    let begun = folder.clone();
    let mut import = blocking(move || Import::begin(&begun, vm, files)).await?;
    let mut ahead = 0;
    loop {
        while ahead < PIECES_AHEAD
            && let Some(step) = import.next_step()
        {
            copy.send(&CopyRequest::Read { file: step.file, offset: step.offset, length: step.length }).await?;
            ahead += 1;
        }
        if ahead == 0 {
            break;
        }
        let piece = match copy.receive().await? {
            CopyAnswer::Piece(piece) => piece,
            other => return Err(unexpected(other)),
        };
        ahead -= 1;
        import = blocking(move || import.feed(&piece).map(|()| import)).await?;
    }
    let bytes = import.received();
    // Dropped again at once: it is opened anew when the first sender comes.
    drop(blocking(move || import.finish()).await?);
    let epoch = match copy.ask(&CopyRequest::Complete).await? {
        CopyAnswer::Handed(epoch) => epoch,
        other => return Err(unexpected(other)),
    };
    // Until this node has applied it, it would take the replica for one that is still to be taken over.
    drop(node.proposer.applied(epoch.0, tokio::time::Instant::now() + STALL).await);
    let took = node.outside.clock.now().since(began);
    let told = format!("{} is received here now: {bytes} bytes came from its holder", replica.vm.name);
    let event = Happening::info("replica_moved", told).vm(vm).node(&node.name);
    node.events.record(event.with("bytes", &bytes).with("took_ms", &took.as_millis()).with("epoch", &epoch));
    Ok(())
}

/// Tells the primary, once this node has applied the new assignment. The node that hands over does this: it is the one
/// that the sender talks to, so that telling where the replica went is one node's business, by notice or by answer.
async fn announce(node: Node, vm: VmId, epoch: Epoch) {
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

struct Copy {
    session: Session,
}

impl Copy {
    async fn send<T: serde::Serialize>(&mut self, message: &T) -> Result<(), Refusal> {
        let sent = timeout(STALL, frame::send(&mut self.session.send, message, Alpn::Data.frame_max()));
        sent.await.unwrap_or(Err(FrameError::Late(STALL))).map_err(|error| broken(&error))
    }

    async fn receive(&mut self) -> Result<CopyAnswer, Refusal> {
        let received = timeout(STALL, frame::receive(&mut self.session.receive, Alpn::Data.frame_max()));
        received.await.unwrap_or(Err(FrameError::Late(STALL))).map_err(|error| broken(&error))
    }

    async fn ask(&mut self, request: &CopyRequest) -> Result<CopyAnswer, Refusal> {
        self.send(request).await?;
        self.receive().await
    }
}

fn broken(error: &FrameError) -> Refusal {
    Refusal::new(Class::Unreachable, "copy_broken", format!("the copy broke off: {error}"))
}

fn unexpected(answer: CopyAnswer) -> Refusal {
    match answer {
        CopyAnswer::Refused(refusal) => refusal,
        _ => Refusal::new(Class::Failed, "protocol", "the holder gave an answer of another kind"),
    }
}

/// Serves a copying session of member `to`, as the holder at `epoch`.
pub async fn give(
    node: &Node,
    replicas: &Replicas,
    to: MemberId,
    vm: VmId,
    epoch: Epoch,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), FrameError> {
    let most = Alpn::Data.frame_max();
    let mut given = Given { node, replicas, to, vm, epoch, source: None, frozen: false };
    loop {
        let next = timeout(STALL, frame::receive_or_end::<CopyRequest, _>(&mut receive, most));
        let Some(request) = next.await.unwrap_or(Err(FrameError::Late(STALL)))? else { return Ok(()) };
        let answer = given.answer(request).await.unwrap_or_else(CopyAnswer::Refused);
        let last = matches!(answer, CopyAnswer::Refused(_) | CopyAnswer::Handed(_));
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
    to: MemberId,
    vm: VmId,
    epoch: Epoch,
    source: Option<CopySource>,
    frozen: bool,
}

impl Given<'_> {
    async fn answer(&mut self, request: CopyRequest) -> Result<CopyAnswer, Refusal> {
        match request {
            CopyRequest::List { freeze } => {
                let replica = self.held()?;
                let store = self.replicas.store(&replica).await?;
                let mut store = store.lock_owned().await;
                let source = blocking(move || store.copy_source(freeze)).await?;
                let files = source.files().to_vec();
                self.source = Some(source);
                self.frozen = freeze;
                Ok(CopyAnswer::Files(files))
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
            CopyRequest::Complete if self.frozen => self.hand().await.map(CopyAnswer::Handed),
            CopyRequest::Complete => Err(not_listed()),
        }
    }

    /// The replica, as long as this node holds it at the session's epoch and is to hand it to the asker.
    fn held(&self) -> Result<Replica, Refusal> {
        let state = self.node.state();
        let replica = state.replicas.get(&self.vm).ok_or_else(|| Refusal::not_found("vm", &self.vm.to_string()))?;
        let wanted = replica.handover.as_ref().is_some_and(|handover| handover.to == self.to);
        if replica.holder != self.node.me || replica.epoch != self.epoch || !wanted {
            let message = format!("{} is not to be handed over at epoch {}", replica.vm.name, self.epoch);
            return Err(Refusal::new(Class::Refused, "stale_epoch", message).field("epoch"));
        }
        Ok(replica.clone())
    }

    /// Commits the hand-over. Nothing is acknowledged here until its outcome is known, however long that takes.
    async fn hand(&self) -> Result<Epoch, Refusal> {
        let (vm, epoch, to) = (self.vm, self.epoch, self.to);
        self.held()?;
        self.settled(Command::Sync { vm, epoch, add: Some(to), remove: None }).await?;
        match self.settled(Command::Assign { vm, epoch, to }).await? {
            Outcome::Epoch(epoch) => {
                // Beside the answer, which a primary that does not answer must not hold up.
                tokio::spawn(announce(self.node.clone(), vm, epoch));
                Ok(epoch)
            }
            _ => Err(Refusal::new(Class::Failed, "protocol", "assigning gave an answer of another kind")),
        }
    }

    /// Commits a command until the answer is known: without one it may still be applied.
    async fn settled(&self, command: Command) -> Result<Outcome, Refusal> {
        loop {
            match self.node.proposer.commit(command.clone()).await {
                Ok((outcome, _)) => return Ok(outcome),
                Err(refusal) if refusal.class == Class::Unreachable => {
                    tracing::warn!(vm = %self.vm, %refusal, "a hand-over waits for its commit");
                    sleep(RETRY_PAUSE).await;
                }
                Err(refusal) => return Err(refusal),
            }
        }
    }
}

fn not_listed() -> Refusal {
    Refusal::new(Class::Usage, "not_listed", "list the files first, frozen if the replica is to be handed over")
}
