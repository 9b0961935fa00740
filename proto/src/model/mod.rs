//! The nouns of the committed state, as they stand in the log, in snapshots and in messages.
//!
//! These types are formats: a changed field changes old bytes, so the golden files of `proto/tests/golden` hold them.

mod adapter_addresses;
mod address;
mod authorization;
mod bandwidth;
mod branch;
mod cap_address;
mod command;
mod member;
mod network;
mod promotion;
mod relationship;
mod right;
mod succession;
mod vm;

pub use adapter_addresses::{AddressFault, AddressList, Addresses};
pub use address::{Family, HostAddress, IpAddr, Subnet, unusable};
pub use authorization::{AuthorizationEntry, Ticket, TicketKind};
pub use bandwidth::{Bandwidth, Rate};
pub use branch::{Return, Rival, Side};
pub use cap_address::CapAddress;
pub use command::{Answer, Command, Outcome, Proposal};
pub use member::{Found, LogMark, Member, MemberList, Peer, Timing};
pub use network::{NetworkChange, NetworkRule};
pub use promotion::{
    Departure, DepartureState, FailoverKind, FailoverStep, HandOff, Loss, PointName, Promotion, PromotionId,
    PromotionState, TestRun,
};
pub use relationship::{Frequency, Handover, Joiner, Primary, Replica, Stop};
pub use right::{Right, UnknownRight};
pub use succession::{CaLine, Succession};
pub use vm::{Adapter, AdapterKind, DiskSpec, Launch, LaunchImage, VmSpec};
