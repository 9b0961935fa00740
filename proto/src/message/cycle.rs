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
