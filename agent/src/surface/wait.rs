//! How long a caller waits for what it asked to show its effect.

use std::time::Duration;

use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

/// How long to wait for the effect of a request, in whole seconds from 1 to [`WaitSeconds::MAX`].
///
/// A request without one is answered as soon as it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct WaitSeconds(u64);

impl WaitSeconds {
    /// The longest wait, seven days: the time an initial copy over a thin line may take. Past it the caller asks again.
    pub const MAX: u64 = 7 * 24 * 3600;

    /// The wait as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl TryFrom<u64> for WaitSeconds {
    type Error = Refusal;
    fn try_from(seconds: u64) -> Result<Self, Refusal> {
        if (1..=Self::MAX).contains(&seconds) {
            return Ok(Self(seconds));
        }
        let remedy = "wait from 1 second to 7 days (604800), or leave it out to wait for nothing";
        Err(Refusal::invalid("wait_seconds", &seconds.to_string(), remedy))
    }
}

impl From<WaitSeconds> for u64 {
    fn from(wait: WaitSeconds) -> Self {
        wait.0
    }
}

/// The answer where the wait ended first. `committed` says what stands all the same, `missing` what had not happened
/// yet: unlike every other refusal this one does not mean that nothing was changed, and its message says so.
pub fn timed_out(committed: &str, missing: &str, wait: WaitSeconds) -> Refusal {
    Refusal::new(Class::Failed, "timed_out", format!("{committed}; after {} s {missing}", wait.0))
        .field("wait_seconds")
        .remedy("it goes on by itself: look again later, or wait longer with --timeout")
}
