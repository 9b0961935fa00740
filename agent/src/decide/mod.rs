//! Every decision of the agent, as a plain function of what is committed, what is seen, the time and a seed.
//!
//! Nothing here waits, starts, reads a clock, draws a random number, or iterates in an order that differs from run to
//! run. `drive/` gathers what a decision needs, asks, and carries out the answer; a decision that turned out wrong can be
//! replayed from its arguments alone. The lint below makes that a build failure, with the list in `clippy.toml`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod allowance;
pub mod cap_address;
pub mod cap_address_findings;
pub mod copies;
pub mod cycle;
pub mod disk_size;
pub mod doctor;
pub mod drain;
pub mod failover;
pub mod farewell;
pub mod flapping;
pub mod flight;
pub mod health;
pub mod health_rules;
pub mod lease;
pub mod leftover;
pub mod network;
pub mod node_loss;
pub mod pacing;
pub mod packing;
pub mod peer_list;
pub mod placement;
pub mod points;
pub mod proposing;
pub mod ration;
pub mod reason;
pub mod recovery;
pub mod renewal;
pub mod resync;
pub mod rollback;
pub mod rotation;
pub mod rotation_findings;
pub mod seed;
pub mod sender;
pub mod standing;
pub mod succession;
pub mod twins;
pub mod voters;
pub mod window;
