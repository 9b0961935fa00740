//! The real agent in a simulator: some of them in one process, on simulated sockets, disks and clocks and on paused time.
//!
//! Nothing of the agent is replaced: [`landfall_agent::Agent`] gets its `Seams` from `landfall_kit::sim` and a storage of
//! `MemoryKv` and `MemoryFiles`, and clusters are founded and joined through the real join protocol. Minutes of a
//! cluster's life take seconds.
//!
//! # What a seed decides
//!
//! Every seed runs in a process of its own, on one thread: the network's delays and losses, every node's keys, handshakes
//! and election timeouts. What the seams do not reach (chitchat's choice of partners, the order of `HashMap`s in crates,
//! the branch at which tokio's `select!` starts) comes from the process's randomness, which [`entropy`] pins. With it the
//! whole trace repeats: every event of every node at its virtual time, and every datagram byte for byte.
//!
//! `histories` alone lets the agents make real folders, on threads whose end no seed decides: what happens there has a seed,
//! but may differ in order from run to run.
//!
//! A failure names its seed and the command that runs exactly that one again. `LANDFALL_SEEDS` takes a count or a range
//! (`LANDFALL_SEEDS=500`, `LANDFALL_SEEDS=17..18`).
#![allow(
    unsafe_code,
    reason = "crates that take the process's randomness are only reached below the C library: entropy.rs"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod audit;
mod certificates;
mod cuts;
mod disk;
mod elections;
mod entropy;
mod flapping;
mod handovers;
mod histories;
mod record;
mod rollback;
mod running;
mod seeds;
mod timing;
mod vms;
mod weather;
mod world;
