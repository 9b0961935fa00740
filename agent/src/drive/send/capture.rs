//! Taking one instant of a VM: freeze, scan every disk against what the holder has, spool the differences, thaw.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::id::{DiskTarget, Root, VmId};
use landfall_proto::message::data::{ChangeSet, Tip};
use landfall_proto::model::DiskSpec;
use landfall_proto::seam::Clock;
use landfall_proto::{Class, Refusal};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::decide::disk_size;
use crate::drive::image::tree::content_root_of;
use crate::drive::image::{
    Baseline, ChangeSetWriter, FileStamp, HashIndex, IndexFolder, LastScan, Source, may_skip, scan,
};
use crate::drive::send::record::Record;
use crate::vm_service::{FreezeId, FreezeMethod, Frozen, Image, Thawed, VmService};

/// For how long a VM may stand still for a scan of its disks at least, however small they are.
const FREEZE_HOLD_LEAST: Duration = Duration::from_secs(5);

/// And at most: who has larger disks on a file system without reflinks must stop the VM to replicate it.
const FREEZE_HOLD_MOST: Duration = Duration::from_secs(15 * 60);

/// The slowest reading that a VM is held for: a worn hard disk.
const FREEZE_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// How long the VM service may take to freeze or thaw.
const FREEZE_DEADLINE: Duration = Duration::from_secs(30);

/// What a capture compares with.
#[derive(Clone, Debug)]
pub enum Base {
    /// The content of a point that the holder has newest; each disk's index is named by its root.
    Point(Tip, Vec<(DiskTarget, Root)>),
    /// What the fuzzy indexes describe: content that was sent or compared while the VM ran. The tip is what it is based
    /// on there, where there is a point; the scans are of disks whose index describes the whole of what they found.
    Fuzzy(Option<Tip>, Vec<(DiskTarget, LastScan)>),
}

/// What was captured.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The change set; its extents are in the spool.
    pub change_set: ChangeSet,
    /// How the instant was held.
    pub method: FreezeMethod,
    /// For how long the VM stood still.
    pub stood_still_micros: u64,
    /// What to remember of the scans.
    pub scans: Vec<(DiskTarget, LastScan)>,
}

/// Where the senders of one VM keep its indexes and its spool.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// The folder.
    pub folder: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl Workshop {
    /// The workshop in `folder`. Of each folder there is one: its clones take turns.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, turn: Arc::default() }
    }

    /// Waits for its turn to change files here. A sender that was ended leaves its work on the disk unfinished, and that
    /// work goes on for a while: two that wrote the same file would make it describe neither's disks. Blocks.
    pub fn enter(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).blocking_lock_owned()
    }

    /// The indexes.
    pub fn indexes(&self) -> Result<IndexFolder, Refusal> {
        IndexFolder::open(&self.folder.join("index"))
    }

    /// The spool of the change set in flight.
    pub fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }
}

/// What is to be captured.
pub struct Subject<'a> {
    /// The VM.
    pub vm: VmId,
    /// Its disks.
    pub disks: &'a [DiskSpec],
    /// What to compare with.
    pub base: Base,
    /// The number of the point that it makes.
    pub sequence: u64,
    /// What is remembered of earlier scans.
    pub record: &'a Record,
}

/// A freeze that is thawed whatever happens: also where the capture is given up half-way, so that no VM stands still for
/// a sender that is gone.
pub(in crate::drive) struct Standstill {
    service: Arc<dyn VmService>,
    freeze: Option<FreezeId>,
}

impl Standstill {
    /// Freezes a VM with `disks` for as long as reading them may take.
    pub(in crate::drive) async fn begin(
        service: &Arc<dyn VmService>,
        vm: VmId,
        disks: &[DiskSpec],
    ) -> Result<(Self, Frozen), Refusal> {
        let frozen = match timeout(FREEZE_DEADLINE, service.freeze(vm, hold_for(disks))).await {
            Ok(frozen) => frozen?,
            Err(_) => return Err(silent_service("freeze")),
        };
        Ok((Self { service: Arc::clone(service), freeze: Some(frozen.freeze) }, frozen))
    }

    /// Ends it; refused where it did not hold until now, so that what was read is no instant.
    pub(in crate::drive) async fn end(self) -> Result<Thawed, Refusal> {
        let thawed = self.thaw().await?;
        if thawed.held {
            return Ok(thawed);
        }
        Err(Refusal::new(Class::Failed, "not_one_instant", "the VM did not stand still until its disks were read")
            .remedy("it is tried again by itself; a file system with reflinks (XFS, btrfs) makes the pause short"))
    }

    async fn thaw(mut self) -> Result<Thawed, Refusal> {
        let Some(freeze) = self.freeze.take() else { return Err(silent_service("thaw")) };
        timeout(FREEZE_DEADLINE, self.service.thaw(freeze)).await.unwrap_or_else(|_| Err(silent_service("thaw")))
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        if let Some(freeze) = self.freeze.take() {
            let service = Arc::clone(&self.service);
            tokio::spawn(async move { service.thaw(freeze).await });
        }
    }
}

/// For how long a VM with `disks` may stand still: several times what reading them should take, so that a slow disk is
/// no failure and an agent that dies meanwhile does not stop the VM for long.
fn hold_for(disks: &[DiskSpec]) -> Duration {
    let bytes = disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.bytes));
    (FREEZE_HOLD_LEAST + Duration::from_secs(bytes / FREEZE_BYTES_PER_SECOND)).min(FREEZE_HOLD_MOST)
}

/// Captures one instant of a VM: its change set is in the spool when this returns.
pub async fn capture(
    service: &Arc<dyn VmService>,
    clock: &Arc<dyn Clock>,
    workshop: &Workshop,
    subject: Subject<'_>,
) -> Result<Captured, Refusal> {
    let Subject { vm, disks, base, sequence, record } = subject;
    let (standstill, frozen) = Standstill::begin(service, vm, disks).await?;
    let taken_at = clock.wall();
    let stopped = frozen.method == FreezeMethod::Off;
    let job = Job {
        workshop: workshop.clone(),
        clock: Arc::clone(clock),
        disks: disks.to_vec(),
        images: frozen.images.clone(),
        base: base.clone(),
        record: record.clone(),
        run: frozen.run,
        stopped,
    };
    let scanned = tokio::task::spawn_blocking(move || job.run()).await;
    let thawed = standstill.end().await;
    let scanned = scanned.map_err(|error| {
        Refusal::new(Class::Failed, "scan", format!("the scan of the disks ended unexpectedly: {error}"))
    })??;
    let thawed = thawed?;
    finish(scanned, &base, sequence, taken_at, &frozen, thawed.stood_still_micros).await
}

async fn finish(
    scanned: Scanned,
    base: &Base,
    sequence: u64,
    taken_at: landfall_proto::id::UnixMillis,
    frozen: &Frozen,
    stood_still_micros: u64,
) -> Result<Captured, Refusal> {
    let Scanned { mut writer, turn, disks, scans } = scanned;
    let change_set = ChangeSet {
        base: match base {
            Base::Point(tip, _) => Some(*tip),
            Base::Fuzzy(tip, _) => *tip,
        },
        tip: Tip { sequence, root: content_root_of(&disks) },
        disks,
        taken_at,
        consistency: frozen.consistency,
        stays: false,
        resume_at: 0,
    };
    let sealed = change_set.clone();
    blocking(move || {
        let _turn = turn;
        writer.seal(Some(&sealed))
    })
    .await?;
    Ok(Captured { change_set, method: frozen.method, stood_still_micros, scans })
}

struct Job {
    workshop: Workshop,
    clock: Arc<dyn Clock>,
    disks: Vec<DiskSpec>,
    images: Vec<Image>,
    base: Base,
    record: Record,
    run: u64,
    stopped: bool,
}

struct Scanned {
    // Dropped in this order: what the writer still holds reaches its file before another's turn.
    writer: ChangeSetWriter,
    turn: OwnedMutexGuard<()>,
    disks: Vec<(DiskSpec, Root)>,
    scans: Vec<(DiskTarget, LastScan)>,
}

impl Job {
    fn run(self) -> Result<Scanned, Refusal> {
        let turn = self.workshop.enter();
        let indexes = self.workshop.indexes()?;
        let mut writer = ChangeSetWriter::create(&self.workshop.spool(), None)?;
        let (mut disks, mut scans) = (Vec::new(), Vec::new());
        for (number, spec) in (0u16..).zip(&self.disks) {
            let image = image_of(&self.images, spec)?;
            let source = Source::open(image)?;
            let stamp = source.stamp()?;
            let began_nanos = nanos(self.clock.as_ref());
            let root = self.scan_disk(&indexes, &mut writer, (number, spec), &source, stamp.as_ref())?;
            if let Some(stamp) = stamp {
                let scan = LastScan { stamp, run: self.run, stopped: self.stopped, began_nanos };
                scans.push((spec.target.clone(), scan));
            }
            disks.push((spec.clone(), root));
        }
        Ok(Scanned { writer, turn, disks, scans })
    }

    /// The root of a disk, and its changes into `writer`. Its index is kept under that root.
    fn scan_disk(
        &self,
        indexes: &IndexFolder,
        writer: &mut ChangeSetWriter,
        (number, spec): (u16, &DiskSpec),
        source: &Source,
        stamp: Option<&FileStamp>,
    ) -> Result<Root, Refusal> {
        let known = self.known_root(&spec.target);
        let last = match &self.base {
            Base::Point(..) => known.and_then(|_| self.record.scan(&spec.target)),
            Base::Fuzzy(_, scans) => scans.iter().find(|(target, _)| *target == spec.target).map(|(_, scan)| scan),
        };
        let unchanged = last.is_some_and(|last| may_skip(last, stamp, self.run, self.stopped));
        if let Some(root) = known.filter(|_| unchanged) {
            return Ok(root);
        }
        let baseline = match known {
            Some(root) => indexes.find(&spec.target, &root)?,
            None => HashIndex::open(&indexes.fuzzy_path(&spec.target))?,
        };
        let baseline = baseline.ok_or_else(|| lost_index(&spec.target))?;
        let found = match baseline.root().filter(|_| unchanged) {
            Some(root) => root,
            None => {
                let new = indexes.begin(&spec.target, spec.bytes)?;
                let mut spool = |extent| writer.append(&extent);
                scan(source, number, Baseline::Index(&baseline), new, self.clock.as_ref(), &mut spool)?.root
            }
        };
        if known != Some(found) {
            indexes.keep(&spec.target, &found)?;
        }
        Ok(found)
    }

    fn known_root(&self, target: &DiskTarget) -> Option<Root> {
        match &self.base {
            Base::Point(_, disks) => disks.iter().find(|(name, _)| name == target).map(|(_, root)| *root),
            Base::Fuzzy(..) => None,
        }
    }
}

/// The image of a disk among those that were frozen.
pub fn image_of<'a>(images: &'a [Image], disk: &DiskSpec) -> Result<&'a Image, Refusal> {
    let image = images.iter().find(|image| image.target == disk.target).ok_or_else(|| {
        Refusal::new(Class::Failed, "disk_missing", format!("the VM has no disk '{}' any more", disk.target))
            .field("disk")
    })?;
    disk_size::check(&disk.target, disk.bytes, image.bytes)?;
    Ok(image)
}

/// Runs what blocks on disk where blocking is allowed.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Refusal::new(Class::Failed, "disk_work", format!("work on the disk ended unexpectedly: {error}")))
    })
}

fn silent_service(verb: &str) -> Refusal {
    Refusal::new(Class::Unreachable, "vm_service_silent", format!("the VM service did not {verb} the VM in time"))
        .remedy("see `landfall node list` for its state")
}

/// The wall clock in nanoseconds since 1970, as the times of files are.
pub(super) fn nanos(clock: &dyn Clock) -> i128 {
    i128::from(clock.wall().0) * 1_000_000
}

fn lost_index(target: &DiskTarget) -> Refusal {
    Refusal::new(Class::Failed, "index_lost", format!("the index of disk '{target}' is gone"))
        .remedy("it is rebuilt by itself: the contents of both sides are compared")
}

/// Removes a spool that is no longer needed. Blocks.
pub fn discard(path: &Path) -> Result<(), Refusal> {
    crate::drive::image::durable::remove(path)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::SystemTime;

    use super::*;
    use crate::drive::image::test_disk::{StepClock, random_bytes};
    use crate::vm_service::ImageFormat;

    const BYTES: u64 = 200_000;

    /// A disk that nobody has written for long, and a fuzzy index that describes `indexed`.
    fn job(folder: &Path, indexed: &[u8], stopped: bool) -> (Job, File) {
        let path = folder.join("disk.raw");
        std::fs::write(&path, random_bytes(BYTES as usize, 1)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        // The clock of tests stands at 1970.
        file.set_modified(SystemTime::UNIX_EPOCH - Duration::from_secs(10)).unwrap();
        let workshop = Workshop::new(folder.to_owned());
        let (indexes, target): (_, DiskTarget) = (workshop.indexes().unwrap(), "vda".parse().unwrap());
        let image = Image { target: target.clone(), path, format: ImageFormat::Raw, bytes: BYTES };
        let of = folder.join("indexed.raw");
        std::fs::write(&of, indexed).unwrap();
        let writer = indexes.begin(&target, BYTES).unwrap();
        let source = Source::open(&Image { path: of, ..image.clone() }).unwrap();
        scan(&source, 0, Baseline::None, writer, &StepClock::default(), &mut |_| Ok(())).unwrap();
        let stamp = Source::open(&image).unwrap().stamp().unwrap().unwrap();
        let last = LastScan { stamp, run: 3, stopped: true, began_nanos: 0 };
        let job = Job {
            workshop,
            clock: Arc::new(StepClock::default()),
            disks: vec![DiskSpec { target: target.clone(), bytes: BYTES }],
            images: vec![image],
            base: Base::Fuzzy(None, vec![(target, last)]),
            record: Record::default(),
            run: 3,
            stopped,
        };
        (job, file)
    }

    fn root(content: &[u8]) -> Root {
        Root(*blake3::hash(content).as_bytes())
    }

    #[test]
    fn a_stopped_vms_disk_is_not_read_again_after_it_was_compared_and_its_index_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        // Of other content than the disk's: which of them is found tells whether the disk was read.
        let indexed = random_bytes(BYTES as usize, 2);
        let (job, _) = job(folder.path(), &indexed, true);
        let (indexes, target) = (job.workshop.indexes().unwrap(), job.disks[0].target.clone());
        let scanned = job.run().unwrap();
        assert_eq!((scanned.disks[0].1, scanned.writer.counts().extents), (root(&indexed), 0));
        assert!(indexes.find(&target, &root(&indexed)).unwrap().is_some());
    }

    #[test]
    fn a_disk_that_may_have_been_written_since_it_was_compared_is_read_again() {
        let content = random_bytes(BYTES as usize, 1);
        for (stopped, write) in [(false, false), (true, true)] {
            let folder = tempfile::tempdir().unwrap();
            let (job, file) = job(folder.path(), &content, stopped);
            let mut now = content.clone();
            if write {
                now[70_000] ^= 1;
                file.write_all_at(&now[70_000..70_001], 70_000).unwrap();
            }
            let scanned = job.run().unwrap();
            assert_eq!((scanned.disks[0].1, scanned.writer.counts().extents), (root(&now), u64::from(write)));
        }
        // That it ran in between says enough.
        let folder = tempfile::tempdir().unwrap();
        let (job, _file) = job(folder.path(), &random_bytes(BYTES as usize, 2), true);
        let scanned = Job { run: 4, ..job }.run().unwrap();
        assert_eq!(scanned.disks[0].1, root(&content));
    }
}
