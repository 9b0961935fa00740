//! ext4 on a loop device on a file of a [`super::PowerDisk`]: a cut takes a volatile cache away beneath a real journal, which
//! the next mount replays.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// What a workload may fill.
const IMAGE_BYTES: u64 = 256 << 20;
/// The file system's journal in MiB: the least that mke2fs makes, so that it wraps around often.
const JOURNAL: &str = "size=4";
const IMAGE: &str = "ext4.img";
/// How long what is under test may hold files after it was dropped, and how often that is looked at.
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);
const RELEASE_LOOK: Duration = Duration::from_millis(2);
/// How mount folders begin; what follows is the process.
const PREFIX: &str = "landfall-ext4-";

/// A mounted ext4.
#[derive(Debug)]
pub(super) struct Ext4 {
    folder: tempfile::TempDir,
}

impl Ext4 {
    /// Makes a file system in a file of the folder `disk`, and mounts it.
    pub fn create(disk: &Path) -> io::Result<Self> {
        unmount_orphans();
        let image = disk.join(IMAGE);
        let file = File::create(&image)?;
        file.set_len(IMAGE_BYTES)?;
        run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-J", JOURNAL]).arg(&image))?;
        file.sync_all()?;
        File::open(disk)?.sync_all()?;
        let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        let mounted = Self { folder };
        mounted.attach(disk)?;
        Ok(mounted)
    }

    /// The folder on which it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Mounts what is there now; the journal is replayed.
    pub fn attach(&self, disk: &Path) -> io::Result<()> {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop,noatime"]).arg(disk.join(IMAGE)).arg(self.path()))
    }

    /// Unmounts, and with it lets go of the loop device, once nobody holds a file: a store that was dropped still has threads
    /// for a moment. What was not written is lost where the disk is dark.
    pub fn detach(&self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            match unmount(self.path(), UnmountFlags::empty()) {
                Err(Errno::BUSY) if begun.elapsed() < RELEASE_DEADLINE => sleep(RELEASE_LOOK),
                ended => return Ok(ended?),
            }
        }
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // Lazily where something still holds a file: the folder must go.
        if self.detach().is_err() {
            unmount(self.path(), UnmountFlags::DETACH).ok();
        }
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{}: {said}", command.get_program().to_string_lossy())))
}

/// Unmounts what test processes that were killed have left behind.
fn unmount_orphans() {
    for line in std::fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let Some(folder) = line.split(' ').nth(1) else { continue };
        let name = Path::new(folder).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((process, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { continue };
        if !Path::new("/proc").join(process).exists() {
            unmount(folder, UnmountFlags::DETACH).ok();
            std::fs::remove_dir(folder).ok();
        }
    }
}
