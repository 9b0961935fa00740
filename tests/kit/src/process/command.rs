//! One call of the command line, with what it printed taken apart.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// How long a call may take unless the test says otherwise: more than any timeout that tests give in a call, since this one
/// ends a hang and nothing else.
pub(super) const CALL_MAX: Duration = Duration::from_secs(180);

/// What a call came to.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The arguments.
    pub call: String,
    /// The exit code; `None` where a signal ended it, or the harness because it hung.
    pub code: Option<i32>,
    /// What it printed as data.
    pub stdout: String,
    /// What it printed for people.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// The error that a failed call printed: `{"error": {...}}` on stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: i32,
    /// The stable word.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// The field at fault.
    pub field: Option<String>,
    /// What to do instead.
    pub remedy: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}: {}: {}", self.exit, self.code, self.message)
    }
}

impl Answer {
    /// Runs `command` to its end, or kills it after `limit`.
    pub(super) fn of(mut command: Command, limit: Duration) -> Self {
        let call = command.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        let begun = Instant::now();
        // Into files, not pipes: a process that the call leaves behind would keep a pipe open.
        let file = || tempfile::tempfile().expect("a temporary file");
        let (mut out, mut err) = (file(), file());
        let share = |file: &File| file.try_clone().expect("a file can be shared");
        command.stdin(Stdio::null()).stdout(share(&out)).stderr(share(&err)).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|fault| panic!("`{call}` cannot be started: {fault}"));
        let code = wait(&mut child, limit);
        Self { call, code, stdout: read_text(&mut out), stderr: read_text(&mut err), took: begun.elapsed() }
    }

    /// What it printed, as JSON; an error where it failed as documented.
    ///
    /// # Panics
    ///
    /// Where it broke the contract: data that is no JSON, or a failure without `{"error": {...}}`.
    pub fn json(&self) -> Result<Value, Failure> {
        if self.code == Some(0) {
            let text = self.stdout.trim();
            // Commands that have nothing to say print nothing.
            let value = if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(text) };
            return Ok(value.unwrap_or_else(|fault| panic!("stdout is no JSON ({fault}):\n{self}")));
        }
        let error = self.stderr.lines().rev().find_map(|line| {
            let value: Value = serde_json::from_str(line.trim()).ok()?;
            Some(value.get("error")?.clone())
        });
        // The error may also span lines, after other talk.
        let error = error.or_else(|| {
            let start = self.stderr.find("{\n").or_else(|| self.stderr.find('{'))?;
            let value: Value = serde_json::from_str(self.stderr[start..].trim()).ok()?;
            Some(value.get("error")?.clone())
        });
        let (Some(exit), Some(error)) = (self.code, error) else { panic!("no documented failure:\n{self}") };
        let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
        Err(Failure {
            exit,
            code: text("code").unwrap_or_default(),
            message: text("message").unwrap_or_default(),
            field: text("field"),
            remedy: text("remedy"),
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or("no exit code: killed".to_owned(), |code| format!("exit {code}"));
        writeln!(f, "`landfall {}`: {code} after {:?}", self.call, self.took)?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

fn read_text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a temporary file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return status.code();
        }
        if begun.elapsed() > limit {
            // With whatever it has started in its group.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process_group(group, Signal::KILL).ok();
            }
            child.wait().ok();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
