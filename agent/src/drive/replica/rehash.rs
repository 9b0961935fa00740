//! What a change set makes of a disk's hashes: without reading the disk.
//!
//! The block hashes of the newest content and those of the changed blocks give the leaves of the new point, and these
//! its root. Leaves that no change touches are taken from the newest point's, so that the cost is that of the change
//! and one pass over 32 bytes for each 64 KiB of disk. Blocks on disk IO.

use landfall_proto::Refusal;
use landfall_proto::id::Root;
use landfall_proto::message::data::{ChangeSet, Extent};
use landfall_proto::model::DiskSpec;

use super::fill::Present;
use super::layout::leaves_name;
use super::store::ReplicaStore;
use crate::drive::image::change_set::ChangeSetReader;
use crate::drive::image::extent;
use crate::drive::image::index::{HashIndex, Hashes, IndexWriter};
use crate::drive::image::tree::{self, BLOCK_BYTES, Hash, LEAF_BYTES, Merger};

/// Blocks in a leaf.
const LEAF_BLOCKS: u64 = LEAF_BYTES / BLOCK_BYTES;

impl ReplicaStore {
    /// Writes the leaf hashes that a disk has after the change set in the log `log`, and returns its root. A disk that
    /// the set does not change keeps the leaves it has.
    pub(super) fn leaves_after(&mut self, set: &ChangeSet, disk: usize, log: &str) -> Result<Root, Refusal> {
        let (spec, _) = &set.disks[disk];
        let number = disk as u16;
        let mut changes = Changes::open(&self.layout().path(log), number)?;
        if let Some(Present::Point(entry)) = self.present(&spec.target)
            && entry.bytes == spec.bytes
            && changes.next.is_none()
            && !self.manifest.doubted
        {
            return Ok(entry.root);
        }
        let index = self.content_index(&spec.target)?;
        let mut old = OldHashes::new(&index, self.old_leaves(spec)?, spec.bytes)?;
        let path = self.layout().path(&leaves_name(&spec.target, set.tip.sequence));
        let mut writer = IndexWriter::create(&path, spec.bytes, LEAF_BYTES)?;
        for leaf in 0..tree::node_count(spec.bytes, LEAF_BYTES) {
            let first = leaf * LEAF_BLOCKS;
            let end = (first + LEAF_BLOCKS).min(tree::node_count(spec.bytes, BLOCK_BYTES));
            let known = old.leaf(leaf)?;
            let hash = match known.filter(|_| !changes.touches(end)) {
                Some(hash) => hash,
                None => {
                    let mut merger = Merger::default();
                    let blocks = old.blocks(first, end)?;
                    for (block, before) in (first..end).zip(blocks) {
                        merger.push(changes.block(block, spec.bytes)?.unwrap_or(before));
                    }
                    merger.finish(spec.bytes <= LEAF_BYTES).unwrap_or_default()
                }
            };
            writer.push(hash)?;
        }
        writer.finish()
    }

    /// The leaves of the newest listed point, where they can stand in for blocks that did not change.
    fn old_leaves(&self, spec: &DiskSpec) -> Result<Option<HashIndex>, Refusal> {
        if self.manifest.doubted {
            return Ok(None);
        }
        match self.present(&spec.target) {
            Some(Present::Point(entry)) => {
                let leaves = HashIndex::open(&self.layout().path(&entry.leaves))?;
                Ok(leaves.filter(|leaves| leaves.root() == Some(entry.root) && leaves.node_bytes() == LEAF_BYTES))
            }
            _ => Ok(None),
        }
    }
}

/// The changed blocks of one disk, in order, read from a log.
struct Changes {
    reader: ChangeSetReader,
    disk: u16,
    next: Option<Extent>,
}

impl Changes {
    fn open(path: &std::path::Path, disk: u16) -> Result<Self, Refusal> {
        let mut reader = ChangeSetReader::open(path)?;
        let next = reader.first_of(disk)?.filter(|extent| extent.disk == disk);
        Ok(Self { reader, disk, next })
    }

    /// Whether a block before `end` changed, of those not asked for yet.
    fn touches(&self, end: u64) -> bool {
        self.next.as_ref().is_some_and(|extent| extent::block_range(extent).0 < end)
    }

    /// The new hash of `block`, where it changed. Blocks are asked for in order.
    fn block(&mut self, block: u64, disk_bytes: u64) -> Result<Option<Hash>, Refusal> {
        loop {
            let Some(extent) = &self.next else { return Ok(None) };
            let (first, end) = extent::block_range(extent);
            if block < first {
                return Ok(None);
            }
            if block < end {
                let hash = extent::block_hash(extent, disk_bytes, block);
                if block + 1 == end {
                    self.advance()?;
                }
                return Ok(Some(hash));
            }
            self.advance()?;
        }
    }

    fn advance(&mut self) -> Result<(), Refusal> {
        self.next = self.reader.next_extent()?.filter(|extent| extent.disk == self.disk);
        Ok(())
    }
}

/// The hashes of the content before, as if its disk had been as large as the new one.
struct OldHashes<'a> {
    index: &'a HashIndex,
    leaves: Option<Hashes>,
    bytes: u64,
    /// Whole leaves and whole blocks that mean the same in the new disk.
    whole_leaves: u64,
    whole_blocks: u64,
}

impl<'a> OldHashes<'a> {
    fn new(index: &'a HashIndex, leaves: Option<HashIndex>, bytes: u64) -> Result<Self, Refusal> {
        let old = index.disk_bytes();
        let same = old == bytes;
        let leaves = leaves.filter(|leaves| leaves.disk_bytes() == old);
        Ok(Self {
            index,
            leaves: leaves.map(|leaves| leaves.hashes_from(0)).transpose()?,
            bytes,
            // The hash of a disk of one leaf is its root, which a larger disk does not contain.
            whole_leaves: match (same, old <= LEAF_BYTES) {
                (true, _) => tree::node_count(old, LEAF_BYTES),
                (false, true) => 0,
                (false, false) => old / LEAF_BYTES,
            },
            whole_blocks: if same { index.count() } else { old / BLOCK_BYTES },
        })
    }

    fn leaf(&mut self, leaf: u64) -> Result<Option<Hash>, Refusal> {
        match &mut self.leaves {
            Some(leaves) if leaf < self.whole_leaves => leaves.next_hash(),
            _ => Ok(None),
        }
    }

    fn blocks(&self, first: u64, end: u64) -> Result<Vec<Hash>, Refusal> {
        let known = end.min(self.whole_blocks);
        let mut hashes = if first < known { self.index.read(first, known - first)? } else { Vec::new() };
        for block in first.max(known)..end {
            let length = tree::node_length(self.bytes, BLOCK_BYTES, block);
            hashes.push(tree::zero_hash(self.bytes, block * BLOCK_BYTES, length));
        }
        Ok(hashes)
    }
}
