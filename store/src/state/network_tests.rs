//! Failover addresses and rules of subnets, as they are committed.

use landfall_proto::model::{Command, Frequency, HostAddress};

use super::super::fixture::{Bench, cap, peer, vm};
use super::*;

fn adapters() -> Vec<Adapter> {
    let adapter = |name: &str, kind, mac: &str| Adapter {
        name: name.into(),
        kind,
        mac: mac.into(),
        network: Addresses::default(),
    };
    vec![
        adapter("eth0", AdapterKind::Synthetic, "52:54:00:aa:bb:01"),
        adapter("eth1", AdapterKind::Synthetic, "52:54:00:aa:bb:02"),
        adapter("old", AdapterKind::Legacy, "52:54:00:aa:bb:03"),
    ]
}

fn spec(number: u128) -> VmSpec {
    VmSpec { adapters: adapters(), ..vm(number) }
}

fn given(addresses: &[&str], gateways: &[&str], dns: &[&str]) -> Addresses {
    Addresses {
        addresses: addresses.iter().map(|text| text.parse::<HostAddress>().unwrap()).collect(),
        gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
        dns: dns.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

/// A replica of VM 1, of p, with three adapters.
fn ready() -> Bench {
    let (mut bench, [r1, ..]) = Bench::ready();
    let Command::Place { primary, holder, frequency, recovery_points, instead_of, lineage, .. } =
        bench.asks_to_place(1, 'p', r1)
    else {
        unreachable!()
    };
    bench.ok(Command::Place {
        vm: Box::new(spec(1)),
        primary,
        holder,
        frequency,
        recovery_points,
        instead_of,
        lineage,
    });
    bench
}

fn change(change: NetworkChange) -> Command {
    Command::Network(Box::new(change))
}

fn set(number: u128, adapter: &str, addresses: Addresses) -> Command {
    change(NetworkChange::Set { vm: vm(number).id, adapter: adapter.into(), addresses })
}

fn clear(number: u128, adapter: &str, families: &[Family]) -> Command {
    change(NetworkChange::Clear { vm: vm(number).id, adapter: adapter.into(), families: families.into() })
}

fn rule(letter: char, from: &str, to: &str) -> Command {
    let rule = NetworkRule { peer: cap(letter), from: from.parse().unwrap(), to: to.parse().unwrap() };
    change(NetworkChange::AddRule(rule))
}

fn stands(bench: &Bench, adapter: &str) -> Option<Addresses> {
    bench.state.failover_addresses.get(&(vm(1).id, adapter.to_owned())).cloned()
}

#[test]
fn each_family_is_set_and_cleared_by_itself() {
    let mut bench = ready();
    let (four, six) =
        (given(&["10.9.0.5/24"], &["10.9.0.1"], &["10.9.0.53"]), given(&["fd00:9::5/64"], &["fe80::1"], &[]));
    bench.ok(set(1, "eth0", four.clone()));
    bench.ok(set(1, "52:54:00:AA:BB:01", six.clone()));
    let mut both = four.clone();
    both.extend(six.clone());
    assert_eq!(stands(&bench, "eth0"), Some(both));
    // A family is replaced as a whole.
    let other = given(&["10.9.0.6/24", "10.9.1.6/24"], &[], &[]);
    bench.ok(set(1, "eth0", other.clone()));
    assert_eq!(stands(&bench, "eth0").unwrap().of(Family::Ipv4), other);
    bench.ok(clear(1, "eth0", &[Family::Ipv4]));
    assert_eq!(stands(&bench, "eth0"), Some(six));
    bench.ok(clear(1, "eth0", &Family::BOTH));
    bench.ok(clear(1, "eth0", &Family::BOTH));
    assert_eq!(stands(&bench, "eth0"), None);
}

#[test]
fn what_hyper_v_refuses_is_refused_with_field_and_remedy() {
    let mut bench = ready();
    let four = || given(&["10.9.0.5/24"], &[], &[]);
    let six: Vec<String> = (1..=6).map(|last| format!("10.9.0.{last}")).collect();
    let six: Vec<&str> = six.iter().map(String::as_str).collect();
    for (command, code, field) in [
        (set(7, "eth0", four()), "not_replicated", "vm"),
        (clear(7, "eth0", &Family::BOTH), "not_replicated", "vm"),
        (set(1, "eth9", four()), "not_found", "adapter"),
        (clear(1, "eth9", &Family::BOTH), "not_found", "adapter"),
        (set(1, "old", four()), "legacy_adapter", "adapter"),
        (set(1, "eth0", Addresses::default()), "no_address", "ipv4"),
        (set(1, "eth0", given(&["10.9.0.55/24"], &six, &[])), "invalid_value", "gateway"),
        (set(1, "eth0", given(&["10.9.0.5/24"], &["10.8.0.1"], &[])), "invalid_value", "gateway"),
        (set(1, "eth0", given(&["10.9.0.5/24"], &[], &six[..4])), "invalid_value", "dns"),
        (set(1, "eth0", given(&["fd00::5/64", "fd00::5/64"], &[], &[])), "invalid_value", "ipv6"),
        (rule('x', "10.1.0.0/16", "10.9.0.0/16"), "not_found", "peer"),
        (rule('p', "10.1.0.0/16", "10.9.0.0/24"), "invalid_value", "to"),
        (rule('p', "10.1.0.0/16", "fd00::/16"), "invalid_value", "to"),
    ] {
        let refusal = bench.run(command.clone()).unwrap_err();
        assert_eq!((refusal.code.as_str(), refusal.field.as_deref()), (code, Some(field)), "{command:?}: {refusal}");
        assert!(refusal.remedy.is_some(), "{refusal}");
    }
    bench.ok(set(1, "eth0", four()));
    let taken = bench.run(set(1, "eth1", given(&["10.9.0.5/16"], &[], &[]))).unwrap_err();
    assert!(taken.field.as_deref() == Some("ipv4") && taken.to_string().contains("eth0"), "{taken}");
}

#[test]
fn a_primary_has_its_own_and_they_end_with_the_relationship() {
    let mut bench = ready();
    bench.ok(Command::Enable {
        vm: Box::new(spec(2)),
        to: cap('p'),
        frequency: Frequency::HalfMinute,
        recovery_points: 0,
        starts_at: None,
        limit: None,
        excluded: Vec::new(),
    });
    bench.ok(set(1, "eth0", given(&["10.9.0.5/24"], &[], &[])));
    bench.ok(set(2, "eth0", given(&["10.9.0.5/24"], &[], &[])));
    bench.ok(Command::Disable(vm(2).id));
    assert_eq!(bench.state.failover_addresses.len(), 1);
    // The adapter is gone at the primary: what was set stays, and can be cleared by its name.
    bench.ok(Command::Respecify {
        vm: Box::new(VmSpec { adapters: adapters().split_off(1), ..spec(1) }),
        primary: cap('p'),
    });
    assert!(stands(&bench, "eth0").is_some());
    assert_eq!(bench.refused(set(1, "eth0", given(&["10.9.0.5/24"], &[], &[]))), "not_found");
    bench.ok(clear(1, "eth0", &Family::BOTH));
    bench.ok(set(1, "eth1", given(&["10.9.0.5/24"], &[], &[])));
    bench.ok(Command::RemoveReplica { vm: vm(1).id, primary: None });
    assert!(bench.state.failover_addresses.is_empty());
}

#[test]
fn rules_are_a_peers_own_nested_where_they_begin_and_apart_where_they_lead() {
    let mut bench = ready();
    bench.ok(Command::Pair { peer: Box::new(peer('q', 5)), ticket: None });
    bench.ok(rule('p', "10.1.0.0/16", "10.9.0.0/16"));
    bench.ok(rule('p', "10.1.5.0/24", "172.16.5.0/24"));
    bench.ok(rule('p', "fd00:1::/48", "fd00:9::/48"));
    bench.ok(rule('q', "10.1.0.0/16", "10.9.0.0/16"));
    assert_eq!(bench.refused(rule('p', "10.1.0.0/16", "10.8.0.0/16")), "rule_exists");
    assert_eq!(bench.refused(rule('p', "10.2.0.0/16", "10.9.0.0/16")), "rules_overlap");
    assert_eq!(bench.refused(rule('p', "10.1.6.0/24", "10.9.6.0/24")), "rules_overlap");
    let rules = bench.state.rules_for(&cap('p'));
    assert_eq!(
        rules.iter().map(|(from, _)| from.to_string()).collect::<Vec<_>>(),
        ["10.1.0.0/16", "10.1.5.0/24", "fd00:1::/48"]
    );
    let remove = |from: &str| change(NetworkChange::RemoveRule { peer: cap('p'), from: from.parse().unwrap() });
    bench.ok(remove("10.1.5.0/24"));
    assert_eq!(bench.refused(remove("10.1.5.0/24")), "not_found");
    // They are still there when the clusters are paired anew.
    bench.ok(Command::Unpair(cap('q')));
    assert_eq!(bench.state.rules_for(&cap('q')).len(), 1);
}

#[test]
fn a_snapshot_has_addresses_and_rules() {
    let mut bench = ready();
    bench.ok(set(1, "eth0", given(&["10.9.0.5/24", "fd00::5/64"], &["10.9.0.1"], &[])));
    bench.ok(rule('p', "fd00:1::/48", "fd00:9::/48"));
    let read = State::from_archive(&bench.state.archive().unwrap()).unwrap();
    assert_eq!(read, bench.state);
}
