//! Which addresses a VM's adapters have where this cluster brings it up, and why.
//!
//! Hyper-V's order: what was set for the adapter; else what a rule makes of the primary's address; else what the primary
//! has. Each family is decided by itself.

use std::collections::BTreeMap;

use landfall_proto::model::{Adapter, AdapterKind, Addresses, Family, HostAddress, IpAddr, Subnet};

/// A rule: (subnet at the primary, subnet here), of one length.
pub type Rule = (Subnet, Subnet);

/// Where addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They were set for this adapter.
    Setting,
    /// A rule gives them; this one the first of them.
    Rule(Rule),
    /// The primary has them, and nothing says otherwise.
    Primary,
    /// Nobody says: the guest keeps what it has, or asks for some.
    Unknown,
}

/// What an adapter has in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Why.
    pub origin: Origin,
    /// What.
    pub addresses: Addresses,
}

/// What an adapter has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterPlan {
    /// The adapter as the primary describes it.
    pub adapter: Adapter,
    /// In each family, IPv4 first.
    pub families: [(Family, Planned); 2],
}

impl AdapterPlan {
    /// The adapter as the brought-up VM has it.
    pub fn brought_up(&self) -> Adapter {
        let mut network = Addresses::default();
        self.families.iter().for_each(|(_, planned)| network.extend(planned.addresses.clone()));
        Adapter { network, ..self.adapter.clone() }
    }

    /// Whether it is to have other addresses than at the primary.
    pub fn changes(&self) -> bool {
        self.families.iter().any(|(_, planned)| matches!(planned.origin, Origin::Setting | Origin::Rule(_)))
    }

    /// The families in which it has static addresses at the primary that nothing replaces here.
    pub fn left_static(&self) -> impl Iterator<Item = Family> {
        let synthetic = self.adapter.kind == AdapterKind::Synthetic;
        let left = self.families.iter().filter(move |(_, planned)| synthetic && planned.origin == Origin::Primary);
        left.map(|(family, _)| *family)
    }
}

/// What every adapter of a VM has. `set` is what was set here, by the adapter's name; a legacy adapter has what the
/// primary's has, as in Hyper-V.
pub fn plan(adapters: &[Adapter], set: &BTreeMap<&str, &Addresses>, rules: &[Rule]) -> Vec<AdapterPlan> {
    let planned = |adapter: &Adapter| {
        let synthetic = adapter.kind == AdapterKind::Synthetic;
        let set = set.get(adapter.name.as_str()).filter(|_| synthetic);
        let rules = if synthetic { rules } else { &[] };
        let families = Family::BOTH.map(|family| {
            let chosen = match set.filter(|set| set.has(family)) {
                Some(set) => Planned { origin: Origin::Setting, addresses: set.of(family) },
                None => translated(&adapter.network.of(family), rules),
            };
            (family, chosen)
        });
        AdapterPlan { adapter: adapter.clone(), families }
    };
    adapters.iter().map(planned).collect()
}

/// What rules make of the addresses of one family at the primary.
fn translated(primary: &Addresses, rules: &[Rule]) -> Planned {
    if primary.addresses.is_empty() {
        return Planned { origin: Origin::Unknown, addresses: primary.clone() };
    }
    let of: Vec<(HostAddress, Option<Rule>)> =
        primary.addresses.iter().map(|address| (*address, rule_for(address, rules))).collect();
    let Some(first) = of.iter().find_map(|(_, rule)| *rule) else {
        return Planned { origin: Origin::Primary, addresses: primary.clone() };
    };
    let mut addresses = Addresses::default();
    for (address, rule) in &of {
        let here = rule.map_or(*address, |(_, to)| {
            // Only bits above the mask change, so that it stays an address that a host can have.
            HostAddress::new(to.with_host_of(&address.ip()), address.length()).unwrap_or(*address)
        });
        add(&mut addresses.addresses, here);
    }
    for gateway in &primary.gateways {
        // It goes where the address goes through which it is reached.
        let through = of.iter().find(|(address, _)| address.subnet().contains(gateway));
        let here = through.and_then(|(_, rule)| *rule).map_or(*gateway, |(_, to)| to.with_host_of(gateway));
        add(&mut addresses.gateways, here);
    }
    for server in &primary.dns {
        add(&mut addresses.dns, longest(rules, |from| from.contains(server)).map_or(*server, moved(server)));
    }
    Planned { origin: Origin::Rule(first), addresses }
}

fn moved(address: &IpAddr) -> impl Fn(Rule) -> IpAddr {
    move |(_, to)| to.with_host_of(address)
}

fn add<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

/// The rule for an address: the longest whose subnet has all of the address's own subnet in it.
fn rule_for(address: &HostAddress, rules: &[Rule]) -> Option<Rule> {
    longest(rules, |from| from.length() <= address.length() && from.contains(&address.ip()))
}

fn longest(rules: &[Rule], covers: impl Fn(&Subnet) -> bool) -> Option<Rule> {
    rules.iter().filter(|(from, _)| covers(from)).max_by_key(|(from, _)| from.length()).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(addresses: &[&str], gateways: &[&str], dns: &[&str]) -> Addresses {
        Addresses {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            dns: dns.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn adapter(kind: AdapterKind, network: Addresses) -> Adapter {
        Adapter { name: "eth0".into(), kind, mac: "52:54:00:aa:bb:01".into(), network }
    }

    fn rule(from: &str, to: &str) -> Rule {
        (from.parse().unwrap(), to.parse().unwrap())
    }

    fn one(adapter: Adapter, set: Option<&Addresses>, rules: &[Rule]) -> AdapterPlan {
        let set = set.map(|set| ("eth0", set)).into_iter().collect();
        plan(&[adapter], &set, rules).remove(0)
    }

    fn origins(plan: &AdapterPlan) -> [Origin; 2] {
        plan.families.each_ref().map(|(_, planned)| planned.origin)
    }

    #[test]
    fn what_is_set_goes_before_rules_and_each_family_by_itself() {
        let primary = network(&["10.1.0.5/16", "fd00:1::5/64"], &["10.1.0.1", "fe80::1"], &["10.1.0.53", "192.0.2.1"]);
        let rules = [rule("10.1.0.0/16", "10.9.0.0/16"), rule("fd00:1::/48", "fd00:9::/48")];
        let synthetic = || adapter(AdapterKind::Synthetic, primary.clone());
        let by_rule = one(synthetic(), None, &rules);
        let expected = network(&["10.9.0.5/16", "fd00:9::5/64"], &["10.9.0.1", "fe80::1"], &["10.9.0.53", "192.0.2.1"]);
        assert_eq!(by_rule.brought_up().network, expected);
        assert_eq!(origins(&by_rule), [Origin::Rule(rules[0]), Origin::Rule(rules[1])]);

        let set = network(&["10.7.0.5/24"], &[], &[]);
        let overridden = one(synthetic(), Some(&set), &rules);
        assert_eq!(origins(&overridden), [Origin::Setting, Origin::Rule(rules[1])]);
        assert_eq!(overridden.brought_up().network.of(Family::Ipv4), set);

        let legacy = one(adapter(AdapterKind::Legacy, primary.clone()), Some(&set), &rules);
        assert_eq!((origins(&legacy), legacy.changes()), ([Origin::Primary, Origin::Primary], false));
        assert_eq!(legacy.brought_up().network, primary);
        let none = one(adapter(AdapterKind::Synthetic, Addresses::default()), None, &rules);
        assert_eq!((origins(&none), none.changes()), ([Origin::Unknown, Origin::Unknown], false));
        assert_eq!(one(synthetic(), Some(&set), &[]).left_static().collect::<Vec<_>>(), [Family::Ipv6]);
    }

    #[test]
    fn the_longest_rule_wins_and_a_gateway_goes_with_its_address() {
        let rules = [
            rule("10.0.0.0/8", "11.0.0.0/8"),
            rule("10.1.0.0/16", "10.9.0.0/16"),
            rule("10.1.0.128/25", "192.0.2.128/25"),
        ];
        let of = |addresses: &[&str], gateways: &[&str], dns: &[&str]| {
            let adapter = adapter(AdapterKind::Synthetic, network(addresses, gateways, dns));
            one(adapter, None, &rules).brought_up().network
        };
        assert_eq!(
            of(&["10.1.0.5/24"], &["10.1.0.254"], &["10.1.0.200"]),
            network(&["10.9.0.5/24"], &["10.9.0.254"], &["192.0.2.200"])
        );
        assert_eq!(of(&["10.1.0.5/12"], &[], &[]), network(&["11.1.0.5/12"], &[], &[]));
        assert_eq!(
            of(&["10.1.0.5/24", "172.16.0.5/24"], &["172.16.0.1"], &[]),
            network(&["10.9.0.5/24", "172.16.0.5/24"], &["172.16.0.1"], &[])
        );
        // A name server alone changes nothing: the addresses are the primary's.
        let dns_only = network(&["172.16.0.5/24"], &[], &["10.1.0.53"]);
        assert_eq!(of(&["172.16.0.5/24"], &[], &["10.1.0.53"]), dns_only);
    }

    /// An address of either family, a rule over it, and where that leads.
    fn cases() -> impl Strategy<Value = (HostAddress, Rule)> {
        (any::<bool>(), any::<u128>(), any::<u128>(), 1..=128u8, 1..=128u8).prop_filter_map(
            "addresses that hosts can have",
            |(four, from, to, length, rule)| {
                let bits = if four { 32 } else { 128 };
                let length = 1 + length % bits;
                let rule = 1 + rule % length;
                let ip = |number: u128| -> IpAddr {
                    if four {
                        std::net::Ipv4Addr::from_bits(number as u32).into()
                    } else {
                        std::net::Ipv6Addr::from_bits(number).into()
                    }
                };
                let low = if rule == 128 { 0 } else { u128::MAX >> (128 - (bits - rule)).min(127) };
                let low = if bits == rule { 0 } else { low };
                let cut = |number: u128| Subnet::new(ip(number & !low), rule).ok();
                Some((HostAddress::new(ip(from), length).ok()?, (cut(from)?, cut(to)?)))
            },
        )
    }

    proptest! {
        #[test]
        fn a_rule_keeps_the_host_bits_and_leads_back((address, (from, to)) in cases()) {
            let primary = Addresses { addresses: vec![address], ..Addresses::default() };
            let there = one(adapter(AdapterKind::Synthetic, primary.clone()), None, &[(from, to)]).brought_up();
            let moved = there.network.addresses[0];
            prop_assert!(to.contains(&moved.ip()));
            prop_assert_eq!(moved.length(), address.length());
            prop_assert_eq!(there.network.check(), Ok(()));
            prop_assert_eq!(from.with_host_of(&moved.ip()), address.ip());
            let back = one(there, None, &[(to, from)]).brought_up();
            prop_assert_eq!(back.network, primary);
        }
    }
}
