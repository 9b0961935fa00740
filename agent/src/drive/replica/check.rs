//! Proving that the files of a copy give the points that its manifest lists, without reading anything twice.
//!
//! The first point of a disk is read whole, which also makes its index. Each later one is an overlay of its own on the
//! point before: where the overlay has nothing it shows what was found there, right or damaged; where it has something that
//! is read. So a point costs what it changed, and at the end the index of the newest content is there as well. What has no
//! such relation to the point before is read whole. What is not right is put down, leaf by leaf, for each point that shows
//! it. Everything blocks.

use std::collections::BTreeMap;
use std::ops::Range;

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;

use super::chain::{self, OwnClusters, PointDisk};
use super::export::sound_leaves;
use super::fill::make_index;
use super::layout::Layout;
use super::manifest::{DiskEntry, Manifest, PointEntry};
use super::proofs::{Damage, RANGES_MAX};
use super::verify::{examine_disk, push, range_of};
use crate::drive::image::durable;
use crate::drive::image::index::{HashIndex, IndexWriter};
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, BLOCK_BYTES, Hash, LEAF_BYTES};

/// What was read so far. It holds only as long as no file of the copy changes or goes.
#[derive(Debug, Default)]
pub(super) struct Checked {
    points: Vec<PointEntry>,
    /// What is not right, of the points of which anything is not.
    damage: BTreeMap<u64, Vec<Damage>>,
    /// What the index of each disk describes.
    indexed: BTreeMap<DiskTarget, Known>,
}

/// What was read of a disk at a point.
#[derive(Clone, Debug)]
struct Known {
    entry: DiskEntry,
    /// What is not right there; the index says nothing of it.
    damage: Vec<Damage>,
}

impl Known {
    fn is_damaged(&self, range: &Range<u64>) -> bool {
        self.damage.iter().any(|part| part.start < range.end && range.start < part.end)
    }
}

impl Checked {
    /// Checks every point of `manifest` that was not checked before.
    pub(super) fn check(&mut self, layout: &Layout, manifest: &Manifest) -> Result<(), Refusal> {
        for point in &manifest.points {
            if self.points.contains(point) {
                continue;
            }
            let mut damage = Vec::new();
            for disk in &point.disks {
                damage.extend(self.check_disk(layout, disk)?);
            }
            damage.truncate(RANGES_MAX);
            if !damage.is_empty() {
                self.damage.insert(point.sequence, damage);
            }
            self.points.push(point.clone());
        }
        Ok(())
    }

    /// What is not right of a point that was checked.
    pub(super) fn damage(&self, point: &PointEntry) -> &[Damage] {
        self.damage.get(&point.sequence).map_or(&[], Vec::as_slice)
    }

    /// Makes the indexes durable that describe the newest point, and removes the others: they are made anew when they
    /// are needed.
    pub(super) fn settle_indexes(&self, layout: &Layout, manifest: &Manifest) -> Result<(), Refusal> {
        let newest = manifest.newest();
        for (target, known) in &self.indexed {
            let path = layout.index(target);
            let wanted = newest.and_then(|point| point.disk(target)) == Some(&known.entry) && known.damage.is_empty();
            match HashIndex::open_writable(&path)?.filter(|_| wanted) {
                Some(mut index) => {
                    index.set_root(Some(known.entry.root))?;
                    index.sync()?;
                }
                None => durable::remove(&path)?,
            }
        }
        Ok(())
    }

    fn check_disk(&mut self, layout: &Layout, disk: &DiskEntry) -> Result<Vec<Damage>, Refusal> {
        let files = chain::chain(layout, &disk.file)?;
        let before = self.indexed.remove(&disk.target).filter(|before| before.entry.bytes == disk.bytes);
        let damage = match before {
            Some(before) if before.entry.file == disk.file && before.entry.root == disk.root => before.damage,
            Some(before) => match files.iter().position(|name| *name == before.entry.file) {
                Some(layers @ 1..) => check_overlays(layout, disk, &before, &files[..layers])?,
                _ => check_whole(layout, disk)?,
            },
            None => check_whole(layout, disk)?,
        };
        self.indexed.insert(disk.target.clone(), Known { entry: disk.clone(), damage: damage.clone() });
        Ok(damage)
    }
}

fn check_whole(layout: &Layout, disk: &DiskEntry) -> Result<Vec<Damage>, Refusal> {
    let (content, index) = (PointDisk::open(layout, &disk.file, disk.bytes)?, layout.index(&disk.target));
    let read = make_index(&content, &index);
    if read.as_ref().is_ok_and(|root| *root == disk.root) {
        if sound_leaves(layout, disk).is_none() {
            write_leaves(layout, disk)?;
        }
        return Ok(Vec::new());
    }
    // Read once more, to say where.
    let mut damage = Vec::new();
    examine_disk(layout, disk, Some(&content), &mut damage, &mut |_| Ok(()))?;
    match read {
        Ok(_) => {}
        // Whatever it was, it was not in what the files say.
        Err(refusal) if damage.is_empty() => return Err(refusal),
        Err(_) => durable::remove(&index)?,
    }
    if damage.is_empty() {
        // It does not read the same twice.
        push(&mut damage, disk, 0..disk.bytes);
    }
    Ok(damage)
}

/// Makes the leaf hashes of a disk anew out of its index, which is of content that has its root.
fn write_leaves(layout: &Layout, disk: &DiskEntry) -> Result<(), Refusal> {
    let Some(index) = HashIndex::open(&layout.index(&disk.target))? else { return Ok(()) };
    let path = layout.path(&disk.leaves);
    // It may be linked to the file that is damaged, which is not this copy's.
    durable::remove(&path)?;
    let mut leaves = IndexWriter::create(&path, disk.bytes, LEAF_BYTES)?;
    let (mut leaf, count) = (0, tree::node_count(disk.bytes, LEAF_BYTES));
    while leaf < count {
        let hashes = index.node_hashes(LEAF_BYTES, leaf, LEAVES_AT_ONCE)?;
        leaf += hashes.len() as u64;
        hashes.into_iter().try_for_each(|hash| leaves.push(hash))?;
    }
    leaves.finish()?;
    durable::set_read_only(&path, true)
}

/// Leaf hashes that are made at once: 32 KiB of them.
const LEAVES_AT_ONCE: u32 = 1024;

/// Checks the overlays `above` what was read as `before`, and brings the disk's index to them.
fn check_overlays(layout: &Layout, disk: &DiskEntry, before: &Known, above: &[String]) -> Result<Vec<Damage>, Refusal> {
    let (leaves, earlier) = (sound_leaves(layout, disk), sound_leaves(layout, &before.entry));
    let index = HashIndex::open_writable(&layout.index(&disk.target))?;
    let (Some(leaves), Some(earlier), Some(mut index)) = (leaves, earlier, index) else {
        return check_whole(layout, disk);
    };
    index.set_root(None)?;
    let content = PointDisk::open(layout, &disk.file, disk.bytes)?;
    let mut own = above.iter().map(|name| OwnClusters::open(&layout.path(name))).collect::<Result<Vec<_>, _>>()?;
    let (mut now, mut then) = (leaves.hashes_from(0)?, earlier.hashes_from(0)?);
    let (mut damage, mut buffer) = (Vec::new(), vec![0; LEAF_BYTES as usize]);
    for leaf in 0..leaves.count() {
        let (wanted, old) = (now.next_hash()?, then.next_hash()?);
        let range = range_of(disk, leaf);
        let (start, was_damaged) = (range.start, before.is_damaged(&range));
        // Each is asked, since each goes on from where it was asked last.
        let mut touched = false;
        for layer in &mut own {
            touched |= layer.touch(&range)?;
        }
        if !touched {
            // What is below shows, and where its hash is another one the overlay should have had something.
            if was_damaged || wanted != old {
                push(&mut damage, disk, range);
            }
            continue;
        }
        let data = &mut buffer[..(range.end - start) as usize];
        let read = content.read_at(start, data);
        if read.is_err() || wanted != Some(tree::data_hash(disk.bytes, start, data)) {
            push(&mut damage, disk, range);
        } else if was_damaged || wanted != old {
            let blocks = (start..).step_by(BLOCK_BYTES as usize).zip(data.chunks(BLOCK_BYTES as usize));
            let hashes: Vec<Hash> = blocks.map(|(at, block)| tree::data_hash(disk.bytes, at, block)).collect();
            index.patch(start / BLOCK_BYTES, &hashes)?;
        }
    }
    Ok(damage)
}
