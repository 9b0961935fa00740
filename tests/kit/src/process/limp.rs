//! A process that gets a small part of a core: a sick machine that is neither up nor down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where the kernel divides processor time: its second way of control groups, and its first.
const UNIFIED: &str = "/sys/fs/cgroup";
const DIVIDED: &str = "/sys/fs/cgroup/cpu";

/// In which time the part is counted: the kernel's usual one.
const PERIOD: Duration = Duration::from_millis(100);

/// Keeps processes at a part of a core for as long as it exists.
#[derive(Debug)]
pub struct Limp {
    folder: PathBuf,
    root: PathBuf,
}

impl Limp {
    /// Gives `processes` together `percent` of one core from now on; `None` where this machine lets us divide nothing.
    pub fn new(processes: &[u32], percent: u32) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("landfall-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let period = PERIOD.as_micros();
        let quota = period * u128::from(percent) / 100;
        let (root, limits) = if Path::new(DIVIDED).join("cpu.cfs_quota_us").exists() {
            (DIVIDED, vec![("cpu.cfs_period_us", period.to_string()), ("cpu.cfs_quota_us", quota.to_string())])
        } else {
            fs::write(Path::new(UNIFIED).join("cgroup.subtree_control"), "+cpu").ok()?;
            (UNIFIED, vec![("cpu.max", format!("{quota} {period}"))])
        };
        let limp = Self { folder: Path::new(root).join(name), root: root.into() };
        fs::create_dir(&limp.folder).ok()?;
        for (file, limit) in limits {
            fs::write(limp.folder.join(file), limit).ok()?;
        }
        processes.iter().all(|process| hold(&limp.folder, *process)).then_some(limp)
    }
}

impl Drop for Limp {
    fn drop(&mut self) {
        let held = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for process in held.lines().filter_map(|line| line.parse().ok()) {
            hold(&self.root, process);
        }
        fs::remove_dir(&self.folder).ok();
    }
}

fn hold(group: &Path, process: u32) -> bool {
    fs::write(group.join("cgroup.procs"), process.to_string()).is_ok()
}
