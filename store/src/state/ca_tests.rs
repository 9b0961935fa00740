//! Rotations of a cluster's CA, step by step, and following a peer's.

use landfall_proto::authority::{Authority, ca_fingerprint};
use landfall_proto::certificate::LEAF_LIFE;
use landfall_proto::id::{Fingerprint, MemberId, Position, UnixMillis};
use landfall_proto::machine::SeededRandom;
use landfall_proto::model::{CaLine, Command, Peer, Succession};
use landfall_proto::seam::{Clock, Time};
use landfall_proto::succession::CHAIN_MAX;

use super::State;
use super::fixture::*;

/// A time at which certificates of the tests are good.
const NOW: u64 = 1_795_305_600_000;

#[derive(Debug)]
struct Stands;

impl Clock for Stands {
    fn now(&self) -> Time {
        Time::default()
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(NOW)
    }
}

fn ca(letter: char, seed: u64) -> Authority {
    Authority::found(&cap(letter), &SeededRandom::new(seed), &Stands).unwrap()
}

/// `before`'s word that `next` follows it.
fn step(before: &Authority, next: &Authority, at: Position) -> Succession {
    before.warrant(next, at, &SeededRandom::new(9), &Stands).unwrap()
}

fn rotate(before: &Authority, next: &Authority, at: Position) -> Command {
    Command::RotateCa(Box::new(step(before, next, at)))
}

fn retire(next: &Authority, give_up: bool) -> Command {
    Command::RetireCa { ca: next.fingerprint(), give_up }
}

fn renewed(member: MemberId, next: &Authority) -> Command {
    Command::Renewed { member, ca: next.fingerprint() }
}

/// r1, r2 and r3 with a real CA.
fn ready() -> (Bench, Authority, [MemberId; 3]) {
    let first = ca('r', 1);
    let mut bench = Bench::founded_with(first.certificate());
    bench.at = NOW;
    let (r2, r3) = (bench.join("r2", 2), bench.join("r3", 3));
    (bench, first, [R1, r2, r3])
}

fn trusted(state: &State) -> Vec<Fingerprint> {
    state.ca.line.trusted().iter().map(|ca| ca_fingerprint(ca)).collect()
}

#[test]
fn a_rotation_ends_once_every_member_and_every_peer_has_followed() {
    let (mut bench, first, [r1, r2, r3]) = ready();
    let next = ca('r', 2);
    bench.ok(Command::Pair { peer: Box::new(peer('p', 5)), ticket: None });
    assert_eq!(trusted(&bench.state), [first.fingerprint()]);
    assert_eq!(bench.refused(retire(&next, true)), "no_rotation");
    bench.ok(rotate(&first, &next, bench.state.applied));
    assert_eq!(trusted(&bench.state), [first.fingerprint(), next.fingerprint()]);
    let other = ca('r', 3);
    assert_eq!(bench.refused(rotate(&next, &other, bench.state.applied)), "rotation_under_way");
    assert_eq!(bench.refused(renewed(r1, &other)), "no_rotation");
    bench.ok(renewed(r1, &next));
    assert_eq!(bench.refused(retire(&next, true)), "too_few_renewed");
    bench.ok(renewed(r2, &next));
    assert_eq!(bench.refused(retire(&next, false)), "not_followed");
    bench.ok(renewed(r3, &next));
    assert_eq!(bench.refused(Command::Followed { cap: cap('q'), ca: next.fingerprint() }), "not_found");
    assert_eq!(bench.refused(retire(&next, false)), "not_followed", "the peer has not");
    bench.ok(Command::Followed { cap: cap('p'), ca: next.fingerprint() });
    let before = bench.state.ca.line.changed;
    bench.ok(retire(&next, false));
    assert_eq!(trusted(&bench.state), [next.fingerprint()]);
    assert!(bench.state.ca.line.changed > before && bench.state.ca.rotation.is_none());
    assert_eq!(State::from_archive(&bench.state.archive().unwrap()).unwrap(), bench.state);
}

#[test]
fn stragglers_are_given_up_by_an_operator_or_after_the_life_of_a_certificate() {
    for by_operator in [true, false] {
        let (mut bench, first, [r1, r2, _]) = ready();
        let next = ca('r', 2);
        bench.ok(rotate(&first, &next, bench.state.applied));
        bench.ok(renewed(r1, &next));
        bench.ok(renewed(r2, &next));
        if !by_operator {
            bench.at += u64::try_from(LEAF_LIFE.as_millis()).unwrap() - 1;
            assert_eq!(bench.refused(retire(&next, false)), "not_followed");
            bench.at += 1;
        }
        bench.ok(retire(&next, by_operator));
        assert_eq!(trusted(&bench.state), [next.fingerprint()]);
    }
}

#[test]
fn a_member_that_is_removed_keeps_no_rotation_from_ending() {
    let (mut bench, first, [r1, r2, r3]) = ready();
    let next = ca('r', 2);
    bench.ok(rotate(&first, &next, bench.state.applied));
    bench.ok(renewed(r1, &next));
    bench.ok(renewed(r2, &next));
    bench.ok(Command::Remove(r3));
    bench.ok(retire(&next, false));
}

#[test]
fn a_successor_that_the_present_ca_has_not_signed_is_refused() {
    let (mut bench, first, _) = ready();
    let (next, foreign) = (ca('r', 2), ca('r', 3));
    let at = bench.state.applied;
    let forged = Succession { warrant: step(&foreign, &next, at).warrant, ca: next.certificate().to_vec() };
    assert_eq!(bench.refused(Command::RotateCa(Box::new(forged))), "ca_not_followed");
    let swapped = Succession { ca: foreign.certificate().to_vec(), ..step(&first, &next, at) };
    assert_eq!(bench.refused(Command::RotateCa(Box::new(swapped))), "ca_not_followed");
    let of_p = ca('p', 4);
    assert_eq!(bench.refused(rotate(&of_p, &next, at)), "ca_not_followed", "another cluster's word");
    assert_eq!(bench.refused(rotate(&first, &of_p, at)), "ca_not_followed", "another cluster's CA");
    assert_eq!(bench.refused(rotate(&first, &next, Position::new(1, 9))), "ca_not_followed", "another life's word");
    // A word that was given before the last rotation, said again.
    let old = rotate(&first, &next, at);
    bench.ok(old.clone());
    let waiting = bench.state.waits_for().unwrap().0;
    waiting.into_iter().for_each(|member| drop(bench.ok(renewed(member, &next))));
    bench.ok(retire(&next, false));
    assert_eq!(bench.refused(old), "ca_not_followed");
    let stale = rotate(&next, &foreign, at);
    assert_eq!(bench.refused(stale), "ca_not_followed", "it is older than the present CA");
}

/// Rotates R's CA to the end.
fn through(bench: &mut Bench, before: &Authority, next: &Authority) {
    bench.ok(rotate(before, next, bench.state.applied));
    let (members, peers) = bench.state.waits_for().unwrap();
    members.into_iter().for_each(|member| drop(bench.ok(renewed(member, next))));
    peers.into_iter().for_each(|cap| drop(bench.ok(Command::Followed { cap, ca: next.fingerprint() })));
    bench.ok(retire(next, false));
}

/// P, paired with R under R's CA `first`.
fn paired(first: &Authority) -> Bench {
    let mut p = Bench::founded_with(ca('p', 50).certificate());
    p.at = NOW;
    // The fixture's own cluster is called r.
    let line = CaLine::of(first.certificate().to_vec());
    p.ok(Command::Pair {
        peer: Box::new(Peer { ca: first.certificate().to_vec(), line, ..peer('q', 5) }),
        ticket: None,
    });
    p
}

fn follow(bench: &Bench) -> Command {
    Command::Follow { cap: cap('q'), line: Box::new(bench.state.ca.line.clone()) }
}

fn pins(p: &Bench) -> Vec<Fingerprint> {
    p.state.peers.get(&cap('q')).unwrap().line.trusted().iter().map(|ca| ca_fingerprint(ca)).collect()
}

/// A cluster called q with CAs of its own.
fn q() -> (Bench, Vec<Authority>) {
    let cas: Vec<Authority> = (0..8).map(|number| ca('q', 100 + number)).collect();
    let mut found = founding();
    (found.cap, found.ca) = (cap('q'), cas[0].certificate().to_vec());
    let mut bench = Bench::founded_as(found);
    bench.at = NOW;
    bench.join("q2", 2);
    (bench, cas)
}

#[test]
fn a_peer_follows_by_the_word_of_the_ca_that_it_has_pinned() {
    let (mut q, cas) = q();
    let mut p = paired(&cas[0]);
    q.ok(rotate(&cas[0], &cas[1], q.state.applied));
    p.ok(follow(&q));
    assert_eq!(pins(&p), [cas[0].fingerprint(), cas[1].fingerprint()]);
    p.ok(follow(&q));
    let earlier = follow(&q);
    let (members, _) = q.state.waits_for().unwrap();
    members.into_iter().for_each(|member| drop(q.ok(renewed(member, &cas[1]))));
    q.ok(retire(&cas[1], false));
    p.ok(follow(&q));
    assert_eq!(p.refused(earlier), "ca_not_followed", "what is older comes late");
    assert_eq!(pins(&p), [cas[1].fingerprint()]);
    // What it is known by is the CA that it was founded with, whatever followed.
    assert_eq!(p.state.peers.get(&cap('q')).unwrap().ca, cas[0].certificate());
}

#[test]
fn a_peer_that_was_away_follows_a_bounded_chain() {
    let (mut q, cas) = q();
    let mut p = paired(&cas[0]);
    for pair in cas.windows(2).take(CHAIN_MAX) {
        through(&mut q, &pair[0], &pair[1]);
    }
    let mut late = p.clone();
    p.ok(follow(&q));
    assert_eq!(pins(&p), [cas[CHAIN_MAX].fingerprint()]);
    through(&mut q, &cas[CHAIN_MAX], &cas[CHAIN_MAX + 1]);
    assert_eq!(q.state.ca.line.after.len(), CHAIN_MAX, "older ones are forgotten");
    let Err(refusal) = late.run(follow(&q)) else { panic!("it follows what it cannot know") };
    assert!(refusal.code == "ca_not_followed" && refusal.remedy.unwrap().contains("peer invite"));
    assert_eq!(pins(&late), [cas[0].fingerprint()]);
    p.ok(follow(&q));
}

#[test]
fn a_forged_or_rival_successor_of_a_peer_is_refused() {
    let (mut q, cas) = q();
    let mut p = paired(&cas[0]);
    let told = |first: &Authority, after: Vec<Succession>, rotating, index| {
        let line = CaLine { first: first.certificate().to_vec(), after, rotating, changed: Position::new(0, index) };
        Command::Follow { cap: cap('q'), line: Box::new(line) }
    };
    let at = Position::new(0, 50);
    let forged = Succession { warrant: step(&cas[2], &cas[1], at).warrant, ca: cas[1].certificate().to_vec() };
    assert_eq!(p.refused(told(&cas[0], vec![forged.clone()], true, 60)), "ca_not_followed");
    assert_eq!(p.refused(told(&cas[0], vec![forged], false, 60)), "ca_not_followed");
    assert_eq!(p.refused(told(&cas[3], vec![], false, 60)), "ca_not_followed", "a CA out of nowhere");
    let of_r = ca('r', 77);
    assert_eq!(
        p.refused(told(&cas[0], vec![step(&cas[0], &of_r, at)], true, 60)),
        "ca_not_followed",
        "for another CAP"
    );
    assert_eq!(pins(&p), [cas[0].fingerprint()]);
    q.ok(rotate(&cas[0], &cas[1], q.state.applied));
    p.ok(follow(&q));
    // Whoever has stolen the old key signs another one, later.
    assert_eq!(p.refused(told(&cas[0], vec![step(&cas[0], &cas[4], at)], true, 90)), "ca_not_followed");
    assert_eq!(p.refused(told(&cas[0], vec![], false, 90)), "ca_not_followed", "nor is it taken back");
    assert_eq!(pins(&p), [cas[0].fingerprint(), cas[1].fingerprint()]);
}

#[test]
fn in_its_next_life_a_cluster_goes_on_with_the_ca_that_the_survivor_can_issue_by() {
    for had_it in [true, false] {
        let (mut q, cas) = q();
        let mut p = paired(&cas[0]);
        q.ok(rotate(&cas[0], &cas[1], q.state.applied));
        if had_it {
            q.ok(renewed(R1, &cas[1]));
        }
        p.ok(follow(&q));
        let state = q.state.clone();
        q.recover(state, R1, &[]);
        let kept = if had_it { vec![cas[0].fingerprint(), cas[1].fingerprint()] } else { vec![cas[0].fingerprint()] };
        assert_eq!(trusted(&q.state), kept);
        p.ok(follow(&q));
        assert_eq!(pins(&p), kept);
        // Where it never was another rotation may begin, to another CA.
        let next = if had_it { &cas[1] } else { &cas[2] };
        if !had_it {
            q.ok(rotate(&cas[0], next, q.state.applied));
            q.ok(renewed(R1, next));
        }
        q.ok(retire(next, false));
        p.ok(follow(&q));
        assert_eq!(pins(&p), [next.fingerprint()]);
    }
}

#[test]
fn pairing_again_does_not_put_another_ca_in_the_place_of_a_pinned_one() {
    let (mut q, cas) = q();
    let mut p = paired(&cas[0]);
    let known = p.state.peers.get(&cap('q')).unwrap().clone();
    let pair = |line: CaLine| Command::Pair { peer: Box::new(Peer { line, ..known.clone() }), ticket: None };
    let mut claimed = CaLine::of(cas[5].certificate().to_vec());
    claimed.changed = Position::new(0, 99);
    assert_eq!(p.refused(pair(claimed)), "ca_not_followed");
    q.ok(rotate(&cas[0], &cas[1], q.state.applied));
    p.ok(pair(q.state.ca.line.clone()));
    assert_eq!(pins(&p).len(), 2);
    p.ok(pair(CaLine::of(cas[0].certificate().to_vec())));
    assert_eq!(pins(&p).len(), 2, "an older word changes nothing");
}
