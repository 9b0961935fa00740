//! Callers that must not get in, and bytes that must do no harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::Authority;
use landfall_proto::certificate::NodeKey;
use landfall_proto::close::Close;
use landfall_proto::endpoint::Endpoint;
use landfall_proto::id::Fqdn;
use landfall_proto::machine::SeededRandom;
use landfall_proto::seam::Random;
use quinn::ConnectionError;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::pki_types::ServerName;

use crate::attacker::{self, Forged};
use crate::cast::{Agent, Cluster, DAY, LIMIT, TODAY, outside, soon, until};

/// A leaf that `authority` signs with whatever names, `usable` with the right extended key usages.
pub fn forge(
    authority: &Authority,
    issuer: &Fqdn,
    names: &[&str],
    member: &str,
    key: &NodeKey,
    usable: bool,
) -> Vec<u8> {
    Forged { authority, issuer, names, member, usable, years: (1975, 2028) }.leaf(key)
}

/// A bare QUIC client with any certificate and key, or none, and any protocol name.
struct Attacker {
    quinn: quinn::Endpoint,
    tls: rustls::ClientConfig,
}

impl Attacker {
    fn new(shown: Option<(&[u8], &NodeKey)>, alpn: &str) -> Self {
        let tls = attacker::tls(shown, alpn);
        let quinn = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { quinn, tls }
    }

    async fn dial(&self, victim: &Endpoint) -> Result<quinn::Connection, ConnectionError> {
        let config = attacker::client(self.tls.clone());
        soon(self.quinn.connect_with(config, victim.local_address().unwrap(), "landfall").unwrap()).await
    }

    /// How the victim ends it: in TLS 1.3 a client learns only after its own handshake that it was refused.
    async fn end(&self, victim: &Endpoint) -> ConnectionError {
        match self.dial(victim).await {
            Ok(connection) => soon(connection.closed()).await,
            Err(error) => error,
        }
    }

    async fn is_turned_away_by_tls(&self, victim: &Endpoint, alert: u8) {
        let end = self.end(victim).await;
        let code = match &end {
            ConnectionError::ConnectionClosed(close) => close.error_code,
            other => panic!("{other}"),
        };
        assert_eq!(code, quinn::TransportErrorCode::crypto(alert), "{end}");
        assert!(victim.links().is_empty());
    }
}

/// A cluster of r1 (listed) and a peer P; the attackers' victim is r1.
fn scene(seed: u64) -> (Cluster, Cluster, Agent, Agent) {
    let (mut r, mut p) = (Cluster::found("r", seed), Cluster::found("p", seed + 1));
    let (r1, p1) = (r.member("r1", 1), p.member("p1", 1));
    r.tell(&r1, &[&p]);
    p.tell(&p1, &[&r]);
    (r, p, r1, p1)
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate_that_counts() {
    let (_r, _p, r1, p1) = scene(40);
    let (outside, clock) = outside(41);
    let key = NodeKey::generate(&*outside.random).unwrap();
    // certificate_required
    Attacker::new(None, Alpn::Broker.name()).is_turned_away_by_tls(&r1.control, 116).await;
    // unknown_ca
    let foreign = Cluster::found("p", 42).unlisted("p1", 1);
    let foreign_key = foreign.control.identity().key().clone();
    let attacker = Attacker::new(Some((&foreign.leaf, &foreign_key)), Alpn::Broker.name());
    attacker.is_turned_away_by_tls(&r1.control, 48).await;
    // decrypt_error: p1's certificate, another key
    Attacker::new(Some((&p1.leaf, &key)), Alpn::Broker.name()).is_turned_away_by_tls(&r1.control, 51).await;
    // no_application_protocol
    let p1_key = p1.control.identity().key().clone();
    for alpn in ["landfall-broker/2", "h3", "landfall-data/1"] {
        Attacker::new(Some((&p1.leaf, &p1_key)), alpn).is_turned_away_by_tls(&r1.control, 120).await;
    }
    // A key that vouches for itself has no business outside of join.
    let own = key.self_signed(&*clock, &*outside.random).unwrap();
    for alpn in [Alpn::Broker, Alpn::Control, Alpn::Raft, Alpn::Gossip] {
        let end = Attacker::new(Some((&own, &key)), alpn.name()).end(&r1.control).await;
        assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::NotAllowed), "{alpn}: {end}");
    }
    assert!(r1.control.links().is_empty());
    // And p1 with its own key does get in: the refusals above are not a dead endpoint's.
    Attacker::new(Some((&p1.leaf, &p1_key)), Alpn::Broker.name()).dial(&r1.control).await.unwrap();
    soon(r1.control.accept()).await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_the_clock_of_who_is_asked() {
    let (_r, _p, r1, p1) = scene(43);
    let key = p1.control.identity().key().clone();
    let attacker = Attacker::new(Some((&p1.leaf, &key)), Alpn::Broker.name());
    r1.clock.0.store(TODAY + 8 * DAY, Ordering::Relaxed);
    attacker.is_turned_away_by_tls(&r1.control, 45).await;
    r1.clock.0.store(TODAY - DAY, Ordering::Relaxed);
    assert!(!matches!(attacker.end(&r1.control).await, ConnectionError::TimedOut));
    r1.clock.0.store(TODAY, Ordering::Relaxed);
    attacker.dial(&r1.control).await.unwrap();
    soon(r1.control.accept()).await.unwrap();
}

#[tokio::test]
async fn another_clusters_ca_cannot_make_a_node_of_this_one() {
    let (r, p, r1, p1) = scene(45);
    let q = Cluster::found("q", 47);
    r.tell(&r1, &[&p, &q]);
    let key = p1.control.identity().key().clone();
    let names = [p1.member().fqdn.as_str(), p.cap.as_str()];
    let forged = forge(&q.authority, &q.cap, &names, "1", &key, true);
    Attacker::new(Some((&forged, &key)), Alpn::Broker.name()).is_turned_away_by_tls(&r1.control, 46).await;
    let names = ["r1.contoso.com", r.cap.as_str()];
    let forged = forge(&p.authority, &p.cap, &names, "1", &key, true);
    Attacker::new(Some((&forged, &key)), Alpn::Raft.name()).is_turned_away_by_tls(&r1.control, 46).await;
}

/// Counts what a server gives for resumption.
#[derive(Debug)]
struct Counting(ClientSessionMemoryCache, AtomicUsize);

impl ClientSessionStore for Counting {
    fn set_kx_hint(&self, server: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        self.0.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.0.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(server)
    }
}

#[tokio::test]
async fn a_removed_node_that_would_resume_its_session_is_refused() {
    let (r, mut p, r1, p1) = scene(48);
    r1.serve();
    let key = p1.control.identity().key().clone();
    let mut attacker = Attacker::new(Some((&p1.leaf, &key)), Alpn::Broker.name());
    let store = Arc::new(Counting(ClientSessionMemoryCache::new(8), AtomicUsize::new(0)));
    attacker.tls.resumption = Resumption::store(store.clone());
    attacker.tls.enable_early_data = true;
    let open = attacker.dial(&r1.control).await.unwrap();
    // A whole exchange, so that a ticket would have arrived.
    let (mut send, mut receive) = open.open_bi().await.unwrap();
    let answer: String =
        landfall_proto::frame::exchange(&mut send, &mut receive, &"who am I", 1024, LIMIT).await.unwrap();
    assert_eq!(answer, "peer p1 of p-broker-cap.contoso.com");
    assert_eq!(store.1.load(Ordering::Relaxed), 0, "the server gave a ticket");
    p.remove(1, 9);
    r.tell(&r1, &[&p]);
    let end = soon(open.closed()).await;
    assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::Removed), "{end}");
    for _ in 0..20 {
        let end = attacker.end(&r1.control).await;
        assert_eq!(Close::of(&end).map(|(close, _)| close), Some(Close::Removed), "{end}");
    }
}

#[tokio::test]
async fn bad_frames_cost_the_connection_and_nothing_else() {
    let (r, _p, r1, p1) = scene(50);
    r1.serve();
    let target = r1.target(&r.cap, Alpn::Broker);
    let frames: [&[u8]; 5] = [
        &[0xff, 0xff, 0xff, 0xff],
        &[0, 1, 0, 1, 0],
        &[0, 0, 0, 0],
        &[0, 0, 0, 3, 9, 1, b'x'],
        &[0, 0, 0, 10, 1, 253, 0, 0, 0, 0, 0, 0, 1, 0],
    ];
    for frame in frames {
        let link = soon(p1.control.dial(&target, Alpn::Broker)).await.unwrap();
        let (mut send, _receive) = soon(link.connection().open_bi()).await.unwrap();
        send.write_all(frame).await.unwrap();
        send.finish().ok();
        let end = soon(link.connection().closed()).await;
        let (close, reason) = Close::of(&end).unwrap_or_else(|| panic!("{frame:?}: {end}"));
        assert_eq!(close, Close::Protocol, "{frame:?}");
        assert!(!reason.is_empty());
    }
    assert!(p1.who_am_i(&r1, &r.cap, Alpn::Broker).await.is_ok());
}

#[tokio::test]
async fn garbage_at_the_socket_does_no_harm() {
    let (r, _p, r1, p1) = scene(52);
    r1.serve();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let victim = r1.control.local_address().unwrap();
    let random = SeededRandom::new(7);
    for round in 0_usize..2000 {
        let mut packet = vec![0; 1 + (round * 37) % 1400];
        random.fill(&mut packet);
        // A share that looks like QUIC: long headers of version 1, of an unknown one, short headers.
        match round % 4 {
            0 => packet[0] |= 0xc0,
            1 => packet[0] = (packet[0] & 0x3f) | 0x40,
            _ => {}
        }
        if round % 8 == 0 && packet.len() > 5 {
            packet[1..5].copy_from_slice(&1_u32.to_be_bytes());
        }
        socket.send_to(&packet, victim).unwrap();
    }
    assert_eq!(p1.who_am_i(&r1, &r.cap, Alpn::Broker).await.as_deref(), Ok("peer p1 of p-broker-cap.contoso.com"));
    assert!(!r1.control.is_lost());
}

#[tokio::test]
async fn strangers_can_hold_a_few_connections_and_members_still_get_in() {
    let (r, _p, r1, p1) = scene(54);
    let (outside, clock) = outside(55);
    // r1 takes connections and keeps them.
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (endpoint, keeps) = (r1.control.clone(), Arc::clone(&kept));
    tokio::spawn(async move {
        while let Ok(link) = endpoint.accept().await {
            keeps.lock().unwrap().push(link);
        }
    });
    let mut open = Vec::new();
    for _ in 0..24 {
        let key = NodeKey::generate(&*outside.random).unwrap();
        let own = key.self_signed(&*clock, &*outside.random).unwrap();
        let attacker = Attacker::new(Some((&own, &key)), Alpn::Join.name());
        open.push((attacker.dial(&r1.control).await.unwrap(), attacker));
    }
    until("the surplus is turned away", || {
        open.iter().filter(|(connection, _)| connection.close_reason().is_some()).count() == 8
    })
    .await;
    let link = soon(p1.control.dial(&r1.target(&r.cap, Alpn::Broker), Alpn::Broker)).await.unwrap();
    until("the peer is in", || kept.lock().unwrap().len() == 17).await;
    assert!(!link.is_closed());
}
