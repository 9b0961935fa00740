//! A CA takes the place of another one: who is believed meanwhile, and who afterwards.

use std::sync::Arc;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::Authority;
use landfall_proto::id::{Position, UnixMillis};
use landfall_proto::model::{CaLine, Succession};
use landfall_proto::succession::{self, CHAIN_MAX, Unfit};
use landfall_proto::tls::Identity;
use landfall_proto::trust::{ClusterTrust, TrustView};

use crate::cast::{Agent, Cluster, TODAY, outside, soon, until};

const NOW: UnixMillis = UnixMillis(TODAY);

/// A new CA of `cluster`.
fn ca(cluster: &Cluster, seed: u64) -> Authority {
    let (outside, clock) = outside(seed);
    Authority::found(&cluster.cap, &*outside.random, &*clock).unwrap()
}

/// `before`'s word that `next` follows it.
fn step(before: &Authority, next: &Authority, index: u64) -> Succession {
    let (outside, clock) = outside(5);
    before.warrant(next, Position::new(0, index), &*outside.random, &*clock).unwrap()
}

/// The line of `cas`, of which the last one follows the one before while `rotating`.
fn line(cas: &[&Authority], rotating: bool) -> CaLine {
    let after = cas.windows(2).zip(1..).map(|(pair, index)| step(pair[0], pair[1], 10 * index)).collect();
    let changed = Position::new(0, 10 * cas.len() as u64 + u64::from(!rotating));
    CaLine { first: cas[0].certificate().to_vec(), after, rotating, changed }
}

/// Gives `agent` a certificate of `authority`, shown with `line` behind it.
fn renew(agent: &Agent, authority: &Authority, line: &CaLine) {
    let (member, identity) = (agent.member(), agent.control.identity());
    let key = identity.key();
    let (random, clock) = (&*agent.outside.random, &*agent.clock);
    let leaf = authority.issue(&member.fqdn, member.id, key.public_key(), random, clock).unwrap();
    let identity = Identity::member(Arc::clone(key), &leaf, &line.first).unwrap().following(line);
    agent.control.set_identity(identity.clone()).unwrap();
    agent.data.set_identity(identity).unwrap();
}

/// What `agent` believes from now on: its own cluster by the CAs of `line`.
fn believe(agent: &Agent, cluster: &Cluster, line: &CaLine) {
    let own = Some(ClusterTrust { cas: line.trusted(), ..cluster.trust() });
    agent.trust.set(TrustView { own, peers: agent.trust.view().peers.clone() });
}

#[tokio::test]
async fn both_cas_count_while_one_follows_the_other_and_the_old_one_does_not_afterwards() {
    let mut r = Cluster::found("r", 61);
    let (r1, r2, slow) = (r.member("r1", 1), r.member("r2", 2), r.member("slow", 3));
    [&r1, &r2, &slow].into_iter().for_each(|agent| {
        r.tell(agent, &[]);
        agent.serve();
    });
    let next = ca(&r, 62);
    let rotating = line(&[&r.authority, &next], true);
    // r2 is ahead of r1, which has not heard of the new CA: its word is in the handshake, both ways.
    believe(&r2, &r, &rotating);
    renew(&r2, &next, &rotating);
    assert_eq!(soon(r2.who_am_i(&r1, &r.cap, Alpn::Control)).await.unwrap(), "member r2");
    assert_eq!(soon(r1.who_am_i(&r2, &r.cap, Alpn::Raft)).await.unwrap(), "member r1");
    // It hears of it, and goes on with the same connections.
    let before = r1.control.links().len();
    believe(&r1, &r, &rotating);
    r1.control.examine();
    assert_eq!(r1.control.links().len(), before);
    renew(&r1, &next, &rotating);
    assert_eq!(soon(slow.who_am_i(&r1, &r.cap, Alpn::Control)).await.unwrap(), "member slow");
    assert_eq!(soon(slow.who_am_i(&r1, &r.cap, Alpn::Data)).await.unwrap(), "member slow");
    // The old one is retired: what a certificate of it has opened is closed, and it opens nothing more.
    let retired = line(&[&r.authority, &next], false);
    believe(&r1, &r, &retired);
    let of_slow = |agent: &Agent| agent.links_of("slow");
    until("the old certificate's connections are closed", || of_slow(&r1) == 0).await;
    for alpn in [Alpn::Control, Alpn::Data, Alpn::Gossip] {
        let refused = soon(slow.who_am_i(&r1, &r.cap, alpn)).await;
        assert!(refused.is_err(), "{alpn}: {refused:?}");
    }
    assert!(soon(r1.who_am_i(&slow, &r.cap, Alpn::Control)).await.is_err(), "nor is it believed as a server");
    believe(&r2, &r, &retired);
    assert_eq!(soon(r2.who_am_i(&r1, &r.cap, Alpn::Control)).await.unwrap(), "member r2");
    // One that is back with a certificate of the new CA is in again.
    renew(&slow, &next, &retired);
    assert_eq!(soon(slow.who_am_i(&r1, &r.cap, Alpn::Control)).await.unwrap(), "member slow");
}

#[tokio::test]
async fn a_peer_that_was_away_follows_in_the_handshake() {
    let (mut r, mut p) = (Cluster::found("r", 63), Cluster::found("p", 64));
    let (r1, p1) = (r.member("r1", 1), p.member("p1", 1));
    r.tell(&r1, &[&p]);
    p.tell(&p1, &[&r]);
    [&r1, &p1].into_iter().for_each(Agent::serve);
    let cas: Vec<Authority> = (0..CHAIN_MAX as u64).map(|number| ca(&r, 70 + number)).collect();
    let all: Vec<&Authority> = std::iter::once(&r.authority).chain(&cas).collect();
    let line = line(&all, false);
    let newest = all[all.len() - 1];
    believe(&r1, &r, &line);
    renew(&r1, newest, &line);
    assert_eq!(soon(r1.who_am_i(&p1, &p.cap, Alpn::Control)).await.unwrap(), format!("peer r1 of {}", r.cap));
    assert_eq!(soon(p1.who_am_i(&r1, &r.cap, Alpn::Broker)).await.unwrap(), format!("peer p1 of {}", p.cap));
    // One that has pinned another one of that name is not led anywhere.
    let impostor = Cluster::found("r", 65);
    p.tell(&p1, &[&impostor]);
    assert!(soon(r1.who_am_i(&p1, &p.cap, Alpn::Control)).await.is_err());
}

#[tokio::test]
async fn whoever_is_not_vouched_for_is_not_believed() {
    let mut r = Cluster::found("r", 66);
    let (r1, thief) = (r.member("r1", 1), r.member("thief", 2));
    [&r1, &thief].into_iter().for_each(|agent| {
        r.tell(agent, &[]);
        agent.serve();
    });
    let (next, foreign) = (ca(&r, 67), ca(&r, 68));
    let good = line(&[&r.authority, &next], true);
    let forged = CaLine {
        after: vec![Succession { ca: foreign.certificate().to_vec(), ..step(&foreign, &foreign, 10) }],
        ..good.clone()
    };
    let swapped = CaLine {
        after: vec![Succession { ca: foreign.certificate().to_vec(), ..good.after[0].clone() }],
        ..good.clone()
    };
    for line in [&forged, &swapped, &good, &CaLine::of(r.authority.certificate().to_vec())] {
        renew(&thief, &foreign, line);
        let refused = soon(thief.who_am_i(&r1, &r.cap, Alpn::Control)).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    // Where another CA has followed already, the old one's word leads nowhere any more.
    let late = line(&[&r.authority, &foreign], true);
    renew(&thief, &foreign, &late);
    believe(&r1, &r, &good);
    assert!(soon(thief.who_am_i(&r1, &r.cap, Alpn::Control)).await.is_err());
    believe(&r1, &r, &CaLine::of(r.authority.certificate().to_vec()));
    assert_eq!(soon(thief.who_am_i(&r1, &r.cap, Alpn::Control)).await.unwrap(), "member thief");
    believe(&r1, &r, &good);
    until("what that has opened is closed", || r1.links_of("thief") == 0).await;
}

#[tokio::test]
async fn an_invitation_that_names_an_older_ca_still_leads_to_the_cluster() {
    let mut r = Cluster::found("r", 69);
    let r1 = r.member("r1", 1);
    r1.serve();
    let next = ca(&r, 71);
    let line = line(&[&r.authority, &next], false);
    let stranger = Agent::stranger(72);
    let (at, first) = (r1.member().control, r.authority.fingerprint());
    assert!(soon(stranger.control.dial_join(at, &r.cap, first)).await.is_ok());
    assert!(soon(stranger.control.dial_join(at, &r.cap, next.fingerprint())).await.is_err(), "not yet");
    believe(&r1, &r, &line);
    renew(&r1, &next, &line);
    for named in [first, next.fingerprint()] {
        assert!(soon(stranger.control.dial_join(at, &r.cap, named)).await.is_ok());
    }
    assert!(soon(stranger.control.dial_join(at, &r.cap, ca(&r, 73).fingerprint())).await.is_err());
}

#[test]
fn a_warrant_says_one_thing_of_one_cluster() {
    let (r, p) = (Cluster::found("r", 80), Cluster::found("p", 81));
    let next = ca(&r, 82);
    let good = step(&r.authority, &next, 40);
    assert_eq!(succession::verify(r.authority.certificate(), &good, &r.cap, NOW), Ok(Position::new(0, 40)));
    let unfit = |step: &Succession| succession::verify(r.authority.certificate(), step, &r.cap, NOW).unwrap_err();
    assert_eq!(unfit(&step(&next, &next, 1)), Unfit::Unsigned);
    assert!(matches!(unfit(&step(&p.authority, &next, 1)), Unfit::OtherCap { .. }));
    assert_eq!(unfit(&Succession { ca: r.authority.certificate().to_vec(), ..good.clone() }), Unfit::OtherCa);
    assert!(matches!(unfit(&Succession { warrant: next.certificate().to_vec(), ..good.clone() }), Unfit::Malformed(_)));
    assert!(matches!(unfit(&Succession { warrant: vec![1, 2, 3], ..good.clone() }), Unfit::Malformed(_)));
    // Whose a certificate is, is its signature's word: both CAs have the same name.
    let (sample, _) = outside(84);
    let own = landfall_proto::certificate::NodeKey::generate(&*sample.random).unwrap();
    let (r7, seven) = ("r7.contoso.com".parse().unwrap(), landfall_proto::id::MemberId::from_number(7));
    let of_next = next.issue(&r7, seven, own.public_key(), &*sample.random, &*sample.clock).unwrap();
    assert!(landfall_proto::trust::expires_at(&of_next, next.certificate()).is_some());
    assert_eq!(landfall_proto::trust::expires_at(&of_next, r.authority.certificate()), None);
    // A node's certificate is no warrant, and a warrant no node's certificate.
    let (outside, clock) = outside(83);
    let key = landfall_proto::certificate::NodeKey::generate(&*outside.random).unwrap();
    let id = landfall_proto::id::MemberId::from_number(9);
    let name = "r9.contoso.com".parse().unwrap();
    let leaf = r.authority.issue(&name, id, key.public_key(), &*outside.random, &*clock).unwrap();
    assert!(matches!(unfit(&Succession { warrant: leaf, ..good.clone() }), Unfit::Malformed(_)));
    let view = TrustView { own: Some(r.trust()), peers: Vec::new() };
    for side in [landfall_proto::trust::Side::Client, landfall_proto::trust::Side::Server] {
        assert!(view.classify(&good.warrant, side, NOW).is_err());
    }
}

#[test]
fn the_certificates_of_the_longest_cap_are_kept() {
    let label = |letter: &str, length| letter.repeat(length);
    let cap = format!("{}.{}.{}.{}", label("a", 63), label("b", 63), label("c", 63), label("d", 61));
    let (outside, clock) = outside(90);
    let found = || Authority::found(&cap.parse().unwrap(), &*outside.random, &*clock).unwrap();
    let (first, next) = (found(), found());
    let at = Position::from_number(u64::MAX);
    let step = first.warrant(&next, at, &*outside.random, &*clock).unwrap();
    assert_eq!(succession::verify(first.certificate(), &step, first.cap(), NOW), Ok(at));
    for der in [&step.ca, &step.warrant] {
        assert!(der.len() <= succession::SUCCESSION_CERTIFICATE, "{} bytes", der.len());
    }
}
