//! A primary that goes from node to node of its cluster.

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{
    DISKS, LONG, P_CAP, SOON, WORK, check, enable, export, goes_on, join_up, newest, number, primaries, put, replicas,
    runs_at, text, workload,
};

/// What may be sent after a migration: 2 % of the first disk.
const MIGRATION_MAX: u64 = DISKS[0].1 / 50;

#[test]
fn a_primary_migrates_without_a_copy_and_on_two_nodes_at_once_it_is_a_conflict() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1", "p2", "p3"]).create();
    let [p1, p2, p3] = ["p1", "p2", "p3"].map(|name| p.node(name));
    for node in [p1, p2] {
        node.start();
        node.wait_ready();
    }
    p1.cli(["cluster", "init", "--name", p.name(), "--cap", P_CAP]);
    join(p1, p2);
    join_up(&p, &r);
    put(&workload(WORK), p1);
    enable(p1, WORK);
    goes_on(r.first(), WORK);
    migrates(&r, p1, p2);

    // A node that R has never heard of: the clusters tell each other.
    p3.start();
    p3.wait_ready();
    join(p1, p3);
    migrates(&r, p2, p3);
    conflict(&r, p3, p1);
}

fn join(at: &Node, node: &Node) {
    let token = text(&at.cli(["token", "create"])["token"]);
    node.cli(["cluster", "join", &token]);
    eventually(SOON, "the members to see each other", || {
        let seen = crate::stage::entry(&at.cli(["node", "list"]), node.name());
        if seen["state"] == "up" { Ok(()) } else { Err(seen.to_string()) }
    });
}

/// What a migration of a primary leaves as it was at the replica's side.
fn untouched(r: &Cluster) -> Vec<Value> {
    let shown = r.first().cli(["vm", "show", WORK]);
    let fields = ["replica_host", "in_sync", "epoch", "connection_point", "storage", "trust_group"];
    let of_vm = fields.iter().map(|field| shown[field].clone());
    let all = ["authorization", "settings"]
        .map(|noun| r.first().cli([noun, if noun == "settings" { "show" } else { "list" }]));
    of_vm.chain(all).collect()
}

fn migrates(r: &Cluster, from: &Node, to: &Node) {
    let before = untouched(r);
    let listed = newest(r.first(), WORK).unwrap();
    let shown = from.cli(["vm", "show", WORK]);
    let (epoch, sent_before) = (number(&shown["sender_epoch"]), number(&shown["sent_bytes"]));
    std::fs::rename(from.vm_path().join(WORK), to.vm_path().join(WORK)).unwrap();
    let shown = eventually(LONG, &format!("{} to send", to.name()), || {
        let shown = to.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let sends = shown["primary_host"].as_str().is_some_and(|host| host.starts_with(to.name()));
        // What the nodes before have sent goes on being counted.
        let done = sends && shown["last_point_at"].is_string() && number(&shown["sent_bytes"]) > sent_before;
        if done { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert!(number(&shown["sender_epoch"]) > epoch);
    // The new sender's first change set is the one that the comparison made.
    let sent = number(&shown["sent_bytes"]) - sent_before;
    assert!(sent < MIGRATION_MAX, "{sent} bytes were sent after a migration");
    let told = to.log();
    assert!(told.contains("compared"), "the new sender compares instead of sending:\n{told}");
    runs_at(to, WORK);
    assert!(goes_on(r.first(), WORK) > listed);
    assert_eq!(untouched(r), before);
    let folder = r.folder().join(format!("from-{}", to.name()));
    export(r.first(), WORK, None, &folder).unwrap();
    check(r.first(), &folder);
}

fn conflict(r: &Cluster, sender: &Node, rival: &Node) {
    let copy = put(&workload(WORK), rival);
    let shown = eventually(LONG, "the conflict to be seen", || {
        let shown = sender.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["health"] == "critical" { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert_eq!(shown["rivals"], Value::from(vec![rival.name()]));
    assert!(text(&shown["primary_host"]).starts_with(sender.name()), "{shown}");
    assert!(shown["health_reasons"][0].as_str().unwrap().contains("more than one node"), "{shown}");
    // What was under way when the conflict was committed may still land; then nothing does.
    let mut quiet = 0;
    let mut last = newest(r.first(), WORK).unwrap();
    eventually(LONG, "sending to cease", || {
        let now = newest(r.first(), WORK).unwrap();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        quiet >= 40
    });

    std::fs::remove_dir_all(copy).unwrap();
    eventually(LONG, "the conflict to end", || {
        let shown = sender.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["rivals"] == Value::Array(Vec::new()) { Ok(()) } else { Err(shown.to_string()) }
    });
    assert!(goes_on(r.first(), WORK) > last);
    let shown = sender.cli(["vm", "show", WORK]);
    assert!(text(&shown["primary_host"]).starts_with(sender.name()), "{shown}");
    let folder = r.folder().join("after-the-conflict");
    export(r.first(), WORK, None, &folder).unwrap();
    check(r.first(), &folder);
}
