//! Keeping as many points as were asked for: the oldest is de-listed first, then its base takes over the next overlay.
//! The head, a newest point that does not stay, is taken off the list by the point that follows it, in the same step.
//!
//! What is left to do after a crash shows in the files: the oldest listed point must be a base without anything below
//! it. While it is not, the overlay right above the base is merged into it and the base takes the overlay's name, so
//! that the overlays above stay true. Pinned points are not de-listed; what is newer waits with them.

use std::collections::BTreeSet;

use landfall_proto::Refusal;

use super::chain;
use super::layout::{LOCK, MANIFEST, filling_name, index_name, is_ours, leaves_name};
use super::store::{ReplicaStore, list};
use crate::drive::image::durable;

impl ReplicaStore {
    /// De-lists what is too many, completes merges that were begun, and removes files that nothing refers to.
    pub(super) fn retain(&mut self) -> Result<(), Refusal> {
        let before = self.manifest.points.clone();
        self.unlist_heads();
        if self.manifest.points != before
            && let Err(refusal) = self.save()
        {
            self.manifest.points = before;
            return Err(refusal);
        }
        let keep = usize::from(self.manifest.recovery_points) + 1;
        while self.manifest.points.len() > keep {
            if self.shared.is_pinned(self.manifest.points[0].sequence) {
                break;
            }
            let oldest = self.manifest.points.remove(0);
            if let Err(refusal) = self.save() {
                self.manifest.points.insert(0, oldest);
                return Err(refusal);
            }
        }
        self.settle_oldest()?;
        self.fold()?;
        self.collect()?;
        self.note_stamps()
    }

    /// Takes points off the list that do not stay: those that have a newer one and that nobody reads. What they were
    /// counts with the next one. For the caller to save.
    pub(super) fn unlist_heads(&mut self) {
        let mut points = std::mem::take(&mut self.manifest.points);
        let newest = points.last().map(|point| point.sequence);
        let mut carried = 0;
        points.retain_mut(|point| {
            let listed = point.stays || Some(point.sequence) == newest || self.shared.is_pinned(point.sequence);
            if listed {
                point.bytes += std::mem::take(&mut carried);
            } else {
                carried += point.bytes;
            }
            listed
        });
        self.manifest.points = points;
    }

    /// Makes each disk of the oldest listed point a base of its own.
    fn settle_oldest(&mut self) -> Result<(), Refusal> {
        let Some(oldest) = self.manifest.points.first() else { return Ok(()) };
        let layout = self.layout();
        for disk in &oldest.disks {
            loop {
                let names = chain::chain(layout, &disk.file)?;
                let [.., overlay, base] = names.as_slice() else { break };
                let merged = chain::merge(layout, base, overlay)?;
                let _names = self.shared.renaming();
                durable::rename(&merged, &layout.path(overlay))?;
                durable::sync_folder(layout.folder())?;
            }
        }
        Ok(())
    }

    /// Removes files of ours that nothing refers to: of de-listed points, and of change sets that were dropped.
    fn collect(&self) -> Result<(), Refusal> {
        let mut wanted = BTreeSet::from([MANIFEST, LOCK].map(str::to_owned));
        for disk in self.manifest.points.iter().flat_map(|point| &point.disks) {
            // A chain that cannot be followed says nothing about what it needs: nothing is removed then.
            let Ok(names) = chain::chain(self.layout(), &disk.file) else { return Ok(()) };
            wanted.extend(names);
            wanted.insert(disk.leaves.clone());
        }
        for disk in self.manifest.newest().iter().flat_map(|point| &point.disks) {
            wanted.insert(index_name(&disk.target));
        }
        for disk in &self.manifest.filling {
            wanted.extend([index_name(&disk.target), filling_name(&disk.target)]);
        }
        let staged = self.staging.as_ref().map(|staging| &staging.set);
        for set in staged.into_iter().chain(&self.applying) {
            wanted.extend(set.disks.iter().map(|(disk, _)| leaves_name(&disk.target, set.tip.sequence)));
        }
        for name in list(self.layout())? {
            if is_ours(&name) && !wanted.contains(&name) {
                durable::remove(&self.layout().path(&name))?;
            }
        }
        Ok(())
    }
}
