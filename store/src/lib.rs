//! The committed state of a Landfall cluster: sled made durable, the consensus log, settings, the change feed.
//!
//! [`kv`] says what a store must promise; [`durable_sled`] keeps that promise on disk, [`memory_kv`] in a simulator.
//! [`consensus`] keeps its log there and applies it to [`state::State`], which every agent of the cluster has alike.
//! [`feed`] turns what was applied into a stream of settings changes. Nothing here knows a socket or a VM.

pub mod consensus;
pub mod durable_sled;
pub mod feed;
pub mod files;
pub mod kv;
pub mod limits;
pub mod memory_kv;
mod rows;
pub mod settings;
pub mod state;
mod unopened;

pub use consensus::{Applied, Consensus, ProposeError, Status, Wire, WireError};
pub use kv::{Batch, Health, Kv, KvError};
pub use settings::Settings;
pub use state::State;
