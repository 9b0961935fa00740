//! Failover on real processes: a test beside replication, a branch when the primary is gone, and a VM handed over without
//! loss, with agents killed in between.
//!
//! The guest writes numbered records and refuses to start on disks that are no instant, so that it runs proves what it
//! was given; how many records there are proves what was lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod aftermath;
mod cycle;
mod difference;
mod network;
mod pinned;
mod planned;
mod recovered;
mod reverse;
mod seed;
mod stage;
mod test;
mod unplanned;
