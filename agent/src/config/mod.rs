//! The configuration file of one node: strict TOML in, a [`NodeConfig`] without invalid values out.
//!
//! Unknown keys, bad values and missing keys are all told at once, each with its line ([`Faults`]). What concerns the
//! whole cluster is a setting of the committed state and has no key here.

pub(crate) mod document;
mod fault;
mod node;

pub use fault::{Fault, Faults};
pub use node::{NodeConfig, StorageConfig, Testing, VmServiceConfig};
