//! The node that copies: it fetches the holder's files in passes and proves every point.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Session;
use landfall_proto::frame::{self, FrameError};
use landfall_proto::id::VmId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest, ProofFigures};
use landfall_proto::message::data::{
    CopyAnswer, CopyListing, CopyRequest, DIGEST_BYTES, DIGESTS_MAX, EXTENT_MAX, Hello,
};
use landfall_proto::model::Replica;
use landfall_proto::refusal::Class;
use landfall_store::State;
use tokio::time::{Instant, sleep, timeout};

use super::{Purpose, STALL};
use crate::drive::events::Happening;
use crate::drive::members::{control_target, data_target};
use crate::drive::node::Node;
use crate::drive::replica::layout::MANIFEST;
use crate::drive::replica::{Import, Manifest, Similar};
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;

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

/// How often the holder is asked how far it is with reading a point back.
const PROOF_LOOK: Duration = Duration::from_millis(500);

/// One replica that is copied to this node.
pub(super) struct Copying<'a> {
    pub(super) node: &'a Node,
    pub(super) replicas: &'a Replicas,
    pub(super) replica: &'a Replica,
    pub(super) purpose: Purpose,
    /// Whatever is here already counts for nothing.
    pub(super) anew: bool,
}

impl Copying<'_> {
    /// Copies the replica from its holder, checks it, and has this node hold it or join the in-sync set.
    pub(super) async fn take(&self) -> Result<(), Refusal> {
        let Self { node, replicas, replica, .. } = self;
        let vm = replica.vm.id;
        let state = node.state();
        let holder = data_target(&state, replica.holder).ok_or_else(|| Refusal::not_found("node", "the holder"))?;
        replicas.close(vm).await;
        let began = node.outside.clock.now();
        let mut copy = Copy { session: node.calls.open(&holder, Alpn::Data, STALL).await? };
        copy.send(&Hello::Copy { vm, epoch: replica.epoch }).await?;
        let mut import = self.passes(&mut copy).await?;
        let froze = node.outside.clock.now();
        let listing = copy.list(true).await?;
        import = copy.beside(move || import.again(listing).map(|()| import)).await?;
        import = copy.fetch(import).await?;
        let bytes = import.received();
        let damaged = copy.beside(move || import.finish()).await?;
        let answer = match copy.ask(&CopyRequest::Complete).await {
            Err(broken) if broken.class == Class::Unreachable => self.became(broken).await,
            answer => answer,
        };
        let told = match (answer?, self.purpose) {
            (CopyAnswer::Handed(epoch), Purpose::Hold) => {
                // Until this node has applied it, it would take the replica for one that is still to be taken over.
                let applied = node.proposer.applied(epoch.0, Instant::now() + STALL).await;
                open_early(node, replicas, vm, applied.ok());
                let told = format!("{} is received here now: {bytes} bytes came from its holder", replica.vm.name);
                Happening::info("replica_moved", told).with("epoch", &epoch)
            }
            (CopyAnswer::Admitted, Purpose::Join) => {
                let mut states = node.consensus.watch_state();
                let joined = states.wait_for(|state| {
                    state.replicas.get(&vm).is_none_or(|replica| !Purpose::Join.wants(replica, node.me))
                });
                drop(timeout(STALL, joined).await);
                let told = format!("{} is copied here, too: {bytes} bytes came from its holder", replica.vm.name);
                Happening::info("copy_joined", told)
            }
            (other, _) => return Err(unexpected(other)),
        };
        let now = node.outside.clock.now();
        self.tell_damaged(&damaged);
        let event = told.vm(vm).node(&node.name).with("bytes", &bytes).with("took_ms", &now.since(began).as_millis());
        node.events.record(event.with("frozen_ms", &now.since(froze).as_millis()));
        Ok(())
    }

    /// What became of this node where the session `broken` off before the holder said so. The files are in their place, the
    /// holder has been told and may wait for this node already: to begin again would be in the way of what it sends.
    async fn became(&self, broken: Refusal) -> Result<CopyAnswer, Refusal> {
        let (vm, me, purpose) = (self.replica.vm.id, self.node.me, self.purpose);
        tracing::info!(vm = %self.replica.vm.name, %broken, "the copy is complete: waits for what its holder commits");
        let mut states = self.node.consensus.watch_state();
        let settled =
            states.wait_for(|state| state.replicas.get(&vm).is_none_or(|replica| !purpose.wants(replica, me)));
        drop(timeout(STALL, settled).await);
        match self.node.state().replicas.get(&vm) {
            Some(now) if purpose == Purpose::Hold && now.holder == me => Ok(CopyAnswer::Handed(now.epoch)),
            Some(now) if purpose == Purpose::Join && now.in_sync.contains(&me) => Ok(CopyAnswer::Admitted),
            _ => Err(broken),
        }
    }

    /// The passes during which the holder goes on.
    async fn passes(&self, copy: &mut Copy) -> Result<Import, Refusal> {
        let Self { replica, anew, .. } = *self;
        let (vm, folder) = (replica.vm.id, self.replicas.folder(&replica.storage, replica.vm.id)?);
        let listing = copy.list(false).await?;
        let theirs = Arc::new(copy.manifest(&listing).await?);
        let listed = Arc::clone(&theirs);
        let begun = move || {
            let mut import = Import::begin(&folder, vm, listing)?;
            if !anew {
                let reused = import.reuse(&listed)?;
                tracing::info!(%vm, reused, "files that are here already are not copied");
            }
            Ok(import)
        };
        let mut import = copy.beside(begun).await?;
        if !anew {
            for similar in import.similar(&theirs) {
                import = copy.compare(import, similar).await?;
            }
        }
        let (mut pass, mut before) = (1, 0);
        loop {
            import = copy.fetch(import).await?;
            let found;
            (import, found) = copy.beside(move || import.check().map(|found| (import, found))).await?;
            let carried = import.received() - before;
            tracing::info!(vm = %replica.vm.name, pass, carried, "copied while the holder goes on");
            for point in &found {
                self.holder_finds(copy, *point).await?;
            }
            if found.is_empty() && (carried <= FROZEN_BYTES_AIM || pass >= UNFROZEN_PASSES) {
                return Ok(import);
            }
            (pass, before) = (pass + 1, import.received());
            let listing = copy.list(false).await?;
            import = copy.beside(move || import.again(listing).map(|()| import)).await?;
        }
    }

    /// A point is damaged in what came from the holder, which does not know of it: has it read that point back, so that it
    /// names the damage in its next listing. Where it finds the point whole this copy is of no use.
    async fn holder_finds(&self, copy: &mut Copy, point: u64) -> Result<(), Refusal> {
        tracing::warn!(vm = %self.replica.vm.name, point, "a point that was copied is damaged: its holder reads it back");
        let (mut begin, mut last, mut moved) = (true, 0, Instant::now());
        loop {
            let figures = self.proof(point, begin).await?;
            begin = false;
            if figures.damage.is_some() {
                return Ok(());
            }
            if figures.verified_at.is_some() {
                let message = format!("the copy of point {point} is damaged, and it is whole at its holder");
                return Err(Refusal::new(Class::Failed, "damaged", message).remedy("it is copied again by itself"));
            }
            if figures.read_bytes > last {
                (last, moved) = (figures.read_bytes, Instant::now());
            } else if moved.elapsed() > STALL {
                let message = format!("the holder does not get on with reading point {point} back");
                return Err(Refusal::new(Class::Unreachable, "copy_broken", message));
            }
            copy.sign_of_life().await?;
            sleep(PROOF_LOOK).await;
        }
    }

    async fn proof(&self, point: u64, begin: bool) -> Result<ProofFigures, Refusal> {
        let (state, holder) = (self.node.state(), self.replica.holder);
        let target = control_target(&state, holder).ok_or_else(|| Refusal::not_found("node", "the holder"))?;
        let request = ControlRequest::Prove { vm: self.replica.vm.id, point: Some(point), begin };
        match self.node.calls.call(&target, Alpn::Control, &request, STALL).await {
            Ok(ControlAnswer::Proof(figures)) => Ok(figures),
            Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
            Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "the holder gave an answer of another kind")),
            Err(error) => Err(Refusal::new(Class::Unreachable, "copy_broken", error.to_string())),
        }
    }

    /// Says which points are damaged here because they were where they came from.
    fn tell_damaged(&self, damaged: &[u64]) {
        if damaged.is_empty() {
            return;
        }
        let points: Vec<String> = damaged.iter().map(u64::to_string).collect();
        let points = points.join(", ");
        let told = format!("the replica of {} came here with points that are damaged: {points}", self.replica.vm.name);
        let event = Happening::critical("point_damaged", told).vm(self.replica.vm.id).node(&self.node.name);
        self.node.events.record(event.with("points", &points));
    }
}

/// Opens a replica that has just come, so that the merges which had to wait for its copy are not the first sender's to
/// wait for. Where that fails the first session says why.
fn open_early(node: &Node, replicas: &Replicas, vm: VmId, state: Option<Arc<State>>) {
    let mine = |replica: &Replica| replica.receiver() == node.me;
    let Some(replica) = state.and_then(|state| state.replicas.get(&vm).cloned()).filter(mine) else { return };
    let replicas = replicas.clone();
    tokio::spawn(async move { replicas.store(&replica).await.map(drop) });
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

    async fn list(&mut self, freeze: bool) -> Result<CopyListing, Refusal> {
        match self.ask(&CopyRequest::List { freeze }).await? {
            CopyAnswer::Files(listing) => Ok(listing),
            other => Err(unexpected(other)),
        }
    }

    /// The holder's manifest, as of the last listing.
    async fn manifest(&mut self, listing: &CopyListing) -> Result<Manifest, Refusal> {
        let size = listing.files.iter().find(|(name, _)| name == MANIFEST).map_or(0, |(_, size)| *size);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size.min(Manifest::BYTES_MAX) {
            let offset = bytes.len() as u64;
            let length = (size - offset).min(EXTENT_MAX as u64) as u32;
            match self.ask(&CopyRequest::Read { file: MANIFEST.to_owned(), offset, length }).await? {
                CopyAnswer::Piece(piece) if !piece.is_empty() => bytes.extend(piece),
                other => return Err(unexpected(other)),
            }
        }
        Manifest::decode(&bytes, Path::new(MANIFEST))
    }

    /// Finds out which pieces of one file are here already.
    async fn compare(&mut self, mut import: Import, similar: Similar) -> Result<Import, Refusal> {
        let mut pieces = 0;
        while pieces * DIGEST_BYTES < similar.bytes {
            let (file, offset) = (similar.name.clone(), pieces * DIGEST_BYTES);
            let digests = match self.ask(&CopyRequest::Digests { file, offset, count: DIGESTS_MAX }).await? {
                CopyAnswer::Digests(digests) if (1..=DIGESTS_MAX as usize).contains(&digests.len()) => digests,
                other => return Err(unexpected(other)),
            };
            pieces += digests.len() as u64;
            let of = similar.clone();
            import = blocking(move || import.compare(&of, &digests).map(|()| import)).await?;
        }
        Ok(import)
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
            let Err(silent) = self.sign_of_life().await else { continue };
            // The next try must not meet this one's work in its folder.
            drop(work.await);
            return Err(silent);
        }
    }

    async fn sign_of_life(&mut self) -> Result<(), Refusal> {
        let sign = CopyRequest::Read { file: MANIFEST.to_owned(), offset: 0, length: 1 };
        match self.ask(&sign).await? {
            CopyAnswer::Piece(_) => Ok(()),
            other => Err(unexpected(other)),
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
