//! Two real quinn endpoints over the simulated network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::seam::{Clock, Net};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
    TransportConfig,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;

use super::*;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// TLS' clock: rustls asks it whether certificates are valid.
#[derive(Debug)]
struct VirtualDate(SimClock);

impl TimeProvider for VirtualDate {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall().0)))
    }
}

/// A test CA and certificates whose every byte the key decides.
struct Pki {
    ca: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// An Ed25519 key in PKCS #8 (RFC 8410) whose secret is `byte` repeated.
fn ed25519_key(byte: u8) -> PrivatePkcs8KeyDer<'static> {
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    der.extend([byte; 32]);
    PrivatePkcs8KeyDer::from(der)
}

fn pki(key: u8, name: &str) -> Pki {
    let ca_key = KeyPair::from_pkcs8_der_and_sign_algo(&ed25519_key(1), &PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let leaf_key = KeyPair::from_pkcs8_der_and_sign_algo(&ed25519_key(key), &PKCS_ED25519).unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    Pki { ca: ca.der().clone(), chain: vec![leaf.der().clone()], key: ed25519_key(key).into() }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(Duration::from_secs(5).try_into().unwrap()));
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    Arc::new(transport)
}

/// Connection ids from the seed. quinn's own generators take part of each id from the system, even with a key given.
struct SeededIds(Arc<SeededRandom>);

impl ConnectionIdGenerator for SeededIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.bytes::<8>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn endpoint(net: &SimNode, port: u16, random: &Arc<SeededRandom>, server: Option<ServerConfig>) -> Endpoint {
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &random.bytes::<64>());
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.rng_seed(Some(random.bytes()));
    let ids = random.clone();
    config.cid_generator(move || Box::new(SeededIds(ids.clone())));
    let socket = net.bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).unwrap();
    Endpoint::new_with_abstract_socket(config, server, socket, net.runtime()).unwrap()
}

fn server(seed: u64, net: &SimNet) -> Endpoint {
    let random = Arc::new(SeededRandom::named(seed, "server"));
    let (crypto, pki) = (seeded_crypto(seed), pki(2, "server.test"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto.clone()).build().unwrap();
    let mut tls = rustls::ServerConfig::builder_with_details(crypto, Arc::new(VirtualDate(SimClock::new())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(pki.chain, pki.key)
        .unwrap();
    tls.send_tls13_tickets = 0;
    tls.alpn_protocols = vec![b"sim".to_vec()];
    let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&random.bytes::<64>());
    let mut config = ServerConfig::new(Arc::new(QuicServerConfig::try_from(tls).unwrap()), Arc::new(token_key));
    config.transport_config(transport());
    endpoint(&net.node(SERVER), 7443, &random, Some(config))
}

fn client(seed: u64, net: &SimNet) -> Endpoint {
    let random = Arc::new(SeededRandom::named(seed, "client"));
    let (crypto, pki) = (seeded_crypto(seed ^ u64::MAX), pki(3, "client.test"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca.clone()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_details(crypto, Arc::new(VirtualDate(SimClock::new())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(pki.chain, pki.key)
        .unwrap();
    tls.resumption = rustls::client::Resumption::disabled();
    tls.alpn_protocols = vec![b"sim".to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(transport());
    let ids = random.clone();
    config.initial_dst_cid_provider(Arc::new(move || ConnectionId::new(&ids.bytes::<20>())));
    let mut endpoint = endpoint(&net.node(CLIENT), 7443, &random, None);
    endpoint.set_default_client_config(config);
    endpoint
}

/// Answers every stream of every connection with what came in.
async fn echo(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let Ok(request) = recv.read_to_end(1 << 20).await else { continue };
                if send.write_all(&request).await.is_ok() {
                    send.finish().ok();
                }
            }
        });
    }
}

async fn ask(connection: &Connection, request: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(request).await.ok()?;
    send.finish().ok()?;
    recv.read_to_end(1 << 20).await.ok()
}

async fn connect(client: &Endpoint) -> Connection {
    // A rough network may lose a whole handshake; each try is bounded by the idle time.
    for _ in 0..20 {
        if let Ok(connection) = client.connect(SocketAddr::new(SERVER, 7443), "server.test").unwrap().await {
            return connection;
        }
    }
    panic!("no handshake in twenty tries");
}

/// Requests, a cut that outlives the connection, healing, a second connection and more requests.
fn story(seed: u64) -> (Trace, usize) {
    run(async move {
        let net = SimNet::new(seed, Weather::ROUGH);
        tokio::spawn(echo(server(seed, &net)));
        let client = client(seed, &net);
        let mut answered = 0;
        let first = connect(&client).await;
        for size in [1_usize, 300, 20_000, 64] {
            answered += usize::from(ask(&first, &vec![7; size]).await.is_some_and(|answer| answer.len() == size));
        }
        net.cut(SERVER, CLIENT);
        assert!(ask(&first, b"into the dark").await.is_none(), "a cut lets nothing through");
        first.closed().await;
        net.heal_all();
        let second = connect(&client).await;
        for size in [5_usize, 5_000] {
            answered += usize::from(ask(&second, &vec![9; size]).await.is_some_and(|answer| answer.len() == size));
        }
        second.close(0_u32.into(), b"");
        client.wait_idle().await;
        (net.trace(), answered)
    })
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let mut digests = std::collections::BTreeSet::new();
    let (mut lost, mut twice, mut cut, mut damaged) = (0, 0, 0, 0);
    let seeds = crate::rounds(50, 2_000);
    for seed in 0..seeds {
        let (one, answered) = story(seed);
        assert_eq!(answered, 6, "seed {seed}: every request outside the cut is answered");
        let (two, _) = story(seed);
        assert_eq!(one.first_difference(&two), None, "seed {seed} did not replay");
        assert_eq!(one.digest(), two.digest(), "seed {seed}");
        digests.insert(*one.digest().as_bytes());
        lost += one.fates(|fate| fate == Fate::Lost);
        twice += one.fates(|fate| matches!(fate, Fate::Again(_)));
        cut += one.fates(|fate| fate == Fate::Cut);
        damaged += one.fates(|fate| matches!(fate, Fate::Damaged(_)));
    }
    assert_eq!(digests.len() as u64, seeds, "two seeds had the same trace");
    assert!(lost > 0 && twice > 0 && cut > 0 && damaged > 0, "the runs met no fault: {lost} {twice} {cut} {damaged}");
}

#[test]
fn a_one_way_cut_lets_the_other_way_through() {
    run(async {
        let net = SimNet::new(1, Weather::CALM);
        tokio::spawn(echo(server(1, &net)));
        let client = client(1, &net);
        let connection = connect(&client).await;
        net.cut_one_way(SERVER, CLIENT);
        assert!(ask(&connection, b"x").await.is_none());
        let trace = net.trace();
        let arrived = |from, to| {
            trace.datagrams().iter().any(|datagram| {
                (datagram.from.ip(), datagram.to.ip()) == (from, to)
                    && datagram.at > Duration::from_secs(1)
                    && matches!(datagram.fate, Fate::Arrives(_))
            })
        };
        assert!(arrived(CLIENT, SERVER) && !arrived(SERVER, CLIENT));
    });
}

#[test]
fn a_node_with_a_share_of_a_processor_is_heard_and_hears_in_its_turns() {
    let asked_of = |share: Option<Share>| {
        run(async {
            let net = SimNet::new(5, Weather::CALM);
            tokio::spawn(echo(server(5, &net)));
            let connection = connect(&client(6, &net)).await;
            if let Some(share) = share {
                net.throttle(SERVER, share);
            }
            // After the turn with which the network began.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let begun = tokio::time::Instant::now();
            ask(&connection, b"x").await.unwrap();
            begun.elapsed()
        })
    };
    let quick = asked_of(None);
    assert!(quick < Duration::from_millis(5), "{quick:?}");
    let slow = asked_of(Some(Share::FIVE_PERCENT));
    assert!(slow > Duration::from_millis(70) && slow < Duration::from_millis(85), "{slow:?}");
}

#[test]
fn a_floating_address_reaches_the_node_that_has_it_and_nobody_else() {
    run(async {
        let net = SimNet::new(1, Weather::CALM);
        let cap: IpAddr = Ipv4Addr::new(10, 0, 0, 100).into();
        tokio::spawn(echo(server(1, &net)));
        let client = client(1, &net);
        net.float(cap, Some(SERVER));
        let connection = client.connect(SocketAddr::new(cap, 7443), "server.test").unwrap().await.unwrap();
        assert_eq!(ask(&connection, b"at the cap").await.unwrap(), b"at the cap");
        net.float(cap, None);
        assert!(client.connect(SocketAddr::new(cap, 7443), "server.test").unwrap().await.is_err());
    });
}

#[test]
fn an_address_is_bound_once_and_only_by_its_node() {
    run(async {
        let net = SimNet::new(1, Weather::CALM);
        let node = net.node(SERVER);
        let address = SocketAddr::new(SERVER, 9);
        let socket = node.bind(address).unwrap();
        assert_eq!(node.bind(address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        assert!(node.bind(SocketAddr::new(CLIENT, 9)).is_err());
        drop(socket);
        node.bind(address).unwrap();
    });
}
