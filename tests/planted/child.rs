//! One test in a process of its own, with a bug or without.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use landfall_proto::planted::{Bug, VARIABLE};
use rustix::process::{Pid, Signal, kill_process_group};

use super::suites::Suites;
use super::table::Found;

/// How long a test may take: the slowest needs a tenth of it.
const DEADLINE: Duration = Duration::from_secs(120);

/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Lines of a test's output that are shown where it did not end as it should.
const SHOWN: usize = 40;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Passed,
    /// It failed as tests do.
    Failed,
    /// It crashed, took too long, or was not there.
    Otherwise(String),
}

/// A test that has run.
pub struct Run {
    pub ended: Ended,
    pub output: String,
    pub took: Duration,
}

impl Run {
    /// The end of what it printed.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }
}

/// Runs the test of `found`, with `bug` planted.
pub fn run(suites: &Suites, found: &Found, bug: Option<Bug>) -> Run {
    let program = suites.program(found.suite);
    let mut output = tempfile::tempfile().unwrap();
    let mut command = Command::new(&program.path);
    command.args([found.test, "--exact", "--test-threads=1"]).current_dir(&program.folder);
    command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output.try_clone().unwrap());
    // A failure here is no news: nothing is written down, made smaller, or looked for in more cases than usual.
    for variable in ["LANDFALL_LONG", "LANDFALL_SEEDS", "PROPTEST_CASES", "RUST_BACKTRACE", VARIABLE] {
        command.env_remove(variable);
    }
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
    command.env("PROPTEST_RNG_SEED", "1");
    if let Some(bug) = bug {
        command.env(VARIABLE, bug.name());
    }
    if let Some(seeds) = found.seeds {
        command.env("LANDFALL_SEEDS", seeds);
    }
    let begun = Instant::now();
    // A group of its own, which ends as a whole: some tests start processes themselves.
    let mut child = command.process_group(0).spawn().unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > DEADLINE {
            break None;
        }
        std::thread::sleep(LOOK);
    };
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    drop(child.wait());
    let output = read(&mut output);
    let ended = match status {
        Some(status) if status.success() && output.contains("1 passed") => Ended::Passed,
        Some(status) if status.code() == Some(101) && output.contains("0 passed; 1 failed") => Ended::Failed,
        Some(status) => Ended::Otherwise(format!("ended with {status}")),
        None => Ended::Otherwise(format!("did not end within {DEADLINE:?}")),
    };
    Run { ended, output, took: begun.elapsed() }
}

fn read(output: &mut File) -> String {
    let mut bytes = Vec::new();
    output.rewind().unwrap();
    output.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
