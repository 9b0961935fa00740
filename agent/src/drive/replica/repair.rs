//! Repairing what was found damaged, out of another copy of the replica: only with content that has the leaf's hash.
//!
//! An overlay is written anew beside the old one, with the right content where it was wrong, and takes its name; in a
//! base, whose tables are never written, the damaged cluster is written where it is. An overlay that cannot be opened
//! gives way to one that is empty, in which all that differs from the point below is then repaired. A crash leaves the
//! damage or the repair. What another copy gives is believed by its hash alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;
use landfall_proto::message::data::Tip;
use landfall_proto::refusal::Class;

use super::base::Base;
use super::chain::{self, Overlay, OwnClusters, PointDisk};
use super::export::{PinnedPoint, sound_leaves};
use super::fold::{Patch, write_folded};
use super::manifest::{DiskEntry, PointEntry};
use super::proofs::Damage;
use super::store::ReplicaStore;
use super::verify::wrong;
use crate::drive::image::durable;
use crate::drive::image::index::HashIndex;
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, Hash, LEAF_BYTES};

/// A leaf that is damaged here: what another copy is asked for, and how it is known when it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedLeaf {
    /// A point that shows it.
    pub point: Tip,
    /// The disk.
    pub disk: DiskTarget,
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// The hash of what belongs there.
    pub hash: Hash,
    /// The size of the disk at the point, in bytes.
    pub disk_bytes: u64,
}

impl WantedLeaf {
    /// Whether `data` is what belongs there.
    pub fn is(&self, data: &[u8]) -> bool {
        data.len() as u64 == self.length && tree::data_hash(self.disk_bytes, self.offset, data) == self.hash
    }
}

/// Somebody who may have the content of a point: another copy of the replica.
pub trait LeafSource {
    /// The content of a leaf. Whether it is right is for the caller to see. Blocks.
    fn leaf(&mut self, wanted: &WantedLeaf) -> Result<Vec<u8>, Refusal>;
}

/// What came from other copies, by the hash of each leaf.
#[derive(Debug, Default)]
pub struct Fetched(BTreeMap<Hash, Vec<u8>>);

impl Fetched {
    /// Takes in what came for a leaf; whether it is what belongs there.
    pub fn take(&mut self, wanted: &WantedLeaf, data: &[u8]) -> bool {
        let right = wanted.is(data);
        if right {
            self.0.insert(wanted.hash, data.to_vec());
        }
        right
    }

    /// Whether a leaf has come.
    pub fn has(&self, wanted: &WantedLeaf) -> bool {
        self.0.contains_key(&wanted.hash)
    }
}

impl LeafSource for Fetched {
    fn leaf(&mut self, wanted: &WantedLeaf) -> Result<Vec<u8>, Refusal> {
        self.0.get(&wanted.hash).cloned().ok_or_else(|| Refusal::not_found("leaf", &wanted.offset.to_string()))
    }
}

impl PinnedPoint {
    /// `length` bytes from `offset` on of a disk, as they are read: whoever asks has their hash. Blocks.
    pub fn read_leaf(&self, disk: &DiskTarget, offset: u64, length: u32) -> Result<Vec<u8>, Refusal> {
        let entry = self.entry().disk(disk).ok_or_else(|| Refusal::not_found("disk", disk.as_str()))?;
        if u64::from(length) > LEAF_BYTES || offset.checked_add(length.into()).is_none_or(|end| end > entry.bytes) {
            let remedy = "ask for 64 KiB at most, within the disk";
            return Err(Refusal::invalid("length", &length.to_string(), remedy));
        }
        let mut data = vec![0; length as usize];
        self.open(entry)?.read_at(offset, &mut data)?;
        Ok(data)
    }
}

impl ReplicaStore {
    /// The leaves of `damage` that a listed point shows wrong, at most `most` of them, the oldest point's first. Blocks.
    pub fn wanted(&self, damage: &[Damage], most: usize) -> Result<Vec<WantedLeaf>, Refusal> {
        let (mut wanted, mut seen) = (Vec::new(), BTreeSet::new());
        for point in &self.manifest.points {
            for part in wrong(self.layout(), point, damage)? {
                self.each_leaf(point, &part, &mut |leaf| {
                    if wanted.len() == most {
                        return ControlFlow::Break(());
                    }
                    if seen.insert(leaf.hash) {
                        wanted.push(leaf);
                    }
                    ControlFlow::Continue(())
                })?;
            }
        }
        Ok(wanted)
    }

    /// Hands out the leaves of a range, where it is known what they should be, until `each` has enough.
    fn each_leaf(
        &self,
        point: &PointEntry,
        part: &Damage,
        each: &mut dyn FnMut(WantedLeaf) -> ControlFlow<()>,
    ) -> Result<(), Refusal> {
        let Some(entry) = point.disk(&part.disk) else { return Ok(()) };
        let Some(leaves) = sound_leaves(self.layout(), entry) else { return Ok(()) };
        let mut known = leaves.hashes_from(part.start / LEAF_BYTES)?;
        for leaf in part.start / LEAF_BYTES..part.end.min(entry.bytes).div_ceil(LEAF_BYTES) {
            let (offset, length) = (leaf * LEAF_BYTES, tree::node_length(entry.bytes, LEAF_BYTES, leaf));
            let Some(hash) = known.next_hash()? else { break };
            let (point, disk, disk_bytes) = (point.tip(), part.disk.clone(), entry.bytes);
            if each(WantedLeaf { point, disk, offset, length, hash, disk_bytes }).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The leaves of a range that `source` has right, with their content; with `one` no more than one of them.
    fn right_leaves(
        &self,
        point: &PointEntry,
        part: &Damage,
        source: &mut dyn LeafSource,
        one: bool,
    ) -> Result<Vec<(WantedLeaf, Vec<u8>)>, Refusal> {
        let mut right = Vec::new();
        self.each_leaf(point, part, &mut |leaf| {
            // Another copy may be as damaged, or not have the point: that is no fault of this one.
            if let Ok(data) = source.leaf(&leaf)
                && leaf.is(&data)
            {
                right.push((leaf, data));
            }
            if one && !right.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(right)
    }

    /// Repairs what is damaged in the ranges `damage`, as far as `source` gives what belongs there, in the files of every
    /// listed point that shows it. Returns how many leaves were repaired; what is left stays damaged. Refused while
    /// anything reads the replica. Blocks.
    pub fn repair(&mut self, damage: &[Damage], source: &mut dyn LeafSource) -> Result<u64, Refusal> {
        // A commit that failed has ended for now, perhaps for the very damage.
        let written = self.applying.is_some() && self.fault().is_none();
        if self.shared.has_pins() || written {
            return Err(Refusal::new(Class::Refused, "point_in_use", "the replica is being read or written")
                .remedy("repair it when the export, copy or test that reads it has ended"));
        }
        let (mut repaired, mut damage) = (0, damage.to_vec());
        // A point below shows what it shares with one above: the oldest first, and what that leaves.
        for point in self.manifest.points.clone() {
            damage.extend(self.begin_anew(&point, source)?);
            for part in wrong(self.layout(), &point, &damage)? {
                for (leaf, data) in self.right_leaves(&point, &part, source, false)? {
                    repaired += u64::from(self.repair_leaf(&point, &leaf, data)?);
                    // Its index may be of what was damaged.
                    self.trusted.remove(&leaf.disk);
                }
            }
        }
        self.settle_repaired(repaired > 0)?;
        Ok(repaired)
    }

    /// Puts an empty overlay in the place of each one of a point that cannot be opened, over the point below, where that
    /// one can and another copy has some of what belongs there. What such a disk shows then is known to be damaged from
    /// before that on; it is returned.
    fn begin_anew(&mut self, point: &PointEntry, source: &mut dyn LeafSource) -> Result<Vec<Damage>, Refusal> {
        let mut lost = Vec::new();
        for entry in &point.disks {
            let layout = self.layout().clone();
            let opens = |entry: &DiskEntry| PointDisk::open(&layout, &entry.file, entry.bytes).is_ok();
            let below = self.manifest.below(point, entry).filter(|below| opens(below)).cloned();
            let Some(below) = below.filter(|_| !opens(entry)) else { continue };
            let whole = Damage { disk: entry.target.clone(), start: 0, end: entry.bytes };
            if self.right_leaves(point, &whole, source, true)?.is_empty() {
                continue;
            }
            for shown in self.manifest.points.clone() {
                let disk = shown.disk(&entry.target).filter(|disk| shown.sequence >= point.sequence && !opens(disk));
                if let Some(disk) = disk {
                    let all = Damage { disk: entry.target.clone(), start: 0, end: disk.bytes };
                    let known = &mut self.proofs.of_mut(&shown).damage;
                    known.retain(|damage| damage.disk != entry.target);
                    known.push(all);
                }
            }
            self.proofs.save(&layout)?;
            tracing::warn!(vm = %self.manifest.vm, file = entry.file, "an overlay that cannot be opened is made anew");
            let file = Overlay::create(&layout, &entry.file, &below.file, entry.bytes)?.complete()?;
            let _names = self.shared.renaming();
            durable::rename(&file, &layout.path(&entry.file))?;
            durable::sync_folder(layout.folder())?;
            lost.push(whole);
        }
        Ok(lost)
    }

    /// Writes the right content of a leaf into the file that has it; whether it was found.
    fn repair_leaf(&mut self, point: &PointEntry, leaf: &WantedLeaf, data: Vec<u8>) -> Result<bool, Refusal> {
        let layout = self.layout().clone();
        let Some(entry) = point.disk(&leaf.disk) else { return Ok(false) };
        let Ok(names) = chain::chain(&layout, &entry.file) else { return Ok(false) };
        let mut owner = self.layers_for(point, leaf, &names)? - 1;
        // The topmost that has a part of it takes all of it: whatever shows that part shows what is below it around it.
        let range = leaf.offset..leaf.offset + leaf.length;
        for (at, name) in names[..owner].iter().enumerate() {
            if OwnClusters::open(&layout.path(name))?.has_any(&range)? {
                owner = at;
                break;
            }
        }
        self.write_repaired(&names[owner..], entry.bytes, &Patch { offset: leaf.offset, data })?;
        Ok(true)
    }

    /// How many of the layers `names` can have a leaf of a point: an older point to which something else belongs there has
    /// its own below them, whatever damaged tables say. One at least.
    fn layers_for(&self, point: &PointEntry, leaf: &WantedLeaf, names: &[String]) -> Result<usize, Refusal> {
        for older in self.manifest.points.iter().rev().filter(|older| older.sequence < point.sequence) {
            let Some(entry) = older.disk(&leaf.disk) else { continue };
            let leaves = HashIndex::open(&self.layout().path(&entry.leaves)).ok().flatten();
            let leaves =
                leaves.filter(|leaves| leaves.node_bytes() == LEAF_BYTES && leaves.disk_bytes() == leaf.disk_bytes);
            let hash = leaves.map(|leaves| leaves.read(leaf.offset / LEAF_BYTES, 1)).transpose()?.unwrap_or_default();
            if hash.first() == Some(&leaf.hash) {
                continue;
            }
            if let Some(at) = names.iter().position(|name| *name == entry.file) {
                return Ok(at.max(1));
            }
        }
        Ok(names.len())
    }

    /// All that is known to be damaged, of whichever point.
    pub fn known_damage(&self) -> Vec<Damage> {
        let proofs = self.manifest.points.iter().filter_map(|point| self.proofs.of(point));
        let mut damage: Vec<Damage> = proofs.flat_map(|proof| proof.damage.clone()).collect();
        damage.sort_by(|one, other| (&one.disk, one.start, one.end).cmp(&(&other.disk, other.start, other.end)));
        damage.dedup();
        damage
    }

    /// What is left of `damage`, and of what became known of it meanwhile, at a point; all of it where the point is listed
    /// no more. Blocks.
    pub fn left_of(&self, point: &PointEntry, mut damage: Vec<Damage>) -> Result<Vec<Damage>, Refusal> {
        match self.manifest.points.iter().find(|listed| listed.tip() == point.tip()) {
            Some(listed) => {
                damage.extend(self.proofs.of(listed).into_iter().flat_map(|proof| proof.damage.clone()));
                wrong(self.layout(), listed, &damage)
            }
            None => Ok(damage),
        }
    }

    /// Puts `patch` into the topmost of `names`, a chain down to its base.
    fn write_repaired(&mut self, names: &[String], bytes: u64, patch: &Patch) -> Result<(), Refusal> {
        let layout = self.layout();
        let path = layout.path(&names[0]);
        let Some(below) = names.get(1) else {
            durable::set_read_only(&path, false)?;
            let written = Base::open(&path, bytes).and_then(|base| {
                base.write(patch.offset, &patch.data)?;
                base.sync()
            });
            durable::set_read_only(&path, true)?;
            return written;
        };
        let file = write_folded(layout, &names[..1], below, Some(patch))?.complete()?;
        let _names = self.shared.renaming();
        durable::rename(&file, &path)?;
        durable::sync_folder(layout.folder())
    }

    /// Looks again at all that was damaged, and takes in what is right now. A head that was in doubt for nothing else is
    /// in doubt no more once it is whole; one that was found to be changed is read through for that.
    fn settle_repaired(&mut self, repaired: bool) -> Result<(), Refusal> {
        let layout = self.layout().clone();
        let was_damaged = |store: &Self| {
            store
                .manifest
                .newest()
                .and_then(|newest| store.proofs.of(newest))
                .is_some_and(|proof| !proof.damage.is_empty())
        };
        let before = was_damaged(self);
        for point in self.manifest.points.clone() {
            let Some(damage) = self.proofs.of(&point).map(|proof| proof.damage.clone()) else { continue };
            let left = wrong(&layout, &point, &damage)?;
            self.proofs.of_mut(&point).damage = left;
        }
        self.note_stamps()?;
        self.proofs.save(&layout)?;
        if repaired && self.manifest.doubted && !was_damaged(self) && (before || self.verify_newest().is_ok()) {
            (self.manifest.doubted, self.doubt) = (false, None);
            self.save()?;
        }
        Ok(())
    }
}
