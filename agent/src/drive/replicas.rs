//! The replicas that this node receives: their folders, their registration with the VM service, their figures.

mod registration;
mod staging;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::id::{Epoch, Root, StorageName, VmId};
use landfall_proto::message::control::{HolderFigures, Point, PointState, StagingFaults, Traffic};
use landfall_proto::message::data::Tip;
use landfall_proto::model::Replica;
use landfall_proto::seam::Time;
use landfall_proto::{Class, Refusal};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, timeout};

use self::wanted::Committed;
use crate::decide::points::Scrubbable;
use crate::drive::events::Happening;
use crate::drive::image::durable;
use crate::drive::node::Node;
use crate::drive::proving::Proving;
use crate::drive::replica::{Manifest, ReplicaStore, leftover};
use crate::drive::send::capture::blocking;
use crate::drive::spacing::Spacing;

/// How long the VM service may take to register a replica.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// How often a replica that could not be opened is tried again: a file system that is mounted late is noticed soon.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);

/// How long whoever asks for figures waits for what is staged to be listed, and how often that is looked at: shorter than
/// askers wait.
const LISTED_WITHIN: Duration = Duration::from_secs(1);
const LISTED_LOOK: Duration = Duration::from_millis(20);

/// A replica's store, used by one at a time.
pub type SharedStore = Arc<AsyncMutex<ReplicaStore>>;

/// The replicas of this node.
#[derive(Clone)]
pub struct Replicas {
    pub(super) node: Node,
    open: Arc<AsyncMutex<BTreeMap<VmId, SharedStore>>>,
    figures: Arc<Mutex<BTreeMap<VmId, HolderFigures>>>,
    /// Those that could not be opened: when that was tried last, and why not.
    shut: Arc<Mutex<BTreeMap<VmId, (Time, Refusal)>>>,
    /// Those of which nothing could be staged at the last try: its disk was full, or failed.
    unstaged: Arc<Mutex<BTreeMap<VmId, (Time, Refusal)>>>,
    listed: Arc<Mutex<BTreeSet<VmId>>>,
    /// Those of which something is staged whole and not listed.
    unlisted: Arc<Mutex<BTreeSet<VmId>>>,
    /// How many exports of each replica read its files.
    readers: Arc<Mutex<BTreeMap<VmId, u32>>>,
    /// Unregistered, and in the list as long as that is older.
    let_go: Arc<Mutex<BTreeSet<VmId>>>,
    /// Points whose files somebody touched, to be read back at once.
    suspects: Arc<Mutex<BTreeMap<VmId, Vec<u64>>>>,
    spacing: Spacing,
    pub(super) proving: Proving,
}

/// How long a node that begins anew waits for work on its replicas' disks to end, and how often it looks: a change set of
/// some hundred MiB is applied within.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
const CLOSE_LOOK: Duration = Duration::from_millis(10);

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The point.
    pub point: u64,
    /// Each disk's name, size in bytes, and root.
    pub files: Vec<(String, u64, Root)>,
}

impl Replicas {
    /// The replicas of `node`, none of them open yet.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            open: Arc::default(),
            figures: Arc::default(),
            shut: Arc::default(),
            unstaged: Arc::default(),
            listed: Arc::default(),
            unlisted: Arc::default(),
            readers: Arc::default(),
            let_go: Arc::default(),
            suspects: Arc::default(),
            spacing: Spacing::default(),
            proving: Proving::default(),
        }
    }

    /// The folder of a replica at a storage location of this node.
    pub fn folder(&self, storage: &StorageName, vm: VmId) -> Result<PathBuf, Refusal> {
        let location = self.node.config.storage.iter().find(|location| location.name == *storage);
        let location = location.ok_or_else(|| {
            Refusal::new(Class::Failed, "no_storage", format!("this node has no storage location '{storage}'"))
                .field("storage")
                .remedy("add a [[storage]] of that name to the node's file and restart the agent")
        })?;
        Ok(location.path.join(vm.to_string()))
    }

    /// The store of a replica, opened if it is not: what a crash cut off is completed then.
    pub async fn store(&self, replica: &Replica) -> Result<SharedStore, Refusal> {
        let vm = replica.vm.id;
        let mut open = self.open.lock().await;
        if let Some(store) = open.get(&vm) {
            return Ok(Arc::clone(store));
        }
        let store = self.opened(replica).await.inspect_err(|refusal| self.note_shut(vm, refusal))?;
        lock(&self.shut).remove(&vm);
        let store = Arc::new(AsyncMutex::new(store));
        open.insert(vm, Arc::clone(&store));
        Ok(store)
    }

    async fn opened(&self, replica: &Replica) -> Result<ReplicaStore, Refusal> {
        let (vm, folder) = (replica.vm.id, self.folder(&replica.storage, replica.vm.id)?);
        let acknowledged = self.has_acknowledged(replica);
        let wants = Arc::new(Committed::of(&self.node, vm));
        blocking(move || match acknowledged {
            true => ReplicaStore::open_acknowledged(&folder, vm, wants),
            false => ReplicaStore::open_wanted(&folder, vm, wants),
        })
        .await
    }

    /// Whether the committed state says that this node has acknowledged a point of `replica`, and so must have one.
    fn has_acknowledged(&self, replica: &Replica) -> bool {
        replica.acknowledged && replica.seeding.is_none() && replica.in_sync.contains(&self.node.me)
    }

    fn note_shut(&self, vm: VmId, refusal: &Refusal) {
        let now = self.node.outside.clock.now();
        let before = lock(&self.shut).insert(vm, (now, refusal.clone()));
        if before.is_none_or(|(_, before)| before != *refusal) {
            tracing::warn!(%vm, %refusal, "replica not opened");
            let told = format!("the replica of {vm} cannot be opened here: {}", refusal.message);
            self.node.events.record(Happening::warning("replica_not_opened", told).vm(vm).node(&self.node.name));
        }
    }

    /// Whether a replica could not be opened and still cannot: it is tried again from time to time.
    async fn stays_shut(&self, replica: &Replica) -> bool {
        let Some(tried) = lock(&self.shut).get(&replica.vm.id).map(|(at, _)| *at) else { return false };
        if self.node.outside.clock.now().since(tried) < REOPEN_INTERVAL {
            return true;
        }
        match timeout(REGISTER_DEADLINE, self.store(replica)).await {
            Ok(Ok(store)) => {
                self.note(replica.vm.id, replica.epoch, &*store.lock().await);
                false
            }
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// Closes a store whose replica is not here any more; its files stay until `leftovers` removes them.
    pub async fn close(&self, vm: VmId) {
        self.open.lock().await.remove(&vm);
        lock(&self.figures).remove(&vm);
        lock(&self.suspects).remove(&vm);
        lock(&self.shut).remove(&vm);
        lock(&self.unstaged).remove(&vm);
        lock(&self.unlisted).remove(&vm);
        self.spacing.forget(vm);
    }

    /// Closes every store once whoever works on it has done with it, so that this node's next life finds them free. What
    /// takes longer than five seconds is closed by itself later.
    pub async fn close_all(&self) {
        let open = std::mem::take(&mut *self.open.lock().await);
        let until = Instant::now() + CLOSE_DEADLINE;
        for store in open.into_values() {
            while Arc::strong_count(&store) > 1 && Instant::now() < until {
                sleep(CLOSE_LOOK).await;
            }
        }
    }

    /// The points of a store with the nodes that have them, oldest first: what was acknowledged is on every node of the
    /// in-sync set.
    pub fn points(&self, store: &ReplicaStore) -> Vec<Point> {
        let state = self.node.state();
        let mut copies = vec![self.node.name.clone()];
        if let Some(replica) =
            state.replicas.get(&store.manifest().vm).filter(|one| one.in_sync.contains(&self.node.me))
        {
            let members = replica.in_sync.iter().filter_map(|member| state.members.get(member));
            copies = members.map(|member| member.node.clone()).collect();
        }
        let mut points = store.points();
        for point in points.iter_mut().filter(|point| point.state != PointState::Unreachable) {
            point.copies.clone_from(&copies);
        }
        points
    }

    /// Whether the point that a change set is about to make stays, for this node to say as the holder: as it was said when
    /// the change set began, else by the time that has gone by.
    pub fn stays(&self, replica: &Replica, store: &ReplicaStore, tip: Tip) -> bool {
        let begun = store.begun(tip).map(|set| set.stays);
        begun.unwrap_or_else(|| self.spacing.stays(&self.node, replica, store.manifest()))
    }

    /// A point was just listed in `store`.
    pub fn listed(&self, vm: VmId, store: &ReplicaStore) {
        self.spacing.listed(&self.node, vm, store.manifest());
    }

    /// Takes in how a store stands, for [`Replicas::figures`]: asking never waits for work on the disk.
    pub fn note(&self, vm: VmId, epoch: Epoch, store: &ReplicaStore) {
        let points = self.points(store);
        let fault = store.fault().map(ToString::to_string);
        let damage = store.damage().or_else(|| store.doubt().map(str::to_owned));
        let unlisted = store.staged_log().is_some();
        if unlisted {
            lock(&self.unlisted).insert(vm)
        } else {
            lock(&self.unlisted).remove(&vm)
        };
        lock(&self.suspects).insert(vm, store.suspects());
        let mut figures = lock(&self.figures);
        let received = figures.get(&vm).map(|figures| figures.received).unwrap_or_default();
        let branches = store.branches();
        figures.insert(vm, HolderFigures { epoch, points, received, fault, damage, branches });
    }

    /// Counts what came for a replica: bytes of content, or of frames.
    pub fn received(&self, vm: VmId, traffic: Traffic) {
        if let Some(figures) = lock(&self.figures).get_mut(&vm) {
            figures.received = figures.received.and(traffic);
        }
    }

    /// What this node knows of a replica that it receives; the store is opened if it is not.
    pub async fn figures(&self, vm: VmId) -> Option<HolderFigures> {
        let state = self.node.state();
        let replica = state.replicas.get(&vm).filter(|replica| replica.is_kept_at(self.node.me))?;
        if replica.receiver() == self.node.me {
            self.listed_all(vm).await;
        }
        if let Some((_, refusal)) = lock(&self.shut).get(&vm) {
            return Some(without_points(replica.epoch, refusal));
        }
        if let Some(figures) = self.known(vm, replica.epoch) {
            return Some(figures);
        }
        match self.store(replica).await {
            Ok(store) => self.note(vm, replica.epoch, &*store.lock().await),
            Err(refusal) => {
                return Some(without_points(replica.epoch, &refusal));
            }
        }
        self.known(vm, replica.epoch)
    }

    /// What was noted of a replica, and what is wrong with it since.
    fn known(&self, vm: VmId, epoch: Epoch) -> Option<HolderFigures> {
        let figures = lock(&self.figures).get(&vm).cloned()?;
        let unstaged = || lock(&self.unstaged).get(&vm).map(|(_, refusal)| refusal.to_string());
        Some(HolderFigures { epoch, fault: figures.fault.clone().or_else(unstaged), ..figures })
    }

    /// Waits a moment while something is staged of a replica that this node has just come to hold: it may have been
    /// acknowledged, and is listed by `copies::complete`.
    async fn listed_all(&self, vm: VmId) {
        let begun = Instant::now();
        while lock(&self.unlisted).contains(&vm) && begun.elapsed() < LISTED_WITHIN {
            sleep(LISTED_LOOK).await;
        }
    }

    /// What cannot be staged here just now: storage locations by the VM service's own synced probe, which a hung disk
    /// does not hold up, and replicas that failed or could not be opened.
    pub fn faults(&self) -> StagingFaults {
        let failed = lock(&self.figures).clone().into_iter().filter_map(|(vm, figures)| Some((vm, figures.fault?)));
        let mut replicas: BTreeMap<VmId, String> = failed.collect();
        replicas.extend(lock(&self.unstaged).iter().map(|(vm, (_, refusal))| (*vm, refusal.to_string())));
        replicas.extend(lock(&self.shut).iter().map(|(vm, (_, refusal))| (*vm, refusal.to_string())));
        StagingFaults::new(self.node.vms.storage_faults(), replicas)
    }

    /// Writes the disks of a point as raw images into `folder`, which is made where it is missing.
    pub async fn export(&self, vm: VmId, point: Option<u64>, folder: PathBuf) -> Result<Exported, Refusal> {
        if !folder.is_absolute() {
            return Err(Refusal::invalid("dir", &folder.to_string_lossy(), "give an absolute path"));
        }
        let state = self.node.state();
        let replica = state.replicas.get(&vm).ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
        let reading = self.read(vm);
        let store = self.store(replica).await?;
        let pinned = store.lock().await.pin(point)?;
        blocking(move || {
            make_folder(&folder)?;
            pinned.export(&folder, &mut |_| Ok(()))?;
            let entry = pinned.entry();
            let files = entry.disks.iter().map(|disk| (disk.target.to_string(), disk.bytes, disk.root)).collect();
            drop(reading);
            Ok(Exported { point: entry.sequence, files })
        })
        .await
    }

    /// This node.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Notes that somebody reads the replica's files, until that is dropped.
    pub(super) fn read(&self, vm: VmId) -> Reading {
        *lock(&self.readers).entry(vm).or_default() += 1;
        Reading { vm, readers: Arc::clone(&self.readers) }
    }

    /// Whether somebody reads the replica's files.
    pub fn is_read(&self, vm: VmId) -> bool {
        self.reader_count(vm) > 0
    }

    /// How many read the replica's files.
    pub(super) fn reader_count(&self, vm: VmId) -> u32 {
        lock(&self.readers).get(&vm).copied().unwrap_or(0)
    }

    /// Whether a replica is known to have points in a state; not where it was not opened yet.
    pub(super) fn has_points_in(&self, vm: VmId, wanted: PointState) -> bool {
        let figures = lock(&self.figures);
        figures.get(&vm).is_some_and(|figures| figures.points.iter().any(|point| point.state == wanted))
    }

    /// The points of a replica that can be read back; none where it was not opened yet.
    pub(super) fn scrubbable_of(&self, vm: VmId) -> Vec<Scrubbable> {
        let figures = lock(&self.figures).get(&vm).cloned();
        let points = figures.map_or_else(Vec::new, |figures| figures.points);
        let suspects = lock(&self.suspects).get(&vm).cloned().unwrap_or_default();
        let here = points.iter().filter(|point| point.state == PointState::Listed);
        here.map(|point| Scrubbable {
            vm,
            point: point.sequence,
            known_good_at: point.verified_at.unwrap_or(point.taken_at),
            suspect: suspects.contains(&point.sequence),
        })
        .collect()
    }

    /// Sets the files of a replica aside that is not received here, provided that they are still those that were
    /// `judged`. The folder to remove; `None` where somebody uses them. Nothing here opens them meanwhile.
    pub async fn set_aside(&self, vm: VmId, folder: PathBuf, judged: Manifest) -> Result<Option<PathBuf>, Refusal> {
        let mut open = self.open.lock().await;
        if self.is_read(vm) {
            return Ok(None);
        }
        if let Some(store) = open.remove(&vm)
            && let Err(used) = Arc::try_unwrap(store)
        {
            open.insert(vm, used);
            return Ok(None);
        }
        let aside = blocking(move || leftover::set_aside(&folder, vm, &judged)).await;
        drop(open);
        aside
    }
}

fn without_points(epoch: Epoch, fault: &Refusal) -> HolderFigures {
    HolderFigures {
        epoch,
        points: Vec::new(),
        received: Traffic::default(),
        fault: Some(fault.to_string()),
        damage: None,
        branches: Vec::new(),
    }
}

/// Somebody who reads a replica's files.
pub(super) struct Reading {
    vm: VmId,
    readers: Arc<Mutex<BTreeMap<VmId, u32>>>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = lock(&self.readers);
        if let Some(count) = readers.get_mut(&self.vm) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.vm);
            }
        }
    }
}

fn make_folder(folder: &Path) -> Result<(), Refusal> {
    std::fs::create_dir_all(folder).map_err(|error| durable::fault("create", folder, &error))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
