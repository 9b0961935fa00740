//! Content that comes from this machine, not over the line: a seed that was carried here, and the disks of a VM that ran
//! here until its replication was reversed.
//!
//! A seed is first content like any that a sender fills in: no point, compared before anything is made of it. The disks
//! of a VM that has been here are one instant, since the VM is off: they become a point, verified as every other, and a
//! sender then names it as what it builds upon. Either way only what differs crosses the line.

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root, UnixMillis};
use landfall_proto::message::control::{Consistency, Point};
use landfall_proto::message::data::{ChangeSet, Extent, Tip};
use landfall_proto::model::DiskSpec;
use landfall_proto::refusal::Class;
use landfall_proto::seam::Clock;

use super::fill::fill_one;
use super::store::{Epochs, ReplicaStore};
use crate::drive::image::index::{HashIndex, IndexWriter};
use crate::drive::image::scan::{Baseline, ExtentSink, scan};
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, BLOCK_BYTES, content_root_of};

/// A disk and where its content is read.
pub type Local<'a> = (DiskSpec, &'a dyn Readable);

/// Called with the bytes that were read so far; a refusal ends the reading.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> Result<(), Refusal>;

/// Takes extents, and hears how far the pass has got.
struct Taking<'a, F> {
    extent: F,
    before: u64,
    progress: Progress<'a>,
}

impl<F: FnMut(Extent) -> Result<(), Refusal>> ExtentSink for Taking<'_, F> {
    fn extent(&mut self, extent: Extent) -> Result<(), Refusal> {
        (self.extent)(extent)
    }

    fn progress(&mut self, offset: u64) -> Result<(), Refusal> {
        (self.progress)(self.before + offset)
    }
}

/// One disk that is being read.
struct Pass<'a> {
    /// Its number in the VM's disks.
    number: u16,
    spec: &'a DiskSpec,
    content: &'a dyn Readable,
    clock: &'a dyn Clock,
}

impl ReplicaStore {
    /// Refuses a seed where it would replace something: a point, or a change set that may become one.
    pub fn check_unseeded(&self) -> Result<(), Refusal> {
        if self.manifest.points.is_empty() && self.staging.is_none() && self.applying.is_none() {
            return Ok(());
        }
        let newest = self.manifest.newest().map_or(0, |point| point.sequence);
        let message = format!("the replica has recovery points already, the newest is {newest}");
        Err(Refusal::new(Class::Refused, "has_points", message)
            .field("vm")
            .remedy("nothing is to be done: what differs is sent over the line"))
    }

    /// Takes a seed as first content: each disk with the root that it must have. Where one has another nothing is kept of
    /// it. Blocks for as long as reading and writing take; a crash meanwhile leaves content that is compared like any.
    pub fn take_seed(
        &mut self,
        disks: &[(Local<'_>, Root)],
        clock: &dyn Clock,
        progress: Progress<'_>,
    ) -> Result<(), Refusal> {
        self.check_unseeded()?;
        self.check_open()?;
        // A session that was admitted before describes what is not there any more.
        self.overtaken = true;
        let specs: Vec<DiskSpec> = disks.iter().map(|((spec, _), _)| spec.clone()).collect();
        tree::check_disks(&specs)?;
        self.take_disks(&specs)?;
        self.save()?;
        let mut before = 0;
        for (number, ((spec, content), root)) in (0u16..).zip(disks) {
            let pass = Pass { number, spec, content: *content, clock };
            let taken = self.fill_from(&pass, &mut |bytes| progress(before + bytes));
            let right = taken.and_then(|found| if found == *root { Ok(()) } else { Err(other_content(&spec.target)) });
            if let Err(refusal) = right {
                for spec in &specs {
                    self.drop_filling(&spec.target)?;
                }
                return Err(refusal);
            }
            before += spec.bytes;
        }
        Ok(())
    }

    /// Makes the first content of a disk anew from what is read, and returns its root.
    fn fill_from(&mut self, pass: &Pass<'_>, progress: Progress<'_>) -> Result<Root, Refusal> {
        let Pass { number, spec, content, clock } = *pass;
        self.drop_filling(&spec.target)?;
        let writer = self.scratch(spec)?;
        let filling = self.filling_of(spec)?;
        let extent = |extent: Extent| fill_one(filling, spec.bytes, &extent);
        let report =
            scan(content, number, Baseline::Zeroes, writer, clock, &mut Taking { extent, before: 0, progress })?;
        self.filling_of(spec)?.base.sync()?;
        Ok(report.root)
    }

    /// An index that nobody keeps: a pass over a disk writes one.
    fn scratch(&self, spec: &DiskSpec) -> Result<IndexWriter, Refusal> {
        IndexWriter::create(&self.layout().path(&format!("{}.taken.index", spec.target)), spec.bytes, BLOCK_BYTES)
    }

    /// Makes a point of the disks of a VM that is off here, numbered `sequence` or one more than the newest. Where the newest
    /// point has exactly their content it is that one. Blocks for as long as reading them takes; repeating it is harmless.
    pub fn take_in(
        &mut self,
        epochs: &Epochs,
        disks: &[Local<'_>],
        (sequence, taken_at): (u64, UnixMillis),
        clock: &dyn Clock,
    ) -> Result<Point, Refusal> {
        let specs: Vec<DiskSpec> = disks.iter().map(|(spec, _)| spec.clone()).collect();
        // What a crash cut off before it was whole is begun anew; what was whole is completed.
        let standing = self.admit(epochs, &specs, &[])?;
        if standing.staged_whole {
            self.commit()?;
        }
        self.drop_staged()?;
        self.check_open()?;
        let first = self.manifest.points.is_empty();
        let mut roots = Vec::new();
        for (number, (spec, content)) in (0u16..).zip(disks) {
            let pass = Pass { number, spec, content: *content, clock };
            let root = match first {
                true => self.fill_from(&pass, &mut |_| Ok(()))?,
                false => self.root_of(&pass)?,
            };
            roots.push((spec.clone(), root));
        }
        let root = content_root_of(&roots);
        if let Some(newest) = self.manifest.newest().filter(|newest| newest.root == root && !self.manifest.doubted) {
            return Ok(newest.point());
        }
        let newest = self.manifest.newest().map_or(0, |newest| newest.sequence);
        let tip = Tip { sequence: sequence.max(newest.saturating_add(1)), root };
        let base = self.standing().newest;
        // The last instant of a VM that ran here, which no change set of another side must fold away.
        let (consistency, stays) = (Consistency::Off, true);
        let set = ChangeSet { base, tip, disks: roots, taken_at, consistency, stays, resume_at: 0 };
        self.begin(epochs, &set)?;
        let mut extents = 0;
        if !first {
            for (number, (spec, content)) in (0u16..).zip(disks) {
                let index = self.baseline(&spec.target)?;
                let writer = self.scratch(spec)?;
                let mut append = |extent: Extent| {
                    extents += 1;
                    self.append(epochs, &extent)
                };
                let baseline = index.as_ref().map_or(Baseline::Zeroes, Baseline::Index);
                scan(*content, number, baseline, writer, clock, &mut append)?;
            }
        }
        self.finish(epochs, extents)?;
        self.commit()
    }

    /// The index of the newest content of a disk; `None` for one that the replica does not have.
    fn baseline(&mut self, target: &DiskTarget) -> Result<Option<HashIndex>, Refusal> {
        match self.present(target) {
            Some(_) => self.content_index(target).map(Some),
            None => Ok(None),
        }
    }

    /// Reads a disk beside what is here, and only says what its root is.
    fn root_of(&self, pass: &Pass<'_>) -> Result<Root, Refusal> {
        let Pass { number, spec, content, clock } = *pass;
        let extent = |_: Extent| Ok(());
        let mut taking = Taking { extent, before: 0, progress: &mut |_| Ok(()) };
        scan(content, number, Baseline::None, self.scratch(spec)?, clock, &mut taking).map(|report| report.root)
    }
}

fn other_content(target: &DiskTarget) -> Refusal {
    let message = format!("the image of disk {target} is damaged: it does not have the root that the seed names");
    Refusal::new(Class::Failed, "seed_damaged", message)
        .field("dir")
        .remedy("carry the file again, or write the seed anew: `landfall vm seed export`")
}

#[cfg(test)]
#[path = "local_test.rs"]
mod tests;
