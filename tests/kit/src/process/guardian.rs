//! A process that cleans up after a test that was killed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::family::MARK;

/// Waits for its standard input to end, which happens when the test's process does, however it ends; then kills every
/// process that carries the mark.
const SCRIPT: &str = r#"cat >/dev/null
for round in 1 2 3; do
  for process in /proc/[0-9]*; do
    if tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -q "^$1=$2\(/\|\$\)"; then kill -9 "${process#/proc/}" 2>/dev/null; fi
  done
done"#;

/// Kills the processes with a mark once this is dropped or its process is gone.
#[derive(Debug)]
pub(super) struct Guardian(Child);

impl Guardian {
    pub fn watch(mark: &str) -> std::io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "guardian", MARK, mark]).env_remove(MARK);
        // A group of its own, so that an interrupt at the terminal does not end it before its work begins.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}
