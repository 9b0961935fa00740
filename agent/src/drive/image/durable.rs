//! Changes of files that survive a power cut, and faults of disks as people should see them.
//!
//! A file is replaced by writing a temporary one beside it, syncing it, renaming it and syncing the folder: whoever
//! opens the name finds the old content or the new one, whole. Every function here blocks.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::refusal::{Class, quoted};

/// The end of the name of a file that is not complete yet; such files are removed when their folder is opened.
pub const TEMPORARY: &str = ".tmp";

/// Nobody writes a file with this mode, root excepted.
const READ_ONLY: u32 = 0o444;
/// The owner writes it again.
const WRITABLE: u32 = 0o644;

/// `error` while trying to `action` the file at `path`, as a refusal with what can be done about it.
pub fn fault(action: &str, path: &Path, error: &io::Error) -> Refusal {
    let shown = quoted(&path.to_string_lossy());
    let (class, code, remedy) = match error.kind() {
        ErrorKind::NotFound => (Class::Failed, "missing_file", "put the file back where it was, or correct its path"),
        ErrorKind::PermissionDenied => (Class::Failed, "permission_denied", "let the agent's user read and write it"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (Class::Failed, "disk_full", "free space on its file system, or use a storage location with more room")
        }
        ErrorKind::ReadOnlyFilesystem => (Class::Failed, "read_only", "mount its file system for writing"),
        _ => (Class::Failed, "io_error", "look for errors of its disk in the kernel's log"),
    };
    Refusal::new(class, code, format!("cannot {action} {shown}: {error}")).field("path").remedy(remedy)
}

/// Whether a refusal says that a disk of this node is at fault, or its file system: see [`fault`].
pub fn is_fault(refusal: &Refusal) -> bool {
    let codes = ["missing_file", "permission_denied", "disk_full", "read_only", "io_error"];
    refusal.class == Class::Failed && codes.contains(&refusal.code.as_str())
}

/// A boundary between two steps of IO, by name: the place where tests let the disk fail.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn step(_name: &'static str) -> io::Result<()> {
    Ok(())
}

/// As [`step`], of the file at `path`.
#[cfg(not(test))]
#[inline(always)]
fn step_of(_name: &'static str, _path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use faults::step;

#[cfg(test)]
use faults::step_of;

/// The name that `path` has until it is complete.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    PathBuf::from(name)
}

/// Creates `path` for reading and writing, empty.
pub fn create(path: &Path) -> Result<File, Refusal> {
    step_of("create", path)
        .and_then(|()| OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path))
        .map_err(|error| fault("create", path, &error))
}

/// Opens `path` for reading; `None` where it is missing.
pub fn open_if_there(path: &Path) -> Result<Option<File>, Refusal> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault("open", path, &error)),
    }
}

/// Syncs the file that `path` names.
pub fn sync(file: &File, path: &Path) -> Result<(), Refusal> {
    step_of("sync", path).and_then(|()| file.sync_all()).map_err(|error| fault("sync", path, &error))
}

/// Syncs the names of a folder.
pub fn sync_folder(folder: &Path) -> Result<(), Refusal> {
    step_of("sync folder", folder)
        .and_then(|()| File::open(folder))
        .and_then(|file| file.sync_all())
        .map_err(|error| fault("sync", folder, &error))
}

/// Renames `from` to `to`, replacing it; durable once the folder is synced.
pub fn rename(from: &Path, to: &Path) -> Result<(), Refusal> {
    step_of("rename", to).and_then(|()| fs::rename(from, to)).map_err(|error| fault("rename", from, &error))
}

/// Removes a file; no error where there is none.
pub fn remove(path: &Path) -> Result<(), Refusal> {
    match step_of("remove", path).and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(fault("remove", path, &error)),
        _ => Ok(()),
    }
}

/// Lets nobody write the file, or its owner again.
pub fn set_read_only(path: &Path, read_only: bool) -> Result<(), Refusal> {
    let mode = if read_only { READ_ONLY } else { WRITABLE };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| fault("change the mode of", path, &error))
}

/// The folder that holds `path`.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Replaces the content of `path` by `bytes`, durably and at once.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Refusal> {
    let temporary = temporary(path);
    let mut file = create(&temporary)?;
    step_of("write", &temporary)
        .and_then(|()| file.write_all(bytes))
        .map_err(|error| fault("write", &temporary, &error))?;
    sync(&file, &temporary)?;
    rename(&temporary, path)?;
    sync_folder(folder_of(path))
}

#[cfg(test)]
pub(crate) mod faults {
    //! Lets the disk fail, or the process die, at a chosen step of this thread.

    use std::cell::{Cell, RefCell};
    use std::io;
    use std::path::Path;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
        static FAIL_FROM: Cell<Option<u64>> = const { Cell::new(None) };
        static KILL_AT: Cell<Option<u64>> = const { Cell::new(None) };
        static OUTSIDE: Cell<bool> = const { Cell::new(false) };
        static NUMBER: Cell<i32> = const { Cell::new(0) };
        static NAMES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Counts a step, and fails where it is the chosen one or comes after it.
    pub(crate) fn step(name: &'static str) -> io::Result<()> {
        taken_as(name.to_owned())
    }

    /// As [`step`], of a file, whose kind belongs to the step's name: the name without a disk's and the numbers.
    pub(crate) fn step_of(name: &'static str, path: &Path) -> io::Result<()> {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let kind = file.split(|byte: char| !byte.is_ascii_alphabetic() && byte != '.').next_back().unwrap_or_default();
        let kind = if file.starts_with("vd") { kind.split_once('.').map_or(kind, |(_, end)| end) } else { kind };
        taken_as(if name == "sync folder" { name.to_owned() } else { format!("{name} {kind}") })
    }

    /// Does what is no part of what is tested: its steps do not count, and do not fail.
    pub(crate) fn outside<T>(work: impl FnOnce() -> T) -> T {
        OUTSIDE.set(true);
        let done = work();
        OUTSIDE.set(false);
        done
    }

    fn taken_as(name: String) -> io::Result<()> {
        if OUTSIDE.get() {
            return Ok(());
        }
        NAMES.with_borrow_mut(|names| names.push(name));
        let now = STEPS.get();
        STEPS.set(now + 1);
        if KILL_AT.get() == Some(now) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        match FAIL_FROM.get() {
            Some(at) if now >= at => Err(io::Error::from_raw_os_error(NUMBER.get())),
            _ => Ok(()),
        }
    }

    /// From step `at` on every step fails with the error `number`; `None` lets them all pass. Counts from zero again.
    pub(crate) fn fail_from(at: Option<u64>, number: i32) {
        STEPS.set(0);
        NAMES.with_borrow_mut(Vec::clear);
        FAIL_FROM.set(at);
        NUMBER.set(number);
    }

    /// The process is killed at step `at`, counted from now.
    pub(crate) fn kill_at(at: u64) {
        STEPS.set(0);
        KILL_AT.set(Some(at));
    }

    /// The names of the steps that were taken since the last [`fail_from`].
    pub(crate) fn names() -> Vec<String> {
        NAMES.with_borrow(Clone::clone)
    }

    /// How many steps were taken since the last [`fail_from`].
    pub(crate) fn taken() -> u64 {
        STEPS.get()
    }
}
