//! A member that gossips lies: about others, about nodes that do not exist, about itself without end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_agent::drive::gossip::wire::{ChitchatId, Known, Message, News, Step, Value};
use landfall_kit::process::{Node, VmFolder, eventually, pair};
use landfall_proto::alpn::Alpn;
use landfall_proto::id::MemberId;

use crate::double::Double;
use crate::{LONG, SOON, cluster, process};

/// Forged messages, to each of two nodes.
const FORGED: usize = 10_000;
/// What they may add to an agent's memory.
const GROWTH_MAX: u64 = 1 << 20;
/// The kinds of forgeries; see [`Liar::forged`].
const KINDS: usize = 12;

#[test]
fn ten_thousand_forgeries_move_nothing_hold_nobody_for_dead_and_fill_nothing() {
    let r = cluster("R", &["r1", "r2", "r3"]).start();
    let p = cluster("P", &["p1"]).start();
    pair(&p, &r);
    r.first().cli(["settings", "set", "replication_enabled=true", "copies=1", "node_down_after=2s"]);
    VmFolder::new("web").disk("vda", 1 << 20, 1).create_in(&p.first().vm_path()).unwrap();
    eventually(SOON, "the VM to be found", || {
        let shown = p.first().try_cli(["vm", "show", "web"]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
    p.first().cli(["vm", "enable", "web", "--to", r.cap(), "--recovery-points", "4", "--timeout", "120s"]);

    // Whoever neither owns the CAP nor has the replica goes bad; it is dead for the others, as is right.
    let located = r.first().cli(["vm", "locate", "web"]);
    let owner = r.first().cli(["broker", "status"])["owner"].clone();
    let bad = r.nodes().iter().find(|node| node.name() != owner && node.name() != located["node"]).unwrap();
    let good: Vec<&Node> = r.nodes().iter().filter(|node| node.name() != bad.name()).collect();
    bad.kill_agent();
    eventually(LONG, "the dead node to be seen", || match states(good[0], bad.name()) {
        (state, _) if state == "down" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let before = standing(good[0]);

    let liar = Liar::of(bad, &good);
    good.iter().for_each(|node| liar.tells(node, FORGED / 10));
    let memory: Vec<u64> = good.iter().map(|node| process::memory(node)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watchers: Vec<_> = good.iter().map(|node| scope.spawn(|| watch(node, &good, &done))).collect();
        good.iter().for_each(|node| liar.tells(node, FORGED));
        // A node whose real heartbeats no longer count is missed after two seconds.
        std::thread::sleep(Duration::from_secs(8));
        done.store(true, Ordering::Relaxed);
        let looks: Vec<usize> = watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect();
        assert!(looks.iter().all(|looks| *looks > 5), "somebody looked meanwhile: {looks:?}");
    });
    for (node, before) in good.iter().zip(memory) {
        let after = process::memory(node);
        println!("{}: {} KiB before, {} KiB after {FORGED} forgeries", node.name(), before / 1024, after / 1024);
        assert!(after < before + GROWTH_MAX, "{}: from {before} to {after} bytes", node.name());
    }
    for node in &good {
        assert_eq!(standing(node), before, "owner, term, holder and epoch as seen by {}", node.name());
        let events = node.events();
        let lost = |other: &&Node| {
            let told = format!("{} is held for lost", other.name());
            events.iter().any(|event| event.to_string().contains(&told))
        };
        assert!(!good.iter().any(lost), "{events:?}");
    }
    // What each says of itself still arrives, and the node is heard again once it is itself again.
    drop(liar);
    let revision = &good[0].cli(["settings", "set", "--wait", "scrub_rate=32"])["revision"];
    eventually(SOON, "the revision to be told", || {
        let nodes = good[1].cli(["node", "list"]);
        let told = |name: &str| entry(&nodes, name)["settings_revision"] == *revision;
        if good.iter().all(|node| told(node.name())) { Ok(()) } else { Err(nodes.to_string()) }
    });
    bad.start();
    eventually(LONG, "the node to be heard again", || {
        let states: Vec<_> = good.iter().map(|node| states(node, bad.name())).collect();
        if states.iter().all(|state| state.0 == "up") { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

fn entry(nodes: &serde_json::Value, name: &str) -> serde_json::Value {
    nodes.as_array().into_iter().flatten().find(|node| node["node"] == name).cloned().unwrap_or_default()
}

/// A node's state, and its VM service's, as `at` has them.
fn states(at: &Node, name: &str) -> (String, String) {
    let nodes = at.cli(["node", "list"]);
    let text = |key: &str| entry(&nodes, name)[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("vm_service"))
}

/// Who owns the CAP, under which term, and who has the replica, at which epoch.
pub fn standing(at: &Node) -> [serde_json::Value; 4] {
    let (broker, located) = (at.cli(["broker", "status"]), at.cli(["vm", "locate", "web"]));
    [broker["owner"].clone(), broker["term"].clone(), located["node"].clone(), located["epoch"].clone()]
}

/// Looks until it is `done`: every good node is up and its VM service runs.
fn watch(at: &Node, good: &[&Node], done: &AtomicBool) -> usize {
    let mut looks = 0;
    while !done.load(Ordering::Relaxed) {
        let nodes = at.cli(["node", "list"]);
        for node in good {
            let seen = entry(&nodes, node.name());
            assert!(
                seen["state"] == "up" && seen["vm_service"] == "running",
                "{} at {}: {seen}",
                node.name(),
                at.name()
            );
        }
        looks += 1;
    }
    looks
}

/// A member that lies, and knows in which lives the others are: they tell it.
struct Liar {
    double: Double,
    lives: BTreeMap<MemberId, ChitchatId>,
}

impl Liar {
    /// In the place of `bad`, once it has learned in which lives `good` are.
    fn of(bad: &Node, good: &[&Node]) -> Self {
        let double = Double::of(bad, good[0], bad.address().parse().unwrap());
        let heard: Arc<Mutex<BTreeMap<MemberId, ChitchatId>>> = Arc::default();
        let (endpoint, into) = (double.calls.endpoint(Alpn::Gossip).clone(), Arc::clone(&heard));
        double.runtime.spawn(async move {
            while let Ok(link) = endpoint.accept().await {
                let into = Arc::clone(&into);
                tokio::spawn(async move {
                    while let Ok(bytes) = link.connection().read_datagram().await {
                        let known = Message::read(&bytes).map(|message| message.digest).unwrap_or_default();
                        let named = known.into_iter().filter_map(|known| {
                            Some((MemberId::from_number(known.id.node_id.parse().ok()?), known.id))
                        });
                        into.lock().unwrap().extend(named);
                    }
                });
            }
        });
        let members: Vec<MemberId> = good.iter().map(|node| double.member(node.name())).collect();
        let lives = eventually(LONG, "the others to tell of themselves", || {
            let heard = heard.lock().unwrap().clone();
            if members.iter().all(|member| heard.contains_key(member)) { Ok(heard) } else { Err(format!("{heard:?}")) }
        });
        Self { double, lives: lives.into_iter().filter(|(member, _)| members.contains(member)).collect() }
    }

    /// Sends `count` forgeries of every kind to `node`, each of which arrives.
    fn tells(&self, node: &Node, count: usize) {
        let link = self.double.link(node, Alpn::Gossip);
        self.double.runtime.block_on(async {
            for number in 0..count {
                let mut stream = link.connection().open_uni().await.expect("the connection stays");
                // A message beyond the bound is stopped on its way.
                drop(stream.write_all(&self.forged(number)).await);
                drop(stream.finish());
            }
        });
    }

    fn myself(&self, life: u64) -> ChitchatId {
        let me = self.double.list.members.iter().find(|member| member.id == self.double.me).unwrap();
        ChitchatId::new(me.id.number().to_string(), life, me.control)
    }

    /// The forgery with this number.
    fn forged(&self, number: usize) -> Vec<u8> {
        let n = number as u64;
        let value = |key: &str, text: &str, version| Value { key: key.into(), text: text.into(), version, status: 0 };
        let known = |id: &ChitchatId, heartbeat| Known { id: id.clone(), heartbeat, collected: 0, version: 0 };
        let dead = r#"{"vm_service":{"state":"stopped","reason":"forged"},"storage":[],"settings_revision":0,"#
            .to_owned()
            + r#""applied":0,"replicas":0,"version":"0"}"#;
        let about = |id: &ChitchatId, collected, version| News {
            id: id.clone(),
            collected,
            from: 0,
            values: vec![value("facts", &dead, version)],
        };
        let message =
            |digest: Vec<Known>, news: Vec<News>| Message { step: Step::SynAck, digest, news, cluster: String::new() };
        let later = |id: &ChitchatId| ChitchatId { generation_id: id.generation_id + n + 1, ..id.clone() };
        let lives = self.lives.values();
        let unknown = |at: u64| ChitchatId::new((n * 50 + at).to_string(), 1, ([10, 1, 2, 3], 7443).into());
        let mine = self.myself(1);
        let forged = match number % KINDS {
            // Heartbeats that no real one can follow.
            0 => message(lives.map(|id| known(id, u64::MAX)).collect(), Vec::new()),
            // Later lives, which would make the real ones count for nothing.
            1 => message(lives.clone().map(|id| known(&later(id), 1)).collect(), Vec::new()),
            2 => message(
                lives.clone().map(|id| known(&later(id), 1)).collect(),
                lives.map(|id| about(&later(id), 0, 1)).collect(),
            ),
            // Nodes that do not exist.
            3 => message((0..50).map(|at| known(&unknown(at), 1)).collect(), Vec::new()),
            4 => message(
                (0..50).map(|at| known(&unknown(at / 2), at)).collect(),
                (0..50).map(|at| about(&unknown(at), 0, 1)).collect(),
            ),
            // What others, and the receiver itself, say of themselves; the last version there can be.
            5 => message(Vec::new(), lives.map(|id| about(id, 0, 1_000_000 + n)).collect()),
            6 => message(Vec::new(), lives.map(|id| about(id, 0, u64::MAX)).collect()),
            // A state that is to be thrown away.
            7 => message(Vec::new(), lives.map(|id| about(id, 1 << 40, (1 << 41) + n)).collect()),
            // Itself without end: lives, values and their size.
            8 => message(
                vec![known(&self.myself(n), n), known(&self.myself(n), n + 1)],
                vec![about(&self.myself(n), 0, 1)],
            ),
            9 => {
                let values = (0..500).map(|key| value(&format!("{n}-{key}"), "x", n * 500 + key + 1)).collect();
                message(vec![known(&mine, n + 1)], vec![News { id: mine, collected: 0, from: 0, values }])
            }
            10 => {
                let values = vec![value("facts", &"x".repeat(60_000), n + 1)];
                message(vec![known(&mine, n + 1)], vec![News { id: mine, collected: 0, from: 0, values }])
            }
            // No message; the bytes that chitchat's own assertion falls over; one beyond the bound.
            _ => return self.broken(n),
        };
        forged.write()
    }

    fn broken(&self, n: u64) -> Vec<u8> {
        match n % 3 {
            0 => n.to_le_bytes().repeat(30),
            1 => vec![0x53; 80_000],
            _ => {
                // A value of version 1,000 and more, after which the node's newest version is said to be 999.
                let life = self.lives.values().next().unwrap();
                let values = vec![Value { key: "x".into(), text: "x".into(), version: 1000 + n, status: 0 }];
                let news = vec![News { id: life.clone(), collected: 0, from: 0, values }];
                let mut bytes = Message { step: Step::Ack, digest: Vec::new(), news, cluster: String::new() }.write();
                bytes.pop();
                bytes.push(2);
                bytes.extend(999u64.to_le_bytes());
                let length = (bytes.len() - 7) as u16;
                bytes[5..7].copy_from_slice(&length.to_le_bytes());
                bytes.push(0);
                bytes
            }
        }
    }
}
