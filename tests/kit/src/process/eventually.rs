//! Waiting for a condition, with a deadline.

use std::fmt;
use std::time::{Duration, Instant};

/// How long to wait between two looks: short beside every deadline, long beside the cost of a look.
const PAUSE: Duration = Duration::from_millis(20);

/// What a look at a condition can come to: done, or not yet and why.
pub trait Outcome {
    /// What is there once it is done.
    type Value;
    /// The value, or why not yet.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();
    fn outcome(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("not yet".to_owned()) }
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing yet".to_owned())
    }
}

impl<T, E: fmt::Display> Outcome for Result<T, E> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.map_err(|fault| fault.to_string())
    }
}

/// Looks again and again until `look` is true, some or ok, and returns what it found.
///
/// # Panics
///
/// When `deadline` has passed, with `what` was waited for and what the last look said. One look is always made after
/// the deadline, so that a machine that stood still for a while fails nothing.
#[track_caller]
pub fn eventually<T: Outcome>(deadline: Duration, what: &str, mut look: impl FnMut() -> T) -> T::Value {
    let begun = Instant::now();
    loop {
        let late = begun.elapsed() >= deadline;
        match look().outcome() {
            Ok(value) => return value,
            Err(last) if late => panic!("after {:?}, still waiting for {what}: {last}", begun.elapsed()),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
