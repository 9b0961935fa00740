//! The broker: who answers primaries.

use std::net::IpAddr;

use landfall_proto::id::{Fqdn, NodeName, Term};
use serde::{Deserialize, Serialize};

use crate::surface::Utc;

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
}
