//! Making ready to capture: an index of what the holder has, by the cheapest way that is certain.
//!
//! 1. The sender's own index of the point that the holder has newest: nothing is read or asked.
//! 2. A comparison: this side's disks are hashed while the VM runs, the trees are compared, and what differs is marked
//!    as not known, so that the capture finds it changed.
//! 3. An empty replica: the disks are sent while the VM runs, and what was sent is what the holder has.
//!
//! In the last two the VM writes on meanwhile; whatever it changes, the capture finds against the index made here.

use std::ops::Range;

use landfall_proto::id::Root;
use landfall_proto::message::data::Extent;
use landfall_proto::model::DiskSpec;
use landfall_proto::seam::Clock;
use landfall_proto::{Class, Refusal};
use tokio::sync::mpsc;

use super::capture::{Base, Workshop, blocking, image_of};
use super::parcel::{Parcel, Purpose, Wrapper};
use super::record::Known;
use super::session::{Session, Trouble};
use super::{EXTENTS_AHEAD, Sender};
use crate::decide::resync::Indexes;
use crate::drive::image::index::UNKNOWN;
use crate::drive::image::tree::Hash;
use crate::drive::image::{Baseline, Comparison, HashIndex, Question, Source, scan, send_ranges};
use crate::vm_service::Image;

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
    for (number, disk) in (0u16..).zip(&disks) {
        let image = image_of(&report.images, disk)?.clone();
        match (session.newest, session.comparable) {
            // What it lists stays, and is not written into: what differs comes with the change set.
            (None, true) if session.lists_points() => {
                compare(sender, session, disk, &image).await?;
                tracing::info!(vm = %sender.primary.vm.name, disk = %disk.target, "compared with content in doubt");
            }
            (Some(newest), _) => {
                compare(sender, session, disk, &image).await?;
                tracing::info!(vm = %sender.primary.vm.name, disk = %disk.target, base = newest.sequence, "compared");
            }
            (None, true) => {
                let ranges = compare(sender, session, disk, &image).await?;
                fill(sender, session, number, disk, image, Pass::Ranges(ranges)).await?;
            }
            (None, false) => fill(sender, session, number, disk, image, Pass::Everything).await?,
        }
    }
    drop(copying);
    let source = if session.newest.is_some() || session.comparable { "compare" } else { "initial" };
    sender.figures.send_modify(|figures| figures.source = Some(source.to_owned()));
    Ok(Base::Fuzzy(session.newest))
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

/// Hashes a disk, compares its tree with the holder's, and marks what differs as not known. Returns what differs.
async fn compare(
    sender: &Sender,
    session: &mut Session,
    disk: &DiskSpec,
    image: &Image,
) -> Result<Vec<Range<u64>>, Trouble> {
    let (workshop, clock) = (sender.workshop.clone(), sender.node.outside.clock.clone());
    let (spec, image) = (disk.clone(), image.clone());
    let mut index = blocking(move || hash_disk(&workshop, clock.as_ref(), &spec, &image)).await?;
    let mut comparison = Comparison::new(disk.bytes);
    let mut theirs_end = u64::MAX;
    while let Some(question) = comparison.next_question() {
        let theirs = hashes_there(session, disk, question, &mut theirs_end).await?;
        let own = index.node_hashes(u64::from(question.node_bytes), question.first, question.count)?;
        comparison.answer(&own, &theirs)?;
    }
    let ranges = comparison.into_ranges();
    let (marked, workshop) = (ranges.clone(), sender.workshop.clone());
    blocking(move || {
        let _turn = workshop.enter();
        for range in &marked {
            index.forget(range)?;
        }
        index.set_root(None)?;
        index.sync()
    })
    .await?;
    Ok(ranges)
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

fn hash_disk(workshop: &Workshop, clock: &dyn Clock, disk: &DiskSpec, image: &Image) -> Result<HashIndex, Refusal> {
    let _turn = workshop.enter();
    let indexes = workshop.indexes()?;
    let source = Source::open(image)?;
    let writer = indexes.begin(&disk.target, disk.bytes)?;
    scan(&source, 0, Baseline::None, writer, clock, &mut |_: Extent| Ok(()))?;
    open_fuzzy(workshop, disk)
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

/// Sends a running disk's content into a replica that has no point; the fuzzy index then describes what was sent.
async fn fill(
    sender: &Sender,
    session: &mut Session,
    number: u16,
    disk: &DiskSpec,
    image: Image,
    pass: Pass,
) -> Result<(), Trouble> {
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
                let writer = workshop.indexes()?.begin(&spec.target, spec.bytes)?;
                scan(&source, number, Baseline::Zeroes, writer, clock.as_ref(), &mut sink)?;
            }
            Pass::Ranges(ranges) => {
                let mut index = open_fuzzy(&workshop, &spec)?;
                send_ranges(&source, number, &ranges, Some(&mut index), &mut sink)?;
                index.sync()?;
            }
        }
        Ok(())
    }));
    while let Some(parcel) = extents.recv().await {
        session.carry(parcel, None).await?;
    }
    match reading.await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Trouble::Lost(format!("reading the disk ended unexpectedly: {error}"))),
    }
}
