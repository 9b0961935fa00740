//! What this node says of itself.

use landfall_store::State;

use super::facts::{Facts, StorageFacts, VmServiceFacts};
use crate::drive::node::Node;

/// Keys in two hands that a node tells the others of: one is an alarm.
const TWINS_TOLD: usize = 8;

/// Quarantined nodes that an owner tells of: what it says has a bound, and where so many come and go it is the network.
const QUARANTINES_TOLD: usize = 32;

/// What this node says of itself now.
pub fn own_words(node: &Node, state: &State) -> Facts {
    let (word, reason) = node.vms.standing().words();
    let storage = node.vms.storage();
    let replicas = state.replicas.values().filter(|replica| replica.receiver() == node.me).count();
    Facts {
        vm_service: VmServiceFacts { state: word.to_owned(), reason },
        storage: storage.into_iter().map(|room| StorageFacts::new(room.name, room.free_bytes, room.fault)).collect(),
        settings_revision: node.vms.watch().borrow().applied,
        applied: state.applied,
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cap_address: node.cap_address.as_ref().map(|keeper| keeper.facts()).unwrap_or_default(),
        lost: node.down.borrow().keys().copied().collect(),
        twins: node.twins.borrow().iter().take(TWINS_TOLD).cloned().collect(),
        rolled_back: node.gate.loss(),
        quarantined: node.quarantines.told(node).into_iter().take(QUARANTINES_TOLD).collect(),
    }
}
