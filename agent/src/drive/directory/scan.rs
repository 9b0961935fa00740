//! Which VMs are here: compares the folders of the VM path with what is known, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};
use std::time::Duration;

use landfall_proto::id::VmId;
use landfall_proto::{Class, Refusal};
use tokio::task::{JoinSet, spawn_blocking};

use super::foreign::{self, FileId};
use super::group::{END_GRACE, Group};
use super::ledger::Wish;
use super::process::Processes;
use super::vm::{Look, Vm};
use super::vm_core::Core;
use super::vm_file::{VM_FILE, VM_FILE_MAX, VmFile};
use super::{Inner, durable, locked, unreadable};

/// The most VM folders of a path: a status that names them all must fit one body.
const FOLDERS_MAX: usize = 4096;
/// How long one scan waits for images; what takes longer goes on beside the next scans.
const LOOK_WAIT: Duration = Duration::from_secs(2);
/// Every how many scans the machine is searched for foreign writers while no VM is about to start: that reads every
/// process's descriptors.
const WRITERS_EVERY: u64 = 5;

/// A folder with a `vm.toml`.
struct Found {
    file: VmFile,
    fault: Option<Refusal>,
}

/// What the VM path holds.
#[derive(Default)]
struct Folders {
    vms: BTreeMap<PathBuf, Found>,
    /// Folders without a `vm.toml`.
    bare: BTreeSet<PathBuf>,
}

impl Inner {
    /// Brings what is known in line with the folders, then looks at every VM.
    pub(super) async fn scan(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut scans = self.scans.lock().await;
        let inner = self.clone();
        let retiring = super::blocking(move || {
            let folders = read_folders(&inner.options.path)?;
            let retiring = inner.reconcile(folders);
            Ok(retiring)
        })
        .await?;
        for (folder, vm) in retiring {
            self.retire(folder, vm);
        }
        if *scans == 0 {
            self.end_orphans().await;
        }
        let number = *scans;
        *scans += 1;
        let inner = self.clone();
        let look = super::blocking(move || inner.take_look(number)).await?;
        let look = Arc::new(look);
        let mut looks = JoinSet::new();
        for vm in self.vms().into_iter().filter(|vm| !vm.retiring.load(Ordering::Acquire)) {
            let (inner, look) = (self.clone(), look.clone());
            // Not the set's own blocking tasks: those that are late go on when the set is dropped.
            looks.spawn(async move { spawn_blocking(move || vm.look(&inner, &look)).await });
        }
        _ = tokio::time::timeout(LOOK_WAIT, async { while looks.join_next().await.is_some() {} }).await;
        Ok(())
    }

    /// Shows the replica that was just written into `folder`, and looks at nothing else. `false` where that is not all
    /// there is to it, such as processes of what the folder was before: a scan sees to those. No scan runs meanwhile.
    pub(super) fn take_in_replica(&self, folder: &Path) -> bool {
        let Some(found) = read_folder(folder).filter(|found| found.fault.is_none()) else { return false };
        let known = locked(&self.catalog).get(folder).cloned();
        let vm = match known {
            Some(vm) => {
                let same = try_core(&vm).filter(|core| found.file.id == Some(core.id) && core.group.is_none());
                let (Some(mut core), false) = (same, vm.retiring.load(Ordering::Acquire)) else { return false };
                redefine(&mut core, found);
                drop(core);
                vm
            }
            None => {
                let id = self.identity(folder, &found.file);
                let vm = Vm::found(self, id, folder, found.file, found.fault);
                locked(&self.catalog).insert(folder.to_owned(), vm.clone());
                vm
            }
        };
        self.mark_twins(&BTreeMap::new());
        if try_core(&vm).is_none_or(|core| core.group.is_some()) {
            return false;
        }
        vm.look(self, &Look::default());
        true
    }

    /// Every VM that is here, or whose processes have not ended yet though its folder is gone.
    pub(super) fn vms(&self) -> Vec<Arc<Vm>> {
        locked(&self.catalog).values().cloned().collect()
    }

    fn take_look(&self, number: u64) -> Result<Look, Refusal> {
        let processes = Processes::read().map_err(|error| unreadable("/proc", &error))?;
        let lockers = foreign::lockers(&processes);
        let vms = self.vms();
        let starting =
            vms.iter().any(|vm| vm.core.try_lock().is_ok_and(|core| core.wish == Wish::Start && core.may_run()));
        let writers = if starting || number.is_multiple_of(WRITERS_EVERY) {
            let files: BTreeSet<FileId> = vms.iter().flat_map(|vm| vm.files()).collect();
            let writers = foreign::writers(&files, &processes);
            locked(&self.writers).clone_from(&writers);
            writers
        } else {
            locked(&self.writers).clone()
        };
        Ok(Look { processes, writers, lockers })
    }

    /// Takes over what the folders say. Returns the VMs whose folders are gone.
    fn reconcile(&self, mut folders: Folders) -> Vec<(PathBuf, Arc<Vm>)> {
        let catalog = locked(&self.catalog).clone();
        let mut gone: BTreeMap<PathBuf, Arc<Vm>> = BTreeMap::new();
        for (folder, vm) in &catalog {
            if vm.retiring.load(Ordering::Acquire) {
                // The folder is back before its old processes have ended: it waits.
                folders.vms.remove(folder);
                continue;
            }
            let Some(mut core) = try_core(vm) else {
                folders.vms.remove(folder);
                continue;
            };
            match folders.vms.remove(folder) {
                Some(found) if found.file.id.is_none_or(|id| id == core.id) => redefine(&mut core, found),
                None if core.group.is_some() && folders.bare.contains(folder) => {
                    core.file_fault = Some(file_missing(folder))
                }
                // Another VM has taken the folder: it is found once the old one is gone.
                Some(_) | None => _ = gone.insert(folder.clone(), vm.clone()),
            }
        }
        self.follow_renames(&mut folders, &mut gone);
        for (folder, found) in folders.vms {
            let id = self.identity(&folder, &found.file);
            let vm = Vm::found(self, id, &folder, found.file, found.fault);
            locked(&self.catalog).insert(folder, vm);
        }
        self.mark_twins(&gone);
        gone.into_iter().collect()
    }

    /// A VM whose folder has another name within the path stays what it is, and goes on running.
    fn follow_renames(&self, folders: &mut Folders, gone: &mut BTreeMap<PathBuf, Arc<Vm>>) {
        let old_names: Vec<PathBuf> = gone.keys().cloned().collect();
        for old in old_names {
            let Some(vm) = gone.get(&old).cloned() else { continue };
            let Some(mut core) = try_core(&vm) else { continue };
            let mut same = folders.vms.iter().filter(|(_, found)| found.file.id == Some(core.id));
            let (Some((new, _)), None) = (same.next(), same.next()) else { continue };
            if old.exists() {
                continue;
            }
            let new = new.clone();
            if let Some(found) = folders.vms.remove(&new) {
                tracing::info!(vm = %core.id, from = %old.display(), to = %new.display(), "VM folder renamed");
                core.folder.clone_from(&new);
                redefine(&mut core, found);
                if let Some(mut entry) = self.ledger.get(core.id) {
                    entry.folder.clone_from(&new);
                    if let Err(refusal) = self.ledger.set(core.id, Some(entry)) {
                        tracing::warn!(vm = %core.id, err = %refusal, "the ledger of VMs is behind");
                    }
                }
                drop(core);
                gone.remove(&old);
                let mut catalog = locked(&self.catalog);
                catalog.remove(&old);
                catalog.insert(new, vm);
            }
        }
    }

    /// The VM's identity: what its file says, else what is remembered, else one made from its folder.
    fn identity(&self, folder: &Path, file: &VmFile) -> VmId {
        let remembered = || self.ledger.all().into_iter().find(|(_, entry)| entry.folder == folder).map(|(id, _)| id);
        file.id.or_else(remembered).unwrap_or_else(|| {
            let hash =
                blake3::derive_key("landfall vm folder without a readable uuid", folder.as_os_str().as_encoded_bytes());
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&hash[..16]);
            VmId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
        })
    }

    /// Tells VMs of the same identity of each other.
    fn mark_twins(&self, gone: &BTreeMap<PathBuf, Arc<Vm>>) {
        let mut by_id: BTreeMap<VmId, Vec<(PathBuf, Arc<Vm>)>> = BTreeMap::new();
        for (folder, vm) in locked(&self.catalog).clone() {
            let id = vm.shown().vm.id;
            if !gone.contains_key(&folder) && !vm.retiring.load(Ordering::Acquire) {
                by_id.entry(id).or_default().push((folder, vm));
            }
        }
        for same in by_id.values() {
            for (folder, vm) in same {
                let other = same.iter().map(|(other, _)| other).find(|other| *other != folder);
                if let Some(mut core) = try_core(vm) {
                    core.twin = other.cloned();
                }
            }
        }
    }

    /// Ends the processes of a VM whose folder is gone, beside everything else; its folder's name is free after that.
    fn retire(self: &Arc<Self>, folder: PathBuf, vm: Arc<Vm>) {
        vm.retiring.store(true, Ordering::Release);
        let inner = self.clone();
        spawn_blocking(move || match vm.retire(&inner) {
            Ok(()) => _ = locked(&inner.catalog).remove(&folder),
            Err(refusal) => {
                tracing::error!(folder = %folder.display(), err = %refusal, "the folder is gone, but the VM still runs");
                vm.retiring.store(false, Ordering::Release);
            }
        });
    }

    /// Ends VMs whose folders went away while no service was watching.
    async fn end_orphans(self: &Arc<Self>) {
        let here: BTreeSet<VmId> = self.vms().iter().map(|vm| vm.shown().vm.id).collect();
        let inner = self.clone();
        let ended = super::blocking(move || {
            for (id, entry) in inner.ledger.all().into_iter().filter(|(id, _)| !here.contains(id)) {
                let processes = Processes::read().map_err(|error| unreadable("/proc", &error))?;
                if let Some(token) = &entry.token
                    && let Some(mut group) = Group::adopt(entry.session, token, &processes)
                {
                    tracing::warn!(vm = %id, folder = %entry.folder.display(), "VM runs, but its folder is gone: ended");
                    group.end(&*inner.options.clock, END_GRACE)?;
                }
                inner.ledger.set(id, None)?;
            }
            Ok(())
        });
        if let Err(refusal) = ended.await {
            tracing::error!(err = %refusal, "VMs whose folders are gone may still run");
        }
    }
}

fn try_core(vm: &Vm) -> Option<std::sync::MutexGuard<'_, Core>> {
    match vm.core.try_lock() {
        Ok(core) => Some(core),
        Err(TryLockError::Poisoned(core)) => Some(core.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Takes over a changed file. A bad one leaves the last good one in force.
fn redefine(core: &mut Core, found: Found) {
    if found.fault.is_none() {
        core.file = found.file;
    }
    core.file_fault = found.fault;
}

fn file_missing(folder: &Path) -> Refusal {
    let message = format!("{} is missing, but its VM runs", folder.join(VM_FILE).display());
    Refusal::new(Class::Failed, "file_missing", message)
        .field(VM_FILE)
        .remedy("put it back, or move the folder away to stop the VM")
}

fn read_folders(path: &Path) -> Result<Folders, Refusal> {
    let unusable = |error: &std::io::Error| unreadable(&path.display().to_string(), error);
    let mut folders = Folders::default();
    for entry in fs::read_dir(path).map_err(|error| unusable(&error))? {
        let entry = entry.map_err(|error| unusable(&error))?;
        let folder = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") || !folder.is_dir() {
            continue;
        }
        if folders.vms.len() >= FOLDERS_MAX {
            tracing::error!(path = %path.display(), most = FOLDERS_MAX, "more VM folders than can be served");
            break;
        }
        match read_folder(&folder) {
            Some(found) => _ = folders.vms.insert(folder, found),
            None => _ = folders.bare.insert(folder),
        }
    }
    Ok(folders)
}

/// What the folder's file says; `None` where it has none.
fn read_folder(folder: &Path) -> Option<Found> {
    let (file, fault) = match durable::read(&folder.join(VM_FILE), VM_FILE_MAX) {
        Ok(None) => return None,
        Ok(Some(bytes)) => match String::from_utf8(bytes) {
            Ok(text) => VmFile::parse(folder, &text),
            Err(_) => (VmFile::unknown(), Some(VmFile::unreadable(folder, "not UTF-8"))),
        },
        Err(error) => (VmFile::unknown(), Some(VmFile::unreadable(folder, &error.to_string()))),
    };
    Some(Found { file, fault })
}
