//! `network`: failover addresses and rules of subnets, and what they would come to.

use landfall_proto::id::{Fqdn, VmId};
use landfall_proto::model::{Addresses, Command, Family, NetworkChange, NetworkRule, Replica};
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use super::census::resolve;
use crate::decide::network::{AdapterPlan, Origin, Planned, plan};
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::surface::network::{
    AdapterNetwork, AddressSource, FamilyPreview, NetworkClear, NetworkMapAdd, NetworkMapRemove, NetworkMapRule,
    NetworkSet, NetworkStatus,
};
use crate::surface::vm::VmSelector;
use crate::vm_service::VmRole;

/// What each adapter would have.
pub async fn show(node: &Node, vm: &VmSelector) -> Result<NetworkStatus, Refusal> {
    let id = resolve(node, vm).await?;
    status(&node.state(), id)
}

/// Gives an adapter its failover addresses.
pub async fn set(node: &Node, vm: &VmSelector, request: NetworkSet) -> Result<NetworkStatus, Refusal> {
    let NetworkSet { adapter, addresses, gateways, dns } = request;
    let addresses = Addresses { addresses, gateways, dns };
    let told = format!("adapter {} gets failover addresses", quoted(&adapter));
    change(node, vm, told, |vm| NetworkChange::Set { vm, adapter, addresses }).await
}

/// Takes them away.
pub async fn clear(node: &Node, vm: &VmSelector, request: NetworkClear) -> Result<NetworkStatus, Refusal> {
    let NetworkClear { adapter, families } = request;
    let families = if families.is_empty() { Family::BOTH.to_vec() } else { families };
    let told = format!("failover addresses of adapter {} are cleared", quoted(&adapter));
    change(node, vm, told, |vm| NetworkChange::Clear { vm, adapter, families }).await
}

async fn change(
    node: &Node,
    vm: &VmSelector,
    told: String,
    change: impl FnOnce(VmId) -> NetworkChange,
) -> Result<NetworkStatus, Refusal> {
    let id = resolve(node, vm).await?;
    node.proposer.commit(Command::Network(Box::new(change(id)))).await?;
    node.events.record(Happening::info("network_changed", told).vm(id).node(&node.name));
    status(&node.state(), id)
}

fn status(state: &State, vm: VmId) -> Result<NetworkStatus, Refusal> {
    let (spec, role, peer) = match (state.replicas.get(&vm), state.primaries.get(&vm)) {
        (Some(replica), _) => (&replica.vm, VmRole::Replica, replica.primary.clone()),
        (None, Some(primary)) => (&primary.vm, VmRole::Primary, primary.to.clone()),
        (None, None) => {
            let message = format!("VM {vm} is not replicated, so it has no failover addresses");
            return Err(Refusal::new(Class::Refused, "not_replicated", message)
                .field("vm")
                .remedy("enable its replication first: `landfall vm enable`, at the primary's cluster"));
        }
    };
    // What a primary will have when it comes home is not known yet: only what is set here is.
    let mut adapters = spec.adapters.clone();
    if role == VmRole::Primary {
        adapters.iter_mut().for_each(|adapter| adapter.network = Addresses::default());
    }
    let plans = plan(&adapters, &state.addresses_of(vm).collect(), &state.rules_for(&peer));
    let rows = plans.iter().zip(&spec.adapters).map(|(plan, now)| {
        let set = state.failover_addresses.get(&(vm, now.name.clone())).cloned().unwrap_or_default();
        let [ipv4, ipv6] = plan.families.each_ref().map(|(_, planned)| preview(planned, role, &peer));
        let (adapter, mac) = (now.name.clone(), now.mac.clone());
        AdapterNetwork { adapter, kind: now.kind, mac, now: now.network.clone(), set, ipv4, ipv6 }
    });
    let gone = state.addresses_of(vm).filter(|(name, _)| !spec.adapters.iter().any(|adapter| adapter.name == *name));
    let gone = gone.map(|(name, _)| {
        format!("adapter {} has addresses here, but the VM has no such adapter any more", quoted(name))
    });
    let left = plans.iter().flat_map(|plan| {
        plan.left_static().map(|family| {
            format!("adapter {} has a static {family} address and none for a failover", quoted(&plan.adapter.name))
        })
    });
    let warnings = gone.chain(left).collect();
    let adapters = rows.collect();
    Ok(NetworkStatus { uuid: vm, name: spec.name.to_string(), role, peer, adapters, warnings })
}

fn preview(planned: &Planned, role: VmRole, peer: &Fqdn) -> FamilyPreview {
    let (source, reason) = match planned.origin {
        Origin::Setting => (AddressSource::Setting, "set here for this adapter".to_owned()),
        Origin::Rule((from, to)) => (AddressSource::Rule, format!("{to} stands here for {from} of {peer}")),
        Origin::Primary => (AddressSource::Primary, "the primary has it, and nothing here says otherwise".to_owned()),
        Origin::Unknown if role == VmRole::Primary => {
            let told = format!("what it has at {peer} when it comes home, by the rules for {peer}");
            (AddressSource::Unknown, told)
        }
        Origin::Unknown => {
            let told = "the primary's vm.toml does not say: the guest keeps what it has, or asks for an address";
            (AddressSource::Unknown, told.to_owned())
        }
    };
    let Addresses { addresses, gateways, dns } = planned.addresses.clone();
    FamilyPreview { source, addresses, gateways, dns, reason }
}

/// The adapters of a replica as its failover brings them up.
pub fn planned(state: &State, replica: &Replica) -> Vec<AdapterPlan> {
    plan(&replica.vm.adapters, &state.addresses_of(replica.vm.id).collect(), &state.rules_for(&replica.primary))
}

/// What a failover's plan says of addresses: a step for each adapter that gets other ones, and a warning for each that
/// keeps a static one.
pub fn told(state: &State, replica: &Replica) -> (Vec<String>, Vec<String>) {
    let (mut steps, mut warnings) = (Vec::new(), Vec::new());
    for plan in planned(state, replica) {
        let name = quoted(&plan.adapter.name);
        for (_, Planned { origin, addresses }) in &plan.families {
            if matches!(origin, Origin::Setting | Origin::Rule(_)) {
                let given: Vec<String> = addresses.addresses.iter().map(ToString::to_string).collect();
                let why = if *origin == Origin::Setting { "as set here" } else { "by a rule of subnets" };
                steps.push(format!("tell the guest that adapter {name} has {}, {why}", given.join(", ")));
            }
        }
        for family in plan.left_static() {
            warnings.push(format!(
                "adapter {name} has a static {family} address at the primary and no failover address: see `landfall \
                 network set`"
            ));
        }
    }
    (steps, warnings)
}

/// Every rule, by peer.
pub fn map_list(node: &Node) -> Vec<NetworkMapRule> {
    let state = node.state();
    let rules = state.network_rules.iter();
    rules.map(|((peer, from), to)| NetworkRule { peer: peer.clone(), from: *from, to: *to }).collect()
}

/// Adds a rule.
pub async fn map_add(node: &Node, request: NetworkMapAdd) -> Result<NetworkMapRule, Refusal> {
    let NetworkMapAdd { peer, from, to } = request;
    let state = node.state();
    let peer = match (peer, state.peers.keys().collect::<Vec<_>>().as_slice()) {
        (Some(peer), _) => peer,
        (None, [only]) => (*only).clone(),
        (None, peers) => {
            let message = format!("this cluster has {} peers: one must be named", peers.len());
            return Err(Refusal::new(Class::Usage, "no_peer", message)
                .field("peer")
                .remedy("give --peer CAP; `landfall peer list` shows them"));
        }
    };
    let rule = NetworkRule { peer, from, to };
    node.proposer.commit(Command::Network(Box::new(NetworkChange::AddRule(rule.clone())))).await?;
    let told = format!("{to} stands here for {from} of {}", rule.peer);
    node.events.record(Happening::info("network_changed", told).node(&node.name));
    Ok(rule)
}

/// Removes a rule.
pub async fn map_remove(node: &Node, request: NetworkMapRemove) -> Result<NetworkMapRule, Refusal> {
    let NetworkMapRemove { peer, from } = request;
    let rules = map_list(node);
    let mut named =
        rules.into_iter().filter(|rule| rule.from == from && peer.as_ref().is_none_or(|cap| *cap == rule.peer));
    let remedy = "`landfall network map list` shows the rules, as they must be named";
    let rule =
        named.next().ok_or_else(|| Refusal::not_found("rule", &from.to_string()).field("from").remedy(remedy))?;
    if named.next().is_some() {
        let message = format!("several peers have a rule for {from}");
        return Err(Refusal::new(Class::Usage, "no_peer", message).field("peer").remedy("give --peer CAP"));
    }
    let change = NetworkChange::RemoveRule { peer: rule.peer.clone(), from };
    node.proposer.commit(Command::Network(Box::new(change))).await?;
    let told = format!("nothing stands here for {from} of {} any more", rule.peer);
    node.events.record(Happening::info("network_changed", told).node(&node.name));
    Ok(rule)
}
