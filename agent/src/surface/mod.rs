//! What an agent can be asked on its own machine: the shapes that scripts depend on, and [`Operations`], all of it.
//!
//! One file a noun. These types are the JSON of the local API and of `-o json`, so their field names are a promise:
//! fields may be added, never renamed or removed. snake_case throughout; a field that has nothing to say is `null`,
//! not absent; bytes are integers; a duration is an integer in the unit that its name ends in; a time is RFC 3339 UTC.
//! Requests refuse fields they do not know. Nothing here decides or does anything: an agent implements [`Operations`],
//! `drive::api` serves it, `cli` asks it.

pub mod authorization;
pub mod broker;
pub mod ca;
pub mod cap_address;
pub mod cluster;
pub mod disabled;
pub mod doctor;
pub mod event;
pub mod failover;
pub mod failure;
pub mod hex;
pub mod network;
pub mod node;
pub mod operations;
pub mod peer;
pub mod point;
pub mod recovery_points;
pub mod seed;
pub mod settings;
pub mod token;
pub mod utc;
pub mod vm;
pub mod vm_service;
pub mod vm_set;
pub mod wait;

pub use failure::Failure;
pub use operations::{Caller, Operations, Stream};
pub use utc::Utc;
pub use wait::WaitSeconds;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
