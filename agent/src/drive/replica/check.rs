//! Proving that the files of a copy give the points that its manifest lists, without reading anything twice.
//!
//! The first point of a disk is read whole, which also makes its index. Each later one is an overlay of its own on the
//! point before: where the overlay has nothing it shows what was found right already, so that its leaf hash must be the
//! one before; where it has something that is read. So a point costs what it changed, and at the end the index of the
//! newest content is there as well. What has no such relation to the point before is read whole. Everything blocks.

use std::collections::BTreeMap;
use std::ops::Range;

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;
use landfall_proto::refusal::Class;

use super::chain::{self, OwnClusters, PointDisk};
use super::export::{read_verified, sound_leaves};
use super::fill::make_index;
use super::layout::Layout;
use super::manifest::{DiskEntry, Manifest, PointEntry};
use crate::drive::image::durable;
use crate::drive::image::index::HashIndex;
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, BLOCK_BYTES, Hash, LEAF_BYTES};

/// What was found right so far. It holds only as long as no file of the copy changes or goes.
#[derive(Debug, Default)]
pub(super) struct Checked {
    points: Vec<PointEntry>,
    /// What the index of each disk describes.
    indexed: BTreeMap<DiskTarget, DiskEntry>,
}

impl Checked {
    /// Checks every point of `manifest` that was not found right before.
    pub(super) fn check(&mut self, layout: &Layout, manifest: &Manifest) -> Result<(), Refusal> {
        for point in &manifest.points {
            if self.points.contains(point) {
                continue;
            }
            for disk in &point.disks {
                self.check_disk(layout, point, disk)?;
            }
            self.points.push(point.clone());
        }
        Ok(())
    }

    /// Makes the indexes durable that describe the newest point, and removes the others: they are made anew when they
    /// are needed.
    pub(super) fn settle_indexes(&self, layout: &Layout, manifest: &Manifest) -> Result<(), Refusal> {
        let newest = manifest.newest();
        for (target, indexed) in &self.indexed {
            let path = layout.index(target);
            let wanted = newest.and_then(|point| point.disk(target)) == Some(indexed);
            match HashIndex::open_writable(&path)?.filter(|_| wanted) {
                Some(mut index) => {
                    index.set_root(Some(indexed.root))?;
                    index.sync()?;
                }
                None => durable::remove(&path)?,
            }
        }
        Ok(())
    }

    fn check_disk(&mut self, layout: &Layout, point: &PointEntry, disk: &DiskEntry) -> Result<(), Refusal> {
        let files = chain::chain(layout, &disk.file)?;
        let before = self.indexed.remove(&disk.target).filter(|before| before.bytes == disk.bytes);
        match before {
            Some(before) if before.file == disk.file && before.root == disk.root => {}
            Some(before) => match files.iter().position(|name| *name == before.file) {
                Some(layers @ 1..) => check_overlays(layout, point, disk, &before, &files[..layers])?,
                _ => check_whole(layout, point, disk)?,
            },
            None => check_whole(layout, point, disk)?,
        }
        self.indexed.insert(disk.target.clone(), disk.clone());
        Ok(())
    }
}

fn damaged(point: &PointEntry, disk: &DiskEntry, range: Range<u64>, why: &str) -> Refusal {
    let message = format!(
        "the copy of point {} is damaged: disk {}, bytes {} to {}: {why}",
        point.sequence, disk.target, range.start, range.end
    );
    Refusal::new(Class::Failed, "damaged", message).remedy("copy again, or from another node")
}

fn leaves_of(layout: &Layout, point: &PointEntry, disk: &DiskEntry) -> Result<HashIndex, Refusal> {
    let unsound = || damaged(point, disk, 0..disk.bytes, "its leaf hashes do not make its root");
    sound_leaves(layout, disk).ok_or_else(unsound)
}

fn check_whole(layout: &Layout, point: &PointEntry, disk: &DiskEntry) -> Result<(), Refusal> {
    drop(leaves_of(layout, point, disk)?);
    let content = PointDisk::open(layout, &disk.file, disk.bytes)?;
    if make_index(&content, &layout.index(&disk.target))? == disk.root {
        return Ok(());
    }
    // Read once more, only to say where.
    read_verified(&content, disk, layout, &mut |_, _| Ok(()))
        .map_err(|fault| fault.into_refusal(|range, why| damaged(point, disk, range, why)))?;
    Err(damaged(point, disk, 0..disk.bytes, "it does not read the same twice"))
}

/// Checks the overlays `above` what was found right as `before`, and brings the disk's index to them.
fn check_overlays(
    layout: &Layout,
    point: &PointEntry,
    disk: &DiskEntry,
    before: &DiskEntry,
    above: &[String],
) -> Result<(), Refusal> {
    let (leaves, earlier) = (leaves_of(layout, point, disk)?, leaves_of(layout, point, before)?);
    let index = HashIndex::open_writable(&layout.index(&disk.target))?;
    let Some(mut index) = index else { return check_whole(layout, point, disk) };
    index.set_root(None)?;
    let content = PointDisk::open(layout, &disk.file, disk.bytes)?;
    let mut own = above.iter().map(|name| OwnClusters::open(&layout.path(name))).collect::<Result<Vec<_>, _>>()?;
    let (mut now, mut then) = (leaves.hashes_from(0)?, earlier.hashes_from(0)?);
    let mut buffer = vec![0; LEAF_BYTES as usize];
    for leaf in 0..leaves.count() {
        let (wanted, old) = (now.next_hash()?, then.next_hash()?);
        let (start, length) = (leaf * LEAF_BYTES, tree::node_length(disk.bytes, LEAF_BYTES, leaf));
        let range = start..start + length;
        // Each is asked, since each goes on from where it was asked last.
        let mut touched = false;
        for layer in &mut own {
            touched |= layer.touch(&range)?;
        }
        if !touched {
            if wanted != old {
                return Err(damaged(point, disk, range, "its hash says that it changed, and its file has nothing"));
            }
            continue;
        }
        let data = &mut buffer[..length as usize];
        content.read_at(start, data)?;
        if wanted != Some(tree::data_hash(disk.bytes, start, data)) {
            return Err(damaged(point, disk, range, "its bytes do not have their hash"));
        }
        if wanted != old {
            let blocks = (start..).step_by(BLOCK_BYTES as usize).zip(data.chunks(BLOCK_BYTES as usize));
            let hashes: Vec<Hash> = blocks.map(|(at, block)| tree::data_hash(disk.bytes, at, block)).collect();
            index.patch(start / BLOCK_BYTES, &hashes)?;
        }
    }
    Ok(())
}
