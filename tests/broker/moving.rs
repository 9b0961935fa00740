//! A replica that is handed from node to node while its primary goes on sending.

use landfall_kit::process::{Cluster, eventually};

use crate::stage::{
    DISKS, LONG, R_CAP, WORK, check, enable, export, goes_on, holder, join_up, newest, number, primaries, put,
    replicas, testing, text, workload,
};

/// What the change sets of a story may come to at most: the guest's ring, time and again, is a fraction of the disks.
const CHANGES_MAX: u64 = DISKS[0].1 / 4;

#[test]
fn a_moved_replica_is_followed_by_its_notice() {
    let r = replicas().node("r1").node("r2").start();
    moved_and_followed(&r);
    let told = r.nodes().iter().any(|node| events(&r, node.name()).iter().any(|event| event == "replica_moved"));
    assert!(told, "the hand-over is an event");
}

#[test]
fn a_primary_that_gets_no_notice_finds_its_moved_replica_by_itself() {
    let quiet = |name| testing(name, "drop_moved_notices", true.into());
    let r = replicas().spec(quiet("r1")).spec(quiet("r2")).start();
    moved_and_followed(&r);
    for node in r.nodes() {
        assert!(node.log().contains("notices of moved replicas are dropped"), "the test's setting is printed");
    }
}

fn moved_and_followed(r: &Cluster) {
    let p = primaries(&["p1"]).start();
    join_up(&p, r);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    goes_on(r.first(), WORK);
    let mut records = 0;
    for turn in 0..2 {
        let from = holder(r.first(), WORK);
        let to = if from == "r1" { "r2" } else { "r1" };
        let before = r.first().cli(["vm", "locate", WORK]);
        let listed = newest(r.first(), WORK).unwrap();
        let sent = number(&p.first().cli(["vm", "show", WORK])["sent_bytes"]);

        // The command is given at the node that the replica leaves, then at the one that it goes to.
        let at = if turn == 0 { &from } else { to };
        let after = r.node(at).cli(["vm", "move", WORK, "--to", to, "--timeout", "120s"]);
        assert_eq!(after["node"], to);
        assert!(number(&after["epoch"]) > number(&before["epoch"]), "{before} {after}");
        let next = goes_on(r.first(), WORK);
        assert!(next > listed);
        eventually(LONG, "the primary to name the new holder", || {
            let shown = p.first().try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
            let follows = text(&shown["replica_host"]).starts_with(to) && shown["fault"].is_null();
            if follows { Ok(()) } else { Err(shown.to_string()) }
        });
        assert_eq!(p.first().cli(["vm", "locate", WORK])["epoch"], after["epoch"]);
        let shown = p.first().cli(["vm", "show", WORK]);
        assert_eq!((&shown["source"], &shown["connection_point"]), (&"index".into(), &R_CAP.into()));
        let sent = number(&shown["sent_bytes"]) - sent;
        assert!(sent < CHANGES_MAX, "nothing is sent again after a move: {sent} bytes");

        // Old points went along and restore there.
        let points = r.first().cli(["point", "list", WORK]);
        let oldest = number(&points[0]["point"]);
        let folder = r.folder().join(format!("turn-{turn}"));
        match export(r.first(), WORK, Some(oldest), &folder) {
            Ok(_) => records = check(r.first(), &folder).max(records),
            Err(failure) => assert_eq!(failure.code, "not_found", "retention went on meanwhile: {failure}"),
        }
        let unregistered = r.node(&from).vm_path().join(workload(WORK).uuid().to_string());
        eventually(LONG, "the old holder to unregister the VM", || !unregistered.join("vm.toml").exists());
    }
    let folder = r.folder().join("last");
    export(r.first(), WORK, None, &folder).unwrap();
    assert!(check(r.first(), &folder) >= records);
}

/// The kinds of the events that `node` tells.
pub fn events(cluster: &Cluster, node: &str) -> Vec<String> {
    let answer = cluster.node(node).call(["event", "tail", "--recent", "1000", "--no-follow", "-o", "json"]);
    assert_eq!(answer.code, Some(0), "{answer}");
    let kind = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["kind"].as_str().map(str::to_owned);
    answer.stdout.lines().filter_map(kind).collect()
}
