//! Clusters that this one is paired with.

use std::net::SocketAddr;

use landfall_proto::id::{ClusterName, Fqdn, NodeName, Position};
use serde::{Deserialize, Serialize};

use crate::surface::hex::KeyHex;
use crate::surface::vm::{Health, NamedVm};
use crate::surface::{Utc, WaitSeconds};

/// `peer invite`: makes a pairing code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerInvite {
    /// For how long the code admits a peer; [`crate::surface::token::TTL_DEFAULT_SECONDS`] where none is given.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

/// The answer of `peer invite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInvited {
    /// The code, for `peer accept` at the other cluster. It is a secret.
    pub code: String,
    /// Past this time it admits nobody.
    pub expires_at: Utc,
}

/// `peer accept`: pairs with the cluster that made the code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAccept {
    /// What `peer invite` printed there.
    pub code: String,
    /// Wait until both clusters have the other's member list.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

impl std::fmt::Debug for PeerAccept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerAccept { code: <secret> }")
    }
}

/// A row of `peer list`, and the answer of `peer accept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its client access point: what it is known by.
    pub cap: Fqdn,
    /// Its display name.
    pub cluster: ClusterName,
    /// Warning where its member list is older than a day: its nodes are then served the list exchange only.
    pub health: Health,
    /// Why it is not normal.
    pub health_reasons: Vec<String>,
    /// The fingerprint of its CA, the only one under which its name is believed; while it rotates its CA, of the new one.
    pub ca_key: KeyHex,
    /// The position of its member list, in its own cluster.
    pub position: Position,
    /// When one of its members last confirmed the list.
    pub confirmed_at: Utc,
    /// Its members.
    pub members: Vec<PeerMember>,
}

/// A member of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerMember {
    /// Its name.
    pub node: NodeName,
    /// Its control address.
    pub address: SocketAddr,
    /// Whether it is a witness.
    pub witness: bool,
}

/// The answer of `peer remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRemoved {
    /// The peer that is forgotten.
    pub cap: Fqdn,
    /// The VMs replicated with it, either way: their replication stopped.
    pub stopped: Vec<NamedVm>,
}
