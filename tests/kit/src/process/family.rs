//! Every process that a run has started, whoever its parent is by now.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The environment variable that marks processes; children inherit it.
pub(super) const MARK: &str = "LANDFALL_KIT";
/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The processes that carry a mark in their environment, or that run in a folder of the run.
///
/// A VM service outlives its agent, and a guest its VM service: neither has a parent left that leads to it.
#[derive(Clone, Debug)]
pub struct Family {
    mark: String,
    folder: PathBuf,
}

impl Family {
    /// The processes that were started with [`Family::variable`] set, or whose working folder or arguments lie in
    /// `folder`.
    pub fn new(mark: &str, folder: &Path) -> Self {
        Self { mark: mark.to_owned(), folder: folder.to_owned() }
    }

    /// The variable, and its value, to start processes with.
    pub fn variable(&self) -> (&'static str, &str) {
        (MARK, &self.mark)
    }

    /// The members that live now, this process never among them.
    pub fn members(&self) -> Vec<u32> {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|&id| self.has(id)).collect()
    }

    /// The members one of whose arguments is exactly `argument`.
    pub fn with_argument(&self, argument: &str) -> Vec<u32> {
        let has = |id: &u32| {
            let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            arguments.split(|&byte| byte == 0).any(|found| found == argument.as_bytes())
        };
        self.members().into_iter().filter(has).collect()
    }

    /// Sends every member `signal`; returns how many got it.
    pub fn signal(&self, signal: Signal) -> usize {
        self.members().into_iter().filter(|&id| self.signal_one(id, signal)).count()
    }

    /// Sends one process `signal`, provided that it is a member; returns whether it got it.
    pub fn signal_one(&self, id: u32, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return false };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // The number may have gone to another process since; the descriptor cannot.
        self.has(id) && pidfd_send_signal(&process, signal).is_ok()
    }

    /// Kills every member, those that are being started too, and waits until none is left.
    pub fn kill(&self) {
        let begun = Instant::now();
        while self.signal(Signal::KILL) > 0 {
            if begun.elapsed() > GONE_WITHIN {
                eprintln!("*** processes that do not die: {:?}", self.members());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn has(&self, id: u32) -> bool {
        if id == std::process::id() {
            return false;
        }
        let process = Path::new("/proc").join(id.to_string());
        let read = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
        let arguments = read("cmdline");
        // A process that is dead and waits to be collected has no arguments, and neither have the kernel's threads.
        if arguments.is_empty() {
            return false;
        }
        let mark = format!("{MARK}={}", self.mark);
        let marked = read("environ").split(|&byte| byte == 0).any(|variable| {
            // A node's mark begins with its run's: "RUN/NODE".
            variable.strip_prefix(mark.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        });
        let inside = || std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.folder));
        let folder = self.folder.as_os_str().as_bytes();
        let named = || arguments.split(|&byte| byte == 0).any(|argument| argument.starts_with(folder));
        marked || inside() || named()
    }
}
