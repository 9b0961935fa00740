//! Nodes: the members with what gossip says of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use landfall_proto::id::{Fqdn, MemberId, NodeName, Position, Revision, StorageName, VmId};
use serde::{Deserialize, Serialize};

use crate::surface::Utc;
use crate::surface::hex::KeyHex;

/// What a member is to the cluster's consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// It votes and may own the CAP.
    Voter,
    /// It follows the log without a vote, and may hold replicas.
    Learner,
    /// It votes and stores the log; it hosts no VM and owns no CAP.
    Witness,
}

/// Whether a node answers. A hint from gossip; `drained` is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It answers.
    Up,
    /// Its heartbeats are late.
    Suspect,
    /// It is held for lost.
    Down,
    /// It takes no new replicas.
    Drained,
}

/// What a node's VM service is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmServiceState {
    /// It works.
    Running,
    /// It has not reported for five seconds.
    Stopped,
    /// It works in part; the reason says what does not.
    Degraded,
    /// The node has none: a witness.
    None,
}

/// A row of `node list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// Its member id.
    pub id: MemberId,
    /// What it is to consensus.
    pub role: MemberRole,
    /// Whether it answers.
    pub state: NodeState,
    /// What its VM service is doing.
    pub vm_service: VmServiceState,
    /// Why the VM service is not running, where it is not.
    pub vm_service_reason: Option<String>,
    /// The revision that its VM service has applied, as far as this agent knows.
    pub settings_revision: Option<Revision>,
    /// Replicas that it holds.
    pub replicas: u32,
    /// Room for replicas over all its storage locations; null where it is not known.
    pub free_bytes: Option<u64>,
    /// Why it gets nothing new for a while; null where it does.
    pub quarantine: Option<NodeQuarantine>,
}

/// Why a node that comes and goes is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeQuarantine {
    /// The reason.
    pub reason: String,
    /// When it ends if the node stays; null while the node is not seen.
    pub until: Option<Utc>,
}

/// `node show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDetail {
    /// What `node list` shows.
    #[serde(flatten)]
    pub status: NodeStatus,
    /// The name in its certificate.
    pub fqdn: Fqdn,
    /// The fingerprint of its key.
    pub key: KeyHex,
    /// Its control address.
    pub address: SocketAddr,
    /// Its data address.
    pub data_address: SocketAddr,
    /// Its software's version, as it says itself.
    pub version: Option<String>,
    /// How far it has applied the log, as it says itself.
    pub applied: Option<Position>,
    /// Its storage locations, as it says itself.
    pub storage: Vec<StorageRoom>,
}

/// Room at one storage location of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageRoom {
    /// Its name.
    pub name: StorageName,
    /// Its folder; null where only the room is known.
    pub path: Option<PathBuf>,
    /// Bytes free.
    pub free_bytes: u64,
    /// Why nothing can be stored there just now.
    pub fault: Option<String>,
}

/// The answer of `node drain` and `node restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDrained {
    /// The node.
    pub node: NodeName,
    /// Its member id.
    pub id: MemberId,
    /// How it stands now: `drained` where it is drained and answers.
    pub state: NodeState,
    /// Whether it owns the CAP, which leaves it, too.
    pub owner: bool,
    /// The replicas that it still has, and what becomes of them.
    pub remaining: Vec<RemainingReplica>,
}

/// A replica that a drained node still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemainingReplica {
    /// The VM.
    pub uuid: VmId,
    /// Its name.
    pub name: String,
    /// Why it stays at the node; null where it is moved away, one after the other.
    pub stays: Option<String>,
}

/// The answer of `node remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRemoved {
    /// The node that is no member any more.
    pub node: NodeName,
    /// Its member id, which will not be used again.
    pub id: MemberId,
}
