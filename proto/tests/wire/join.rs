//! The join protocol's connection: who is shown, who is believed, what a proof is worth.

use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::{DialError, Link};
use landfall_proto::id::Fingerprint;
use landfall_proto::invitation::{is_proven, proof};
use landfall_proto::trust::{Caller, Distrust};

use crate::cast::{Agent, Cluster, fqdn, label, soon};

const TICKET: u64 = 4711;
const SECRET: [u8; 32] = [5; 32];

/// A stranger's join connection to r1: the stranger's end, r1's end.
async fn connected(stranger: &Agent, r1: &Agent, r: &Cluster) -> (Link, Link) {
    let address = r1.control.local_address().unwrap();
    let near = soon(stranger.control.dial_join(address, &r.cap, r.authority.fingerprint())).await.unwrap();
    let far = soon(r1.control.accept()).await.unwrap();
    assert_eq!(far.alpn(), Alpn::Join);
    (near, far)
}

#[tokio::test]
async fn a_proof_holds_for_its_secret_ticket_and_connection_only() {
    let mut r = Cluster::found("r", 60);
    let r1 = r.member("r1", 1);
    r.tell(&r1, &[]);
    let stranger = Agent::stranger(61);
    let (near, far) = connected(&stranger, &r1, &r).await;
    assert_eq!(*far.caller(), Caller::Stranger { key: stranger.control.identity().key().fingerprint() });
    assert_eq!(label(&near.caller()), "unlisted r1.contoso.com");
    let good = proof(near.connection(), TICKET, &SECRET).unwrap();
    assert!(is_proven(far.connection(), TICKET, &SECRET, &good).unwrap());
    assert!(!is_proven(far.connection(), TICKET, &[6; 32], &good).unwrap());
    assert!(!is_proven(far.connection(), TICKET + 1, &SECRET, &good).unwrap());
    let mut bent = good;
    bent[31] ^= 1;
    assert!(!is_proven(far.connection(), TICKET, &SECRET, &bent).unwrap());
    let (_near, other) = connected(&stranger, &r1, &r).await;
    assert!(!is_proven(other.connection(), TICKET, &SECRET, &good).unwrap());
}

#[tokio::test]
async fn a_joiner_believes_only_the_cluster_that_its_token_names() {
    let mut r = Cluster::found("r", 62);
    let r1 = r.member("r1", 1);
    r.tell(&r1, &[]);
    let stranger = Agent::stranger(63);
    let address = r1.control.local_address().unwrap();
    let error = soon(stranger.control.dial_join(address, &r.cap, Fingerprint([0; 32]))).await.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { distrust: Distrust::UnknownIssuer, .. }), "{error}");
    let other = fqdn("x-broker-cap.contoso.com");
    let error = soon(stranger.control.dial_join(address, &other, r.authority.fingerprint())).await.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { distrust: Distrust::WrongCap { .. }, .. }), "{error}");
}

#[tokio::test]
async fn a_member_pairs_as_a_stranger_since_its_ca_is_not_known_there() {
    let (mut r, mut p) = (Cluster::found("r", 64), Cluster::found("p", 65));
    let (r1, p1) = (r.member("r1", 1), p.member("p1", 1));
    r.tell(&r1, &[]);
    p.tell(&p1, &[]);
    let (near, far) = connected(&p1, &r1, &r).await;
    assert_eq!(*far.caller(), Caller::Stranger { key: p1.member().key });
    // Changes of trust leave a join alone, on both sides.
    r.tell(&r1, &[&p]);
    p.tell(&p1, &[&r]);
    assert_eq!((r1.control.examine(), p1.control.examine()), (0, 0));
    assert!(!near.is_closed() && !far.is_closed());
}
