//! Handing a replica from its holder to another node of the cluster, files and all.
//!
//! The committed state says that a hand-over to this node is wanted; this node then copies the replica from the holder
//! and checks every point, while the holder goes on taking change sets. Then the holder takes nothing new, this node
//! copies and checks what came meanwhile, and asks to be handed the replica. It is the holder that commits: first that
//! the other node has every acknowledged byte, then that it is the holder (R13). As long as the holder does not know what
//! became of those commits it acknowledges nothing, so nothing can be acknowledged that the new holder lacks.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Session;
use landfall_proto::frame::{self, FrameError};
use landfall_proto::id::{Epoch, MemberId, VmId};
use landfall_proto::message::data::{CopyAnswer, CopyRequest, Hello};
use landfall_proto::model::{Command, Outcome, Replica};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use quinn::{RecvStream, SendStream};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::drive::events::Happening;
use crate::drive::members::data_target;
use crate::drive::node::Node;
use crate::drive::replica::layout::MANIFEST;
use crate::drive::replica::{CopySource, Import, leftover};
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

/// How often the holder hears something during work that asks it nothing: often enough for [`STALL`].
const SIGN_OF_LIFE: Duration = Duration::from_secs(STALL.as_secs() / 3);

/// What the pass that the primary waits for should carry at most: at the 100 MB/s of a gigabit link less than a second,
/// well within the shortest cycle.
const FROZEN_BYTES_AIM: u64 = 64 << 20;

/// Passes before the one that the primary waits for. Each carries what was written during the one before; where that
/// does not become little in so many, the guest writes about as fast as the copy goes and more would not help.
const UNFROZEN_PASSES: u32 = 4;

/// Takes over the replicas that are to be handed to this node, until the task is dropped.
pub async fn run(node: Node, replicas: Replicas) {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = node.consensus.watch_state();
    let mut failures: BTreeMap<(VmId, Epoch), u32> = BTreeMap::new();
    for location in &node.config.storage {
        let path = location.path.clone();
        if let Err(refusal) = blocking(move || leftover::clear(&path, leftover::IMPORT)).await {
            tracing::warn!(location = %location.name, %refusal, "a copy that broke off is not removed");
        }
    }
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
            discard(&replicas, &replica).await;
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

/// Removes what a try has copied: the next one begins again, and there may be none.
async fn discard(replicas: &Replicas, replica: &Replica) {
    let (Ok(folder), vm) = (replicas.folder(&replica.storage, replica.vm.id), replica.vm.id) else { return };
    if let Err(refusal) = blocking(move || Import::discard(&folder, vm)).await {
        tracing::warn!(%vm, %refusal, "a copy that broke off is not removed");
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
    let (files, began_in) = (copy.list(false).await?, folder.clone());
    let mut import = blocking(move || Import::begin(&began_in, vm, files)).await?;
    let (mut pass, mut before) = (1, 0);
    loop {
        import = copy.fetch(import).await?;
        import = copy.beside(move || import.check().map(|()| import)).await?;
        let carried = import.received() - before;
        tracing::info!(vm = %replica.vm.name, pass, carried, "copied while the holder goes on");
        if carried <= FROZEN_BYTES_AIM || pass >= UNFROZEN_PASSES {
            break;
        }
        (pass, before) = (pass + 1, import.received());
        let files = copy.list(false).await?;
        import = copy.beside(move || import.again(files).map(|()| import)).await?;
    }
    let froze = node.outside.clock.now();
    let files = copy.list(true).await?;
    import = copy.beside(move || import.again(files).map(|()| import)).await?;
    import = copy.fetch(import).await?;
    let bytes = import.received();
    copy.beside(move || import.finish()).await?;
    let epoch = match copy.ask(&CopyRequest::Complete).await? {
        CopyAnswer::Handed(epoch) => epoch,
        other => return Err(unexpected(other)),
    };
    let frozen = node.outside.clock.now().since(froze);
    // Until this node has applied it, it would take the replica for one that is still to be taken over.
    let applied = node.proposer.applied(epoch.0, tokio::time::Instant::now() + STALL).await;
    open_early(node, replicas, vm, applied.ok());
    let took = node.outside.clock.now().since(began);
    let told = format!("{} is received here now: {bytes} bytes came from its holder", replica.vm.name);
    let event = Happening::info("replica_moved", told).vm(vm).node(&node.name);
    let event = event.with("bytes", &bytes).with("took_ms", &took.as_millis());
    node.events.record(event.with("frozen_ms", &frozen.as_millis()).with("epoch", &epoch));
    Ok(())
}

/// Opens a replica that has just come, so that the merges which had to wait for its copy are not the first sender's to
/// wait for. Where that fails the first session says why.
fn open_early(node: &Node, replicas: &Replicas, vm: VmId, state: Option<Arc<State>>) {
    let mine = |replica: &Replica| replica.receiver() == node.me;
    let Some(replica) = state.and_then(|state| state.replicas.get(&vm).cloned()).filter(mine) else { return };
    let replicas = replicas.clone();
    tokio::spawn(async move { replicas.store(&replica).await.map(drop) });
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

    async fn list(&mut self, freeze: bool) -> Result<Vec<(String, u64)>, Refusal> {
        match self.ask(&CopyRequest::List { freeze }).await? {
            CopyAnswer::Files(files) => Ok(files),
            other => Err(unexpected(other)),
        }
    }

    /// Fetches what a pass still lacks.
    async fn fetch(&mut self, mut import: Import) -> Result<Import, Refusal> {
        let mut ahead = 0;
        loop {
            while ahead < PIECES_AHEAD
                && let Some(step) = import.next_step()
            {
                self.send(&CopyRequest::Read { file: step.file, offset: step.offset, length: step.length }).await?;
                ahead += 1;
            }
            if ahead == 0 {
                return Ok(import);
            }
            let piece = match self.receive().await? {
                CopyAnswer::Piece(piece) => piece,
                other => return Err(unexpected(other)),
            };
            ahead -= 1;
            import = blocking(move || import.feed(&piece).map(|()| import)).await?;
        }
    }

    /// Does `work`, which may take long, and lets the other side hear of this one meanwhile: it gives up a session that
    /// is silent.
    async fn beside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let mut work = pin!(blocking(work));
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(SIGN_OF_LIFE) => {}
            }
            let sign = CopyRequest::Read { file: MANIFEST.to_owned(), offset: 0, length: 1 };
            let silent = match self.ask(&sign).await {
                Ok(CopyAnswer::Piece(_)) => continue,
                Ok(other) => unexpected(other),
                Err(refusal) => refusal,
            };
            // The next try must not meet this one's work in its folder.
            drop(work.await);
            return Err(silent);
        }
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
                // The earlier one goes only now: what it has pinned is in the new one as it was.
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
