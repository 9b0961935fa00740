//! Reading a point back and proving it, leaf by leaf; what follows for the other points that share what is damaged.
//!
//! Points share files: a range of a disk is the business of every point that shows it out of the same file. Which those
//! are is not computed from tables that may be damaged themselves: a damaged leaf is read through each listed point, and
//! a point is damaged where what it shows does not have the hash that it lists.

use std::ops::Range;

use landfall_proto::Refusal;
use landfall_proto::id::UnixMillis;

use super::chain::{self, PointDisk};
use super::export::{PinnedPoint, Progress, sound_leaves};
use super::layout::Layout;
use super::manifest::{DiskEntry, PointEntry};
use super::proofs::{Damage, RANGES_MAX};
use super::store::ReplicaStore;
use crate::drive::image::index::HashIndex;
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, Hash, LEAF_BYTES, Merger};

impl PinnedPoint {
    /// Reads every disk and returns all that is not what the point lists; empty where it is whole. Blocks for as long as
    /// that takes; `progress` may end it.
    pub fn examine(&self, progress: Progress<'_>) -> Result<Vec<Damage>, Refusal> {
        let (mut damage, mut done) = (Vec::new(), 0);
        for entry in &self.entry().disks {
            let content = self.open(entry).ok();
            examine_disk(self.layout(), entry, content.as_ref(), &mut damage, &mut |at| progress(done + at))?;
            done += entry.bytes;
        }
        Ok(damage)
    }
}

/// Reads a disk of a point and adds to `damage` what is not what the point lists: all of it where it cannot be opened.
pub(super) fn examine_disk(
    layout: &Layout,
    entry: &DiskEntry,
    content: Option<&PointDisk>,
    damage: &mut Vec<Damage>,
    progress: Progress<'_>,
) -> Result<(), Refusal> {
    let Some(content) = content else {
        push(damage, entry, 0..entry.bytes);
        return Ok(());
    };
    let leaves = sound_leaves(layout, entry);
    let mut known = leaves.as_ref().map(|leaves| leaves.hashes_from(0)).transpose()?;
    let (mut unread, mut merger, mut buffer) = (false, Merger::default(), vec![0; LEAF_BYTES as usize]);
    for leaf in 0..tree::node_count(entry.bytes, LEAF_BYTES) {
        let range = range_of(entry, leaf);
        let (hash, end) = (leaf_hash(content, entry, &range, &mut buffer), range.end);
        unread |= hash.is_none();
        if let Some(known) = &mut known {
            let wanted = known.next_hash()?;
            if hash.is_none() || hash != wanted {
                push(damage, entry, range);
            }
        }
        merger.push(hash.unwrap_or_default());
        progress(end)?;
    }
    // Without leaf hashes only the whole can be judged.
    if known.is_none() && (unread || merger.finish(true) != Some(entry.root.0)) {
        push(damage, entry, 0..entry.bytes);
    }
    Ok(())
}

pub(super) fn range_of(entry: &DiskEntry, leaf: u64) -> Range<u64> {
    let start = leaf * LEAF_BYTES;
    start..start + tree::node_length(entry.bytes, LEAF_BYTES, leaf)
}

/// The hash of what a disk shows in a leaf; `None` where it cannot be read.
fn leaf_hash(content: &PointDisk, entry: &DiskEntry, range: &Range<u64>, buffer: &mut [u8]) -> Option<Hash> {
    let length = range.end - range.start;
    let run = content.run_at(range.start, length).ok()?;
    if run.hole && run.length == length {
        return Some(tree::zero_hash(entry.bytes, range.start, length));
    }
    let data = &mut buffer[..length as usize];
    content.read_at(range.start, data).ok()?;
    Some(tree::data_hash(entry.bytes, range.start, data))
}

/// Adds a range, joined with the last one where they meet. Past the bound the last range takes in what follows.
pub(super) fn push(damage: &mut Vec<Damage>, entry: &DiskEntry, range: Range<u64>) {
    let full = damage.len() >= RANGES_MAX;
    match damage.last_mut().filter(|last| last.disk == entry.target && (last.end == range.start || full)) {
        Some(last) => last.end = range.end,
        None if full => {}
        None => damage.push(Damage { disk: entry.target.clone(), start: range.start, end: range.end }),
    }
}

/// The leaves of `damage` that a point shows wrong, as ranges. One whose chain cannot be opened shows all of it wrong.
pub(super) fn wrong(layout: &Layout, point: &PointEntry, damage: &[Damage]) -> Result<Vec<Damage>, Refusal> {
    let mut found = Vec::new();
    for part in damage {
        let Some(entry) = point.disk(&part.disk) else { continue };
        let end = part.end.min(entry.bytes);
        let Ok(content) = PointDisk::open(layout, &entry.file, entry.bytes) else {
            push(&mut found, entry, 0..entry.bytes);
            continue;
        };
        let leaves = HashIndex::open(&layout.path(&entry.leaves))?.filter(|leaves| leaves.node_bytes() == LEAF_BYTES);
        let Some(leaves) = leaves.filter(|leaves| leaves.disk_bytes() == entry.bytes) else {
            examine_disk(layout, entry, Some(&content), &mut found, &mut |_| Ok(()))?;
            continue;
        };
        let mut buffer = vec![0; LEAF_BYTES as usize];
        let mut wanted = leaves.hashes_from(part.start / LEAF_BYTES)?;
        for leaf in part.start / LEAF_BYTES..end.div_ceil(LEAF_BYTES) {
            let range = range_of(entry, leaf);
            if leaf_hash(&content, entry, &range, &mut buffer) != wanted.next_hash()? {
                push(&mut found, entry, range);
            }
        }
    }
    Ok(found)
}

impl ReplicaStore {
    /// Takes in what reading a point back found, at `at` by the wall clock, durably: it is proven, or it is damaged, with
    /// every other listed point that shows the damage. A damaged head is compared with its primary by the next change set.
    /// Returns the points that are damaged. Blocks.
    pub fn take_examined(
        &mut self,
        point: &PointEntry,
        at: UnixMillis,
        damage: &[Damage],
    ) -> Result<Vec<u64>, Refusal> {
        let layout = self.layout().clone();
        let mut damaged = Vec::new();
        for listed in self.manifest.points.clone() {
            let own = (listed.sequence, listed.root) == (point.sequence, point.root);
            let found = if own { damage.to_vec() } else { wrong(&layout, &listed, damage)? };
            if !own && found.is_empty() {
                continue;
            }
            let proof = self.proofs.of_mut(&listed);
            proof.suspect &= !own;
            if found.is_empty() {
                proof.verified_at = Some(at);
            } else {
                damaged.push(listed.sequence);
                proof.verified_at = None;
            }
            proof.damage = found;
        }
        self.proofs.trim(&self.manifest);
        self.proofs.save(&layout)?;
        let newest = self.manifest.newest().map(|newest| newest.sequence);
        if newest.is_some_and(|newest| damaged.contains(&newest)) {
            self.doubt_newest(damage)?;
        }
        Ok(damaged)
    }

    /// The newest content is not what it should be: it is compared before anything is built upon it.
    fn doubt_newest(&mut self, damage: &[Damage]) -> Result<(), Refusal> {
        for part in damage {
            self.trusted.remove(&part.disk);
        }
        if !self.manifest.doubted {
            self.manifest.doubted = true;
            self.save()?;
        }
        Ok(())
    }

    /// Has every point be read back soon where nothing could be built upon them because a file is damaged.
    pub(super) fn suspect_files(&mut self, refusal: &Refusal) {
        if !chain::is_damage(refusal) {
            return;
        }
        for point in self.manifest.points.clone() {
            self.proofs.of_mut(&point).suspect = true;
        }
        if let Err(refusal) = self.proofs.save_lightly(self.layout()) {
            tracing::warn!(vm = %self.manifest.vm, %refusal, "that the points are to be read back is not written down");
        }
    }

    /// Whether a point is known to be damaged.
    pub(super) fn is_damaged(&self, point: &PointEntry) -> bool {
        self.proofs.of(point).is_some_and(|proof| !proof.damage.is_empty())
    }

    /// The points whose files somebody else touched since they were read.
    pub fn suspects(&self) -> Vec<u64> {
        let suspect = |point: &&PointEntry| self.proofs.of(point).is_some_and(|proof| proof.suspect);
        self.manifest.points.iter().filter(suspect).map(|point| point.sequence).collect()
    }

    /// What is damaged, a line; `None` where nothing is known to be.
    pub fn damage(&self) -> Option<String> {
        let points = self.manifest.points.iter().filter_map(|point| {
            let proof = self.proofs.of(point).filter(|proof| !proof.damage.is_empty())?;
            let ranges: Vec<String> = proof.damage.iter().take(3).map(Damage::to_string).collect();
            let more = proof.damage.len().saturating_sub(ranges.len());
            let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
            Some(format!("point {} is damaged: {}{more}", point.sequence, ranges.join("; ")))
        });
        let lines: Vec<String> = points.collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}
