//! The members as decisions see them: what is committed, joined with what gossip says.

use std::collections::BTreeMap;

use landfall_proto::id::{MemberId, VmId};
use landfall_store::State;

use crate::decide::flapping::Quarantined;
use crate::decide::placement::{Candidate, Room, Standing, promised_bytes};
use crate::drive::gossip::Seen;
use crate::drive::node::Node;

/// What an owner's own choice for `vm` is drawn by: another one once something else is committed. `purpose` separates the
/// choices from each other.
pub fn draw(state: &State, vm: VmId, purpose: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(&state.found.as_ref().map_or(0, |found| found.cluster_id).to_le_bytes());
    hasher.update(vm.0.as_bytes());
    hasher.update(&state.applied.number().to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Every member as a candidate for placing the replica of `vm`, by id.
pub fn candidates(node: &Node, vm: VmId) -> Vec<Candidate> {
    let state = node.state();
    let view = node.view.borrow().clone();
    let (nothing, quarantined) = (Seen::default(), node.quarantines.held());
    state
        .members
        .values()
        .map(|member| {
            let seen = view.get(&member.id).unwrap_or(&nothing);
            let facts = seen.facts.clone().unwrap_or_default();
            let fault = match facts.vm_service.state.as_str() {
                "running" => None,
                "" => Some("has not been heard of".to_owned()),
                other => Some(match &facts.vm_service.reason {
                    Some(reason) => format!("is {other}: {reason}"),
                    None => format!("is {other}"),
                }),
            };
            Candidate {
                member: member.id,
                node: member.node.clone(),
                witness: member.witness,
                standing: if seen.live { Standing::Up } else { Standing::Suspect },
                drained: state.drained.contains(&member.id),
                kept_out: facts.rolled_back.map(|_| "was rolled back and takes no part".to_owned()),
                quarantine: quarantined.get(&member.id).map(Quarantined::reason),
                vm_service_fault: fault,
                rooms: facts
                    .storage
                    .into_iter()
                    .map(|room| Room {
                        promised_bytes: promised_bytes(state.replicas.values(), vm, member.id, &room.name),
                        name: room.name,
                        free_bytes: room.free_bytes,
                        fault: room.fault,
                    })
                    .collect(),
            }
        })
        .collect()
}

/// Which members gossip holds for live, this node always included.
pub fn live(node: &Node) -> BTreeMap<MemberId, bool> {
    let view = node.view.borrow();
    node.state()
        .members
        .keys()
        .map(|member| (*member, *member == node.me || view.get(member).is_some_and(|seen| seen.live)))
        .collect()
}
