//! The CAP's own address: where it is, and what is wrong with it.

use landfall_proto::id::{InterfaceName, NodeName};
use landfall_proto::model::HostAddress;
use serde::{Deserialize, Serialize};

/// The CAP's own address, as the asked agent knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapAddressStatus {
    /// The addresses with their masks, one of each family at most.
    pub addresses: Vec<HostAddress>,
    /// The control port at which the owner answers there.
    pub port: u16,
    /// The interface that has it on the asked node while that owns the CAP.
    pub interface: InterfaceName,
    /// The owner, where it has the address; null while nobody has.
    pub holder: Option<NodeName>,
    /// Why the owner does not have it.
    pub fault: Option<String>,
    /// The link-layer address of somebody else who has it as well.
    pub foreign: Option<String>,
}
