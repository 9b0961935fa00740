//! Repairing what was found damaged, out of another copy of the replica: only with content that has the leaf's hash.
//!
//! An overlay is written anew beside the old one, with the right content where it was wrong, and takes its name; in a
//! base, whose tables are never written, the damaged cluster is written where it is. A crash leaves the damage or the
//! repair. What another copy gives is believed by its hash alone.

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;
use landfall_proto::message::data::Tip;
use landfall_proto::refusal::Class;

use super::base::Base;
use super::chain::{self, OwnClusters};
use super::export::{PinnedPoint, sound_leaves};
use super::fold::{Patch, write_folded};
use super::manifest::PointEntry;
use super::proofs::Damage;
use super::store::ReplicaStore;
use super::verify::wrong;
use crate::drive::image::durable;
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, LEAF_BYTES};

/// Somebody who may have the content of a point: another copy of the replica.
pub trait LeafSource {
    /// `length` bytes from `offset` on of a disk at a point. Whether they are right is for the caller to see. Blocks.
    fn leaf(&mut self, point: Tip, disk: &DiskTarget, offset: u64, length: u64) -> Result<Vec<u8>, Refusal>;
}

/// A copy of the replica whose point is pinned here.
impl LeafSource for PinnedPoint {
    fn leaf(&mut self, point: Tip, disk: &DiskTarget, offset: u64, length: u64) -> Result<Vec<u8>, Refusal> {
        let entry = self.entry().disk(disk).filter(|_| self.tip() == point);
        let entry = entry.ok_or_else(|| Refusal::not_found("point", &point.sequence.to_string()))?;
        let mut data = vec![0; length as usize];
        self.open(entry)?.read_at(offset, &mut data)?;
        Ok(data)
    }
}

impl ReplicaStore {
    /// Repairs what is known to be damaged, as far as `source` gives what belongs there. Returns how many leaves were
    /// repaired; what is left stays damaged. Refused while anything reads the replica. Blocks.
    pub fn repair(&mut self, source: &mut dyn LeafSource) -> Result<u64, Refusal> {
        if self.shared.has_pins() || self.applying.is_some() {
            return Err(Refusal::new(Class::Refused, "point_in_use", "the replica is being read or written")
                .remedy("repair it when the export, copy or test that reads it has ended"));
        }
        let mut repaired = 0;
        // A point below shows what it shares with one above: the oldest first, and what that leaves.
        for point in self.manifest.points.clone() {
            let damage = self.proofs.of(&point).map(|proof| proof.damage.clone()).unwrap_or_default();
            for part in wrong(self.layout(), &point, &damage)? {
                repaired += self.repair_part(&point, &part, source)?;
            }
        }
        self.settle_repaired()?;
        Ok(repaired)
    }

    fn repair_part(&mut self, point: &PointEntry, part: &Damage, source: &mut dyn LeafSource) -> Result<u64, Refusal> {
        let layout = self.layout().clone();
        let Some(entry) = point.disk(&part.disk) else { return Ok(0) };
        let Some(leaves) = sound_leaves(&layout, entry) else { return Ok(0) };
        let Ok(names) = chain::chain(&layout, &entry.file) else { return Ok(0) };
        let mut repaired = 0;
        for leaf in part.start / LEAF_BYTES..part.end.div_ceil(LEAF_BYTES) {
            let (offset, length) = (leaf * LEAF_BYTES, tree::node_length(entry.bytes, LEAF_BYTES, leaf));
            let wanted = leaves.read(leaf, 1)?.first().copied();
            // Another copy may be as damaged, or not have the point: that is no fault of this one.
            let Ok(data) = source.leaf(point.tip(), &part.disk, offset, length) else { continue };
            if data.len() as u64 != length || wanted != Some(tree::data_hash(entry.bytes, offset, &data)) {
                continue;
            }
            let mut owner = names.len() - 1;
            for (at, name) in names[..names.len() - 1].iter().enumerate() {
                if OwnClusters::open(&layout.path(name))?.run_at(offset)?.0 {
                    owner = at;
                    break;
                }
            }
            self.write_repaired(&names[owner..], entry.bytes, &Patch { offset, data })?;
            repaired += 1;
        }
        Ok(repaired)
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
    /// in doubt no more once it is whole.
    fn settle_repaired(&mut self) -> Result<(), Refusal> {
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
        if before && !was_damaged(self) && self.manifest.doubted {
            self.manifest.doubted = false;
            self.save()?;
        }
        Ok(())
    }
}
