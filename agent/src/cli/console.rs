//! Where a command reads and writes: the process's own streams, or a test's.

use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

use landfall_proto::{Class, Refusal};

use crate::surface::Failure;

/// The streams of a command.
pub struct Console {
    stdin: Box<dyn BufRead>,
    stdout: Box<dyn Write>,
    stderr: Box<dyn Write>,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    /// How failures are told.
    pub(super) speech: Speech,
}

/// How failures are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// One JSON object a failure.
    Json,
    /// For people.
    Plain,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("speech", &self.speech).finish_non_exhaustive()
    }
}

/// The most bytes of a secret that is read from standard input: many times the longest token.
const SECRET_MAX: u64 = 16 * 1024;

impl Console {
    /// The process's own streams.
    pub fn process() -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let terminals = (stdout.is_terminal(), stderr.is_terminal());
        Self::new(Box::new(BufReader::new(io::stdin())), Box::new(stdout), Box::new(stderr), terminals)
    }

    /// Streams of one's own; `terminals` says whether output and error are read by a person.
    pub fn new(
        stdin: Box<dyn BufRead>,
        stdout: Box<dyn Write>,
        stderr: Box<dyn Write>,
        terminals: (bool, bool),
    ) -> Self {
        let (stdout_is_terminal, stderr_is_terminal) = terminals;
        Self { stdin, stdout, stderr, stdout_is_terminal, stderr_is_terminal, speech: Speech::Plain }
    }

    /// Chooses how failures are told: as JSON where a script reads.
    pub(super) fn speech(&mut self, asks_for_json: bool) {
        let script = asks_for_json || !self.stdout_is_terminal;
        self.speech = if script { Speech::Json } else { Speech::Plain };
    }

    /// Writes data.
    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)?;
        self.stdout.flush()
    }

    /// Says something. A standard error that is closed is nobody's loss.
    pub(super) fn talk(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes()).and_then(|()| self.stderr.flush());
    }

    /// Says something to a person; nothing where a script reads, which takes anything on standard error for a failure.
    pub(super) fn note(&mut self, text: &str) {
        if self.stderr_is_terminal {
            self.talk(&format!("{text}\n"));
        }
    }

    /// Says something in a line that the next such line replaces; nothing where no person looks.
    pub(super) fn progress(&mut self, text: &str) {
        if self.stderr_is_terminal {
            self.talk(&format!("\r\x1b[K{text}"));
        }
    }

    /// Tells a failure.
    pub(super) fn failure(&mut self, refusal: &Refusal) {
        let text = match self.speech {
            Speech::Json => serde_json::to_string(&Failure::from(refusal.clone())).unwrap_or_default() + "\n",
            Speech::Plain => {
                let remedy = refusal.remedy.as_ref().map_or(String::new(), |remedy| format!("remedy: {remedy}\n"));
                format!("error: {}\n{remedy}", refusal.message)
            }
        };
        self.talk(&text);
    }

    /// The secret that an argument stands for: itself, or the first line of standard input where it is `-`.
    pub(super) fn secret(&mut self, argument: String) -> Result<String, Refusal> {
        if argument != "-" {
            return Ok(argument);
        }
        let mut line = String::new();
        let read = (&mut self.stdin).take(SECRET_MAX).read_line(&mut line);
        read.map_err(|error| {
            Refusal::new(Class::Failed, "no_input", format!("standard input cannot be read: {error}"))
        })?;
        match line.trim() {
            "" => Err(Refusal::new(Class::Usage, "no_input", "standard input has no line to read")),
            secret => Ok(secret.to_owned()),
        }
    }
}
