//! Failover addresses, as a cluster's log has them: what a VM has where this cluster brings it up.

use serde::{Deserialize, Serialize};

use crate::id::{Fqdn, VmId};
use crate::model::{Addresses, Family, Subnet};

/// Addresses of VMs that come from a peer: whoever has one in `from` there gets the one with the same host bits in `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRule {
    /// The peer's CAP.
    pub peer: Fqdn,
    /// The subnet there.
    pub from: Subnet,
    /// The subnet here, of the same length.
    pub to: Subnet,
}

/// A change of failover addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkChange {
    /// Gives an adapter its failover addresses; families that are not among them stay as they are.
    Set {
        /// The VM.
        vm: VmId,
        /// The adapter, by name or hardware address.
        adapter: String,
        /// What it has after a failover.
        addresses: Addresses,
    },
    /// Takes the failover addresses of some families away from an adapter.
    Clear {
        /// The VM.
        vm: VmId,
        /// The adapter, by name or hardware address.
        adapter: String,
        /// The families.
        families: Vec<Family>,
    },
    /// Adds a rule.
    AddRule(NetworkRule),
    /// Removes the rule of a peer and subnet there.
    RemoveRule {
        /// The peer's CAP.
        peer: Fqdn,
        /// The subnet there.
        from: Subnet,
    },
}
