//! The rules of the committed state, one by one. Replicas have a file of their own.

use landfall_proto::id::{Fingerprint, MemberId, Position, RequestId, Revision, SenderEpoch, UnixMillis};
use landfall_proto::model::{Command, Found, MemberList, Outcome, Proposal, Stop, Ticket, TicketKind};

use super::fixture::{Bench, HOUR, R1, cap, entry, founding, member, name, node, peer, vm};
use super::*;
use crate::limits;

const JOIN: TicketKind = TicketKind::Join { witness: false, replaces: None };

fn replaces(name: &str) -> TicketKind {
    TicketKind::Join { witness: false, replaces: Some(node(name)) }
}

#[test]
fn a_cluster_is_founded_once() {
    let mut bench = Bench::founded();
    let same = founding();
    assert_eq!(bench.ok(Command::Found(Box::new(same.clone()))), Outcome::Done);
    let other = Found { cluster_id: 10, ..same };
    assert_eq!(bench.refused(Command::Found(Box::new(other))), "already_founded");
    assert_eq!(bench.state.member_list().unwrap().members.len(), 1);
}

#[test]
fn nothing_is_done_before_founding_or_under_an_older_term() {
    let proposal = |term, command| Proposal { request: None, at: UnixMillis(1), term, command };
    let mut state = State::default();
    for command in [Command::Probe, Command::Claim(R1), Command::RevokeTicket(1)] {
        assert_eq!(state.apply(Position::new(0, 1), &proposal(None, command)).unwrap_err().code, "not_founded");
    }
    let mut bench = Bench::founded();
    let old = bench.state.term();
    bench.ok(Command::Claim(R1));
    assert!(bench.state.term() > old, "a claim is a new term, also by the same member");
    assert_eq!(bench.apply(proposal(old, Command::Probe)).unwrap_err().code, "stale_term");
    assert_eq!(bench.apply(proposal(None, Command::Probe)).unwrap_err().code, "stale_term");
    assert_eq!(bench.ok(Command::Probe), Outcome::Done);
}

#[test]
fn neither_a_witness_nor_a_stranger_claims_the_cap() {
    let mut bench = Bench::founded();
    let witness = bench.witness("rw", 9);
    assert_eq!(bench.refused(Command::Claim(witness)), "witness");
    assert_eq!(bench.refused(Command::Claim(MemberId::from_number(77))), "not_a_member");
    assert_eq!(bench.state.claim.unwrap().member, R1);
}

#[test]
fn the_same_request_is_applied_once_and_a_forgotten_one_is_refused() {
    let mut bench = Bench::founded();
    let request = |sequence| Some(RequestId { session: 5, sequence });
    let change = |value: u32| Command::Set {
        changes: [("apply_vm_limit".to_owned(), Some(value.to_string()))].into(),
        expect: None,
        by: "root".into(),
    };
    let first = bench.propose(request(1), change(1));
    for _ in 0..5 {
        assert_eq!(bench.propose(request(1), change(1)), first);
    }
    assert_eq!(bench.state.settings.history.len(), 1);
    bench.propose(request(2), change(2)).unwrap();
    let again = bench.propose(request(1), change(1));
    assert_eq!(bench.state.settings.values["apply_vm_limit"], "2", "carried out twice");
    assert_eq!(again, first);
    for sequence in 3..=101 {
        bench.propose(request(sequence), change(sequence as u32)).unwrap();
    }
    assert_eq!(bench.propose(request(1), change(1)).unwrap_err().code, "too_old");
    assert_eq!(bench.state.settings.values["apply_vm_limit"], "101");
    let last = bench.propose(request(101), change(1)).unwrap();
    assert_eq!(last, Outcome::Set(bench.state.revision()), "the answer of the first time");
}

#[test]
fn requests_of_one_session_may_overtake_one_another() {
    let mut bench = Bench::founded();
    let request = |sequence| Some(RequestId { session: 5, sequence });
    for sequence in [2, 1, 4, 3] {
        assert_eq!(bench.propose(request(sequence), Command::Probe), Ok(Outcome::Done));
    }
    let late = bench.propose(Some(RequestId { session: 6, sequence: 40 }), Command::Probe);
    assert_eq!(late.unwrap_err().code, "too_old", "a session that is not known cannot be that far");
}

#[test]
fn a_stale_term_is_not_the_answer_of_the_request() {
    let mut bench = Bench::founded();
    let request = Some(RequestId { session: 5, sequence: 1 });
    let stale = Proposal { request, at: UnixMillis(1), term: None, command: Command::Probe };
    assert_eq!(bench.apply(stale).unwrap_err().code, "stale_term");
    assert_eq!(bench.propose(request, Command::Probe), Ok(Outcome::Done), "the next owner carries it out");
    let refusal = bench.propose(Some(RequestId { session: 5, sequence: 2 }), Command::RevokeTicket(1));
    assert_eq!(refusal.clone().unwrap_err().code, "not_found");
    let again = bench.propose(Some(RequestId { session: 5, sequence: 2 }), Command::RevokeTicket(1));
    assert_eq!(again, refusal, "any other refusal is");
}

#[test]
fn the_longest_unused_session_goes_first() {
    let mut bench = Bench::founded();
    for session in 0..limits::SESSIONS as u128 {
        bench.propose(Some(RequestId { session, sequence: 1 }), Command::Probe).unwrap();
    }
    bench.propose(Some(RequestId { session: 0, sequence: 1 }), Command::Probe).unwrap();
    bench.propose(Some(RequestId { session: 9999, sequence: 1 }), Command::Probe).unwrap();
    assert_eq!(bench.state.sessions.len(), limits::SESSIONS);
    assert!(bench.state.sessions.contains(&0) && !bench.state.sessions.contains(&1));
}

#[test]
fn a_ticket_admits_one_key_until_it_expires() {
    let mut bench = Bench::founded();
    bench.ticket(1, JOIN);
    let Outcome::Joined(id) = bench.ok(bench.asks_to_join(1, "r2", 2)) else { panic!() };
    assert_eq!(id.0, bench.state.members_changed, "the id is the position of the entry");
    assert_eq!(bench.ok(bench.asks_to_join(1, "r2", 2)), Outcome::Joined(id), "the answer was lost");
    assert_eq!(bench.refused(bench.asks_to_join(1, "r3", 3)), "ticket_used");
    assert_eq!(bench.refused(bench.asks_to_join(1, "r3", 2)), "key_in_use");
    assert_eq!(bench.refused(bench.asks_to_join(8, "r3", 3)), "unknown_ticket");
    bench.ticket(2, JOIN);
    assert_eq!(bench.refused(bench.asks_to_join(2, "r4", 2)), "key_in_use", "a key joins once");
    assert_eq!(bench.ok(bench.asks_to_join(2, "r2", 2)), Outcome::Joined(id), "its certificate ended while it slept");
    assert_eq!(bench.refused(bench.asks_to_join(2, "r3", 3)), "ticket_used");
    bench.ticket(3, TicketKind::Join { witness: true, replaces: None });
    assert_eq!(bench.refused(bench.asks_to_join(3, "r2", 2)), "key_in_use", "what a node is does not change that way");
    bench.at += HOUR;
    assert_eq!(bench.refused(bench.asks_to_join(2, "r2", 2)), "ticket_expired");
    bench.ticket(4, TicketKind::Pair);
    assert_eq!(bench.refused(bench.asks_to_join(4, "r3", 3)), "unknown_ticket", "a pairing code admits no node");
    assert_eq!(bench.state.tickets.len(), 1, "expired tickets are gone");
}

#[test]
fn a_removed_node_does_not_come_back_with_its_old_ticket() {
    let mut bench = Bench::founded();
    bench.join("r2", 2);
    let r3 = bench.join("r3", 3);
    bench.ok(Command::Remove(r3));
    assert_eq!(bench.refused(bench.asks_to_join(3, "r3", 3)), "ticket_used");
    let again = bench.join("r3", 4);
    assert!(again > r3, "ids are never used again");
}

#[test]
fn a_taken_name_joins_only_in_its_place() {
    let mut bench = Bench::founded();
    let old = bench.join("r2", 2);
    bench.ticket(11, JOIN);
    assert_eq!(bench.refused(bench.asks_to_join(11, "r2", 4)), "name_taken");
    bench.ticket(12, replaces("r2"));
    assert_eq!(bench.refused(bench.asks_to_join(12, "r5", 4)), "ticket_for_other_node");
    let Outcome::Joined(new) = bench.ok(bench.asks_to_join(12, "r2", 4)) else { panic!() };
    assert!(new > old && !bench.state.members.contains(&old));
    assert_eq!(bench.state.member_named(&node("r2")).unwrap().id, new);
    let expires_at = UnixMillis(bench.at + HOUR);
    let unknown = Ticket { id: 13, secret: [0; 32], kind: replaces("r9"), expires_at, used_by: None };
    assert_eq!(bench.refused(Command::AddTicket(unknown)), "not_found");
}

#[test]
fn the_owner_and_the_last_data_node_stay() {
    let mut bench = Bench::founded();
    bench.witness("rw", 9);
    assert_eq!(bench.refused(Command::Remove(R1)), "last_node");
    bench.join("r2", 2);
    assert_eq!(bench.refused(Command::Remove(R1)), "is_owner");
    assert_eq!(bench.refused(Command::Remove(MemberId::from_number(99))), "not_found");
}

#[test]
fn an_address_changes_the_list_only_when_it_differs() {
    let mut bench = Bench::founded();
    let same = member(R1, "r1", 1);
    let before = bench.state.members_changed;
    bench.ok(Command::Readdress { member: R1, control: same.control, data: same.data });
    assert_eq!(bench.state.members_changed, before);
    let moved = "10.9.9.9:7443".parse().unwrap();
    bench.ok(Command::Readdress { member: R1, control: moved, data: same.data });
    let list = bench.state.member_list().unwrap();
    assert!(list.position > before && list.members[0].control == moved);
}

#[test]
fn settings_change_together_at_the_revision_that_was_seen() {
    let mut bench = Bench::founded();
    let Outcome::Set(first) = bench.set(&[("monitoring_interval", "6h")]) else { panic!() };
    assert_eq!(bench.set(&[("monitoring_interval", "360m")]), Outcome::Set(first), "the same value is no change");
    let set = |expect, pairs: &[(&str, &str)]| Command::Set {
        changes: pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect(),
        expect,
        by: "x".repeat(500),
    };
    assert_eq!(bench.refused(set(Some(Revision::default()), &[("apply_vm_limit", "1")])), "revision_conflict");
    let half_bad = set(Some(first), &[("apply_vm_limit", "1"), ("monitoring_interval", "1m")]);
    assert_eq!(bench.refused(half_bad), "invalid_value");
    bench.ok(set(Some(first), &[("apply_vm_limit", "1"), ("apply_disk_limit", "8")]));
    let last = bench.state.settings.history.back().unwrap();
    assert_eq!(last.changes.len(), 2);
    assert_eq!(last.changes["apply_disk_limit"], (Some("4".into()), Some("8".into())));
    assert_eq!(last.by.len(), limits::ASKER);
}

#[test]
fn the_history_of_settings_is_bounded_and_says_where_it_begins() {
    let mut bench = Bench::founded();
    for number in 0..limits::SETTINGS_HISTORY as u64 + 10 {
        bench.set(&[("maximum_active_transfers", &(1 + number % 1000).to_string())]);
    }
    let settings = &bench.state.settings;
    assert_eq!(settings.history.len(), limits::SETTINGS_HISTORY);
    assert!(settings.floor > Revision::default() && settings.floor < settings.history[0].revision);
}

#[test]
fn one_ca_has_one_name_and_one_name_one_ca() {
    let mut bench = Bench::founded();
    let pair = |peer| Command::Pair { peer: Box::new(peer), ticket: None };
    bench.ok(pair(peer('p', 5)));
    let mut renamed = peer('q', 5);
    renamed.ca = peer('p', 5).ca;
    assert_eq!(bench.refused(pair(renamed)), "ca_in_use");
    let mut remade = peer('p', 9);
    remade.ca = vec![0; 10];
    assert_eq!(bench.refused(pair(remade)), "cap_in_use");
    let mut own = peer('x', 5);
    own.ca = founding().ca;
    assert_eq!(bench.refused(pair(own)), "same_cluster");
    assert_eq!(bench.refused(pair(peer('r', 5))), "same_cluster");
    bench.ok(pair(peer('p', 3)));
    assert_eq!(bench.state.peers.get(&cap('p')).unwrap().list.position, Position::new(0, 5), "no older list");
}

#[test]
fn a_pairing_code_pairs_one_key() {
    let mut bench = Bench::founded();
    bench.ticket(1, TicketKind::Pair);
    let pair =
        |key, letter| Command::Pair { peer: Box::new(peer(letter, 1)), ticket: Some((1, Fingerprint([key; 32]))) };
    bench.ok(pair(50, 'p'));
    bench.ok(pair(50, 'p'));
    assert_eq!(bench.refused(pair(51, 'q')), "ticket_used");
    bench.at += HOUR;
    assert_eq!(bench.refused(pair(50, 'p')), "ticket_expired");
}

#[test]
fn a_member_list_never_goes_back() {
    let mut bench = Bench::founded();
    bench.ok(Command::Pair { peer: Box::new(peer('p', 5)), ticket: None });
    let list = |position, names: &[&str]| {
        let member = |(id, name): (usize, &&str)| member(MemberId::from_number(id as u64 + 1), name, 100 + id as u8);
        let members = names.iter().enumerate().map(member).collect();
        Command::Relist(MemberList {
            cap: cap('p'),
            position: Position::new(0, position),
            members,
            cap_addresses: Vec::new(),
        })
    };
    assert_eq!(bench.refused(list(4, &["p1", "p2"])), "stale_list");
    assert_eq!(bench.refused(list(5, &["p1", "p2"])), "stale_list", "the same position with another content");
    bench.at += 10;
    bench.ok(list(6, &["p1", "p2"]));
    let peer = bench.state.peers.get(&cap('p')).unwrap();
    assert_eq!((peer.list.members.len(), peer.confirmed_at), (2, UnixMillis(bench.at)));
    assert_eq!(bench.refused(list(7, &[])), "invalid_value");
    bench.ok(Command::Unpair(cap('p')));
    assert_eq!(bench.refused(list(8, &["p1"])), "not_found");
}

#[test]
fn an_exact_entry_goes_before_a_wildcard_and_a_longer_before_a_shorter() {
    let (mut bench, _) = Bench::ready();
    bench.ok(Command::Deauthorize(name("p-broker-cap.contoso.com")));
    let group = |bench: &Bench| bench.state.permit(&cap('p')).map(|permit| permit.trust_group.as_str().to_owned());
    assert_eq!(group(&bench).unwrap_err().code, "unauthorized_primary");
    bench.ok(Command::Authorize(entry("*", "any")));
    assert_eq!(group(&bench).unwrap(), "any");
    bench.ok(Command::Authorize(entry("*.contoso.com", "domain")));
    assert_eq!(group(&bench).unwrap(), "domain");
    bench.ok(Command::Authorize(entry("p-broker-cap.contoso.com", "exact")));
    assert_eq!(group(&bench).unwrap(), "exact");
    let stranger = bench.state.permit(&cap('q')).unwrap_err();
    assert_eq!(stranger.code, "unknown_peer", "a wildcard matches pinned names only");
    assert_eq!(bench.refused(Command::Deauthorize(name("*.example.com"))), "not_found");
}

#[test]
fn while_any_server_is_allowed_the_table_takes_no_entries() {
    let (mut bench, _) = Bench::ready();
    bench.ok(Command::Pair { peer: Box::new(peer('q', 1)), ticket: None });
    assert_eq!(bench.state.permit(&cap('q')).unwrap_err().code, "unauthorized_primary");
    bench.set(&[("allowed_from_any_server", "true"), ("default_storage_location", "big")]);
    let permit = bench.state.permit(&cap('q')).unwrap();
    assert_eq!((permit.trust_group.as_str(), permit.storage.as_str()), ("DEFAULT", "big"));
    assert_eq!(bench.refused(Command::Authorize(entry("q.contoso.com", "T"))), "any_server_allowed");
    bench.ok(Command::Deauthorize(name("p-broker-cap.contoso.com")));
}

#[test]
fn the_sender_changes_by_release_or_when_it_is_down() {
    let (mut bench, [r1, r2, r3]) = Bench::ready();
    bench.enable(1);
    let Outcome::SenderEpoch(first) = bench.ok(bench.claims(1, r1, SenderEpoch::default(), false)) else { panic!() };
    assert_eq!(bench.ok(bench.claims(1, r1, SenderEpoch::default(), false)), Outcome::SenderEpoch(first));
    assert_eq!(bench.refused(bench.claims(1, r2, SenderEpoch::default(), true)), "stale_epoch");
    let primary = |bench: &Bench| bench.state.primaries.get(&vm(1).id).unwrap().clone();

    bench.ok(bench.claims(1, r2, first, false));
    assert_eq!((primary(&bench).sender, primary(&bench).rivals.len()), (Some(r1), 1), "running on two nodes");
    bench.ok(Command::ReleaseSender { vm: vm(1).id, member: r1 });
    assert_eq!(primary(&bench).sender, None);
    let Outcome::SenderEpoch(second) = bench.ok(bench.claims(1, r2, first, false)) else { panic!() };
    assert!(second > first);
    assert_eq!((primary(&bench).sender, primary(&bench).rivals.len()), (Some(r2), 0));

    let Outcome::SenderEpoch(third) = bench.ok(bench.claims(1, r3, second, true)) else { panic!() };
    assert!(third > second);
    bench.ok(bench.claims(1, r2, third, false));
    bench.ok(Command::ReleaseSender { vm: vm(1).id, member: r2 });
    assert_eq!((primary(&bench).sender, primary(&bench).rivals.len()), (Some(r3), 0));
    bench.ok(Command::Remove(r3));
    assert_eq!(primary(&bench).sender, None, "a removed node sends nothing");
}

#[test]
fn a_vm_is_enabled_towards_one_paired_cluster() {
    let (mut bench, [r1, ..]) = Bench::ready();
    let enable = |number, to, recovery_points| Command::Enable {
        vm: Box::new(vm(number)),
        to: cap(to),
        frequency: landfall_proto::model::Frequency::HalfMinute,
        recovery_points,
        starts_at: None,
        limit: None,
        excluded: Vec::new(),
    };
    assert_eq!(bench.refused(enable(1, 'q', 4)), "unknown_peer");
    assert_eq!(bench.refused(enable(1, 'r', 4)), "same_cluster");
    assert_eq!(bench.refused(enable(1, 'p', 25)), "invalid_value");
    bench.ok(enable(1, 'p', 4));
    bench.ok(enable(1, 'p', 24));
    assert_eq!(bench.state.primaries.get(&vm(1).id).unwrap().recovery_points, 24);
    let adjust = |recovery_points, limit: Option<&str>| Command::Adjust {
        vm: vm(1).id,
        frequency: None,
        recovery_points,
        limit: limit.map(|limit| limit.parse().unwrap()),
    };
    assert_eq!(bench.refused(adjust(Some(25), Some("5"))), "invalid_value");
    for (command, points, limit) in [
        (adjust(Some(3), Some("5")), 3, Some("5")),
        (adjust(None, Some("08:00-18:00=5")), 3, Some("08:00-18:00=5, else=unlimited")),
        (adjust(Some(4), None), 4, Some("08:00-18:00=5, else=unlimited")),
        (adjust(None, Some("unlimited")), 4, None),
    ] {
        bench.ok(command);
        let primary = bench.state.primaries.get(&vm(1).id).unwrap();
        assert_eq!(
            (primary.recovery_points, primary.limit.as_ref().map(ToString::to_string).as_deref()),
            (points, limit)
        );
    }
    bench.ok(Command::Pair { peer: Box::new(peer('q', 1)), ticket: None });
    assert_eq!(bench.refused(enable(1, 'q', 4)), "already_enabled");
    assert_eq!(bench.refused(bench.asks_to_place(1, 'p', r1)), "is_primary_here");
    bench.place(2, r1);
    assert_eq!(bench.refused(enable(2, 'p', 4)), "is_replica_here");
    assert_eq!(bench.ok(Command::Unpair(cap('p'))), Outcome::Stopped(vec![vm(2).id, vm(1).id]));
    assert_eq!(bench.state.primaries.get(&vm(1).id).unwrap().stopped, Some(Stop::PeerRemoved));
    bench.ok(Command::Pair { peer: Box::new(peer('p', 5)), ticket: None });
    assert_eq!(bench.state.primaries.get(&vm(1).id).unwrap().stopped, None);
    bench.ok(Command::Reshape(Box::new(vm(1))));
    bench.ok(Command::Disable(vm(1).id));
    assert_eq!(bench.refused(Command::Disable(vm(1).id)), "not_found");
    assert_eq!(bench.refused(Command::Reshape(Box::new(vm(1)))), "not_found");
}

#[test]
fn every_table_has_a_bound() {
    let mut bench = Bench::founded();
    for id in 0..limits::TICKETS as u64 {
        bench.ticket(id, TicketKind::Pair);
    }
    let expires_at = UnixMillis(bench.at + HOUR);
    let more = Ticket { id: 999, secret: [0; 32], kind: TicketKind::Pair, expires_at, used_by: None };
    assert_eq!(bench.refused(Command::AddTicket(more)), "too_many");
    bench.at += HOUR;
    bench.ticket(1000, TicketKind::Pair);
    assert_eq!(bench.state.tickets.len(), 1, "expired ones make room");
    for number in 0..limits::AUTHORIZATION_ENTRIES {
        bench.ok(Command::Authorize(entry(&format!("p{number}.contoso.com"), "T")));
    }
    assert_eq!(bench.refused(Command::Authorize(entry("q.contoso.com", "T"))), "too_many");
    bench.ok(Command::Authorize(entry("p1.contoso.com", "U")));
    for key in 2..=limits::MEMBERS as u8 {
        bench.at += HOUR;
        bench.join(&format!("r{key}"), key);
    }
    bench.ticket(2000, JOIN);
    assert_eq!(bench.refused(bench.asks_to_join(2000, "r99", 99)), "too_many");
    bench.ticket(2001, replaces("r9"));
    bench.ok(bench.asks_to_join(2001, "r9", 99));
}
