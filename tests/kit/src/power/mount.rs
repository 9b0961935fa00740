//! A disk that a test holds: mounting it, cutting its power, its faults.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::{UnmountFlags, unmount};

use super::disk::{Disk, Toll, Unsynced};
use super::ext4::Ext4;
use super::fuse::Mounted;

/// The name under which mounts show in `/proc/mounts`, with the process that made them.
const SOURCE: &str = "landfall-power-";

/// What programs see of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// The disk's own files: each is kept as it was synced.
    #[default]
    Files,
    /// ext4 on a loop device on a file of it. Needs root and mke2fs.
    Ext4,
}

/// A disk whose power a test can cut, mounted on a temporary folder.
#[derive(Debug)]
pub struct PowerDisk {
    /// Unmounted before the disk.
    ext4: Option<Ext4>,
    disk: Arc<Disk>,
    folder: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

impl PowerDisk {
    /// Mounts an empty disk. Needs `/dev/fuse` and root (or `fusermount3`).
    pub fn mount() -> io::Result<Self> {
        unmount_orphans();
        let folder = tempfile::Builder::new().prefix("landfall-power-").tempdir()?;
        let mut disk = Self { ext4: None, disk: Arc::new(Disk::new()), folder, session: None };
        disk.attach()?;
        Ok(disk)
    }

    /// Mounts an empty disk of which programs see `medium`.
    pub fn mount_as(medium: Medium) -> io::Result<Self> {
        let mut disk = Self::mount()?;
        if medium == Medium::Ext4 {
            disk.ext4 = Some(Ext4::create(disk.folder.path())?);
        }
        Ok(disk)
    }

    /// Mounts an empty disk, or says loudly on stderr that `test` is skipped because this machine has no FUSE.
    ///
    /// Where `LANDFALL_NEED_FUSE` is set, a machine without it fails the test instead.
    pub fn mount_or_skip(test: &str) -> Option<Self> {
        Self::mount_as_or_skip(Medium::Files, test)
    }

    /// As [`PowerDisk::mount_or_skip`], of which programs see `medium`.
    pub fn mount_as_or_skip(medium: Medium, test: &str) -> Option<Self> {
        match Self::mount_as(medium) {
            Ok(disk) => Some(disk),
            Err(fault) if std::env::var_os("LANDFALL_NEED_FUSE").is_none() => {
                eprintln!("\n*** SKIPPED {test}: a FUSE file system cannot be mounted here: {fault}\n");
                None
            }
            Err(fault) => panic!("{test} needs FUSE: {fault}"),
        }
    }

    /// The folder that programs see.
    pub fn path(&self) -> &Path {
        self.ext4.as_ref().map_or(self.folder.path(), Ext4::path)
    }

    /// Cuts the power now; what was not synced is decided by `seed`. Until [`PowerDisk::restore`] every call is an error.
    pub fn cut(&self, seed: u64) {
        self.disk.cut_now(seed);
    }

    /// Cuts the power at the `operations`-th change from now (a write, a sync, a name).
    pub fn cut_after(&self, operations: u64, seed: u64) {
        self.disk.cut_after(operations, seed);
    }

    /// Whether the power is off.
    pub fn is_dark(&self) -> bool {
        self.disk.is_dark()
    }

    /// Brings the power back: what survived is mounted again. Processes that still hold files of before get errors.
    ///
    /// Without a cut before, this is a clean unmount: everything is still there.
    pub fn restore(&mut self) -> io::Result<()> {
        if let Some(ext4) = &self.ext4 {
            ext4.detach()?;
        }
        self.detach();
        self.attach()?;
        self.ext4.as_ref().map_or(Ok(()), |ext4| ext4.attach(self.folder.path()))
    }

    /// Fails the `nth` sync from now (of a file or a folder) with EIO and loses what it was to save.
    pub fn fail_sync(&self, nth: u64) {
        self.disk.fail_sync(nth);
    }

    /// Makes the disk answer some syncs without carrying them out: what a test shows with them, it must lose without.
    pub fn leave_out(&self, unsynced: Unsynced) {
        self.disk.leave_out(unsynced);
    }

    /// Lets the disk hold `bytes` and no more; `None` lifts the limit.
    pub fn limit(&self, bytes: Option<u64>) {
        self.disk.limit(bytes);
    }

    /// Makes every sync take this long.
    pub fn slow_syncs(&self, delay: Duration) {
        self.disk.lock().sync_delay = delay;
    }

    /// Makes the disk answer nothing at all until released.
    pub fn hang(&self, hung: bool) {
        self.disk.hang(hung);
    }

    /// How many changes were asked for so far.
    pub fn operations(&self) -> u64 {
        self.disk.operations()
    }

    /// How many syncs were asked for so far.
    pub fn syncs(&self) -> u64 {
        self.disk.syncs()
    }

    /// What all cuts so far have cost: a test that lost nothing has shown nothing.
    pub fn toll(&self) -> Toll {
        self.disk.toll()
    }

    fn attach(&mut self) -> io::Result<()> {
        let mounted = Mounted::new(self.disk.clone());
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("{SOURCE}{}", std::process::id())),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
        ];
        self.session = Some(fuser::spawn_mount(mounted, self.folder.path(), &config)?);
        Ok(())
    }

    fn detach(&mut self) {
        // Lazily, so that a process which still holds a file cannot keep the folder.
        if let Some(session) = self.session.take() {
            unmount(self.folder.path(), UnmountFlags::DETACH).ok();
            drop(session);
        }
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        self.disk.hang(false);
        self.ext4 = None;
        self.detach();
    }
}

/// Unmounts what test processes that were killed have left behind.
fn unmount_orphans() {
    for line in std::fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let (source, folder) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Some(process) = source.strip_prefix(SOURCE) else { continue };
        if !Path::new("/proc").join(process).exists() {
            unmount(folder, UnmountFlags::DETACH).ok();
            std::fs::remove_dir(folder).ok();
        }
    }
}
