//! What differs between two points: by the hashes of their leaves first, then by the blocks of the leaves that differ.

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;
use landfall_proto::message::control::DiskDifference;

use super::chain::PointDisk;
use super::export::{PinnedPoint, sound_leaves};
use super::layout::Layout;
use super::manifest::DiskEntry;
use crate::drive::image::index::Hashes;
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{BLOCK_BYTES, LEAF_BYTES};

/// Ranges that are gathered: listed up to a bound, counted beyond it.
struct Ranges {
    room: usize,
    found: DiskDifference,
    open: Option<(u64, u64)>,
}

impl Ranges {
    fn add(&mut self, offset: u64, length: u64) {
        self.found.differing_bytes += length;
        match &mut self.open {
            Some((start, open)) if *start + *open == offset => *open += length,
            _ => {
                self.close();
                self.open = Some((offset, length));
            }
        }
    }

    fn close(&mut self) {
        let Some(range) = self.open.take() else { return };
        if self.found.ranges.len() < self.room {
            self.found.ranges.push(range);
        } else {
            self.found.left_out += 1;
        }
    }
}

/// The ranges of each disk that differ between `one` and `other`, at most `limit` listed over all disks. Blocks for as long
/// as reading the leaves that differ takes.
pub fn difference(one: &PinnedPoint, other: &PinnedPoint, limit: usize) -> Result<Vec<DiskDifference>, Refusal> {
    let mut targets: Vec<&DiskTarget> = one.entry().disks.iter().map(|disk| &disk.target).collect();
    targets.extend(other.entry().disks.iter().map(|disk| &disk.target));
    targets.sort();
    targets.dedup();
    let (mut room, mut found) = (limit, Vec::new());
    for target in targets {
        let disk = disk_difference(one, other, target, room)?;
        room -= disk.ranges.len();
        found.push(disk);
    }
    Ok(found)
}

fn disk_difference(
    one: &PinnedPoint,
    other: &PinnedPoint,
    target: &DiskTarget,
    room: usize,
) -> Result<DiskDifference, Refusal> {
    let (left, right) = (one.entry().disk(target), other.entry().disk(target));
    let size = |disk: Option<&DiskEntry>| disk.map_or(0, |disk| disk.bytes);
    let (from_bytes, to_bytes) = (size(left), size(right));
    let found = DiskDifference {
        target: target.to_string(),
        from_bytes,
        to_bytes,
        differing_bytes: 0,
        ranges: Vec::new(),
        left_out: 0,
    };
    let mut ranges = Ranges { room, found, open: None };
    if let (Some(left), Some(right)) = (left, right)
        && (left.root, left.bytes) != (right.root, right.bytes)
    {
        let sides = [Side::open(one, left)?, Side::open(other, right)?];
        compare(sides, from_bytes.min(to_bytes), &mut ranges)?;
    }
    let (common, end) = (from_bytes.min(to_bytes), from_bytes.max(to_bytes));
    if common < end {
        ranges.add(common, end - common);
    }
    ranges.close();
    Ok(ranges.found)
}

/// One disk of one point.
struct Side<'a> {
    point: &'a PinnedPoint,
    entry: &'a DiskEntry,
    content: PointDisk,
    /// `None` where they are lost: everything is read then.
    leaves: Option<Hashes>,
}

impl<'a> Side<'a> {
    fn open(point: &'a PinnedPoint, entry: &'a DiskEntry) -> Result<Self, Refusal> {
        let layout: &Layout = point.layout();
        let leaves = sound_leaves(layout, entry).map(|leaves| leaves.hashes_from(0)).transpose()?;
        Ok(Self { point, entry, content: point.open(entry)?, leaves })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        self.content
            .read_at(offset, buffer)
            .map_err(|refusal| self.point.damaged(self.entry, offset..offset + buffer.len() as u64, &refusal.message))
    }
}

fn compare(mut sides: [Side<'_>; 2], bytes: u64, ranges: &mut Ranges) -> Result<(), Refusal> {
    let mut buffers = [vec![0; LEAF_BYTES as usize], vec![0; LEAF_BYTES as usize]];
    let mut offset = 0;
    while offset < bytes {
        let length = LEAF_BYTES.min(bytes - offset);
        let mut hashes = [None; 2];
        for (side, hash) in sides.iter_mut().zip(&mut hashes) {
            // A last leaf that is shorter on one side has another hash there: its bytes decide.
            *hash = match &mut side.leaves {
                Some(leaves) => leaves.next_hash()?,
                None => None,
            };
        }
        if hashes[0].is_none() || hashes[0] != hashes[1] {
            let [left, right] = &mut buffers;
            let (left, right) = (&mut left[..length as usize], &mut right[..length as usize]);
            sides[0].read(offset, left)?;
            sides[1].read(offset, right)?;
            let blocks = left.chunks(BLOCK_BYTES as usize).zip(right.chunks(BLOCK_BYTES as usize));
            for (at, (left, _)) in blocks.enumerate().filter(|(_, (left, right))| left != right) {
                ranges.add(offset + at as u64 * BLOCK_BYTES, left.len() as u64);
            }
        }
        offset += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::ReplicaStore;
    use super::super::test_primary::{Primary, VM};
    use super::*;

    #[test]
    fn exactly_the_blocks_that_differ_are_told_as_many_as_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut primary = Primary::new(&folder.path().join("scratch"), &[400_000, 70_001], 9);
        let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
        store.set_recovery_points(3).unwrap();
        primary.replicate(&mut store).unwrap();
        // Two neighbouring blocks, one alone, and the short last one of the other disk.
        for at in [4096, 8192, 300_000] {
            primary.disks[0].1[at] ^= 1;
        }
        primary.disks[1].1[70_000] ^= 1;
        primary.replicate(&mut store).unwrap();
        let (one, two) = (store.pin(Some(1)).unwrap(), store.pin(Some(2)).unwrap());
        let block = |at: u64| at / BLOCK_BYTES * BLOCK_BYTES;
        let found = difference(&one, &two, 10).unwrap();
        assert_eq!(found[0].ranges, [(4096, 8192), (block(300_000), 4096)]);
        assert_eq!(found[1].ranges, [(block(70_000), 70_001 - block(70_000))]);
        assert_eq!((found[0].differing_bytes, found[0].left_out), (3 * 4096, 0));
        assert_eq!(difference(&two, &one, 10).unwrap()[0].ranges, found[0].ranges, "either way");
        let bounded = difference(&one, &two, 1).unwrap();
        assert_eq!((bounded[0].ranges.len(), bounded[0].left_out, bounded[0].differing_bytes), (1, 1, 3 * 4096));
        assert_eq!((bounded[1].ranges.len(), bounded[1].left_out), (0, 1));
        assert!(difference(&one, &one, 10).unwrap().iter().all(|disk| disk.differing_bytes == 0));
        // Without their leaf hashes everything is read.
        for entry in std::fs::read_dir(folder.path().join("r")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".leaves") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        assert_eq!(difference(&one, &two, 10).unwrap(), found);
    }
}
