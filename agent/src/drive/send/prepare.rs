//! Making ready to capture: an index of what the holder has, by the cheapest way that is certain.
//!
//! 1. The sender's own index of the point that the holder has newest: nothing is read or asked.
//! 2. A comparison: this side's disks are hashed while the VM runs, the trees are compared, and what differs is marked
//!    as not known, so that the capture finds it changed.
//! 3. An empty replica: the disks are sent while the VM runs, and what was sent is what the holder has.
//!
//! In the last two the VM writes on meanwhile; whatever it changes, the capture finds against the index made here. One that
//! is stopped does not: where the whole of a disk is there, the capture need not read it again.

use std::ops::Range;

use landfall_proto::id::Root;
use landfall_proto::message::data::Extent;
use landfall_proto::model::DiskSpec;
use landfall_proto::seam::Clock;
use landfall_proto::{Class, Refusal};
use tokio::sync::mpsc;

use super::capture::{Base, Workshop, blocking, image_of, nanos};
use super::parcel::{Parcel, Purpose, Wrapper};
use super::record::Known;
use super::session::{Session, Trouble};
use super::{EXTENTS_AHEAD, Sender};
use crate::decide::resync::Indexes;
use crate::drive::image::index::UNKNOWN;
use crate::drive::image::tree::Hash;
use crate::drive::image::{Baseline, Comparison, HashIndex, LastScan, Question, Source, scan, send_ranges};
use crate::vm_service::{Image, VmState};

/// What the next capture compares with.
pub(super) async fn base(sender: &Sender, known: Option<Known>, session: &mut Session) -> Result<Base, Trouble> {
    let mut indexes = Indexes::Lost;
    if let (Some(newest), Some(known)) = (session.newest, known)
        && known.tip == newest
    {
        indexes = indexes_of(sender, &known).await?;
        if indexes == Indexes::Whole {
            sender.figures.send_modify(|figures| figures.source = Some("index".to_owned()));
            return Ok(Base::Point(newest, known.disks));
        }
    }
    sender.note_comparison(session, indexes)?;
    let disks = sender.primary.vm.disks.clone();
    let report =
        sender.node.vms.vm(sender.primary.vm.id).ok_or_else(|| {
            Refusal::new(Class::Failed, "vm_gone", "the VM service does not list the VM at this moment")
        })?;
    if let Some(fault) = report.fault {
        return Err(Trouble::Here(fault));
    }
    // A first copy waits for its turn: it would take the line from those that are nearer to their first point.
    let copying = match session.newest {
        Some(_) => None,
        None => {
            sender.activity("queued");
            let place = sender.copies.enter().await;
            sender.activity(if session.comparable { "comparing" } else { "copying" });
            place
        }
    };
    let mut scans = Vec::new();
    for (number, disk) in (0u16..).zip(&disks) {
        let image = image_of(&report.images, disk)?.clone();
        let subject = Subject { number, disk, image, run: report.run, stopped: report.state == VmState::Stopped };
        let whole = match (session.newest, session.comparable) {
            // What it lists stays, and is not written into: what differs comes with the change set.
            (None, true) if session.lists_points() => {
                let compared = compare(sender, session, &subject).await?;
                tracing::info!(vm = %sender.primary.vm.name, disk = %disk.target, "compared with content in doubt");
                compared.whole()
            }
            (Some(newest), _) => {
                let compared = compare(sender, session, &subject).await?;
                tracing::info!(vm = %sender.primary.vm.name, disk = %disk.target, base = newest.sequence, "compared");
                compared.whole()
            }
            (None, true) => {
                let compared = compare(sender, session, &subject).await?;
                let whole = compared.whole();
                fill(sender, session, subject, Pass::Ranges(compared.ranges)).await?;
                whole
            }
            (None, false) => fill(sender, session, subject, Pass::Everything).await?,
        };
        scans.extend(whole.map(|scan| (disk.target.clone(), scan)));
    }
    drop(copying);
    let source = if session.newest.is_some() || session.comparable { "compare" } else { "initial" };
    sender.figures.send_modify(|figures| figures.source = Some(source.to_owned()));
    Ok(Base::Fuzzy(session.newest, scans))
}

async fn indexes_of(sender: &Sender, known: &Known) -> Result<Indexes, Refusal> {
    let (workshop, known) = (sender.workshop.clone(), known.clone());
    let disks: Vec<DiskSpec> = sender.primary.vm.disks.clone();
    blocking(move || {
        let indexes = workshop.indexes()?;
        for disk in &disks {
            let root: Option<Root> =
                known.disks.iter().find(|(target, _)| *target == disk.target).map(|(_, root)| *root);
            let Some(root) = root else { return Ok(Indexes::Reshaped) };
            match indexes.find(&disk.target, &root)? {
                Some(index) if index.disk_bytes() == disk.bytes => {}
                Some(_) => return Ok(Indexes::Reshaped),
                None => return Ok(Indexes::Lost),
            }
        }
        Ok(Indexes::Whole)
    })
    .await
}

/// A disk that is made ready, and how the VM was found.
struct Subject<'a> {
    number: u16,
    disk: &'a DiskSpec,
    image: Image,
    run: u64,
    stopped: bool,
}

/// What a comparison found.
struct Compared {
    /// What differs; the index has it as not known.
    ranges: Vec<Range<u64>>,
    scan: Option<LastScan>,
}

impl Compared {
    /// The scan, where the index describes all that it found.
    fn whole(&self) -> Option<LastScan> {
        self.scan.filter(|_| self.ranges.is_empty())
    }
}

/// Hashes a disk, compares its tree with the holder's, and marks what differs as not known.
async fn compare(sender: &Sender, session: &mut Session, subject: &Subject<'_>) -> Result<Compared, Trouble> {
    let (workshop, clock, disk) = (sender.workshop.clone(), sender.node.outside.clock.clone(), subject.disk);
    let (spec, image, (run, stopped)) = (disk.clone(), subject.image.clone(), (subject.run, subject.stopped));
    let hashed = blocking(move || hash_disk(&workshop, clock.as_ref(), &spec, &image, (run, stopped)));
    let (mut index, scan) = hashed.await?;
    let mut comparison = Comparison::new(disk.bytes);
    let mut theirs_end = u64::MAX;
    while let Some(question) = comparison.next_question() {
        let Question { node_bytes, first, count } = question;
        let reading = blocking(move || index.node_hashes(node_bytes.into(), first, count).map(|own| (index, own)));
        // Both sides at once: each has to go through its index for what is asked.
        let (theirs, read) = tokio::join!(hashes_there(session, disk, question, &mut theirs_end), reading);
        let (theirs, (read, own)) = (theirs?, read?);
        index = read;
        comparison.answer(&own, &theirs)?;
    }
    let ranges = comparison.into_ranges();
    let (marked, workshop) = (ranges.clone(), sender.workshop.clone());
    blocking(move || {
        let _turn = workshop.enter();
        if marked.is_empty() {
            return Ok(());
        }
        for range in &marked {
            index.forget(range)?;
        }
        index.set_root(None)?;
        index.sync()
    })
    .await?;
    Ok(Compared { ranges, scan })
}

/// The holder's hashes to `question`. A disk that has grown since its newest point is shorter there: what it does not have
/// counts as unknown, which nothing is equal to. `end` is where its content is known to end, and is learned on the way.
async fn hashes_there(
    session: &mut Session,
    disk: &DiskSpec,
    question: Question,
    end: &mut u64,
) -> Result<Vec<Hash>, Trouble> {
    let (node_bytes, count) = (u64::from(question.node_bytes), question.count as usize);
    let mut hashes = match question.first.saturating_mul(node_bytes) < *end {
        true => session.compare(&disk.target, question).await?,
        false => Vec::new(),
    };
    if hashes.len() < count {
        *end = (*end).min((question.first + hashes.len() as u64).saturating_mul(node_bytes));
        hashes.resize(count, UNKNOWN);
    }
    Ok(hashes)
}

/// Hashes a disk into its fuzzy index; with what is to be remembered of it, where its file can tell of changes.
fn hash_disk(
    workshop: &Workshop,
    clock: &dyn Clock,
    disk: &DiskSpec,
    image: &Image,
    (run, stopped): (u64, bool),
) -> Result<(HashIndex, Option<LastScan>), Refusal> {
    let _turn = workshop.enter();
    let indexes = workshop.indexes()?;
    let source = Source::open(image)?;
    let last = last_scan(&source, clock, run, stopped)?;
    let writer = indexes.begin(&disk.target, disk.bytes)?;
    let earlier = indexes.any(&disk.target, disk.bytes)?;
    let baseline = earlier.as_ref().map_or(Baseline::None, Baseline::Guess);
    scan(&source, 0, baseline, writer, clock, &mut |_: Extent| Ok(()))?;
    Ok((open_fuzzy(workshop, disk)?, last))
}

/// What to remember of a scan that is about to begin.
fn last_scan(source: &Source, clock: &dyn Clock, run: u64, stopped: bool) -> Result<Option<LastScan>, Refusal> {
    let (stamp, began_nanos) = (source.stamp()?, nanos(clock));
    Ok(stamp.map(|stamp| LastScan { stamp, run, stopped, began_nanos }))
}

fn open_fuzzy(workshop: &Workshop, disk: &DiskSpec) -> Result<HashIndex, Refusal> {
    HashIndex::open_writable(&workshop.indexes()?.fuzzy_path(&disk.target))?.ok_or_else(|| {
        Refusal::new(Class::Failed, "index_lost", format!("the index of disk '{}' is gone", disk.target))
    })
}

enum Pass {
    Everything,
    Ranges(Vec<Range<u64>>),
}

/// Sends a running disk's content into a replica that has no point; the fuzzy index then describes what was sent. Returns
/// what to remember of the scan, where it was one of everything.
async fn fill(
    sender: &Sender,
    session: &mut Session,
    subject: Subject<'_>,
    pass: Pass,
) -> Result<Option<LastScan>, Trouble> {
    let Subject { number, disk, image, run, stopped } = subject;
    let (workshop, clock, spec) = (sender.workshop.clone(), sender.node.outside.clock.clone(), disk.clone());
    let (ahead, mut extents) = mpsc::channel::<Parcel>(EXTENTS_AHEAD);
    let mut wrapper = Wrapper::new(Purpose::Fill, sender.node.state().resolved_settings().compression);
    let reading = tokio::spawn(blocking(move || {
        let mut sink = |extent: Extent| {
            ahead
                .blocking_send(wrapper.wrap(extent)?)
                .map_err(|_| Refusal::new(Class::Failed, "session_ended", "the session has ended"))
        };
        let _turn = workshop.enter();
        let source = Source::open(&image)?;
        match pass {
            Pass::Everything => {
                let last = last_scan(&source, clock.as_ref(), run, stopped)?;
                let writer = workshop.indexes()?.begin(&spec.target, spec.bytes)?;
                scan(&source, number, Baseline::Zeroes, writer, clock.as_ref(), &mut sink)?;
                Ok(last)
            }
            Pass::Ranges(ranges) => {
                let mut index = open_fuzzy(&workshop, &spec)?;
                send_ranges(&source, number, &ranges, Some(&mut index), &mut sink)?;
                index.sync()?;
                Ok(None)
            }
        }
    }));
    while let Some(parcel) = extents.recv().await {
        session.carry(parcel, None).await?;
    }
    match reading.await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Trouble::Lost(format!("reading the disk ended unexpectedly: {error}"))),
    }
}
