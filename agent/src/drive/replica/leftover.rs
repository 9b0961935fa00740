//! Removing a replica's folder so that it is there whole or not at all, and clearing away what was cut off.
//!
//! The folder gets a name beside its own that nothing else looks at, in one durable step; then it is emptied. A crash
//! between leaves only that name, which [`clear`] finds. The same holds for copies that broke off. Everything blocks.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::id::VmId;

use super::layout::{Layout, MANIFEST};
use super::manifest::Manifest;
use super::pins::FolderLock;
use crate::drive::image::durable::{self, fault};

/// The end of the name of a folder that is being removed.
pub const REMOVED: &str = ".removed";
/// The end of the name of a folder that a copy is made in.
pub const IMPORT: &str = ".import";
/// Bytes in a block of `stat`.
const STAT_BLOCK: u64 = 512;

/// The name beside the replica's `folder` with that end.
pub(super) fn beside(folder: &Path, vm: VmId, end: &str) -> PathBuf {
    durable::folder_of(folder).join(format!(".{vm}{end}"))
}

/// What the files in `folder` list; `None` where there is no sound manifest of that VM: then they prove nothing.
pub fn look(folder: &Path, vm: VmId) -> Option<Manifest> {
    Manifest::load(&folder.join(MANIFEST)).ok().flatten().filter(|manifest| manifest.vm == vm)
}

/// Takes the replica in `folder` out of its place, provided that it is what was `judged`: a copy may have taken that
/// place meanwhile. The folder to [`remove`]; `None` where it is another replica now. Refused while it is open.
pub fn set_aside(folder: &Path, vm: VmId, judged: &Manifest) -> Result<Option<PathBuf>, Refusal> {
    if look(folder, vm).as_ref() != Some(judged) {
        return Ok(None);
    }
    let _lock = FolderLock::take(&Layout::new(folder))?;
    // Whoever puts a copy in this place has the lock meanwhile.
    if look(folder, vm).as_ref() != Some(judged) {
        return Ok(None);
    }
    let aside = beside(folder, vm, REMOVED);
    remove(&aside)?;
    durable::rename(folder, &aside)?;
    durable::sync_folder(durable::folder_of(folder))?;
    Ok(Some(aside))
}

/// Removes a folder with its files, and returns the bytes that were freed; no error where there is none.
pub fn remove(folder: &Path) -> Result<u64, Refusal> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(fault("list", folder, &error)),
    };
    let mut freed = 0;
    for entry in entries {
        let entry = entry.map_err(|error| fault("list", folder, &error))?;
        let meta = entry.metadata().map_err(|error| fault("look at", &entry.path(), &error))?;
        if meta.is_file() {
            durable::remove(&entry.path())?;
            freed += meta.blocks() * STAT_BLOCK;
        }
    }
    durable::step("remove folder")
        .and_then(|()| fs::remove_dir_all(folder))
        .map_err(|error| fault("remove", folder, &error))?;
    durable::sync_folder(durable::folder_of(folder))?;
    Ok(freed)
}

/// Removes every folder at a storage location whose name is a VM's with that end; the bytes that were freed. No error
/// where the location is not there.
pub fn clear(location: &Path, end: &str) -> Result<u64, Refusal> {
    let entries = match fs::read_dir(location) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(fault("list", location, &error)),
    };
    let mut freed = 0;
    for entry in entries {
        let entry = entry.map_err(|error| fault("list", location, &error))?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let vm = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(end));
        if vm.is_some_and(|vm| vm.parse::<VmId>().is_ok()) {
            freed += remove(&entry.path())?;
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::super::test_primary::{Primary, VM, check_points};
    use super::super::*;
    use super::*;
    use crate::drive::image::durable::faults;

    struct Site {
        root: tempfile::TempDir,
        primary: Primary,
    }

    impl Site {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let primary = Primary::new(&root.path().join("scratch"), &[200_000], 5);
            fs::create_dir(root.path().join("storage")).unwrap();
            let mut site = Self { root, primary };
            site.replicate();
            site
        }

        fn storage(&self) -> PathBuf {
            self.root.path().join("storage")
        }

        fn folder(&self) -> PathBuf {
            self.storage().join(VM.to_string())
        }

        fn replicate(&mut self) {
            let mut store = ReplicaStore::open(&self.folder(), VM).unwrap();
            self.primary.write();
            self.primary.replicate(&mut store).unwrap();
        }

        fn names(&self) -> usize {
            fs::read_dir(self.storage()).unwrap().count()
        }
    }

    #[test]
    fn files_that_are_in_use_or_not_those_that_were_judged_stay() {
        let mut site = Site::new();
        let folder = site.folder();
        let judged = look(&folder, VM).unwrap();
        let store = ReplicaStore::open(&folder, VM).unwrap();
        assert_eq!(set_aside(&folder, VM, &judged).unwrap_err().code, "replica_in_use");
        drop(store);
        site.replicate();
        assert_eq!(set_aside(&folder, VM, &judged).unwrap(), None, "a newer copy has come into its place");
        let other = VmId(uuid::Uuid::from_u128(9));
        assert_eq!(look(&folder, other), None);
        check_points(&ReplicaStore::open(&folder, VM).unwrap(), &site.primary.history);

        let aside = set_aside(&folder, VM, &look(&folder, VM).unwrap()).unwrap().unwrap();
        assert!(!folder.exists());
        assert!(remove(&aside).unwrap() > 100_000);
        assert_eq!((remove(&aside).unwrap(), site.names()), (0, 0));
        assert_eq!(look(&folder, VM), None);
    }

    #[test]
    fn a_removal_that_is_cut_off_at_any_step_is_whole_or_finished_later() {
        let mut site = Site::new();
        let (mut failures, mut halves) = (0, 0);
        for at in 0.. {
            let folder = site.folder();
            if !folder.exists() {
                site.primary.history.clear();
                site.replicate();
            }
            let judged = look(&folder, VM).unwrap();
            faults::fail_from(Some(at), 5);
            let done = set_aside(&folder, VM, &judged).and_then(|aside| aside.map_or(Ok(0), |aside| remove(&aside)));
            faults::fail_from(None, 0);
            if folder.exists() {
                check_points(&ReplicaStore::open(&folder, VM).unwrap(), &site.primary.history);
            } else if site.names() > 0 {
                halves += 1;
                // A replica that comes back meanwhile is not what is removed.
                if at % 2 == 0 {
                    site.primary.history.clear();
                    site.replicate();
                }
                clear(&site.storage(), REMOVED).unwrap();
                assert_eq!(site.names(), usize::from(at % 2 == 0), "step {at}");
            }
            if done.is_ok() {
                break;
            }
            failures += 1;
        }
        assert!(failures > 4 && halves > 2, "{failures} steps failed, {halves} of them half way");
    }

    #[test]
    fn only_folders_of_that_end_are_cleared() {
        let site = Site::new();
        let kept = [".not-a-vm.removed".to_owned(), format!(".{VM}.other"), format!("{VM}.removed")];
        for name in kept.iter().cloned().chain([format!(".{VM}.removed"), format!(".{VM}.import")]) {
            fs::create_dir(site.storage().join(&name)).unwrap();
            fs::write(site.storage().join(name).join("file"), b"x").unwrap();
        }
        clear(&site.storage(), REMOVED).unwrap();
        assert_eq!(site.names(), kept.len() + 2);
        clear(&site.storage(), IMPORT).unwrap();
        assert_eq!(site.names(), kept.len() + 1, "the replica itself stays");
        assert_eq!(clear(&site.root.path().join("nowhere"), REMOVED).unwrap(), 0);
        assert_eq!(look(&site.folder(), VM).unwrap().points.len(), 1);
    }
}
