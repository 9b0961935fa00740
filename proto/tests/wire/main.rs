//! The wire as another agent, or an attacker, sees it: golden bytes, hostile bytes, real sockets on loopback.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod attack;
mod attacker;
mod authority;
mod broker;
mod cast;
mod codec;
mod golden;
mod join;
mod network;
mod succession;
mod trust;
