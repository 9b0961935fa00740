//! The processes of one VM: everything in the session that its command was started in.
//!
//! A command gets a session of its own, so that a terminal or a dying service never signals it, and so that whatever it
//! starts can be found again. A process that leaves the session is no longer the VM's; where it keeps an image open it
//! is found as a foreign writer.

use std::collections::BTreeSet;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use landfall_proto::seam::Clock;
use landfall_proto::{Class, Refusal};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::process::{Process, Processes};

/// The variable that marks a VM's processes, so that they are known again whatever became of the first one.
pub(super) const RUN_VARIABLE: &str = "LANDFALL_RUN";
/// How long a VM may take to stand still; a thread that waits for a disk does not stop before the disk answers.
const STILL_WAIT: Duration = Duration::from_secs(5);
/// How long a VM may take to end by itself once it was asked to.
pub(super) const END_GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a killed VM.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at threads that are about to stop: a stop takes some ten microseconds.
const STILL_LOOK: Duration = Duration::from_micros(200);
/// Between two looks at processes that are about to end.
const END_LOOK: Duration = Duration::from_millis(10);

/// A session: its number is that of its first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// The first process.
    pub pid: i32,
    /// When that started: a later process of the same number is another's.
    pub start: u64,
}

/// A VM's processes, and the child to be reaped where this process started them.
#[derive(Debug)]
pub(super) struct Group {
    /// Which they are.
    pub session: Session,
    /// The first one, as our child.
    child: Option<Child>,
}

impl Session {
    /// Its living processes.
    pub(super) fn members(&self, processes: &Processes) -> Vec<Process> {
        if processes.get(self.pid).is_some_and(|first| first.start != self.start) {
            return Vec::new();
        }
        processes.iter().filter(|process| process.session == self.pid && process.alive).copied().collect()
    }

    /// Signals every process group of the session.
    fn signal(&self, signal: Signal) -> std::io::Result<Vec<Process>> {
        let members = self.members(&Processes::read()?);
        let groups: BTreeSet<i32> = members.iter().map(|member| member.group).collect();
        for group in groups.into_iter().filter_map(Pid::from_raw) {
            // One that has ended meanwhile is as good as signalled.
            _ = kill_process_group(group, signal);
        }
        Ok(members)
    }

    /// Stops every thread and returns once none is inside a system call: nothing is written from here on.
    ///
    /// Where that takes too long the VM goes on, and nothing was changed.
    pub(super) fn stand_still(&self, clock: &dyn Clock, most: Duration) -> Result<(), Refusal> {
        let began = clock.now();
        let most = most.min(STILL_WAIT);
        let mut known = BTreeSet::new();
        loop {
            let members = self.signal(Signal::STOP).map_err(|error| self.not_still(&error.to_string()))?;
            while !members.iter().all(|member| Process::is_still(member.pid)) {
                if clock.now().since(began) > most {
                    self.go_on();
                    return Err(self.not_still(&format!("a thread did not stop within {} ms", most.as_millis())));
                }
                sleep(STILL_LOOK);
            }
            // A stopped process starts no other: once a whole look finds nobody new, nobody is left to find.
            let pids: BTreeSet<i32> = members.iter().map(|member| member.pid).collect();
            if pids == known {
                return Ok(());
            }
            known = pids;
        }
    }

    /// Whether the session has processes, all of them stopped.
    pub(super) fn is_still(&self) -> bool {
        let Ok(processes) = Processes::read() else { return false };
        let members = self.members(&processes);
        !members.is_empty() && members.iter().all(|member| Process::is_still(member.pid))
    }

    /// Lets the VM go on. Harmless where it does already.
    pub(super) fn go_on(&self) {
        if let Err(error) = self.signal(Signal::CONT) {
            tracing::error!(session = self.pid, %error, "cannot let a stopped VM go on");
        }
    }

    fn not_still(&self, why: &str) -> Refusal {
        Refusal::new(
            Class::Failed,
            "not_frozen",
            format!("the VM's processes (session {}) do not stand still: {why}", self.pid),
        )
        .field("vm")
        .remedy("look for a hung disk under the VM; the VM goes on, and the next cycle tries again")
    }
}

impl Group {
    /// The processes of a command that was just started.
    pub(super) fn started(session: Session, child: Child) -> Self {
        Self { session, child: Some(child) }
    }

    /// The processes that an earlier life of the service started: by their first one, else by their mark.
    pub(super) fn adopt(session: Option<Session>, token: &str, processes: &Processes) -> Option<Self> {
        if let Some(session) = session
            && processes.get(session.pid).is_some_and(|first| first.start == session.start)
            && !session.members(processes).is_empty()
        {
            return Some(Self { session, child: None });
        }
        let marked = processes
            .iter()
            .find(|process| process.alive && Process::has_variable(process.pid, RUN_VARIABLE, token))?;
        let first = processes.get(marked.session);
        let start = first.map_or_else(|| session.map_or(0, |session| session.start), |first| first.start);
        Some(Self { session: Session { pid: marked.session, start }, child: None })
    }

    /// Whether no process is left. `processes` may have been read before the VM was started: only a table read now, while
    /// nobody else can start it, proves an end. A running VM that counted as ended would be taken for a stranger's.
    pub(super) fn has_ended(&mut self, processes: &Processes) -> bool {
        !self.is_alive(processes) && Processes::read().is_ok_and(|now| !self.is_alive(&now))
    }

    fn is_alive(&mut self, processes: &Processes) -> bool {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
        !self.session.members(processes).is_empty()
    }

    /// Ends every process: asks, waits for `grace`, then kills. Returns once none is left.
    pub(super) fn end(&mut self, clock: &dyn Clock, grace: Duration) -> Result<(), Refusal> {
        let failed = |why: String| {
            Refusal::new(
                Class::Failed,
                "stop_failed",
                format!("the VM (session {}) does not end: {why}", self.session.pid),
            )
            .field("vm")
            .remedy("look for a process that waits for a hung disk, then try again")
        };
        for (signal, wait) in [(Signal::TERM, grace), (Signal::KILL, KILL_WAIT)] {
            let began = clock.now();
            self.session.signal(signal).map_err(|error| failed(error.to_string()))?;
            self.session.go_on();
            loop {
                let processes = Processes::read().map_err(|error| failed(error.to_string()))?;
                if !self.session.members(&processes).is_empty() {
                    if clock.now().since(began) > wait {
                        break;
                    }
                    sleep(END_LOOK);
                    continue;
                }
                if let Some(mut child) = self.child.take() {
                    _ = child.wait();
                }
                return Ok(());
            }
        }
        Err(failed("killed, but still there".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_from_before_the_start_ends_nothing() {
        let now = Processes::read().unwrap();
        let own = now.get(i32::try_from(std::process::id()).unwrap()).unwrap().session;
        let start = now.get(own).map_or(0, |first| first.start);
        let mut running = Group { session: Session { pid: own, start }, child: None };
        assert!(!running.has_ended(&now));
        assert!(!running.has_ended(&Processes::default()), "it is not in a table that is older than it");
        let mut gone = Group { session: Session { pid: i32::MAX, start: 1 }, child: None };
        assert!(gone.has_ended(&Processes::default()));
    }
}
