//! Whether a disk can be taken as unchanged without reading it.
//!
//! A file's times say nothing while somebody has it mapped or writes it within the clock's granularity; so the rule
//! holds only for a regular file whose VM was stopped at the last scan and ever since. Nothing here decides what to do
//! when it does not hold: scan.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use landfall_proto::Refusal;
use serde::{Deserialize, Serialize};

use super::durable;

/// How much older than a scan the last write must be: beyond every file system's granularity of times (FAT: 2 s).
pub const QUIET_NANOS: i128 = 2_000_000_000;

/// What the file system says of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Its length in bytes.
    pub size: u64,
    /// The device it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// When its content was changed, in nanoseconds since 1970.
    pub mtime_nanos: i128,
    /// When its content, names or mode were changed.
    pub ctime_nanos: i128,
}

impl FileStamp {
    /// The stamp of the file at `path`; `None` where it is not a regular file. Blocks.
    pub fn of(path: &Path) -> Result<Option<Self>, Refusal> {
        let meta = fs::metadata(path).map_err(|error| durable::fault("look at", path, &error))?;
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Ok(meta.is_file().then(|| Self {
            size: meta.size(),
            device: meta.dev(),
            inode: meta.ino(),
            mtime_nanos: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime_nanos: nanos(meta.ctime(), meta.ctime_nsec()),
        }))
    }
}

/// What is remembered of the last scan of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastScan {
    /// The file as it was before the scan began.
    pub stamp: FileStamp,
    /// `VmReport.run` before the scan began.
    pub run: u64,
    /// Whether the VM was stopped then.
    pub stopped: bool,
    /// The wall clock when the scan began, in nanoseconds since 1970: compared with the file's times only.
    pub began_nanos: i128,
}

/// Whether the disk is as the last scan found it. `now` is its stamp, `None` where it is not one regular file (a block
/// device, or an image over a backing file); `run` and `stopped` are the VM's.
pub fn may_skip(last: &LastScan, now: Option<&FileStamp>, run: u64, stopped: bool) -> bool {
    last.stopped
        && stopped
        && last.run == run
        && now == Some(&last.stamp)
        && last.began_nanos.saturating_sub(last.stamp.mtime_nanos) > QUIET_NANOS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_skipped_only_where_everything_says_that_nothing_was_written() {
        let stamp = FileStamp { size: 1 << 20, device: 1, inode: 2, mtime_nanos: 10_000_000_000, ctime_nanos: 11 };
        let last = LastScan { stamp, run: 7, stopped: true, began_nanos: 12_000_000_001 };
        assert!(may_skip(&last, Some(&stamp), 7, true));
        for changed in [
            FileStamp { size: stamp.size + 1, ..stamp },
            FileStamp { device: 9, ..stamp },
            FileStamp { inode: 9, ..stamp },
            FileStamp { mtime_nanos: stamp.mtime_nanos + 1, ..stamp },
            FileStamp { ctime_nanos: stamp.ctime_nanos + 1, ..stamp },
        ] {
            assert!(!may_skip(&last, Some(&changed), 7, true), "{changed:?}");
        }
        assert!(!may_skip(&last, None, 7, true), "not a regular file");
        assert!(!may_skip(&last, Some(&stamp), 8, true), "it may have run in between");
        assert!(!may_skip(&last, Some(&stamp), 7, false), "it runs");
        assert!(!may_skip(&LastScan { stopped: false, ..last }, Some(&stamp), 7, true), "it ran then");
        let exactly = LastScan { began_nanos: 12_000_000_000, ..last };
        assert!(!may_skip(&exactly, Some(&stamp), 7, true), "written within two seconds of the scan");
    }

    #[test]
    fn a_write_changes_the_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        fs::write(&path, [1; 100]).unwrap();
        let before = FileStamp::of(&path).unwrap().unwrap();
        fs::write(&path, [2; 101]).unwrap();
        assert_ne!(FileStamp::of(&path).unwrap().unwrap(), before);
        assert_eq!(FileStamp::of(folder.path()).unwrap(), None);
        assert_eq!(FileStamp::of(&folder.path().join("none")).unwrap_err().code, "missing_file");
    }
}
