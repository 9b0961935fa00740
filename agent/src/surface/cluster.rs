//! The cluster: its members and whether it can decide.

use std::net::SocketAddr;
use std::path::PathBuf;

use landfall_proto::id::{ClusterName, Fqdn, InterfaceName, MemberId, NodeName, Revision, Term};
use landfall_proto::model::HostAddress;
use serde::{Deserialize, Serialize};

use crate::surface::WaitSeconds;
use crate::surface::ca::CaStatus;
use crate::surface::cap_address::CapAddressStatus;
use crate::surface::failure::ErrorBody;
use crate::surface::node::{MemberRole, NodeState};

/// `cluster init`: founds a cluster with this agent as its only member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterInit {
    /// The cluster's display name.
    pub name: ClusterName,
    /// The name of its client access point.
    pub cap: Fqdn,
    /// Its own address, which moves with its owner: with its mask, one of each family at most. None where empty.
    #[serde(default)]
    pub cap_address: Vec<HostAddress>,
    /// The interface that has it, on every node whose file names no other one.
    #[serde(default)]
    pub cap_interface: Option<InterfaceName>,
}

/// `cluster join`: makes this agent a member of an existing cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterJoin {
    /// What `token create` printed there.
    pub token: String,
}

impl std::fmt::Debug for ClusterJoin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterJoin { token: <secret> }")
    }
}

/// `cluster leave`: takes the asked agent's node out of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterLeave {
    /// Leave even where the cluster loses its quorum, or the only copy of something.
    #[serde(default)]
    pub force: bool,
    /// How long its replicas may take to be moved away.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// The answer of `cluster leave`: the agent belongs to no cluster now, and waits for init or join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterLeft {
    /// The node.
    pub node: NodeName,
    /// The cluster that it has left.
    pub cluster: ClusterName,
    /// The folder with the state that it had as a member, its key included.
    pub set_aside: PathBuf,
    /// What force left to be done.
    pub warnings: Vec<String>,
}

/// `cluster recover`: begins the cluster's next life with the asked agent's node alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRecover {
    /// The operator is sure that the others are gone for good, and knows what is given up.
    #[serde(default)]
    pub yes: bool,
    /// Only say what would be given up.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer of `cluster recover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecovered {
    /// The node.
    pub node: NodeName,
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether it was done; false where only that was asked.
    pub recovered: bool,
    /// The cluster's life, counted from 0: the one that has begun, or would begin.
    pub incarnation: u16,
    /// The members that are none any more, or would be.
    pub removed: Vec<NodeName>,
    /// What is given up, a sentence each.
    pub lost: Vec<String>,
    /// What to do afterwards, a sentence each.
    pub next: Vec<String>,
    /// Why it would be refused.
    pub blockers: Vec<ErrorBody>,
}

/// `cluster status`: the cluster as the asked agent sees it. Also the answer of `cluster init` and `cluster join`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's display name.
    pub cluster: ClusterName,
    /// The name of its client access point.
    pub cap: Fqdn,
    /// The agent that answers.
    pub node: NodeName,
    /// What it is in the cluster.
    pub role: MemberRole,
    /// The agent that owns the CAP now, where this one knows of one.
    pub owner: Option<NodeName>,
    /// The owner's term.
    pub term: Option<Term>,
    /// Whether this agent has heard from a majority of the voters within a lease.
    pub quorate: bool,
    /// The revision of the settings that this agent has applied.
    pub settings_revision: Revision,
    /// Every member, by id.
    pub members: Vec<MemberStatus>,
    /// The CAP's own address; null where it has none.
    pub cap_address: Option<CapAddressStatus>,
    /// Its CA, and the rotation of it that is under way.
    pub ca: CaStatus,
    /// How many voters may be lost at once before the cluster stops deciding.
    pub tolerates_losses: u32,
    /// What an operator should know, a sentence each: two voters that survive no loss, a clock that is off.
    pub warnings: Vec<String>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub node: NodeName,
    /// Its member id.
    pub id: MemberId,
    /// Whether it votes.
    pub role: MemberRole,
    /// Whether it answers.
    pub state: NodeState,
    /// Its control address.
    pub address: SocketAddr,
}
