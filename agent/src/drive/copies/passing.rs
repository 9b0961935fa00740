//! The holder's part: passing a change set on to the other nodes that have a copy.
//!
//! A change set is passed on while it arrives: what is in flight is bounded by the stream's window, and a node that takes
//! nothing for [`COPY_PATIENCE`] is left alone. Whoever did not get it that way (it joined meanwhile, or the session was
//! resumed) gets it from the holder's own log once it is staged here. One stream serves one change set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Session;
use landfall_proto::frame::{self, FrameError};
use landfall_proto::id::{MemberId, VmId};
use landfall_proto::message::data::{ChangeSet, Extent, Hello, Tip};
use landfall_proto::message::pass::{PassAnswer, PassHello, PassRequest};
use landfall_proto::{Class, Refusal};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{COPY_PATIENCE, Pending};
use crate::drive::image::change_set::ChangeSetReader;
use crate::drive::members::data_target;
use crate::drive::node::Node;
use crate::drive::replica::{Epochs, ReplicaStore, StagedLog};

/// The pause before a copy that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A stream to one copy.
#[derive(Debug)]
struct Link {
    session: Session,
    newest: Option<Tip>,
    staged: Option<Tip>,
    /// The change set in flight goes there as it arrives.
    follows: bool,
}

/// The copies of one replica, for one session of its sender. Its methods block on the network.
pub struct Passing {
    node: Node,
    pending: Pending,
    handle: Handle,
    vm: VmId,
    epochs: Epochs,
    links: BTreeMap<MemberId, Link>,
    /// Since when a copy does not follow, and why.
    failed: BTreeMap<MemberId, (Instant, Refusal)>,
}

/// Who has staged a change set.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Whole and durable, or listed already.
    pub have: BTreeSet<MemberId>,
    /// And who has not, and why.
    pub lost: BTreeMap<MemberId, Refusal>,
}

impl Passing {
    /// Passing on for `vm`, to nobody yet. For a thread that may block.
    pub fn new(node: Node, pending: Pending, handle: Handle, vm: VmId, epochs: Epochs) -> Self {
        Self { node, pending, handle, vm, epochs, links: BTreeMap::new(), failed: BTreeMap::new() }
    }

    fn others(&self) -> BTreeSet<MemberId> {
        self.pending.others(self.node.state().replicas.get(&self.vm), self.node.me)
    }

    /// A change set begins that `store` stages from its first extent on.
    pub fn begin(&mut self, store: &ReplicaStore, set: &ChangeSet) {
        self.links.clear();
        self.failed.clear();
        let handle = self.handle.clone();
        for member in self.others() {
            let asked = Instant::now();
            let gone = left(self.node.clone(), self.pending.clone(), self.vm, member);
            let opened = async {
                let mut link = self.open(member, store, asked + COPY_PATIENCE).await?;
                link.send(&PassRequest::Begin(set.clone())).await?;
                link.follows = true;
                Ok(link)
            };
            let begun = handle.block_on(async {
                tokio::select! {
                    opened = opened => opened,
                    refusal = gone => Err(refusal),
                }
            });
            match begun {
                Ok(link) => drop(self.links.insert(member, link)),
                Err(refusal) => self.fail(member, asked, refusal),
            }
        }
    }

    /// The change set in flight is not sent from its first extent on: it is passed on once it is staged here.
    pub fn hold_back(&mut self) {
        self.links.clear();
        self.failed.clear();
    }

    /// Passes an extent of it on, and gives it back.
    pub fn extent(&mut self, extent: Extent) {
        if self.links.is_empty() {
            return;
        }
        self.send_all(&PassRequest::Extent(extent));
    }

    /// It is complete.
    pub fn end(&mut self, extents: u64) {
        self.send_all(&PassRequest::End { extents });
    }

    fn send_all(&mut self, request: &PassRequest) {
        let handle = self.handle.clone();
        let (asked, mut failed) = (Instant::now(), Vec::new());
        for (member, link) in self.links.iter_mut().filter(|(_, link)| link.follows) {
            if let Err(refusal) = handle.block_on(link.send(request)) {
                failed.push((*member, refusal));
            }
        }
        failed.into_iter().for_each(|(member, refusal)| self.fail(member, asked, refusal));
    }

    fn fail(&mut self, member: MemberId, since: Instant, refusal: Refusal) {
        tracing::info!(vm = %self.vm, %member, %refusal, "a copy does not follow");
        self.links.remove(&member);
        let since = self.failed.get(&member).map_or(since, |(first, _)| *first);
        self.failed.insert(member, (since, refusal));
    }

    /// Waits until every other node has staged what is staged whole in `store`, or has had its time. `own` is how long
    /// staging took here: a node that gets everything only now may take as long, too.
    pub fn gather(&mut self, store: &ReplicaStore, log: &StagedLog, own: Duration) -> Gathered {
        let handle = self.handle.clone();
        let mut gathered = Gathered::default();
        let begun = Instant::now();
        for member in self.others() {
            match handle.block_on(self.gather_one(member, store, log, begun, own)) {
                Ok(()) => drop(gathered.have.insert(member)),
                Err(refusal) => drop(gathered.lost.insert(member, refusal)),
            }
        }
        gathered
    }

    async fn gather_one(
        &mut self,
        member: MemberId,
        store: &ReplicaStore,
        log: &StagedLog,
        begun: Instant,
        own: Duration,
    ) -> Result<(), Refusal> {
        loop {
            if let Some((since, refusal)) = self.failed.get(&member)
                && (since.elapsed() >= COPY_PATIENCE || !mends(refusal) || !self.others().contains(&member))
            {
                return Err(refusal.clone());
            }
            let gone = left(self.node.clone(), self.pending.clone(), self.vm, member);
            let trying = async {
                match self.links.get_mut(&member) {
                    Some(link) if link.follows => link.staged(log.set.tip, begun + COPY_PATIENCE).await,
                    _ => self.replay(member, store, log, own).await,
                }
            };
            let tried = tokio::select! {
                tried = trying => tried,
                refusal = gone => Err(refusal),
            };
            let Err(refusal) = tried else { return Ok(()) };
            self.fail(member, begun, refusal);
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Passes on what is staged here, from the log.
    async fn replay(
        &mut self,
        member: MemberId,
        store: &ReplicaStore,
        log: &StagedLog,
        own: Duration,
    ) -> Result<(), Refusal> {
        let tip = log.set.tip;
        let mut link = self.open(member, store, Instant::now() + COPY_PATIENCE).await?;
        if link.newest != Some(tip) && link.staged != Some(tip) {
            link.send(&PassRequest::Begin(ChangeSet { resume_at: 0, ..log.set.clone() })).await?;
            let mut reader = ChangeSetReader::open_sealed(&log.path)?;
            while let Some(extent) = reader.next_extent()? {
                link.send(&PassRequest::Extent(extent)).await?;
            }
            link.send(&PassRequest::End { extents: log.extents }).await?;
            link.staged(tip, Instant::now() + COPY_PATIENCE + own).await?;
        }
        self.links.insert(member, link);
        Ok(())
    }

    /// Opens a stream and finds out how the other node stands; one that stands where this one does not is refused.
    async fn open(&self, member: MemberId, store: &ReplicaStore, by: Instant) -> Result<Link, Refusal> {
        let state = self.node.state();
        let target = data_target(&state, member).ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
        let newest = store.manifest().newest().map(|point| point.tip());
        let newest = newest.ok_or_else(|| Refusal::not_found("point", "newest"))?;
        let staged = store.staged_log().map(|log| log.set.tip);
        let Epochs { assignment: epoch, cluster, sender } = self.epochs;
        let hello = Hello::Pass(Box::new(PassHello { vm: self.vm, epoch, cluster, sender, newest, staged }));
        let opened = async {
            let session = self.node.calls.open(&target, Alpn::Data, COPY_PATIENCE).await?;
            let mut link = Link { session, newest: None, staged: None, follows: false };
            frame::send(&mut link.session.send, &hello, Alpn::Data.frame_max())
                .await
                .map_err(|error| broken(&error))?;
            match link.receive().await? {
                PassAnswer::Stands { newest, staged } => (link.newest, link.staged) = (newest, staged),
                PassAnswer::Refused(refusal) => return Err(refusal),
                _ => return Err(unexpected()),
            }
            Ok(link)
        };
        let link = timeout_at(by, opened).await.unwrap_or_else(|_| Err(late()))?;
        if link.newest == Some(newest) || (staged.is_some() && link.newest == staged) {
            return Ok(link);
        }
        let show = |tip: Option<Tip>| tip.map_or("nothing".to_owned(), |tip| format!("point {}", tip.sequence));
        let message = format!("its newest is {}, here it is {}", show(link.newest), show(Some(newest)));
        Err(Refusal::new(Class::Failed, "copy_behind", message))
    }

    /// Tells the other nodes that all have staged `tip`; does not wait until they have applied it.
    pub fn apply(&mut self, tip: Tip) {
        let handle = self.handle.clone();
        for (_, mut link) in std::mem::take(&mut self.links) {
            if link.newest == Some(tip) {
                continue;
            }
            let sent = handle.block_on(link.send(&PassRequest::Apply(tip)));
            let (pending, vm) = (self.pending.clone(), self.vm);
            handle.spawn(async move {
                let answered = async { sent.is_ok() && matches!(link.receive().await, Ok(PassAnswer::Applied(_))) };
                if !timeout(APPLY_DEADLINE, answered).await.unwrap_or(false) {
                    pending.untold(vm);
                }
            });
        }
    }

    /// Has the other nodes list what this one lists, without passing anything on; whether all do now.
    pub fn tell(&mut self, store: &ReplicaStore) -> bool {
        let handle = self.handle.clone();
        let by = Instant::now() + TELL_PATIENCE;
        let others = self.others();
        others.into_iter().all(|member| match handle.block_on(self.open(member, store, by)) {
            Ok(_) => true,
            Err(refusal) => {
                tracing::debug!(vm = %self.vm, %member, %refusal, "a copy was not told what to list");
                false
            }
        })
    }
}

/// How long a copy may take to answer where nothing is passed on: a sender may wait meanwhile.
const TELL_PATIENCE: Duration = Duration::from_secs(1);

/// How long a copy may take to apply a change set before it counts as not having heard: it is told again then.
const APPLY_DEADLINE: Duration = Duration::from_secs(60);

impl Link {
    async fn send(&mut self, request: &PassRequest) -> Result<(), Refusal> {
        let sent = timeout(COPY_PATIENCE, frame::send(&mut self.session.send, request, Alpn::Data.frame_max()));
        match sent.await {
            Ok(Ok(())) => Ok(()),
            // It may have said why before it stopped reading.
            Ok(Err(error)) => match timeout(RETRY_PAUSE, self.receive()).await {
                Ok(Ok(PassAnswer::Refused(refusal))) => Err(refusal),
                _ => Err(broken(&error)),
            },
            Err(_) => Err(late()),
        }
    }

    async fn receive(&mut self) -> Result<PassAnswer, Refusal> {
        let received = frame::receive(&mut self.session.receive, Alpn::Data.frame_max()).await;
        received.map_err(|error| broken(&error))
    }

    /// Waits until it says that `tip` is staged.
    async fn staged(&mut self, tip: Tip, by: Instant) -> Result<(), Refusal> {
        if self.staged == Some(tip) {
            return Ok(());
        }
        match timeout_at(by, self.receive()).await.unwrap_or_else(|_| Err(late()))? {
            PassAnswer::Staged(staged) if staged == tip => {
                self.staged = Some(tip);
                Ok(())
            }
            PassAnswer::Refused(refusal) => Err(refusal),
            _ => Err(unexpected()),
        }
    }
}

/// Waits until nobody waits for `member` any more: it was taken out of the set, or the replica is held elsewhere.
async fn left(node: Node, pending: Pending, vm: VmId, member: MemberId) -> Refusal {
    let mut states = node.consensus.watch_state();
    loop {
        let others = pending.others(states.borrow_and_update().replicas.get(&vm), node.me);
        if !others.contains(&member) || states.changed().await.is_err() {
            return Refusal::new(Class::Refused, "no_copy", format!("member {member} has left the in-sync set"));
        }
    }
}

/// Whether what failed for that may succeed when it is asked again.
fn mends(refusal: &Refusal) -> bool {
    refusal.class == Class::Unreachable || refusal.code == "replica_in_use"
}

fn broken(error: &FrameError) -> Refusal {
    Refusal::new(Class::Unreachable, "copy_unreachable", format!("the node with the copy is not reached: {error}"))
}

fn late() -> Refusal {
    let message = format!("the node with the copy has not answered for {} s", COPY_PATIENCE.as_secs());
    Refusal::new(Class::Unreachable, "copy_late", message)
}

fn unexpected() -> Refusal {
    Refusal::new(Class::Failed, "protocol", "the node with the copy gave an answer of another kind")
}
