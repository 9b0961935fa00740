//! Branches that gave way to another one: what a failover had written, kept in a folder beside the replica's files until an
//! operator removes it.
//!
//! ```text
//!   <uuid>/branch-<id>/              as it was in the run: see `run`
//!   <uuid>.branches-<n>/branch-<id>/ with the files that it needs, where a copy has taken the place of the replica's folder
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_proto::Refusal;
use landfall_proto::model::PromotionId;

use super::layout::Layout;
use super::pins::{FolderLock, Pin, Shared};
use super::run::{needed, remove_folder, run_name};
use super::store::ReplicaStore;
use crate::drive::image::durable::{self, fault};

/// What the name of a branch's folder begins with.
const PREFIX: &str = "branch-";
/// What follows the name of a replica's folder in that of one that is kept for its branches.
const KEPT: &str = ".branches-";

/// The branches of a replica, each with what it keeps from being de-listed.
pub(super) type Branches = BTreeMap<PromotionId, Option<Pin>>;

/// Finds the branches in a replica's folder and keeps the points that they need.
pub(super) fn find(shared: &Arc<Shared>) -> Result<Branches, Refusal> {
    let ids = branches_in(shared.layout.folder());
    ids.into_iter().map(|id| Ok((id, needed(shared, &name(id))?))).collect()
}

fn name(id: PromotionId) -> String {
    format!("{PREFIX}{id}")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The branches in a folder, which need not be open.
pub fn branches_in(folder: &Path) -> Vec<PromotionId> {
    names_in(folder).iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect()
}

/// The folders that are kept for the branches of the replica in `folder`, whose place a copy has taken.
fn kept_beside(folder: &Path) -> Vec<PathBuf> {
    let Some(own) = folder.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let beside = durable::folder_of(folder);
    let kept = |name: &String| name.strip_prefix(own).is_some_and(|rest| rest.starts_with(KEPT));
    names_in(beside).into_iter().filter(kept).map(|name| beside.join(name)).collect()
}

/// Every branch of the replica in `folder`, wherever it is.
pub fn all_of(folder: &Path) -> Vec<PromotionId> {
    let beside = kept_beside(folder);
    beside.iter().map(PathBuf::as_path).chain([folder]).flat_map(branches_in).collect()
}

/// A name for the folder of a replica whose place a copy takes.
pub(super) fn kept_name(folder: &Path) -> PathBuf {
    let own = folder.file_name().unwrap_or_default().to_string_lossy();
    let free = |number: &u64| !durable::folder_of(folder).join(format!("{own}{KEPT}{number}")).exists();
    let number = (1..).find(free).unwrap_or_default();
    durable::folder_of(folder).join(format!("{own}{KEPT}{number}"))
}

/// Removes a branch of the replica in `folder`, which is not open: whether it was there. A folder that was kept for its
/// branches goes with the last of them.
pub fn remove_from(folder: &Path, id: PromotionId) -> Result<bool, Refusal> {
    if let Some(kept) = kept_beside(folder).into_iter().find(|kept| branches_in(kept).contains(&id)) {
        remove_folder(&kept.join(name(id)))?;
        if branches_in(&kept).is_empty() {
            remove_folder(&kept)?;
        }
        durable::sync_folder(durable::folder_of(folder))?;
        return Ok(true);
    }
    if !branches_in(folder).contains(&id) {
        return Ok(false);
    }
    let _lock = FolderLock::take(&Layout::new(folder))?;
    remove_folder(&folder.join(name(id)))?;
    durable::sync_folder(folder)?;
    Ok(true)
}

impl ReplicaStore {
    /// Keeps a run as a branch: what it wrote stays, and so does the point that it needs.
    pub fn keep_branch(&mut self, id: PromotionId) -> Result<(), Refusal> {
        let Some(held) = self.runs.get(&id) else { return Ok(()) };
        durable::rename(&self.layout().path(&run_name(id, held.test)), &self.layout().path(&name(id)))?;
        durable::sync_folder(self.layout().folder())?;
        if let Some(held) = self.runs.remove(&id) {
            self.branches.insert(id, held.pin);
        }
        Ok(())
    }

    /// Removes a branch, and lets go of the point that it needs: whether it was here.
    pub fn drop_branch(&mut self, id: PromotionId) -> Result<bool, Refusal> {
        if !self.branches.contains_key(&id) {
            return Ok(false);
        }
        let folder = self.layout().path(&name(id));
        // By one rename first: a crash must not leave half of it under its name.
        let going = self.layout().path(&format!("{}.begun", run_name(id, false)));
        remove_folder(&going)?;
        fs::rename(&folder, &going).map_err(|error| fault("rename", &folder, &error))?;
        durable::sync_folder(self.layout().folder())?;
        self.branches.remove(&id);
        remove_folder(&going)?;
        self.retain().map(|()| true)
    }

    /// The branches that are kept here.
    pub fn branches(&self) -> Vec<PromotionId> {
        all_of(self.layout().folder())
    }
}

#[cfg(test)]
#[path = "branch_test.rs"]
mod tests;
