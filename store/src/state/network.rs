//! Failover addresses: what a VM's adapters have where this cluster brings it up.
//!
//! They belong to the relationship, at either side: a replica's cluster uses its own at a failover, and the primary's its
//! own when the VM comes home. They stay while the VM is a primary or a replica here, whichever of both it becomes.

use landfall_proto::id::{Fqdn, VmId};
use landfall_proto::model::{
    Adapter, AdapterKind, AddressList, Addresses, Answer, Family, NetworkChange, NetworkRule, Outcome, Subnet, VmSpec,
};
use landfall_proto::{Class, Refusal};

use super::State;
use crate::limits;

impl State {
    pub(super) fn change_network(&mut self, change: &NetworkChange) -> Answer {
        match change {
            NetworkChange::Set { vm, adapter, addresses } => self.set_addresses(*vm, adapter, addresses),
            NetworkChange::Clear { vm, adapter, families } => self.clear_addresses(*vm, adapter, families),
            NetworkChange::AddRule(rule) => self.add_network_rule(rule),
            NetworkChange::RemoveRule { peer, from } => self.remove_network_rule(peer, *from),
        }
    }

    /// The VM as this cluster knows it, in whichever part.
    pub fn replicated(&self, vm: VmId) -> Option<&VmSpec> {
        let replica = self.replicas.get(&vm).map(|replica| &replica.vm);
        replica.or_else(|| self.primaries.get(&vm).map(|primary| &primary.vm))
    }

    fn require_replicated(&self, vm: VmId) -> Result<&VmSpec, Refusal> {
        self.replicated(vm).ok_or_else(|| {
            let message = format!("VM {vm} is not replicated, so it has no failover addresses");
            Refusal::new(Class::Refused, "not_replicated", message)
                .field("vm")
                .remedy("enable its replication first: `landfall vm enable`, at the primary's cluster")
        })
    }

    /// The failover addresses of a VM's adapters, by name.
    pub fn addresses_of(&self, vm: VmId) -> impl Iterator<Item = (&str, &Addresses)> {
        self.failover_addresses.iter().filter(move |((of, _), _)| *of == vm).map(|((_, name), row)| (&**name, row))
    }

    fn set_addresses(&mut self, vm: VmId, adapter: &str, given: &Addresses) -> Answer {
        let spec = self.require_replicated(vm)?;
        let found = find(spec, adapter).ok_or_else(|| unknown(spec, adapter))?;
        if found.kind == AdapterKind::Legacy {
            let message =
                format!("adapter {} of {} is a legacy one, which is given no addresses", found.name, spec.name);
            return Err(Refusal::new(Class::Refused, "legacy_adapter", message)
                .field("adapter")
                .remedy("make it synthetic at the primary, or configure that network within the guest"));
        }
        if given.is_empty() {
            let message = format!("no address for adapter {} is given", found.name);
            return Err(Refusal::new(Class::Usage, "no_address", message)
                .field("ipv4")
                .remedy("give --ipv4 or --ipv6; `landfall network clear` takes addresses away"));
        }
        given.check().map_err(|fault| {
            fault.refusal(match fault.list {
                AddressList::Addresses => match fault.family {
                    Family::Ipv4 => "ipv4",
                    Family::Ipv6 => "ipv6",
                },
                AddressList::Gateways => "gateway",
                AddressList::Dns => "dns",
            })
        })?;
        let name = found.name.clone();
        for (other, theirs) in self.addresses_of(vm).filter(|(other, _)| *other != name) {
            let same = |address: &&_| theirs.addresses.iter().any(|taken| same_ip(taken, address));
            if let Some(address) = given.addresses.iter().find(same) {
                let family = address.family().to_string();
                let remedy = format!("adapter {other} of the VM has it: clear it there, or give another");
                return Err(Refusal::invalid(&family, &address.to_string(), &remedy));
            }
        }
        let key = (vm, name);
        if !self.failover_addresses.contains(&key) {
            Self::room(self.failover_addresses.len(), limits::FAILOVER_ADDRESSES, "failover addresses")?;
            let of_vm = self.addresses_of(vm).count();
            // Those of adapters that the VM has no more count, too.
            Self::room(of_vm, limits::ADAPTERS, "adapters of this VM with failover addresses")?;
        }
        let before = self.failover_addresses.get(&key).cloned().unwrap_or_default();
        let mut after = Addresses::default();
        for family in Family::BOTH {
            after.extend(if given.has(family) { given.of(family) } else { before.of(family) });
        }
        self.failover_addresses.put(key, after);
        Ok(Outcome::Done)
    }

    fn clear_addresses(&mut self, vm: VmId, adapter: &str, families: &[Family]) -> Answer {
        let spec = self.require_replicated(vm)?;
        // An adapter that the VM has no more is called by its name.
        let name = find(spec, adapter).map_or(adapter, |found| &found.name).to_owned();
        let key = (vm, name);
        let before = self.failover_addresses.get(&key);
        if before.is_none() && find(spec, adapter).is_none() {
            return Err(unknown(spec, adapter));
        }
        let Some(before) = before.cloned() else { return Ok(Outcome::Done) };
        let mut after = Addresses::default();
        for family in Family::BOTH.into_iter().filter(|family| !families.contains(family)) {
            after.extend(before.of(family));
        }
        match after.is_empty() {
            true => drop(self.failover_addresses.take(&key)),
            false => self.failover_addresses.put(key, after),
        }
        Ok(Outcome::Done)
    }

    /// Forgets the addresses of a VM that is neither primary nor replica here any more.
    pub(super) fn settle_failover_addresses(&mut self, vm: VmId) {
        if self.replicated(vm).is_some() {
            return;
        }
        let names: Vec<String> = self.addresses_of(vm).map(|(name, _)| name.to_owned()).collect();
        for name in names {
            self.failover_addresses.take(&(vm, name));
        }
    }

    fn add_network_rule(&mut self, rule: &NetworkRule) -> Answer {
        let NetworkRule { peer, from, to } = rule;
        if !self.peers.contains(peer) {
            let remedy = "`landfall peer list` shows the clusters that this one is paired with";
            return Err(Refusal::not_found("peer", peer.as_str()).remedy(remedy));
        }
        if from.family() != to.family() || from.length() != to.length() {
            let remedy = format!("{from} has {} bits of {}: give another of the same", from.length(), from.family());
            return Err(Refusal::invalid("to", &to.to_string(), &remedy));
        }
        if let Some(taken) = self.network_rules.get(&(peer.clone(), *from)) {
            let message = format!("{from} of {peer} has a rule already: {taken} stands for it");
            return Err(Refusal::new(Class::Refused, "rule_exists", message)
                .field("from")
                .remedy(format!("remove it first: `landfall network map remove {from} --peer {peer}`")));
        }
        let overlaps = |((of, _), target): &(&(Fqdn, Subnet), &Subnet)| of == peer && target.overlaps(to);
        if let Some(((_, other), target)) = self.network_rules.iter().find(overlaps) {
            let message = format!("{to} overlaps {target}, which stands for {other}: two VMs could get one address");
            return Err(Refusal::new(Class::Refused, "rules_overlap", message)
                .field("to")
                .remedy("give a subnet that no other rule of this peer leads to"));
        }
        Self::room(self.network_rules.len(), limits::NETWORK_RULES, "rules of subnets")?;
        self.network_rules.put((peer.clone(), *from), *to);
        Ok(Outcome::Done)
    }

    fn remove_network_rule(&mut self, peer: &Fqdn, from: Subnet) -> Answer {
        if self.network_rules.take(&(peer.clone(), from)).is_none() {
            let remedy = "`landfall network map list` shows the rules, as they must be named";
            return Err(Refusal::not_found("rule", &format!("{from} of {peer}")).field("from").remedy(remedy));
        }
        Ok(Outcome::Done)
    }

    /// The rules for what comes from a peer: (there, here), by the subnet there.
    pub fn rules_for(&self, peer: &Fqdn) -> Vec<(Subnet, Subnet)> {
        self.network_rules.iter().filter(|((of, _), _)| of == peer).map(|((_, from), to)| (*from, *to)).collect()
    }
}

fn same_ip(left: &landfall_proto::model::HostAddress, right: &landfall_proto::model::HostAddress) -> bool {
    left.ip() == right.ip()
}

/// The adapter called `name`; else the one with that hardware address.
fn find<'a>(spec: &'a VmSpec, name: &str) -> Option<&'a Adapter> {
    let named = spec.adapters.iter().find(|adapter| adapter.name == name);
    named.or_else(|| spec.adapters.iter().find(|adapter| adapter.mac.eq_ignore_ascii_case(name)))
}

fn unknown(spec: &VmSpec, adapter: &str) -> Refusal {
    let there: Vec<String> =
        spec.adapters.iter().map(|adapter| format!("{} ({})", adapter.name, adapter.mac)).collect();
    Refusal::not_found("adapter", adapter).remedy(match there.is_empty() {
        true => format!("{} has no adapter: add [[adapter]] to its vm.toml", spec.name),
        false => format!("{} has {}", spec.name, there.join(", ")),
    })
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
