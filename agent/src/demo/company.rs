//! Every process that the demo has started, whoever its parent is by now.
//!
//! A VM service outlives its agent and a VM its VM service, each in a session of its own. So all of them carry a mark in
//! their environment, and the demo asks the kernel to be the parent of those that lose theirs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_proto::{Class, Refusal};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

/// The variable that marks the demo's processes; children inherit it.
pub const MARK: &str = "LANDFALL_DEMO";
/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks at processes that are about to be gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The processes that carry one mark.
#[derive(Clone, Debug)]
pub struct Company {
    mark: String,
}

impl Company {
    /// The processes started with [`MARK`] set to `folder`.
    pub fn of(folder: &Path) -> Self {
        // Where the kernel refuses, orphans go to another parent and are found by their mark all the same.
        let _ = set_child_subreaper(Some(rustix::process::getpid()));
        Self { mark: folder.to_string_lossy().into_owned() }
    }

    /// Those that live now.
    fn members(&self) -> Vec<Pid> {
        let wanted = format!("{MARK}={}", self.mark);
        let carries = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        pids().filter(carries).filter_map(Pid::from_raw).collect()
    }

    /// Kills all of them and returns once none is left.
    pub fn end(&self) -> Result<(), Refusal> {
        let began = Instant::now();
        loop {
            let members = self.members();
            for member in &members {
                // One that has ended meanwhile is as good as killed.
                let _ = kill_process(*member, Signal::KILL);
            }
            while matches!(waitpid(None, WaitOptions::NOHANG), Ok(Some(_))) {}
            if members.is_empty() {
                return Ok(());
            }
            if began.elapsed() > GONE_WITHIN {
                let message = format!("{} processes of the demo are killed and do not end", members.len());
                return Err(Refusal::new(Class::Failed, "processes_left", message)
                    .remedy(format!("look for processes with {MARK}={} in their environment", self.mark)));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Signals one process.
pub fn signal(pid: i32, signal: Signal) -> Result<(), Refusal> {
    let sent = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
    match sent {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => {
            Err(Refusal::new(Class::Failed, "no_process", format!("process {pid} cannot be signalled: {error}")))
        }
        None => Err(Refusal::invalid("pid", &pid.to_string(), "a process has a positive number")),
    }
}

/// Kills one process, and returns once it does nothing any more.
pub fn kill(pid: i32) -> Result<(), Refusal> {
    signal(pid, Signal::KILL)?;
    let began = Instant::now();
    while lives(pid) {
        if let Some(pid) = Pid::from_raw(pid) {
            // It may be somebody else's child: then that one takes note of its end.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        if began.elapsed() > GONE_WITHIN {
            return Err(Refusal::new(Class::Failed, "processes_left", format!("process {pid} does not end")));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// The processes that work in `folder`: those of the VM whose folder it is.
pub fn working_in(folder: &Path) -> Vec<i32> {
    pids().filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)).collect()
}

/// The numbers of all processes.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a process was stopped by a signal.
pub fn stands(pid: i32) -> bool {
    state(pid) == Some('T')
}

fn lives(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}
