//! Two copies of a replica: every acknowledged point is on both, whichever node dies, hangs, is cut off or comes back.
//!
//! Each test is one schedule on clusters of its own. Settings shorten what can be shortened; nothing waits by sleeping.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../broker/stage.rs"]
#[allow(dead_code, reason = "the stories of the broker use the rest of their stage")]
mod stage;

mod joining;
mod mending;
mod oracle;
mod pair;
mod schedules;
mod storage;
mod survives;
