//! Replication that an operator pauses, at either side, and what goes on meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{
    LONG, R_CAP, SLACK, SOON, WORK, check, enable, export, goes_on, hashes, holder, join_up, newest, number, primaries,
    put, replicas, text, workload,
};

/// How soon a sender goes on once its replica is resumed: it is told, and does not wait for its next try.
const RESUMED_WITHIN: Duration = Duration::from_secs(5);

/// Looks at a list of points that must not change; each takes a command's time, and change sets are due every 300 ms.
const QUIET_LOOKS: u32 = 40;

#[test]
fn a_vm_paused_at_either_side_sends_nothing_through_restarts_and_moves_and_then_only_what_changed() {
    let r = replicas().node("r1").node("r2").start();
    let p = primaries(&["p1", "p2"]).start();
    join_up(&p, &r);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    goes_on(r.first(), WORK);
    paused_at_the_primary(&p, &r);
    paused_at_the_replica(&p, &r);
    compared_by_wish(&p, &r);
}

#[test]
fn a_first_copy_waits_for_its_time_and_a_lost_index_for_its_window() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (p1, r1) = (p.first(), r.first());
    put(&workload(WORK), p1);
    let enable = |start| ["vm", "enable", WORK, "--to", R_CAP, "--frequency", "30", "--start", start];
    let refused = p1.call(enable("+8d"));
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("start_at") && refused.stderr.contains("seven days"), "{refused}");
    assert_eq!(r1.cli(["vm", "list"]), Value::Array(vec![]), "a refused start leaves no replica behind");

    let begun = p1.cli(enable("+1h"));
    assert!(begun["starts_at"].is_string(), "{begun}");
    let shown = stands(p1, "ready_for_initial_replication", "warning");
    assert_eq!(shown["health_details"][0]["code"], "initial_copy_scheduled", "{shown}");
    restart(&p);
    let shown = stands(p1, "ready_for_initial_replication", "warning");
    assert_eq!((&shown["activity"], number(&shown["sent_bytes"])), (&"scheduled".into(), 0), "{shown}");
    p1.cli(["vm", "resume", WORK]);
    goes_on(r1, WORK);

    p1.cli(["settings", "set", "auto_resync=never"]);
    lose_indexes(p1);
    let shown = stands(p1, "waiting_to_resynchronize", "critical");
    let reason = &shown["health_details"][0];
    assert_eq!(reason["code"], "resync_required", "{shown}");
    assert!(text(&reason["command"]).starts_with("landfall vm resync "), "{shown}");
    let last = quiet(&r);
    p1.cli(["vm", "resync", WORK]);
    assert!(goes_on(r1, WORK) > last);
    assert_eq!(p1.cli(["vm", "show", WORK])["compared"]["code"], "asked");

    p1.cli(["settings", "set", "auto_resync=always"]);
    lose_indexes(p1);
    eventually(LONG, "the comparison by itself", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["compared"]["code"] == "index_lost" { Ok(()) } else { Err(shown.to_string()) }
    });
    goes_on(r1, WORK);
    let folder = r.folder().join("after-lost-indexes");
    export(r1, WORK, None, &folder).unwrap();
    check(r1, &folder);
}

/// Removes every index of the sender on `node`, as a damaged file system would.
fn lose_indexes(node: &Node) {
    let senders = fs::read_dir(node.data_dir().join("senders")).unwrap();
    let folders: Vec<_> = senders.map(|sender| sender.unwrap().path().join("index")).collect();
    eventually(SOON, "an index to lose", || {
        // The sender renames its files meanwhile: what is gone by itself is lost as well.
        let files = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let lost = files.filter(|file| fs::remove_file(file.path()).is_ok()).count();
        if lost > 0 { Ok(()) } else { Err(format!("{folders:?} are empty")) }
    });
}

/// Waits until `node` shows the VM in `state` and `health`.
fn stands(node: &Node, state: &str, health: &str) -> Value {
    eventually(LONG, &format!("{WORK} to be {state} and {health} at {}", node.name()), || {
        let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["state"] == state && shown["health"] == health { Ok(shown) } else { Err(shown.to_string()) }
    })
}

/// What was on its way may still land; then the newest point stays what it is.
fn quiet(r: &Cluster) -> u64 {
    let (mut last, mut looks) = (newest(r.first(), WORK).unwrap(), 0);
    eventually(LONG, "no more points", || {
        let now = newest(r.first(), WORK)?;
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        if looks >= QUIET_LOOKS { Ok(last) } else { Err(format!("point {last}, {looks} looks")) }
    })
}

fn restart(cluster: &Cluster) {
    for node in cluster.nodes() {
        node.kill_agent();
    }
    cluster.start_agents();
    for node in cluster.nodes() {
        node.wait_ready();
        crate::stage::owner(node);
    }
}

fn paused_at_the_primary(p: &Cluster, r: &Cluster) {
    let [p1, p2] = ["p1", "p2"].map(|name| p.node(name));
    let answer = p2.cli(["vm", "pause", WORK]);
    assert_eq!((&answer["state"], &answer["health"]), (&"suspended".into(), &"warning".into()), "{answer}");
    let last = quiet(r);
    assert_eq!(stands(p1, "suspended", "warning")["activity"], "paused");

    restart(p);
    restart(r);
    let shown = stands(p1, "suspended", "warning");
    assert_eq!(shown["vm_state"], "running", "{shown}");
    assert_eq!(quiet(r), last, "it is paused over restarts");

    // The VM goes to another node meanwhile, and the role with it.
    fs::rename(p1.vm_path().join(WORK), p2.vm_path().join(WORK)).unwrap();
    eventually(LONG, "p2 to have the role", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let host = shown["primary_host"].as_str().unwrap_or_default();
        if host.starts_with("p2") && shown["state"] == "suspended" { Ok(()) } else { Err(shown.to_string()) }
    });
    assert_eq!(quiet(r), last, "a new sender is paused, too");

    let sent_before = number(&p2.cli(["vm", "show", WORK])["sent_bytes"]);
    p1.cli(["vm", "resume", WORK]);
    assert!(goes_on(r.first(), WORK) > last);
    let shown = eventually(SOON, "a figure of the new sender", || {
        let shown = p2.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["sent_bytes"].as_u64() > Some(sent_before) { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert!(number(&shown["sent_bytes"]) - sent_before < 2 << 20, "changes are sent, not copies: {shown}");
}

fn paused_at_the_replica(p: &Cluster, r: &Cluster) {
    let [r1, r2] = ["r1", "r2"].map(|name| r.node(name));
    r1.cli(["vm", "pause", WORK]);
    let last = quiet(r);
    stands(r2, "suspended", "critical");
    let shown = stands(p.first(), "suspended", "critical");
    assert_eq!(shown["fault"]["code"], "paused_at_replica", "{shown}");
    let reason = &shown["health_details"][0];
    assert_eq!((&reason["code"], &reason["severity"]), (&"paused_at_replica".into(), &"critical".into()), "{shown}");
    assert_eq!(reason["message"], shown["health_reasons"][0]);
    assert!(text(&reason["command"]).starts_with("landfall vm resume "), "{shown}");
    assert!(text(&shown["fault"]["remedy"]).contains("landfall vm resume"), "{shown}");

    let to = if holder(r1, WORK) == "r1" { "r2" } else { "r1" };
    r1.cli(["vm", "move", WORK, "--to", to, "--timeout", "120s"]);
    assert_eq!(holder(r1, WORK), to, "a replica moves while it is paused");
    restart(p);
    restart(r);
    stands(p.first(), "suspended", "critical");
    assert_eq!(quiet(r), last, "it is paused over restarts and a move");

    let begun = Instant::now();
    r2.cli(["vm", "resume", WORK]);
    eventually(LONG, "a point after the pause", || match newest(r2, WORK) {
        Ok(point) if point > last => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let took = begun.elapsed();
    assert!(took < RESUMED_WITHIN + SLACK, "the sender went on only {took:?} after the replica's resume");
    let told = |node: &Node| node.log().contains("replica_resumed");
    assert!(p.nodes().iter().any(told), "the sender is told, and does not only try again");
    goes_on(r1, WORK);
    let folder = r.folder().join("after-the-pause");
    export(r.node(to), WORK, None, &folder).unwrap();
    check(r.node(to), &folder);
}

fn compared_by_wish(p: &Cluster, r: &Cluster) {
    let before = number(&p.first().cli(["vm", "show", WORK])["sent_bytes"]);
    p.first().cli(["vm", "resync", WORK]);
    eventually(LONG, "the comparison", || {
        let shown = p.first().try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["compared"]["code"] == "asked" { Ok(()) } else { Err(shown.to_string()) }
    });
    goes_on(r.first(), WORK);
    let shown = p.first().cli(["vm", "show", WORK]);
    assert_eq!(shown["source"], "index", "one comparison, then indexes again: {shown}");
    let sent = number(&shown["sent_bytes"]).saturating_sub(before);
    assert!(sent < 4 << 20, "{sent} bytes were sent to compare");
    let counted = &shown["statistics"];
    assert!(number(&counted["cycles"]) > 0 && number(&counted["sent_bytes_max"]) > 0, "{shown}");
    let skew = shown["clock_skew_ms"].as_i64().expect("the other side's clock was asked for");
    assert!(skew.abs() < 2_000, "both sites are one machine: {shown}");
    assert!(number(&shown["durable_point"]["point"]) <= number(&shown["sent_point"]["point"]), "{shown}");
    let reset = r.first().call(["vm", "reset-statistics", WORK]);
    assert_eq!(reset.code, Some(3), "the replica's side counts nothing: {reset}");
    let reset = p.first().cli(["vm", "reset-statistics", WORK]);
    assert!(reset["statistics"]["since"].as_str() > counted["since"].as_str(), "{reset}");
    assert!(number(&reset["statistics"]["cycles"]) < number(&counted["cycles"]), "{reset}");

    // It is carried out once, also where the sender begins anew.
    let at = shown["compared"]["at"].clone();
    p.first().cli(["vm", "pause", WORK]);
    let last = quiet(r);
    p.first().cli(["vm", "resume", WORK]);
    assert!(goes_on(r.first(), WORK) > last);
    assert_eq!(p.first().cli(["vm", "show", WORK])["compared"]["at"], at);

    // A stopped VM's disks and the newest point are the same bytes.
    p.first().cli(["vm", "resync", WORK]);
    goes_on(r.first(), WORK);
    let folder = r.folder().join("after-the-comparison");
    let at = holder(r.first(), WORK);
    export(r.node(&at), WORK, None, &folder).unwrap();
    check(r.node(&at), &folder);
    assert_eq!(hashes(&folder).len(), 2);
}
