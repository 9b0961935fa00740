//! The machine's processes, as `/proc` shows them: which session they belong to, and whether they stand still.

use std::collections::BTreeMap;
use std::fs;
use std::io;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number.
    pub pid: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// When it started, in clock ticks since the machine did: with the number it tells processes apart.
    pub start: u64,
    /// Whether any of its threads can still run.
    pub alive: bool,
}

/// Every process at one moment, roughly: they come and go while this is read.
#[derive(Debug, Default)]
pub(super) struct Processes(BTreeMap<i32, Process>);

impl Processes {
    /// Reads the table.
    pub(super) fn read() -> io::Result<Self> {
        let mut table = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(process) = Process::read(pid) {
                table.insert(pid, process);
            }
        }
        Ok(Self(table))
    }

    /// The process with this number.
    pub(super) fn get(&self, pid: i32) -> Option<&Process> {
        self.0.get(&pid)
    }

    /// Every process.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Process> {
        self.0.values()
    }
}

impl Process {
    /// The process with this number; `None` where there is none (any more).
    pub(super) fn read(pid: i32) -> Option<Self> {
        let stat = Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        // A process whose first thread has ended is shown as a zombie though the others go on.
        let alive = !matches!(stat.state, 'Z' | 'X') || stat.threads > 1;
        Some(Self { pid, group: stat.group, session: stat.session, start: stat.start, alive })
    }

    /// Whether every thread is stopped by a signal (or has ended): none is inside a system call.
    pub(super) fn is_still(pid: i32) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
        threads.flatten().all(|thread| match fs::read_to_string(thread.path().join("stat")) {
            Ok(text) => Stat::parse(&text).is_none_or(|stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X')),
            Err(_) => true,
        })
    }

    /// Whether the process was started with `name=value` in its environment.
    pub(super) fn has_variable(pid: i32, name: &str, value: &str) -> bool {
        let wanted = format!("{name}={value}");
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    }

    /// Its program's name, for messages.
    pub(super) fn name(pid: i32) -> String {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
    }
}

/// What identifies this run of the machine: process numbers and start times of another run mean nothing.
pub(super) fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

struct Stat {
    state: char,
    group: i32,
    session: i32,
    threads: u64,
    start: u64,
}

impl Stat {
    /// The fields of proc_pid_stat(5) after the name, which alone may contain spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "12 (a) b) c) T 1 34 56 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 789 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.group, stat.session, stat.threads, stat.start), ('T', 34, 56, 3, 789));
        assert!(Stat::parse("12 (a) T 1").is_none());
    }

    #[test]
    fn this_process_is_in_the_table_and_does_not_stand_still() {
        let pid = std::process::id() as i32;
        let table = Processes::read().unwrap();
        assert!(table.get(pid).unwrap().alive);
        assert!(!Process::is_still(pid));
    }
}
