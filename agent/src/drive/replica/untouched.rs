//! Noticing that somebody else changed a replica's files, before anything is built upon them.
//!
//! Between applications every file of a point is read-only, and this store knows how each looked when it last had to do
//! with it. One that looks otherwise is read: where the newest content is still what it should be nothing follows, else it
//! is in doubt and the next change set is compared. Older points are marked, to be read back soon.

use landfall_proto::Refusal;

use super::chain;
use super::store::ReplicaStore;

impl ReplicaStore {
    /// Takes in how the files look after this store changed them. What cannot be written down is read again later.
    pub(super) fn note_stamps(&mut self) -> Result<(), Refusal> {
        let layout = self.layout().clone();
        self.proofs.trim(&self.manifest);
        if !self.proofs.stamp(&layout, &self.manifest)?.is_empty() {
            self.proofs.save_lightly(&layout)?;
        }
        Ok(())
    }

    /// Looks whether somebody else changed the files of a point. Blocks for as long as reading the newest content takes
    /// where they did. What was found wrong is told by [`ReplicaStore::doubt`].
    pub(super) fn check_untouched(&mut self) -> Result<(), Refusal> {
        let before = self.proofs.clone();
        // What could not be looked at is looked at the next time: it still counts as changed.
        self.look_at_files().inspect_err(|_| self.proofs = before)
    }

    fn look_at_files(&mut self) -> Result<(), Refusal> {
        let layout = self.layout().clone();
        let changed = self.proofs.stamp(&layout, &self.manifest)?;
        if changed.is_empty() {
            return Ok(());
        }
        let newest = self.manifest.newest().cloned();
        for point in self.manifest.points.clone() {
            for disk in &point.disks {
                // One that cannot be followed is read back, as whatever is damaged: `ReplicaStore::repair`.
                let Ok(files) = chain::chain(&layout, &disk.file) else {
                    self.proofs.of_mut(&point).suspect = true;
                    continue;
                };
                let Some(name) = files.iter().find(|name| changed.contains(name)) else { continue };
                if newest.as_ref() != Some(&point) {
                    self.proofs.of_mut(&point).suspect = true;
                } else if !self.manifest.doubted && self.rebuild_index(disk)? != disk.root {
                    let message = format!(
                        "{name} was changed by somebody else: disk {} is not what point {} lists",
                        disk.target, point.sequence
                    );
                    tracing::error!(vm = %self.manifest.vm, "{message}");
                    self.doubt = Some(message);
                    self.proofs.of_mut(&point).suspect = true;
                }
            }
        }
        self.proofs.save_lightly(&layout)
    }

    /// Why the newest content is in doubt, where somebody else changed it.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref().filter(|_| self.manifest.doubted)
    }
}
