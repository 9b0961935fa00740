//! The rules of replicas: who may have one here, who holds it, and what survives a node.

use std::collections::BTreeSet;

use landfall_proto::id::{Epoch, MemberId};
use landfall_proto::model::{Adapter, AdapterKind, Command, DiskSpec, Frequency, Outcome, Stop};

use super::fixture::{Bench, cap, entry, name, peer, vm};

fn again(number: u128, primary: char, holder: MemberId, instead_of: Option<Epoch>) -> Command {
    Command::Place {
        vm: Box::new(vm(number)),
        primary: cap(primary),
        holder,
        frequency: Frequency::QuarterHour,
        recovery_points: 2,
        instead_of,
        lineage: None,
    }
}

fn created(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Placed { created: true, .. })
}

#[test]
fn a_replica_is_placed_under_the_entry_that_matches() {
    let (mut bench, [_, r2, _]) = Bench::ready();
    let epoch = bench.place(1, r2);
    let replica = bench.replica(1);
    assert_eq!((replica.holder, replica.epoch), (r2, epoch));
    assert_eq!((replica.trust_group.as_str(), replica.storage.as_str()), ("T1", "default"));
    assert!(!replica.acknowledged && replica.in_sync.is_empty());
}

#[test]
fn a_placement_is_refused_with_the_field_and_the_remedy() {
    let (mut bench, [r1, ..]) = Bench::ready();
    bench.ok(Command::Pair { peer: Box::new(peer('q', 1)), ticket: None });
    let refusal = bench.run(bench.asks_to_place(1, 'q', r1)).unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.field.as_deref()), ("unauthorized_primary", Some("primary")));
    assert!(refusal.remedy.unwrap().contains("landfall authorization add q-broker-cap.contoso.com"));
    let witness = bench.witness("rw", 9);
    assert_eq!(bench.refused(bench.asks_to_place(1, 'p', witness)), "witness");
    assert_eq!(bench.refused(bench.asks_to_place(1, 'p', MemberId::from_number(99))), "not_a_member");
    bench.set(&[("replication_enabled", "false")]);
    assert_eq!(bench.refused(bench.asks_to_place(1, 'p', r1)), "replication_disabled");
}

#[test]
fn a_vm_that_no_cluster_could_register_is_refused() {
    let (mut bench, [r1, ..]) = Bench::ready();
    let disk = |target: &str, bytes| DiskSpec { target: name(target), bytes };
    let adapter = |mac: &str| Adapter {
        name: "eth0".into(),
        kind: AdapterKind::Synthetic,
        mac: mac.into(),
        network: Default::default(),
    };
    let mut bad = Vec::new();
    for disks in
        [vec![], vec![disk("vda", 0)], vec![disk("vdb", 1), disk("vda", 1)], vec![disk("vda", 1), disk("vda", 2)]]
    {
        let mut vm = vm(1);
        vm.disks = disks;
        bad.push(vm);
    }
    for adapters in [vec![adapter("52:54")], vec![adapter("52:54:00:aa:bb:01"), adapter("52:54:00:aa:bb:02")]] {
        let mut vm = vm(1);
        vm.adapters = adapters;
        bad.push(vm);
    }
    for spec in bad {
        let wish = Command::Place {
            vm: Box::new(spec.clone()),
            primary: cap('p'),
            holder: r1,
            frequency: Frequency::HalfMinute,
            recovery_points: 0,
            instead_of: None,
            lineage: None,
        };
        assert_eq!(bench.refused(wish), "invalid_value", "{spec:?}");
    }
}

#[test]
fn a_replica_that_is_there_is_only_found() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let first = bench.place(1, r1);
    let outcome = bench.ok(again(1, 'p', r2, None));
    assert!(!created(&outcome));
    assert_eq!((bench.replica(1).holder, bench.replica(1).epoch), (r1, first));
    assert_eq!(bench.replica(1).recovery_points, 2, "the wish of the primary holds");

    assert!(created(&bench.ok(again(1, 'p', r2, Some(first)))), "its node did not answer");
    let second = bench.replica(1).epoch;
    assert!(second > first && bench.replica(1).holder == r2);
    assert!(!created(&bench.ok(again(1, 'p', r3, Some(first)))), "decided on an older epoch");
    bench.ok(Command::Acknowledged { vm: vm(1).id, epoch: second });
    assert!(!created(&bench.ok(again(1, 'p', r3, Some(second)))), "what is acknowledged is not simply elsewhere");
    assert_eq!(bench.replica(1).holder, r2);
}

#[test]
fn another_primary_needs_the_same_trust_group() {
    let (mut bench, [r1, r2, _]) = Bench::ready();
    bench.place(1, r1);
    bench.ok(Command::Pair { peer: Box::new(peer('q', 1)), ticket: None });
    bench.ok(Command::Authorize(entry("q-broker-cap.contoso.com", "T2")));
    assert_eq!(bench.refused(again(1, 'q', r2, None)), "wrong_trust_group");
    let respecify = Command::Respecify { vm: Box::new(vm(1)), primary: cap('q') };
    assert_eq!(bench.refused(respecify.clone()), "wrong_trust_group");
    let remove = Command::RemoveReplica { vm: vm(1).id, primary: Some(cap('q')) };
    assert_eq!(bench.refused(remove.clone()), "wrong_trust_group");
    bench.ok(Command::Authorize(entry("q-broker-cap.contoso.com", "T1")));
    assert_eq!(bench.refused(remove.clone()), "other_primary", "only the present one ends it");
    assert!(!created(&bench.ok(again(1, 'q', r2, None))));
    assert_eq!(bench.replica(1).primary, cap('q'), "the replica is bound to its primary of now");
    bench.ok(respecify);
    bench.ok(remove.clone());
    assert_eq!(bench.refused(remove), "not_found");
}

#[test]
fn removing_an_entry_stops_what_lived_under_it() {
    let (mut bench, [r1, ..]) = Bench::ready();
    bench.place(1, r1);
    bench.place(2, r1);
    bench.ok(Command::Authorize(entry("*.contoso.com", "T1")));
    let pattern = || Command::Deauthorize(name("p-broker-cap.contoso.com"));
    assert_eq!(bench.ok(pattern()), Outcome::Stopped(vec![]), "another entry of the same trust group matches");
    assert_eq!(bench.ok(Command::Deauthorize(name("*.contoso.com"))), Outcome::Stopped(vec![vm(1).id, vm(2).id]));
    assert_eq!(bench.replica(1).stopped, Some(Stop::AuthorizationRemoved));
    bench.ok(Command::Authorize(entry("p-broker-cap.contoso.com", "T2")));
    assert_eq!(bench.replica(1).stopped, Some(Stop::AuthorizationRemoved), "another trust group lifts nothing");
    bench.ok(Command::Authorize(entry("*.contoso.com", "T1")));
    assert_eq!(bench.replica(1).stopped, None);
    bench.ok(Command::Authorize(entry("p-broker-cap.contoso.com", "T1")));
    bench.ok(Command::Deauthorize(name("*.contoso.com")));
    let replaced = bench.ok(Command::Authorize(entry("p-broker-cap.contoso.com", "T3")));
    assert_eq!(replaced, Outcome::Stopped(vec![vm(1).id, vm(2).id]), "an entry replaced by another trust group, too");
    bench.set(&[("allowed_from_any_server", "true"), ("default_storage_location", "default")]);
    assert_eq!(bench.replica(1).stopped, None);
}

#[test]
fn every_decision_names_the_epoch_that_it_was_made_on() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let old = bench.acknowledged(1, r1, &[r2]);
    bench.ok(Command::Assign { vm: vm(1).id, epoch: old, to: r2 });
    let id = vm(1).id;
    let commands = [
        Command::Copy { vm: id, epoch: old, to: Some(r3) },
        Command::Admit { vm: id, epoch: old, member: r3, begun: old.0 },
        Command::Leave { vm: id, epoch: old, member: r1 },
        Command::Acknowledged { vm: id, epoch: old },
        Command::Handover { vm: id, epoch: old, to: Some(r3) },
        Command::Assign { vm: id, epoch: old, to: r1 },
        Command::Seed { vm: id, epoch: old, to: r3 },
        Command::Seeded { vm: id, epoch: old },
    ];
    for command in commands {
        assert_eq!(bench.refused(command), "stale_epoch");
    }
}

#[test]
fn a_new_holder_comes_out_of_the_in_sync_set() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let id = vm(1).id;
    let epoch = bench.acknowledged(1, r1, &[r2]);
    assert_eq!(bench.replica(1).in_sync, BTreeSet::from([r1, r2]));
    assert_eq!(bench.refused(Command::Assign { vm: id, epoch, to: r3 }), "not_in_sync");
    assert_eq!(bench.refused(Command::Leave { vm: id, epoch, member: r1 }), "is_holder");
    assert_eq!(bench.ok(Command::Assign { vm: id, epoch, to: r1 }), Outcome::Epoch(epoch), "it holds it already");
    let Outcome::Epoch(next) = bench.ok(Command::Handover { vm: id, epoch, to: Some(r2) }) else { panic!() };
    let replica = bench.replica(1);
    assert!(next > epoch && replica.epoch == next && replica.holder == r2 && replica.handover.is_none());
    assert_eq!(replica.in_sync, BTreeSet::from([r1, r2]), "the old holder still has every byte");
    bench.ok(Command::Leave { vm: id, epoch: next, member: r1 });
    assert_eq!(bench.refused(Command::Assign { vm: id, epoch: next, to: r1 }), "not_in_sync");
}

#[test]
fn only_a_node_that_was_told_to_copy_joins_the_set_and_only_by_that_entry() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let id = vm(1).id;
    let epoch = bench.place(1, r1);
    let copy = |to| Command::Copy { vm: id, epoch, to };
    assert_eq!(bench.refused(copy(Some(r2))), "no_point_yet");
    bench.ok(Command::Acknowledged { vm: id, epoch });
    assert_eq!(bench.refused(copy(Some(r1))), "in_sync");
    let admit = |member, begun| Command::Admit { vm: id, epoch, member, begun };
    bench.ok(copy(Some(r2)));
    let begun = bench.replica(1).joiner.unwrap().begun;
    bench.ok(copy(Some(r2)));
    assert_eq!(bench.replica(1).joiner.unwrap().begun, begun, "told twice, begun once");
    assert_eq!(bench.refused(admit(r3, begun)), "not_joining");
    // It left before the answer to its admission was there, and has begun anew since: the late command is void.
    bench.ok(Command::Leave { vm: id, epoch, member: r2 });
    assert_eq!(bench.replica(1).joiner, None);
    assert_eq!(bench.refused(admit(r2, begun)), "not_joining");
    bench.ok(copy(Some(r2)));
    assert_eq!(bench.refused(admit(r2, begun)), "not_joining");
    let anew = bench.replica(1).joiner.unwrap().begun;
    bench.ok(admit(r2, anew));
    bench.ok(admit(r2, anew));
    assert_eq!((&bench.replica(1).in_sync, bench.replica(1).joiner), (&BTreeSet::from([r1, r2]), None));

    bench.ok(copy(Some(r3)));
    bench.ok(copy(None));
    assert_eq!(bench.replica(1).joiner, None, "given up");
    bench.ok(copy(Some(r3)));
    bench.ok(Command::Remove(r3));
    assert_eq!(bench.replica(1).joiner, None);
}

#[test]
fn a_move_to_a_member_of_the_set_is_an_assignment_and_to_another_node_leaves_as_many_as_wanted() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let id = vm(1).id;
    let epoch = bench.acknowledged(1, r1, &[r2]);
    let Outcome::Epoch(second) = bench.ok(Command::Handover { vm: id, epoch, to: Some(r2) }) else { panic!() };
    let replica = bench.replica(1);
    assert!(second > epoch && replica.holder == r2 && replica.handover.is_none());
    assert_eq!(replica.in_sync, BTreeSet::from([r1, r2]), "nothing was copied and nobody has left");

    bench.ok(Command::Handover { vm: id, epoch: second, to: Some(r3) });
    assert_eq!(bench.refused(Command::Copy { vm: id, epoch: second, to: Some(r3) }), "handover_under_way");
    let begun = bench.replica(1).copying_since(r3).unwrap();
    bench.ok(Command::Admit { vm: id, epoch: second, member: r3, begun });
    bench.ok(Command::Assign { vm: id, epoch: second, to: r3 });
    assert_eq!(bench.replica(1).in_sync, BTreeSet::from([r1, r3]), "the node it was moved away from has left");

    bench.set(&[("copies", "1")]);
    let third = bench.replica(1).epoch;
    bench.ok(Command::Handover { vm: id, epoch: third, to: Some(r2) });
    let begun = bench.replica(1).copying_since(r2).unwrap();
    bench.ok(Command::Admit { vm: id, epoch: third, member: r2, begun });
    bench.ok(Command::Assign { vm: id, epoch: third, to: r2 });
    assert!(!bench.replica(1).in_sync.contains(&r3));
}

#[test]
fn one_hand_over_is_under_way_at_a_time() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let epoch = bench.acknowledged(1, r1, &[]);
    let to = |to| Command::Handover { vm: vm(1).id, epoch, to };
    assert_eq!(bench.refused(to(Some(r1))), "already_holder");
    bench.ok(to(Some(r2)));
    let since = bench.replica(1).handover.clone().unwrap().since;
    bench.at += 5;
    bench.ok(to(Some(r2)));
    assert_eq!(bench.replica(1).handover.clone().unwrap().since, since);
    assert_eq!(bench.refused(to(Some(r3))), "handover_under_way");
    bench.ok(to(None));
    bench.ok(to(Some(r3)));
}

#[test]
fn a_seeding_node_replaces_the_set_at_its_first_complete_point() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let id = vm(1).id;
    let epoch = bench.acknowledged(1, r1, &[r2]);
    assert_eq!(bench.refused(Command::Seed { vm: id, epoch, to: r2 }), "in_sync");
    let Outcome::Epoch(seeding) = bench.ok(Command::Seed { vm: id, epoch, to: r3 }) else { panic!() };
    let replica = bench.replica(1);
    assert_eq!((replica.receiver(), replica.holder, replica.in_sync.len()), (r3, r1, 2), "no old copy is given up");
    assert_eq!(bench.refused(Command::Leave { vm: id, epoch: seeding, member: r2 }), "seeding");
    assert_eq!(bench.refused(Command::Acknowledged { vm: id, epoch: seeding }), "seeding");
    let mut returned = bench.clone();
    assert_eq!(bench.ok(Command::Seeded { vm: id, epoch: seeding }), Outcome::Epoch(seeding));
    let replica = bench.replica(1);
    assert_eq!((replica.holder, &replica.in_sync, replica.seeding), (r3, &BTreeSet::from([r3]), None));
    assert_eq!(bench.ok(Command::Seeded { vm: id, epoch: seeding }), Outcome::Epoch(seeding), "asked again");

    let Outcome::Epoch(back) = returned.ok(Command::Assign { vm: id, epoch: seeding, to: r1 }) else { panic!() };
    let replica = returned.replica(1);
    assert!(back > seeding && replica.holder == r1 && replica.seeding.is_none(), "a member of the set came back");
    assert_eq!(returned.refused(Command::Seeded { vm: id, epoch: seeding }), "stale_epoch");
}

#[test]
fn a_member_leaves_with_no_copy_that_nobody_else_has() {
    let (mut bench, [_, r2, r3]) = Bench::ready();
    bench.acknowledged(1, r2, &[]);
    let refusal = bench.run(Command::Remove(r2)).unwrap_err();
    assert_eq!(refusal.code, "only_copy");
    assert!(refusal.remedy.unwrap().contains("landfall vm move"));
    let epoch = bench.replica(1).epoch;
    bench.copied(1, r3);
    bench.ok(Command::Remove(r2));
    let replica = bench.replica(1);
    assert!(replica.holder == r3 && replica.epoch > epoch && replica.in_sync == BTreeSet::from([r3]));
}

#[test]
fn what_is_not_acknowledged_goes_on_at_another_node() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    let placed = bench.place(1, r2);
    let second = bench.place(2, r2);
    bench.ok(Command::Seed { vm: vm(2).id, epoch: second, to: r3 });
    let seeding = bench.replica(2).epoch;
    let third = bench.acknowledged(3, r1, &[]);
    bench.ok(Command::Handover { vm: vm(3).id, epoch: third, to: Some(r2) });
    bench.ok(Command::Remove(r2));
    assert!(bench.replica(1).holder == r1 && bench.replica(1).epoch > placed);
    let filled = bench.replica(2);
    assert!(filled.holder == r3 && filled.epoch == seeding && filled.seeding.is_none(), "it fills on undisturbed");
    assert_eq!(bench.replica(3).handover, None);

    let fourth = bench.acknowledged(4, r1, &[]);
    bench.ok(Command::Seed { vm: vm(4).id, epoch: fourth, to: r3 });
    let seeding = bench.replica(4).epoch;
    bench.acknowledged(5, r1, &[r3]);
    let r4 = bench.join("r4", 44);
    bench.ok(Command::Acknowledged { vm: vm(2).id, epoch: filled_epoch(&bench) });
    bench.copied(2, r4);
    bench.ok(Command::Remove(r3));
    assert!(bench.replica(4).receiver() == r1 && bench.replica(4).epoch > seeding, "its data is no longer accepted");
    assert_eq!(bench.replica(5).in_sync, BTreeSet::from([r1]));
    assert_eq!(bench.replica(2).holder, r4);
}

fn filled_epoch(bench: &Bench) -> Epoch {
    bench.replica(2).epoch
}
