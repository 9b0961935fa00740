//! What a sender is doing, or did last, as it tells.

use serde::{Deserialize, Serialize};

use crate::id::UnixMillis;

/// A change set on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// The point that it makes.
    pub sequence: u64,
    /// The instant, by the sender's wall clock.
    pub taken_at: UnixMillis,
    /// Its size in the spool.
    pub bytes: u64,
}

/// A comparison of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Why, one word of a fixed list.
    pub code: String,
    /// Why, a sentence.
    pub message: String,
    /// When it began, by the sender's wall clock.
    pub at: UnixMillis,
}

/// What a sender has counted since the monitoring window began, or since counting began within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Since when, by the sender's wall clock.
    pub since: UnixMillis,
    /// When the window ends.
    pub until: UnixMillis,
    /// Change sets that were acknowledged.
    pub cycles: u64,
    /// Intervals in which none could begin, because the one before took longer.
    pub missed: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Bytes of disk content sent.
    pub bytes: u64,
    /// The most of them for one change set.
    pub bytes_max: u64,
    /// From the time a change set was due until it was acknowledged, all together.
    pub latency_ms: u64,
    /// The longest.
    pub latency_max_ms: u64,
}
