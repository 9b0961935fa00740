//! The cluster's CA, and its rotation.

use landfall_proto::id::{ClusterName, Fqdn, NodeName};
use serde::{Deserialize, Serialize};

use crate::surface::hex::KeyHex;
use crate::surface::{Utc, WaitSeconds};

/// `cluster rotate-ca`: has a new CA take the present one's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRotateCa {
    /// Only say what would be done, and what stands in the way.
    #[serde(default)]
    pub dry_run: bool,
    /// End the rotation that is under way without those that have not followed.
    #[serde(default)]
    pub finish: bool,
    /// Wait until the old CA is retired.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// The answer of `cluster rotate-ca`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRotation {
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether anything was done; false where only that was asked.
    pub rotated: bool,
    /// Its CAs, as they are now.
    pub ca: CaStatus,
    /// Nodes that did not get the new CA's key, or would not: they ask for it once they are back.
    pub missed: Vec<NodeName>,
    /// Nodes and peers that were given up, a sentence each with what to do there.
    pub given_up: Vec<String>,
}

/// The cluster's CAs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// The fingerprint of the one that counts; while it is rotated, of the old one.
    pub present: KeyHex,
    /// The rotation that is under way.
    pub rotation: Option<CaRotation>,
}

/// A new CA that is taking the old one's place: both count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRotation {
    /// The fingerprint of the new CA.
    pub next: KeyHex,
    /// When it began.
    pub begun_at: Utc,
    /// When the old one is retired at the latest, whoever has not followed.
    pub ends_by: Utc,
    /// Members with a certificate of the new CA.
    pub renewed: Vec<NodeName>,
    /// Members without one.
    pub waits_for_nodes: Vec<NodeName>,
    /// Peers that have committed the new CA.
    pub followed: Vec<Fqdn>,
    /// Peers that have not.
    pub waits_for_peers: Vec<Fqdn>,
}
