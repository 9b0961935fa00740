//! A guest that proves or disproves that its disks were read at one instant.
//!
//! It writes numbered, checksummed 4 KiB records in turn over its disks: record `k` goes to disk `(k - 1) mod n`, there
//! into slot `((k - 1) / n) mod slots`. So at any instant the slots hold exactly the newest record of each residue
//! class up to some `k`, and [`check`] can tell an instant from a mixture although the ring wraps. One process writes
//! one record after the other, hence a frozen process leaves exactly records up to `k`.
//!
//! It does not claim what a file system would survive, and it says nothing about bytes outside its regions.

mod command;
mod record;
mod ring;

pub use command::command;
pub use ring::{Guest, ReadAt, Region, check};
