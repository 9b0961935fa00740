//! The CAP's own address, for `cluster status`, `broker status` and `doctor`: what this node knows itself, and what the
//! others say of themselves.

use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Target;
use landfall_proto::id::{MemberId, NodeName};
use landfall_proto::model::CapAddress;
use landfall_store::State;
use tokio::time::{Instant, timeout_at};

use crate::decide::cap_address_findings::CapAddressFact;
use crate::drive::gossip::CapAddressFacts;
use crate::drive::node::Node;
use crate::drive::reach::{self, Way};
use crate::surface::cap_address::CapAddressStatus;

/// What a member says of it; this node's own is known at once.
pub fn facts(node: &Node, member: MemberId) -> Option<CapAddressFacts> {
    match &node.cap_address {
        Some(keeper) if member == node.me => Some(keeper.facts()),
        _ => {
            let view = node.view.borrow();
            let seen = view.get(&member).filter(|seen| seen.live)?;
            seen.facts.as_ref().map(|facts| facts.cap_address.clone())
        }
    }
}

/// Where the address is; `owner` is who owns the CAP, as far as this node can tell. `None` where the CAP has none.
pub fn status(node: &Node, state: &State, owner: Option<&NodeName>) -> Option<CapAddressStatus> {
    let cap = state.found.as_ref()?.cap_address.as_ref()?;
    let member = owner.and_then(|owner| state.member_named(owner)).map(|member| member.id);
    let said = member.and_then(|member| facts(node, member)).unwrap_or_default();
    let configured = node.config.cap_interface.as_ref().unwrap_or(cap.interface());
    Some(CapAddressStatus {
        addresses: cap.addresses().to_vec(),
        port: cap.port(),
        interface: configured.clone(),
        holder: owner.filter(|_| said.held).cloned(),
        fault: said.fault,
        foreign: said.foreign,
    })
}

/// The same for `doctor`.
pub fn fact(node: &Node, state: &State, owner: Option<&NodeName>) -> Option<CapAddressFact> {
    let status = status(node, state, owner)?;
    let member = owner.and_then(|owner| state.member_named(owner)).map(|member| member.id);
    Some(CapAddressFact {
        cap: state.cap()?.to_string(),
        addresses: status.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        owner: owner.map(|owner| (owner.to_string(), status.holder.is_some())),
        fault: status.fault,
        foreign: status.foreign,
        unannounced: member.and_then(|member| facts(node, member)?.unannounced),
        unfit: unfit(node, state)
            .into_iter()
            .filter(|(name, _)| Some(name) != owner)
            .map(|(name, why)| (name.to_string(), why))
            .collect(),
        dialled: Vec::new(),
    })
}

/// Dials each of the addresses from here, whoever answers.
pub async fn dial(node: &Node, state: &State, end: Instant) -> Vec<(String, Option<String>)> {
    let Some(found) = &state.found else { return Vec::new() };
    let mut dialled = Vec::new();
    for address in found.cap_address.iter().flat_map(CapAddress::sockets) {
        let target = Target { cap: found.cap.clone(), address, key: None };
        let way = Way { target, alpn: Alpn::Control };
        let why = match timeout_at(end, reach::dial(node, &way)).await {
            Ok(reached) => reached.err(),
            Err(_) => Some("there was no answer in time".to_owned()),
        };
        dialled.push((address.to_string(), why));
    }
    dialled
}

/// The members that could not have it, and why.
pub fn unfit(node: &Node, state: &State) -> Vec<(NodeName, String)> {
    let has_one = state.found.as_ref().is_some_and(|found| found.cap_address.is_some());
    let hosts = state.members.values().filter(|member| has_one && !member.witness);
    hosts.filter_map(|member| Some((member.node.clone(), facts(node, member.id)?.fault?))).collect()
}
