//! Power cuts under what must survive them: the store of the consensus log, a replica's folder, and one that is copied.
//!
//! The disk is `landfall_kit::power`, a file system that keeps after a cut what was synced, and of the rest what chance
//! decides. Each subject is cut thirty times (twenty times beneath an ext4 that stands on it, and three hundred with `LANDFALL_LONG`) at drawn moments, remounted, opened and
//! checked against what it had acknowledged. And each test shows that it can fail: with a sync taken out, the same cuts
//! lose something.
//!
//! Needs FUSE, so root; elsewhere each test says loudly that it is skipped (`LANDFALL_NEED_FUSE` makes that a failure).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod content;
mod copying;
mod matrix;
mod replica;
mod store;

/// How many cuts: `LANDFALL_LONG` asks for the long form.
fn cuts() -> u64 {
    if std::env::var_os("LANDFALL_LONG").is_some() { 300 } else { 30 }
}

/// How many cuts beneath an ext4 on a loop device, each of which is a mount and a replay more.
fn cuts_under_ext4() -> u64 {
    if std::env::var_os("LANDFALL_LONG").is_some() { 300 } else { 20 }
}
