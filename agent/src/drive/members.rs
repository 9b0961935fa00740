//! Members as addresses: from the committed state to something that can be called.

use landfall_proto::endpoint::Target;
use landfall_proto::id::{Fqdn, MemberId};
use landfall_proto::model::{Member, MemberList};
use landfall_store::State;

/// The control endpoint of a member of this cluster.
pub fn control_target(state: &State, member: MemberId) -> Option<Target> {
    let member = state.members.get(&member)?;
    Some(target_of(state.cap()?, member, member.control))
}

/// The data endpoint of a member of this cluster.
pub fn data_target(state: &State, member: MemberId) -> Option<Target> {
    let member = state.members.get(&member)?;
    Some(target_of(state.cap()?, member, member.data))
}

/// The control endpoints of a peer's members.
pub fn peer_targets(list: &MemberList) -> Vec<Target> {
    list.members.iter().map(|member| target_of(&list.cap, member, member.control)).collect()
}

fn target_of(cap: &Fqdn, member: &Member, address: std::net::SocketAddr) -> Target {
    Target { cap: cap.clone(), address, key: Some(member.key) }
}
