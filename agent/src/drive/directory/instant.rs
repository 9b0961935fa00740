//! Brings the disks of one VM to one instant.
//!
//! A running VM is stopped, all its threads, and then either its images are copied by reference and it goes on, or it
//! stands still until the thaw. Writes that it has handed to the kernel and that the kernel has not confirmed may land
//! later: they are what a power cut would have torn, too. A VM that somebody else has stopped is left as it was found. A
//! VM that is off is kept off, its images locked.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use landfall_proto::id::VmId;
use landfall_proto::message::control::Consistency;
use landfall_proto::{Class, Refusal};
use rustix::io::Errno;

use super::Inner;
use super::disk_image::{self, Print};
use super::foreign::{self, FileId, unusable};
use super::freeze::{Clones, Freeze, Instant};
use super::launch;
use super::process::Processes;
use super::vm_core::Core;
use crate::vm_service::{FreezeMethod, Frozen, Image, VmRole};

/// What the name of a copy by reference begins with. It lies beside its image, so that a qcow2 file finds its backing
/// file by a relative name.
const CLONE_PREFIX: &str = ".landfall-freeze-";

/// Takes the instant for `freeze`. On refusal the VM goes on; the caller drops the freeze.
pub(super) fn take(inner: &Inner, freeze: &Freeze) -> Result<Frozen, Refusal> {
    let mut core = super::locked(&freeze.vm.core);
    let processes = freeze.vm.notice(inner, &mut core)?;
    if core.file.role == VmRole::Replica {
        return Err(Refusal::new(Class::Refused, "vm_is_replica", format!("VM {} is a replica here", core.id))
            .field("vm")
            .remedy("its disks are read through its recovery points"));
    }
    if let Some(fault) = core.fault() {
        return Err(fault);
    }
    let (images, prints) = inspect(&core)?;
    refuse_strangers(&core, &prints, &processes)?;
    let taken = match core.group.as_ref().map(|group| group.session) {
        None => off(inner, freeze, &mut core, &images),
        Some(session) => {
            let files = open_synced(&images)?;
            let clones = if core.no_reflink { None } else { Some(prepare_clones(&core, freeze, &images)?) };
            if session.is_still() {
                freeze.found_still(session);
            } else {
                freeze.stopping(session, inner.options.clock.now())?;
                let left = freeze.until.since(inner.options.clock.now());
                session.stand_still(&*inner.options.clock, left)?;
            }
            running(inner, &mut core, freeze, &files, clones)
        }
    };
    let (images, instant) = taken?;
    let consistency = match instant.method {
        FreezeMethod::Off => Consistency::Off,
        FreezeMethod::Cloned | FreezeMethod::Stopped => Consistency::Crash,
    };
    let frozen = Frozen { freeze: freeze.id, method: instant.method, consistency, images, run: instant.run };
    freeze.keep(instant)?;
    Ok(frozen)
}

type Prints = Vec<(PathBuf, Print)>;

fn inspect(core: &Core) -> Result<(Vec<Image>, Prints), Refusal> {
    let mut images = Vec::new();
    let mut prints = Vec::new();
    for disk in &core.file.disks {
        let (image, print) = disk_image::inspect(&disk.target, &disk.path)?;
        prints.push((disk.path.clone(), print));
        images.push(image);
    }
    Ok((images, prints))
}

/// Refuses images that anybody but the VM may be writing or has locked.
fn refuse_strangers(core: &Core, prints: &Prints, processes: &Processes) -> Result<(), Refusal> {
    let own = core.group.as_ref().map(|group| group.session.pid);
    let files: BTreeSet<FileId> = prints.iter().map(|(_, print)| print.file).collect();
    let writers = foreign::writers(&files, processes);
    let lockers = foreign::lockers(processes);
    for (path, print) in prints {
        if let Some(holder) = foreign::stranger(&writers, print.file, own) {
            return Err(foreign::written(path, &holder.name));
        }
        if let Some(holder) = foreign::stranger(&lockers, print.file, own) {
            return Err(foreign::locked(path, &holder.name));
        }
    }
    Ok(())
}

fn open_synced(images: &[Image]) -> Result<Vec<File>, Refusal> {
    images
        .iter()
        .map(|image| {
            let file = File::open(&image.path).map_err(|error| unusable(&image.path, &error.to_string()))?;
            sync(&image.path, &file)?;
            Ok(file)
        })
        .collect()
}

fn sync(path: &Path, file: &File) -> Result<(), Refusal> {
    rustix::fs::fdatasync(file).map_err(|error| unusable(path, &format!("cannot be synced: {error}")))
}

fn off(inner: &Inner, freeze: &Freeze, core: &mut Core, images: &[Image]) -> Result<(Vec<Image>, Instant), Refusal> {
    let mut locks = Vec::new();
    for image in images {
        let lock = launch::lock(&image.path, false)?;
        sync(&image.path, &lock)?;
        locks.push(lock);
    }
    // Locked first, looked at again after: what was written before counts, what comes later is noticed at the thaw.
    let (images, prints) = inspect(core)?;
    if core.take_in(inner, images.clone(), prints.iter().map(|(_, print)| Some(*print)).collect()) {
        freeze.vm.show(core.report(freeze.vm.shown().fault, false));
    }
    let instant =
        Instant { method: FreezeMethod::Off, run: core.run, prints, clones: Clones::default(), _locks: locks };
    Ok((images, instant))
}

/// The VM stands still. Copies its images by reference and lets it go on, or leaves it as it is.
fn running(
    inner: &Inner,
    core: &mut Core,
    freeze: &Freeze,
    files: &[File],
    clones: Option<(Clones, Vec<File>)>,
) -> Result<(Vec<Image>, Instant), Refusal> {
    let (mut images, prints) = inspect(core)?;
    if let Some((clones, targets)) = clones {
        let copied =
            files.iter().zip(&targets).try_for_each(|(file, target)| inner.options.reflink.reflink(file, target));
        match copied {
            Ok(()) => {
                freeze.go_on(&*inner.options.clock);
                for ((image, path), target) in images.iter_mut().zip(&clones.0).zip(&targets) {
                    image.path.clone_from(path);
                    sync(path, target)?;
                }
                let instant =
                    Instant { method: FreezeMethod::Cloned, run: core.run, prints, clones, _locks: Vec::new() };
                return Ok((images, instant));
            }
            Err(error) => core.no_reflink = cannot_ever(&error),
        }
    }
    for (image, file) in images.iter().zip(files) {
        sync(&image.path, file)?;
    }
    let method = FreezeMethod::Stopped;
    Ok((images, Instant { method, run: core.run, prints, clones: Clones::default(), _locks: Vec::new() }))
}

/// Whether the error says that this file system, or this pair of files, cannot share blocks at all.
fn cannot_ever(error: &std::io::Error) -> bool {
    let codes = [Errno::OPNOTSUPP, Errno::XDEV, Errno::INVAL, Errno::NOTTY, Errno::NOSYS];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// Empty files beside the images, created while the VM still runs.
fn prepare_clones(core: &Core, freeze: &Freeze, images: &[Image]) -> Result<(Clones, Vec<File>), Refusal> {
    let mut clones = Clones::default();
    let mut files = Vec::new();
    for image in images {
        let name = format!("{CLONE_PREFIX}{}-{}-{}", core.id, freeze.id.0, image.target);
        let path = image.path.with_file_name(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        files.push(file.map_err(|error| unusable(&path, &error.to_string()))?);
        clones.0.push(path);
    }
    Ok((clones, files))
}

/// Removes what freezes of an earlier life left beside this VM's images.
pub(super) fn remove_leftovers(vm: VmId, images: impl Iterator<Item = PathBuf>) {
    let folders: BTreeSet<PathBuf> = images.filter_map(|image| image.parent().map(Path::to_owned)).collect();
    let prefix = format!("{CLONE_PREFIX}{vm}-");
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            _ = fs::remove_file(entry.path());
        }
    }
}
