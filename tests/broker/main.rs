//! The product as its users meet it: agents, VM services, guests and the command line as processes of this machine.
//!
//! Every test is a story on clusters of its own, told in checks that share them. Settings shorten what can be shortened
//! (`node_down_after`, `[testing] interval_ms`); elections and leases are as in production. Nothing waits by sleeping:
//! every wait is for a condition, with a deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api;
mod bulk;
mod disks;
mod doctor;
mod farewell;
mod flapping;
mod followers;
mod hints;
mod intruder;
mod lean;
mod limits;
mod limping;
mod loss;
mod migrating;
mod minority;
mod moving;
mod pausing;
mod placing;
mod points;
mod proofs;
mod quorum;
mod recovering;
mod rejoining;
mod removing;
mod returning;
mod rollback;
mod rotation;
mod stage;
mod steering;
mod storing;
mod succession;
