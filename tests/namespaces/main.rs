//! The CAP's address in real kernels: three agents, each in a network namespace of its own, on a network of their own and
//! one where clients are, and whatever can be done to them. All the while an auditor asks every kernel every 10 ms who has
//! the address, and every agent whether it acts; and a client places and locates through the address alone.
//!
//! Needs root and network namespaces; elsewhere each test says loudly that it is skipped (`LANDFALL_NEED_NETNS` makes that
//! a failure). `LANDFALL_LONG` repeats the faults twenty times, and prints how long the address was away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod auditor;
mod client;
mod faults;
mod net;
mod stage;

use std::time::Duration;

/// The program under test.
const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall");
/// For what includes an election or a start on a machine with other work.
const LONG: Duration = Duration::from_secs(60);

/// How often each fault is done.
fn rounds() -> usize {
    if std::env::var_os("LANDFALL_LONG").is_some() { 20 } else { 1 }
}

/// Whether the tests of this file can run; says so where they cannot.
fn can_run(tests: usize) -> bool {
    let can = net::works();
    if !can {
        assert!(std::env::var_os("LANDFALL_NEED_NETNS").is_none(), "network namespaces cannot be made here");
        eprintln!("*** {tests} test of network namespaces SKIPPED: it needs root and `ip netns add`");
    }
    can
}
