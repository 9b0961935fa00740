//! The broker: who answers primaries.

use std::net::IpAddr;

use landfall_proto::id::{Fqdn, NodeName, Term};
use serde::{Deserialize, Serialize};

use crate::surface::Utc;
use crate::surface::cap_address::CapAddressStatus;

/// `broker status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// The name of the client access point.
    pub cap: Fqdn,
    /// The agent that owns it now; null while there is none.
    pub owner: Option<NodeName>,
    /// Since when, by the owner's clock.
    pub owner_since: Option<Utc>,
    /// The position of its claim: the fencing token of everything it does.
    pub term: Option<Term>,
    /// The CAP's own address; null where it has none.
    pub address: Option<IpAddr>,
    /// All there is to know of it; null where the CAP has none.
    pub cap_address: Option<CapAddressStatus>,
}

/// `broker move`: gives the CAP to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerMove {
    /// The node that is to own it.
    pub to: NodeName,
}

/// The answer of `broker move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerMoved {
    /// The name of the client access point.
    pub cap: Fqdn,
    /// The agent that owns it now.
    pub owner: NodeName,
    /// The position of its claim.
    pub term: Term,
    /// For how long nobody acted, at most: from when the old owner stopped until it had heard that the new one acts; 0
    /// where that node owned it already.
    pub gap_ms: u64,
}
