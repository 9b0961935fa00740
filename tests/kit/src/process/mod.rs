//! Real agents on this machine: their files, ports, processes and faults.
//!
//! A [`Cluster`] starts agents from the binary that a test names, each a [`Node`] with a folder, a configuration file, two
//! UDP ports and a log of its own. Everything that an agent starts (VM service, guests) carries the run's mark in its
//! environment and is killed when the cluster is dropped, or by a guardian process when the test itself is killed.
//!
//! Calls block; a test with a runtime of its own makes them on a blocking thread. What goes wrong fails the test with
//! the command, its output and the end of every node's log.

mod cluster;
mod command;
mod eventually;
mod family;
mod folder;
mod guardian;
mod limp;
mod node;
mod pairing;
mod port;
mod relay;

pub use cluster::{Cluster, ClusterBuilder};
pub use command::{Answer, Failure};
pub use eventually::{Outcome, eventually};
pub use family::Family;
pub use folder::VmFolder;
pub use limp::Limp;
pub use node::{Node, NodeSpec};
pub use pairing::pair;
pub use port::PortPair;
pub use relay::{Port, Relay};

#[cfg(test)]
mod tests;
