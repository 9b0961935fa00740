//! `cluster recover`: one of two nodes goes on alone, and the other one, when it comes back, does no harm.

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{
    LONG, SOON, WORK, check, enable, export, goes_on, holder, join_up, number, owner, primaries, put, replicas, text,
    workload,
};

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|name| name["node"].as_str().or(name.as_str())).collect()
}

fn in_sync(node: &Node, copies: usize) {
    eventually(LONG, &format!("{copies} copies"), || {
        let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["in_sync"].as_array().map(Vec::len) == Some(copies) { Ok(()) } else { Err(shown.to_string()) }
    });
}

#[test]
fn one_of_two_nodes_goes_on_alone_and_the_other_can_only_join_anew() {
    let r = replicas().node("r1").node("r2").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    r.first().cli(["settings", "set", "copies=2"]);
    let p1 = p.first();
    put(&workload(WORK), p1);
    enable(p1, WORK);
    in_sync(r.first(), 2);
    let lost = r.node(&holder(r.first(), WORK));
    let left = r.nodes().iter().find(|node| node.name() != lost.name()).unwrap();
    refused(left, &["cluster", "recover", "--yes"], "quorate");
    let before = left.cli(["vm", "locate", WORK]);

    lost.lose();
    let plan = eventually(LONG, "nothing to stand in the way", || {
        let plan = left.try_cli(["cluster", "recover", "--dry-run"]).map_err(|failure| failure.to_string())?;
        if plan["blockers"].as_array().is_some_and(Vec::is_empty) { Ok(plan) } else { Err(plan.to_string()) }
    });
    assert_eq!((plan["recovered"].as_bool(), names(&plan["removed"])), (Some(false), vec![lost.name()]), "{plan}");
    let unsure = refused(left, &["cluster", "recover"], "not_confirmed");
    assert!(unsure.contains(lost.name()) && unsure.contains("authorizations"), "{unsure}");
    let stuck = left.try_cli(["settings", "set", "apply_vm_limit=7"]).unwrap_err();
    assert_eq!(stuck.exit, 5, "{stuck}");

    let done = left.cli(["cluster", "recover", "--yes"]);
    assert_eq!((done["recovered"].as_bool(), done["incarnation"].as_u64()), (Some(true), Some(1)), "{done}");
    assert_eq!(owner(left), left.name());
    alone(left);
    left.cli(["settings", "set", "apply_vm_limit=7"]);
    let after = left.cli(["vm", "locate", WORK]);
    assert!(number(&after["epoch"]) > number(&before["epoch"]), "{before} {after}");
    assert_eq!(after["node"], left.name());
    // The primary follows by itself, from the last acknowledged point.
    goes_on(left, WORK);
    knows_the_new_life(p1, left);
    the_old_node_does_no_harm(&r, left, lost);
    joins_anew(&r, left, lost);
    let folder = r.folder().join("after-the-recovery");
    export(left, WORK, None, &folder).unwrap();
    check(left, &folder);
}

fn refused(node: &Node, command: &[&str], code: &str) -> String {
    let failure = node.try_cli(command.iter().copied()).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, code), "{failure}");
    assert!(failure.remedy.is_some(), "{failure}");
    failure.to_string()
}

fn alone(node: &Node) {
    let status = node.cli(["cluster", "status"]);
    assert_eq!((names(&status["members"]), status["quorate"].as_bool()), (vec![node.name()], Some(true)), "{status}");
}

fn knows_the_new_life(p1: &Node, left: &Node) {
    eventually(SOON, "the right to run the VM to be known", || {
        let status = p1.try_cli(["failover", "status", WORK]).map_err(|failure| failure.to_string())?;
        if status["right_to_run"] == true { Ok(()) } else { Err(status.to_string()) }
    });
    eventually(SOON, "the replica's cluster to know that it has no right to run it", || {
        let status = left.try_cli(["failover", "status", WORK]).map_err(|failure| failure.to_string())?;
        if status["step"] == "none" && status["right_to_run"] == false { Ok(()) } else { Err(status.to_string()) }
    });
    eventually(SOON, "the primaries to know only the survivor", || {
        let tail = p1.call(["event", "tail", "--recent", "200", "--no-follow"]);
        if tail.stdout.contains("peer_recovered") { Ok(()) } else { Err(tail.stdout) }
    });
}

/// It has its old log, key and certificate, and a newer state than nobody: it decides nothing, and nobody listens.
fn the_old_node_does_no_harm(r: &Cluster, left: &Node, lost: &Node) {
    let term = left.cli(["broker", "status"])["term"].clone();
    lost.start();
    lost.wait_ready();
    eventually(LONG, "the old node to say that it is none any more", || {
        let status = lost.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
        let told = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let says = told.filter(|line| line.contains("cluster leave --force")).count();
        if says == 1 && status["quorate"] == false { Ok(()) } else { Err(status.to_string()) }
    });
    goes_on(left, WORK);
    alone(left);
    assert_eq!(left.cli(["broker", "status"])["term"], term, "nobody was disturbed");
    assert_eq!(lost.try_cli(["settings", "set", "apply_vm_limit=9"]).unwrap_err().exit, 5);
    assert_eq!(r.owner_seen_by(left.name()).as_deref(), Some(left.name()));
}

fn joins_anew(r: &Cluster, left: &Node, lost: &Node) {
    lost.cli(["cluster", "leave", "--force"]);
    let token = text(&left.cli(["token", "create"])["token"]);
    lost.cli(["cluster", "join", &token]);
    r.wait_formed();
    in_sync(left, 2);
    goes_on(left, WORK);
}
