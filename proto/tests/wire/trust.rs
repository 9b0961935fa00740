//! Certificates against pinned CAs and member lists, without a network.

use std::sync::atomic::Ordering;

use landfall_proto::authority::Authority;
use landfall_proto::certificate::{Leaf, NodeKey};
use landfall_proto::id::{MemberId, Position, UnixMillis};
use landfall_proto::seam::Clock;
use landfall_proto::trust::{Caller, Distrust, Side, TrustView};

use crate::attack::forge;
use crate::cast::{Cluster, DAY, TODAY, fqdn, label, outside};

fn view(own: &Cluster, peers: &[&Cluster]) -> TrustView {
    TrustView { own: Some(own.trust()), peers: peers.iter().map(|peer| peer.trust()).collect() }
}

const NOW: UnixMillis = UnixMillis(TODAY);

#[test]
fn an_authority_comes_back_from_its_parts_and_issues_what_can_be_read() {
    let (outside, clock) = outside(20);
    let cap = fqdn("r-broker-cap.contoso.com");
    let founded = Authority::found(&cap, &*outside.random, &*clock).unwrap();
    let authority = Authority::from_parts(founded.pkcs8(), founded.certificate()).unwrap();
    assert_eq!((authority.cap(), authority.fingerprint()), (&cap, founded.fingerprint()));
    let key = NodeKey::generate(&*outside.random).unwrap();
    assert_eq!(NodeKey::from_pkcs8(key.pkcs8()).unwrap().fingerprint(), key.fingerprint());
    let id = MemberId::from_number(u64::MAX >> 3);
    let name = fqdn("r1.contoso.com");
    let leaf = authority.issue(&name, id, key.public_key(), &*outside.random, &*clock).unwrap();
    assert_eq!(Leaf::read(&leaf).unwrap(), Leaf { fqdn: name, cap, member: id, key: key.fingerprint() });
    let other = NodeKey::generate(&*outside.random).unwrap();
    assert!(Authority::from_parts(other.pkcs8(), founded.certificate()).is_err());
    assert!(authority.issue(&fqdn("a.1"), id, key.public_key(), &*outside.random, &*clock).is_err());
    let mut broken = key.public_key().to_vec();
    broken.push(0);
    assert!(authority.issue(&fqdn("r1.contoso.com"), id, &broken, &*outside.random, &*clock).is_err());
}

#[test]
fn the_same_seed_makes_the_same_cluster() {
    let make = |seed| {
        let (outside, clock) = outside(seed);
        let cap = fqdn("r-broker-cap.contoso.com");
        let authority = Authority::found(&cap, &*outside.random, &*clock).unwrap();
        let key = NodeKey::generate(&*outside.random).unwrap();
        let name = fqdn("r1.contoso.com");
        authority.issue(&name, MemberId::from_number(4), key.public_key(), &*outside.random, &*clock).unwrap()
    };
    assert_eq!(make(1), make(1));
    assert_ne!(make(1), make(2));
}

#[tokio::test]
async fn name_key_and_id_must_all_agree_with_the_list() {
    let mut r = Cluster::found("r", 21);
    let (r1, r5) = (r.member("r1", 1), r.member("r5", 5));
    let trusted = view(&r, &[]);
    assert_eq!(label(&trusted.classify(&r1.leaf, Side::Client, NOW).unwrap()), "member r1");
    let issue = |name: &str, id: u64, key: &[u8]| {
        let (outside, _) = outside(99);
        let id = MemberId::from_number(id);
        r.authority.issue(&fqdn(name), id, key, &*outside.random, &*r1.clock).unwrap()
    };
    let key = r1.control.identity().key().public_key().to_vec();
    let what = |leaf: &[u8]| match trusted.classify(leaf, Side::Client, NOW) {
        Err(Distrust::Mismatch { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(&issue("r1.contoso.com", 5, &key)), "the key");
    assert_eq!(what(&issue("r2.contoso.com", 1, &key)), "the name");
    assert_eq!(what(&issue("r1.contoso.com", 9, &key)), "the member id");
    let fresh = NodeKey::generate(&*r5.outside.random).unwrap();
    let newer = trusted.classify(&issue("r9.contoso.com", 9, fresh.public_key()), Side::Client, NOW);
    assert!(matches!(newer, Ok(Caller::Unlisted { .. })), "{newer:?}");
    let older = trusted.classify(&issue("r3.contoso.com", 3, fresh.public_key()), Side::Client, NOW);
    assert!(matches!(older, Err(Distrust::Removed { .. })), "{older:?}");
}

#[tokio::test]
async fn after_a_recovery_members_of_the_old_life_are_removed_ones() {
    let mut r = Cluster::found("r", 22);
    let (r1, r7) = (r.member("r1", 1), r.member("r7", 7));
    r.list.members.retain(|member| member.id == r1.member().id);
    r.list.position = Position::new(1, 2);
    let distrust = view(&r, &[]).classify(&r7.leaf, Side::Client, NOW).unwrap_err();
    assert!(matches!(distrust, Distrust::Removed { .. }), "{distrust}");
}

#[tokio::test]
async fn a_ca_vouches_for_its_own_cap_only() {
    let (r, mut p, q) = (Cluster::found("r", 23), Cluster::found("p", 24), Cluster::found("q", 25));
    let p1 = p.member("p1", 1);
    let key = p1.control.identity().key().clone();
    // Q's own CA signs that Q's node is P's member 1, key, name and all.
    let forged = forge(&q.authority, &q.cap, &[p1.member().fqdn.as_str(), p.cap.as_str()], "1", &key, true);
    let distrust = view(&r, &[&p, &q]).classify(&forged, Side::Client, NOW).unwrap_err();
    assert_eq!(distrust, Distrust::WrongCap { pinned: q.cap.clone(), claimed: p.cap.clone() });
    // A CA of the same name as P's, with another key.
    let impostor = Cluster::found("p", 26);
    let leaf = impostor.unlisted("p1", 1).leaf;
    assert_eq!(view(&r, &[&p, &q]).classify(&leaf, Side::Client, NOW), Err(Distrust::UnknownIssuer));
    // P was forgotten, and paired again under another CA: what the old one has proven counts no longer.
    let proven = view(&r, &[&p]).prove(&p1.leaf, &[], Side::Client, NOW).unwrap();
    assert!(matches!(view(&r, &[&impostor]).standing(&proven), Err(Distrust::Retired { .. })));
    assert!(matches!(view(&r, &[]).standing(&proven), Err(Distrust::Unpaired { .. })));
}

#[tokio::test]
async fn certificates_end_and_begin_and_serve_their_purpose_only() {
    let mut r = Cluster::found("r", 27);
    let r1 = r.member("r1", 1);
    let trusted = view(&r, &[]);
    let at = |days: i64| UnixMillis(TODAY.saturating_add_signed(days * i64::try_from(DAY).unwrap()));
    assert!(trusted.classify(&r1.leaf, Side::Server, at(6)).is_ok());
    assert_eq!(trusted.classify(&r1.leaf, Side::Server, at(8)), Err(Distrust::Expired));
    assert_eq!(trusted.classify(&r1.leaf, Side::Client, at(-1)), Err(Distrust::NotValidYet));
    let key = r1.control.identity().key().clone();
    let names = ["r1.contoso.com", r.cap.as_str()];
    let wrong_use = forge(&r.authority, &r.cap, &names, "1", &key, false);
    assert!(matches!(trusted.classify(&wrong_use, Side::Client, NOW), Err(Distrust::Malformed(_))));
    for (names, id) in [(&names[..1], "1"), (&names[..], "01"), (&names[..], "x"), (&names[..], "-1")] {
        let odd = forge(&r.authority, &r.cap, names, id, &key, true);
        assert!(matches!(trusted.classify(&odd, Side::Client, NOW), Err(Distrust::Malformed(_))), "{names:?} {id}");
    }
    assert_eq!(r1.clock.wall().0, r1.clock.0.load(Ordering::Relaxed));
}

#[test]
fn a_wild_clock_makes_no_panic() {
    let (outside, clock) = outside(28);
    for wall in [0, 1, u64::MAX] {
        clock.0.store(wall, Ordering::Relaxed);
        let authority = Authority::found(&fqdn("r.contoso.com"), &*outside.random, &*clock).unwrap();
        let view = TrustView::default();
        let _ = view.classify(authority.certificate(), Side::Client, UnixMillis(wall));
    }
}
