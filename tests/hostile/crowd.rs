//! Peers that begin and never end: a thousand half-open handshakes, two hundred requests that drip, a thousand watchers of
//! settings that never read. Meanwhile others are answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall_kit::process::{Node, VmFolder, eventually, pair};
use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Target;
use landfall_proto::id::{Position, VmId};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest};

use crate::attacker::{client, tls};
use crate::double::Double;
use crate::{LONG, SOON, cluster, process};

const HALF_OPEN: usize = 1000;
const DRIPPING: usize = 200;
const WATCHERS: usize = 1000;
/// Questions asked while nobody disturbs, and while everybody does.
const QUESTIONS: usize = 200;
/// What all of them may take of the agent's memory.
const GROWTH_MAX: u64 = 64 << 20;
/// For one question.
const DEADLINE: Duration = Duration::from_secs(20);

/// The first flight of a handshake, as often as asked for, no two of one connection.
fn first_flights(runtime: &tokio::runtime::Runtime, count: usize) -> Vec<Vec<u8>> {
    let _inside = runtime.enter();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = client(tls(None, Alpn::Control.name()));
    let flight = |_| {
        // An address of its own, so that nothing of another connection comes there.
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        sink.set_read_timeout(Some(SOON)).unwrap();
        let connecting = endpoint.connect_with(config.clone(), sink.local_addr().unwrap(), "landfall").unwrap();
        let mut packet = vec![0; 2048];
        let (length, _) = sink.recv_from(&mut packet).unwrap();
        packet.truncate(length);
        drop(connecting);
        packet
    };
    (0..count).map(flight).collect()
}

/// How long each of [`QUESTIONS`] questions where a replica is took, the longest last; every one is answered.
fn questions(peer: &Double, node: &Node, vm: VmId) -> Vec<Duration> {
    let target = Target { cap: peer.other.clone(), address: node.address().parse().unwrap(), key: None };
    let request = BrokerRequest::Locate { vm, at_least: Position::default() };
    let mut took: Vec<Duration> = (0..QUESTIONS)
        .map(|_| {
            let begun = Instant::now();
            let answer = peer.runtime.block_on(peer.calls.call(&target, Alpn::Broker, &request, DEADLINE));
            assert!(matches!(answer, Ok(BrokerAnswer::Located(_))), "{answer:?}");
            begun.elapsed()
        })
        .collect();
    took.sort();
    took
}

/// Puts a VM on `p1` and has its replica placed.
fn placed(p1: &Node, r: &landfall_kit::process::Cluster, name: &str) -> VmId {
    let folder = VmFolder::new(name).disk("vda", 1 << 20, 1);
    folder.create_in(&p1.vm_path()).unwrap();
    eventually(SOON, "the VM to be found", || {
        let shown = p1.try_cli(["vm", "show", name]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
    p1.cli(["vm", "enable", name, "--to", r.cap(), "--recovery-points", "4", "--timeout", "120s"]);
    VmId(folder.uuid())
}

#[test]
fn half_open_and_dripping_peers_take_little_and_others_are_answered() {
    let r = cluster("R", &["r1", "r2"]).witness("rw").start();
    let p = cluster("P", &["p1"]).start();
    pair(&p, &r);
    let (r1, p1) = (r.first(), p.first());
    r1.cli(["settings", "set", "replication_enabled=true", "copies=1"]);
    let vm = placed(p1, &r, "first");
    let owner = r1.cli(["broker", "status"])["owner"].clone();
    let owner = r.node(owner.as_str().unwrap());
    let peer = Double::of(p1, r1, "127.0.0.1:0".parse().unwrap());
    let idle = questions(&peer, owner, vm);
    let before = process::costs(owner);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let flights = first_flights(&runtime, HALF_OPEN);
    let victim: SocketAddr = owner.address().parse().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        // From an address of their own: each has a bound, so that one that is crowded shuts out nobody else.
        let (half, over) = (UdpSocket::bind("127.0.0.9:0").unwrap(), &done);
        scope.spawn(move || {
            // Again and again: what was given up is begun anew, a hundred a second.
            while !over.load(Ordering::Relaxed) {
                for flight in &flights {
                    half.send_to(flight, victim).unwrap();
                    std::thread::sleep(Duration::from_millis(10));
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        });
        let dripping = drips(&peer, owner);
        let busy = questions(&peer, owner, vm);
        // A new replica finds its place all the same.
        placed(p1, &r, "second");
        let after = process::costs(owner);
        println!("{HALF_OPEN} half-open and {DRIPPING} dripping: {before:?} before, {after:?} meanwhile");
        let p99 = |took: &[Duration]| took[took.len() * 99 / 100 - 1];
        println!("Locate p99: {:?} idle, {:?} meanwhile", p99(&idle), p99(&busy));
        assert!(after.memory < before.memory + GROWTH_MAX, "{before:?}, {after:?}");
        // One socket serves all of them; what else is open belongs to the second VM.
        assert!(after.files < before.files + 32 && after.threads < before.threads + 32, "{before:?}, {after:?}");
        done.store(true, Ordering::Relaxed);
        drop(dripping);
    });
    let events = owner.events();
    assert!(events.iter().filter(|event| event.to_string().contains("_refused")).count() < 100, "{events:?}");
}

/// Opens requests that say one byte of their length every half second and never more; they live as long as what is
/// returned.
fn drips(peer: &Double, node: &Node) -> Vec<tokio::task::JoinHandle<()>> {
    let target = Target { cap: peer.other.clone(), address: node.address().parse().unwrap(), key: None };
    let calls = peer.calls.clone();
    let drip = move |_| {
        let (calls, target) = (calls.clone(), target.clone());
        peer.runtime.spawn(async move {
            loop {
                let Ok(link) = calls.link(&target, Alpn::Control).await else { return };
                // Past the streams that one connection may have, the others wait at this end.
                let Ok((mut send, _receive)) = link.connection().open_bi().await else { continue };
                while send.write_all(&[0]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        })
    };
    (0..DRIPPING).map(drip).collect()
}

#[test]
fn a_thousand_watchers_that_never_read_block_no_commit_and_no_other_feed() {
    let r = cluster("R", &["r1", "r2"]).witness("rw").start();
    let [r1, r2] = ["r1", "r2"].map(|name| r.node(name));
    let before = process::costs(r1);
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        // Past the bound the kernel's queue is full for a moment, or the agent closes at once.
        let Ok(mut stream) = UnixStream::connect(r1.socket()) else { continue };
        stream.set_write_timeout(Some(SOON)).unwrap();
        if stream.write_all(b"GET /v1/settings/watch HTTP/1.1\r\nHost: landfall\r\n\r\n").is_ok() {
            watchers.push(stream);
        }
    }
    assert!(watchers.len() > 64, "{} watchers", watchers.len());
    // Every commit is applied, also by the VM service of the node that has all these watchers.
    for rate in 1..=20 {
        let set = format!("scrub_rate={rate}");
        eventually(LONG, "the settings to be applied everywhere", || {
            r2.try_cli(["settings", "set", "--wait", "--timeout", "20s", &set]).map_err(|failure| failure.to_string())
        });
    }
    let after = process::costs(r1);
    println!("{} watchers: {before:?} before, {after:?} meanwhile", watchers.len());
    assert!(after.memory < before.memory + GROWTH_MAX && after.files < before.files + 128, "{before:?}, {after:?}");
    // The first of them reads at last, and has everything.
    let newest = r2.cli(["settings", "show"])["revision"].to_string();
    let mut text = String::new();
    watchers[0].set_read_timeout(Some(SOON)).unwrap();
    while !text.contains(&newest) {
        let mut bytes = [0; 4096];
        let read = watchers[0].read(&mut bytes).unwrap();
        assert!(read > 0, "the feed ended: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert!(text.contains("event: changed") || text.contains("resync"), "{text}");
    drop(watchers);
    eventually(SOON, "the node to take commands again", || r1.try_cli(["settings", "show"]).map(drop));
}
