//! Who else has an image: locks it, or has it open for writing.
//!
//! Both are read from what the kernel lists (`/proc/locks`, `/proc/PID/fdinfo`, loop devices), so nobody is disturbed.
//! What another machine does on shared storage cannot be seen here; there the lock itself decides, where the file system
//! carries locks. Without privileges only this user's processes are seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use landfall_proto::{Class, Refusal};

use super::process::{Process, Processes};

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Somebody who holds a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its number; `None` for the kernel.
    pub pid: Option<i32>,
    /// The session it belongs to; `None` for the kernel, or where the process is gone.
    pub session: Option<i32>,
    /// For messages: `process 12 (qemu)`.
    pub name: String,
}

/// Holders by file.
pub(super) type Holders = BTreeMap<FileId, Vec<Holder>>;

/// Who has one of `files` open for writing, this process excepted.
pub(super) fn writers(files: &BTreeSet<FileId>, processes: &Processes) -> Holders {
    let mut found = Holders::new();
    if files.is_empty() {
        return found;
    }
    let inodes: BTreeSet<u64> = files.iter().map(|file| file.inode).collect();
    let own = std::process::id() as i32;
    for process in processes.iter().filter(|process| process.alive && process.pid != own) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fdinfo", process.pid)) else { continue };
        for descriptor in descriptors.flatten() {
            let Some(file) = open_for_writing(process.pid, &descriptor, &inodes) else { continue };
            if files.contains(&file) {
                let name = format!("process {} ({})", process.pid, Process::name(process.pid));
                found.entry(file).or_default().push(Holder {
                    pid: Some(process.pid),
                    session: Some(process.session),
                    name,
                });
            }
        }
    }
    for (file, name) in loop_devices() {
        if files.contains(&file) {
            found.entry(file).or_default().push(Holder { pid: None, session: None, name });
        }
    }
    found
}

/// The file behind a descriptor that may write to one of `inodes`. Looks at the file itself only where its number fits,
/// so that a hung disk of somebody else's holds nothing up.
fn open_for_writing(pid: i32, descriptor: &fs::DirEntry, inodes: &BTreeSet<u64>) -> Option<FileId> {
    let information = fs::read_to_string(descriptor.path()).ok()?;
    let field = |name: &str| information.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
    let flags = u32::from_str_radix(field("flags:")?, 8).ok()?;
    const ACCESS_MODE: u32 = 3;
    if flags & ACCESS_MODE == 0 {
        return None;
    }
    if let Some(inode) = field("ino:").and_then(|inode| inode.parse().ok())
        && !inodes.contains(&inode)
    {
        return None;
    }
    let name = descriptor.file_name();
    fs::metadata(Path::new(&format!("/proc/{pid}/fd")).join(name)).ok().as_ref().map(FileId::from)
}

/// The files behind writable loop devices: the kernel has them open, no process does.
fn loop_devices() -> Vec<(FileId, String)> {
    let Ok(blocks) = fs::read_dir("/sys/block") else { return Vec::new() };
    let mut found = Vec::new();
    for block in blocks.flatten() {
        let name = block.file_name().to_string_lossy().into_owned();
        let Ok(file) = fs::read_to_string(block.path().join("loop/backing_file")) else { continue };
        let read_only = fs::read_to_string(block.path().join("ro")).is_ok_and(|text| text.trim() == "1");
        if !read_only && let Ok(metadata) = fs::metadata(file.trim_end_matches('\n')) {
            found.push((FileId::from(&metadata), format!("loop device /dev/{name}")));
        }
    }
    found
}

/// The first holder of `file` that does not belong to the session `own`.
pub(super) fn stranger(holders: &Holders, file: FileId, own: Option<i32>) -> Option<&Holder> {
    let mut others = holders.get(&file)?.iter();
    others.find(|holder| own.is_none() || (holder.session != own && holder.pid != own))
}

/// Who holds a lock of the kind that this service takes, on any file, this process excepted.
pub(super) fn lockers(processes: &Processes) -> Holders {
    let mut found = Holders::new();
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    let own = std::process::id() as i32;
    for (file, pid) in table.lines().filter_map(parse_lock).filter(|(_, pid)| *pid != own) {
        let session = processes.get(pid).map(|process| process.session);
        let name = format!("process {pid} ({})", Process::name(pid));
        found.entry(file).or_default().push(Holder { pid: Some(pid), session, name });
    }
    found
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; waiters (`->`) hold nothing.
fn parse_lock(line: &str) -> Option<(FileId, i32)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if fields.get(1) != Some(&"FLOCK") {
        return None;
    }
    let mut place = fields.get(5)?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let inode = place.next()?.parse().ok()?;
    Some((FileId { device: rustix::fs::makedev(major, minor), inode }, fields.get(4)?.parse().ok()?))
}

/// The image cannot be used.
pub(super) fn unusable(image: &Path, why: &str) -> Refusal {
    Refusal::new(Class::Failed, "image_unusable", format!("image {}: {why}", image.display()))
        .field("disk.path")
        .remedy("put a readable raw or qcow2 image there, or correct the path in vm.toml")
}

/// Somebody else holds the lock on an image.
pub(super) fn locked(image: &Path, holder: &str) -> Refusal {
    Refusal::new(Class::Failed, "image_locked", format!("image {} is locked by {holder}", image.display()))
        .field("disk.path")
        .remedy("stop whoever uses the image; the VM can be used as soon as the lock is gone")
}

/// Somebody else may be writing to an image.
pub(super) fn written(image: &Path, holder: &str) -> Refusal {
    Refusal::new(Class::Refused, "stopped_only", format!("image {} is open for writing in {holder}", image.display()))
        .field("disk.path")
        .remedy("stop whoever writes: only this service's own VMs can be read while they run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_line_names_file_and_process() {
        let (file, pid) = parse_lock("7: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF").unwrap();
        assert_eq!((file.device, file.inode, pid), (rustix::fs::makedev(0xfe, 1), 5678, 1234));
        assert!(parse_lock("7: -> FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF").is_none());
        assert!(parse_lock("8: POSIX  ADVISORY  WRITE 1 fe:01:5 0 EOF").is_none());
    }

    #[test]
    fn a_process_that_may_write_is_found_and_one_that_reads_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        fs::write(&image, [0; 512]).unwrap();
        let file = FileId::from(&fs::metadata(&image).unwrap());
        let wanted = BTreeSet::from([file]);
        for (redirect, expected) in [("<", 0), (">>", 1)] {
            let script = format!("exec 3{redirect}'{}'; echo; read line", image.display());
            let mut child = std::process::Command::new("sh")
                .args(["-c", &script])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut ready = [0];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
            let found = writers(&wanted, &Processes::read().unwrap());
            assert_eq!(found.get(&file).map_or(0, Vec::len), expected, "{redirect}");
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}
