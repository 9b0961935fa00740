//! A test that runs part of itself in a process of its own, so that it can be killed.

use std::process::Command;

/// Says in the child which part it plays.
const ROLE: &str = "LANDFALL_KIT_ROLE";

/// A command that runs the test called `test` (its full name) of this test binary again, as `role`.
///
/// The test begins with `if let Some(role) = role() { ..; return }`. What the child prints reaches its stdout.
pub fn rerun(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Which part this process plays; `None` in the test itself.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}
