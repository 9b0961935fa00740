//! Waiting for something to become so, and saying what was seen where it did not.

use std::time::{Duration, Instant};

use landfall_proto::{Class, Refusal};
use tokio::time::sleep;

/// How long to wait between two looks: short beside everything that is measured.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was seen instead of what is waited for.
#[derive(Debug)]
pub struct Unlike(String);

impl From<String> for Unlike {
    fn from(seen: String) -> Self {
        Self(seen)
    }
}

impl From<&str> for Unlike {
    fn from(seen: &str) -> Self {
        Self(seen.to_owned())
    }
}

impl From<Refusal> for Unlike {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.to_string())
    }
}

/// Looks again and again until `look` finds what it wants, at least once after `limit`. `what` completes "waited for".
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, Unlike>,
) -> Result<T, Refusal> {
    let began = Instant::now();
    loop {
        let late = began.elapsed() >= limit;
        match look().await {
            Ok(found) => return Ok(found),
            Err(Unlike(seen)) if late => {
                let waited = limit.as_secs();
                return Err(not_so(format!("waited {waited} s for {what}; seen at last: {seen}")));
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Refuses to go on where `holds` is false; `seen` says what was there instead.
pub fn check(holds: bool, seen: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(not_so(seen())) }
}

/// Something is not as the story says.
pub fn not_so(seen: String) -> Refusal {
    Refusal::new(Class::Failed, "demo_failed", seen)
}

/// A file of the demo cannot be made or read.
pub fn io(what: &std::path::Path, error: &std::io::Error) -> Refusal {
    Refusal::new(Class::Failed, "io", format!("{}: {error}", what.display()))
        .remedy("make room there, or point TMPDIR to a folder that can be written")
}
