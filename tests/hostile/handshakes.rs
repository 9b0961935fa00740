//! Handshakes of twelve kinds that must not succeed, by the hundred and by the thousand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfall_kit::process::{Node, eventually, pair};
use landfall_kit::rounds;
use landfall_proto::alpn::Alpn;
use landfall_proto::authority::Authority;
use landfall_proto::certificate::NodeKey;
use landfall_proto::machine::SeededRandom;
use landfall_proto::seam::Outside;
use quinn::{Connection, ConnectionError};

use crate::attacker::{Forged, client, tls};
use crate::double::{Double, cluster_of};
use crate::{LONG, SOON, cluster, process};

/// Handshakes under way at once: below what one address may have ([`landfall_proto::limits::HANDSHAKES_PER_ADDRESS`]), so
/// that each is looked at and none is turned away for its number.
const AT_ONCE: usize = 16;
/// For one handshake and its end.
const DEADLINE: Duration = Duration::from_secs(20);
/// What they may add to the agent's memory: handshakes under way, and what the allocator keeps of them.
const GROWTH_MAX: u64 = 16 << 20;

/// A kind of bad handshake: what it shows, and which protocol it asks for.
struct Kind {
    name: &'static str,
    shown: Option<(Vec<u8>, Arc<NodeKey>)>,
    alpn: String,
}

impl Kind {
    fn config(&self) -> quinn::ClientConfig {
        client(tls(self.shown.as_ref().map(|(leaf, key)| (leaf.as_slice(), &**key)), &self.alpn))
    }
}

fn kinds(r1: &Node, p1: &Node, gone: &Node) -> Vec<Kind> {
    let outside = Outside::machine();
    let random = SeededRandom::new(11);
    let new_key = || Arc::new(NodeKey::generate(&random).unwrap());
    let (papers, enrolment, own) = cluster_of(r1);
    let ca = papers.authority(&enrolment.found.ca).unwrap().expect("a data node has the CA's key");
    let (p_papers, p_enrolment, _) = cluster_of(p1);
    let p_ca = p_papers.authority(&p_enrolment.found.ca).unwrap().expect("a data node has the CA's key");
    let foreign = Authority::found(&own.cap, &random, &*outside.clock).unwrap();
    let (gone_papers, gone_enrolment, _) = cluster_of(gone);
    let gone_key = Arc::new(gone_papers.key(&random).unwrap());
    let cap = own.cap.as_str().to_owned();
    let founder = own.list.members[0].clone();
    let (name, member) = (founder.fqdn.as_str().to_owned(), founder.id.number().to_string());
    let year = |from, until| (from, until);
    let leaf = |authority: &Authority, key: &NodeKey, usable, years| {
        let names = [name.as_str(), cap.as_str()];
        Forged { authority, issuer: &own.cap, names: &names, member: &member, usable, years }.leaf(key)
    };
    let now = year(2000, 4000);
    let key = new_key();
    let self_signed = |key: &NodeKey| key.self_signed(&*outside.clock, &random).unwrap();
    let shown = |der: Vec<u8>, key: &Arc<NodeKey>| Some((der, Arc::clone(key)));
    let p_key = Arc::new(p_papers.key(&random).unwrap());
    let kind = |name, shown, alpn: &str| Kind { name, shown, alpn: alpn.to_owned() };
    vec![
        kind("no certificate", None, Alpn::Control.name()),
        kind("a key that vouches for itself", shown(self_signed(&key), &key), Alpn::Control.name()),
        kind("the same, for data of another kind", shown(self_signed(&key), &key), Alpn::Raft.name()),
        kind("a CA of the same name", shown(leaf(&foreign, &key, true, now), &key), Alpn::Raft.name()),
        kind("a peer's CA for a node of this cluster", shown(leaf(&p_ca, &key, true, now), &key), Alpn::Raft.name()),
        kind(
            "a peer's certificate with another key",
            shown(p_enrolment.certificate.clone(), &key),
            Alpn::Broker.name(),
        ),
        kind("expired", shown(leaf(&ca, &key, true, year(2000, 2020)), &key), Alpn::Control.name()),
        kind("not valid yet", shown(leaf(&ca, &key, true, year(3000, 4000)), &key), Alpn::Control.name()),
        kind("for signing code", shown(leaf(&ca, &key, false, now), &key), Alpn::Control.name()),
        kind("a member's name and id with another key", shown(leaf(&ca, &key, true, now), &key), Alpn::Control.name()),
        kind("a removed member", shown(gone_enrolment.certificate.clone(), &gone_key), Alpn::Control.name()),
        kind("a peer that speaks another version", shown(p_enrolment.certificate.clone(), &p_key), "landfall-broker/2"),
    ]
}

/// Dials `victim` and waits for how it ends; a connection that stays open is the error.
async fn ends(
    endpoint: &quinn::Endpoint,
    victim: SocketAddr,
    config: quinn::ClientConfig,
) -> Result<ConnectionError, Connection> {
    let connecting = endpoint.connect_with(config, victim, "landfall").unwrap();
    match tokio::time::timeout(DEADLINE, connecting).await.expect("a handshake ends") {
        Err(error) => Ok(error),
        // In TLS 1.3 a client learns only after its own handshake that it was refused.
        Ok(connection) => match tokio::time::timeout(DEADLINE, connection.closed()).await {
            Ok(error) => Ok(error),
            Err(_) => Err(connection),
        },
    }
}

#[test]
fn bad_handshakes_of_twelve_kinds_are_all_refused_told_and_forgotten() {
    let r = cluster("R", &["r1", "r2", "r3"]).start();
    let p = cluster("P", &["p1"]).start();
    pair(&p, &r);
    let (r1, p1, gone) = (r.first(), p.first(), r.node("r3"));
    gone.kill_agent();
    eventually(LONG, "the removal", || r1.try_cli(["node", "remove", "r3"]).map_err(|failure| failure.to_string()));
    let kinds = kinds(r1, p1, gone);
    assert_eq!(kinds.len(), 12);
    let total = rounds(600, 10_000) as usize;
    let victim: SocketAddr = r1.address().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let attack = |count: usize| {
        runtime.block_on(async {
            let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let configs: Vec<_> = kinds.iter().map(Kind::config).collect();
            let mut under_way = tokio::task::JoinSet::new();
            let mut open = Vec::new();
            for number in 0..count {
                if under_way.len() >= AT_ONCE {
                    open.extend(under_way.join_next().await.unwrap().unwrap());
                }
                let (endpoint, config) = (endpoint.clone(), configs[number % configs.len()].clone());
                under_way.spawn(async move { ends(&endpoint, victim, config).await.err().map(|_| number) });
            }
            while let Some(ended) = under_way.join_next().await {
                open.extend(ended.unwrap());
            }
            let names: Vec<&str> = open.iter().map(|number| kinds[number % kinds.len()].name).collect();
            assert!(names.is_empty(), "these stayed open: {names:?}");
        });
    };
    attack(total / 10);
    let before = process::costs(r1);
    attack(total);
    let after = eventually(SOON, "what was open to be closed", || {
        let after = process::costs(r1);
        if after.files <= before.files + 4 && after.threads <= before.threads + 4 {
            Ok(after)
        } else {
            Err(format!("{after:?}"))
        }
    });
    println!("{total} handshakes: {before:?} before, {after:?} after");
    assert!(after.memory < before.memory + GROWTH_MAX, "{before:?}, {after:?}");

    let told = r1.events().iter().filter(|event| event["kind"] == "connection_refused").count();
    assert!((1..100).contains(&told), "{told} events of {total} refusals");
    // Whoever may come in still does: a commit by the owner, and a peer's question.
    r1.cli(["settings", "set", "scrub_rate=7"]);
    let peer = Double::of(p1, r1, "127.0.0.1:0".parse().unwrap());
    peer.link(r1, Alpn::Broker);
}
