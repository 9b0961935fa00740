//! A replica's newest content as something to compare with and, before there is a point, to write into.
//!
//! First content is written straight into the base that the first point will have. It is no point, and never listed,
//! until a change set without a base has verified the whole of it. After any break its index is made anew from what is
//! there, and the sender compares. The same index, beside a chain, describes the newest point.

use std::io;

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root, UnixMillis};
use landfall_proto::message::data::Extent;
use landfall_proto::model::DiskSpec;
use landfall_proto::refusal::Class;
use landfall_proto::seam::{Clock, Time};

use super::base::Base;
use super::chain::{self, PointDisk};
use super::manifest::DiskEntry;
use super::store::{Epochs, Filling, ReplicaStore};
use crate::drive::image::durable::{self, fault};
use crate::drive::image::extent;
use crate::drive::image::index::{HashIndex, IndexWriter};
use crate::drive::image::scan::{Baseline, scan};
use crate::drive::image::source::{Readable, Run};
use crate::drive::image::tree::{BLOCK_BYTES, Hash};

/// A disk of zeroes.
struct Zeroes(u64);

impl Readable for Zeroes {
    fn bytes(&self) -> u64 {
        self.0
    }

    fn run_at(&self, _offset: u64, max: u64) -> Result<Run, Refusal> {
        Ok(Run { hole: true, length: max })
    }

    fn read_at(&self, _offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        buffer.fill(0);
        Ok(())
    }
}

/// A clock that stands still: how long making an index takes is nobody's decision here.
#[derive(Debug)]
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Time {
        Time::default()
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis::default()
    }
}

/// The newest listed content of a disk, or what is being filled.
pub(super) enum Present {
    /// Listed.
    Point(DiskEntry),
    /// First content.
    Filling(DiskSpec),
}

impl ReplicaStore {
    /// Takes the disks of a replica without points; a disk whose size is another now begins anew.
    pub(super) fn take_disks(&mut self, disks: &[DiskSpec]) -> Result<(), Refusal> {
        for old in self.manifest.filling.clone() {
            if !disks.contains(&old) {
                self.drop_filling(&old.target)?;
            }
        }
        self.manifest.filling = disks.to_vec();
        Ok(())
    }

    pub(super) fn drop_filling(&mut self, target: &DiskTarget) -> Result<(), Refusal> {
        self.filling.remove(target);
        self.trusted.remove(target);
        durable::remove(&self.layout().index(target))?;
        durable::remove(&self.layout().filling(target))
    }

    /// What there is of a disk; `None` where the replica does not know it.
    pub(super) fn present(&self, target: &DiskTarget) -> Option<Present> {
        let listed = self.manifest.newest().and_then(|point| point.disk(target)).cloned();
        let filled = || self.manifest.filling.iter().find(|disk| disk.target == *target).cloned();
        listed.map(Present::Point).or_else(|| filled().map(Present::Filling))
    }

    /// The hashes of the newest content, for a Compare: none of a disk that was added to a replica with points. The first
    /// one after a break reads that content through.
    pub fn hashes(
        &mut self,
        target: &DiskTarget,
        node_bytes: u32,
        first: u64,
        count: u32,
    ) -> Result<Vec<Hash>, Refusal> {
        if self.present(target).is_none() && !self.manifest.points.is_empty() {
            return Ok(Vec::new());
        }
        self.content_index(target)?.node_hashes(u64::from(node_bytes), first, count)
    }

    /// The index of the newest content of a disk, made anew where it is missing or does not describe it.
    pub(super) fn content_index(&mut self, target: &DiskTarget) -> Result<HashIndex, Refusal> {
        match self.present(target) {
            None => Err(Refusal::not_found("disk", target.as_str()).remedy("send the VM's disks with the session")),
            Some(Present::Filling(disk)) => {
                self.filling_of(&disk)?;
                self.open_index(target)
            }
            Some(Present::Point(entry)) => {
                let wanted = (!self.manifest.doubted || self.trusted.contains(target)).then_some(entry.root);
                let found = HashIndex::open(&self.layout().index(target))?;
                let usable = |index: &HashIndex| {
                    index.disk_bytes() == entry.bytes
                        && (self.trusted.contains(target) || (wanted.is_some() && index.root() == wanted))
                };
                match found.filter(usable) {
                    Some(index) => Ok(index),
                    None => {
                        self.rebuild_index(&entry)?;
                        self.open_index(target)
                    }
                }
            }
        }
    }

    fn open_index(&self, target: &DiskTarget) -> Result<HashIndex, Refusal> {
        let path = self.layout().index(target);
        HashIndex::open(&path)?.ok_or_else(|| fault("read", &path, &io::Error::other("it is damaged")))
    }

    /// Reads the newest content of a disk and makes its index from what is really there. Where that is not what the
    /// point lists, the replica is marked as doubted, durably: from then on its content is compared, never assumed.
    pub(super) fn rebuild_index(&mut self, entry: &DiskEntry) -> Result<Root, Refusal> {
        let layout = self.layout().clone();
        let content = {
            let _names = self.shared.opening();
            PointDisk::open(&layout, &entry.file, entry.bytes)?
        };
        let root = make_index(&content, &layout.index(&entry.target))?;
        self.trusted.insert(entry.target.clone());
        if root != entry.root && !self.manifest.doubted {
            self.manifest.doubted = true;
            self.save()?;
        }
        Ok(root)
    }

    /// Reads the newest content of every disk and says whether it is what the newest point lists. Blocks for as long
    /// as reading the disks takes.
    pub fn verify_newest(&mut self) -> Result<(), Refusal> {
        let Some(point) = self.manifest.newest().cloned() else { return Ok(()) };
        for disk in &point.disks {
            if self.rebuild_index(disk)? != disk.root {
                let message = format!("disk {} of point {} is damaged", disk.target, point.sequence);
                return Err(Refusal::new(Class::Failed, "damaged", message)
                    .field("point")
                    .remedy("the next change set is compared with what is here (`landfall vm resync`)"));
            }
        }
        Ok(())
    }

    /// The first content of a disk, open, begun where it is missing, its index describing it.
    pub(super) fn filling_of(&mut self, disk: &DiskSpec) -> Result<&mut Filling, Refusal> {
        if !self.filling.contains_key(&disk.target) {
            let (path, index_path) = (self.layout().filling(&disk.target), self.layout().index(&disk.target));
            let base = if path.exists() {
                // A crash right before it became a point left it read-only.
                durable::set_read_only(&path, false)?;
                let base = Base::open(&path, disk.bytes)?;
                make_index(&base, &index_path)?;
                base
            } else {
                chain::create_base(&path, disk.bytes)?;
                make_index(&Zeroes(disk.bytes), &index_path)?;
                Base::open(&path, disk.bytes)?
            };
            let index = HashIndex::open_writable(&index_path)?
                .ok_or_else(|| fault("read", &index_path, &io::Error::other("it is damaged")))?;
            self.trusted.insert(disk.target.clone());
            self.filling.insert(disk.target.clone(), Filling { base, index });
        }
        match self.filling.get_mut(&disk.target) {
            Some(filling) => Ok(filling),
            None => Err(Refusal::not_found("disk", disk.target.as_str())),
        }
    }

    /// Writes content into a replica that has no point yet. It is durable, and a point, only by a change set later.
    pub fn fill(&mut self, epochs: &Epochs, extent: &Extent) -> Result<(), Refusal> {
        self.check_session(epochs)?;
        self.check_open()?;
        if !self.manifest.points.is_empty() || self.staging.is_some() || self.applying.is_some() {
            return Err(Refusal::new(Class::Refused, "not_filling", "the replica has a point, or one is being made")
                .remedy("send a change set"));
        }
        let sizes: Vec<u64> = self.manifest.filling.iter().map(|disk| disk.bytes).collect();
        extent::check(extent, &sizes)?;
        let disk = self.manifest.filling[usize::from(extent.disk)].clone();
        let filling = self.filling_of(&disk)?;
        let done = fill_one(filling, disk.bytes, extent);
        if done.is_err() {
            // What is there and what the index says may differ now: the next use reads it through.
            self.filling.remove(&disk.target);
            self.trusted.remove(&disk.target);
        }
        done
    }
}

pub(super) fn fill_one(filling: &mut Filling, disk_bytes: u64, extent: &Extent) -> Result<(), Refusal> {
    if filling.index.root().is_some() {
        filling.index.set_root(None)?;
    }
    filling.base.apply(extent)?;
    patch(&mut filling.index, disk_bytes, extent)
}

/// Blocks whose hashes are made at once: 512 KiB of them in memory.
const PATCH_BLOCKS: u64 = 16_384;

/// Brings an index to the content that a checked extent has.
pub(super) fn patch(index: &mut HashIndex, disk_bytes: u64, extent: &Extent) -> Result<(), Refusal> {
    let (mut block, end) = extent::block_range(extent);
    while block < end {
        let until = end.min(block + PATCH_BLOCKS);
        let hashes: Vec<Hash> = (block..until).map(|block| extent::block_hash(extent, disk_bytes, block)).collect();
        index.patch(block, &hashes)?;
        block = until;
    }
    Ok(())
}

/// Makes the index of `content` at `path`, and returns its root.
pub(super) fn make_index(content: &dyn Readable, path: &std::path::Path) -> Result<Root, Refusal> {
    let writer = IndexWriter::create(path, content.bytes(), BLOCK_BYTES)?;
    scan(content, 0, Baseline::None, writer, &NoClock, &mut |_| Ok(())).map(|report| report.root)
}
