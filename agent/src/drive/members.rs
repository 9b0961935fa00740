//! Members as addresses: from the committed state to something that can be called.

use landfall_proto::Refusal;
use landfall_proto::endpoint::Target;
use landfall_proto::id::{Fqdn, MemberId};
use landfall_proto::model::{Member, MemberList};
use landfall_store::State;

use crate::drive::node::Node;
use crate::drive::propose::no_quorum;

/// The control endpoint of a member of this cluster.
pub fn control_target(state: &State, member: MemberId) -> Option<Target> {
    let member = state.members.get(&member)?;
    Some(target_of(state.cap()?, member, member.control))
}

/// The control endpoint of the owner as consensus has it, where that is another node.
pub fn owner_target(node: &Node) -> Result<Target, Refusal> {
    let leader = node.consensus.status().leader.filter(|leader| *leader != node.me).ok_or_else(no_quorum)?;
    control_target(&node.state(), leader).ok_or_else(no_quorum)
}

/// The data endpoint of a member of this cluster.
pub fn data_target(state: &State, member: MemberId) -> Option<Target> {
    let member = state.members.get(&member)?;
    Some(target_of(state.cap()?, member, member.data))
}

/// The other members that may have the keys of the cluster's CA: all but witnesses.
pub fn issuers(state: &State, me: MemberId) -> impl Iterator<Item = &Member> {
    state.members.values().filter(move |member| !member.witness && member.id != me)
}

/// The control endpoints of a peer's members.
pub fn peer_targets(list: &MemberList) -> Vec<Target> {
    list.members.iter().map(|member| target_of(&list.cap, member, member.control)).collect()
}

fn target_of(cap: &Fqdn, member: &Member, address: std::net::SocketAddr) -> Target {
    Target { cap: cap.clone(), address, key: Some(member.key) }
}
