//! Nodes that die: the one that receives a replica, then the one that answers primaries.

use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, VmFolder, eventually};
use serde_json::Value;

use crate::stage::{
    LONG, P_CAP, R_CAP, SOON, WORK, check, enable, entry, export, goes_on, holder, join_up, number, owner, primaries,
    put, replicas, text, workload,
};

/// How long placing may take after the owner's death, the election included.
const PLACE_MAX: Duration = Duration::from_secs(20);

#[test]
fn a_lost_holder_is_replaced_and_a_lost_owner_too() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    r.first().cli(["settings", "set", "node_down_after=2s", "rehome_without_copy_after=3s"]);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    let second = VmFolder::new("second").disk("vda", 1 << 20, 2);
    second.create_in(&p.first().vm_path()).unwrap();
    crate::stage::found(p.first(), second.name());
    goes_on(r.first(), WORK);
    holder_dies(&p, &r);
    owner_dies(&p, &r);
}

/// Between the first byte and the first acknowledgement nothing can be lost, so nobody waits for the node to return.
#[test]
fn a_holder_that_dies_within_the_initial_copy_is_replaced_at_once() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    // The wait for a node that has the only copy stays at 15 minutes.
    r.first().cli(["settings", "set", "node_down_after=2s"]);
    put(&workload(WORK), p.first());
    // Disks are read while the VM runs, but no instant can be taken: nothing can be acknowledged.
    p.first().stop_vm_service();
    p.first().cli(["vm", "enable", WORK, "--to", R_CAP, "--recovery-points", "4"]);
    let lost = holder(r.first(), WORK);
    let left = if lost == "r1" { "r2" } else { "r1" };
    let (lost, left) = (r.node(&lost), r.node(left));
    eventually(SOON, "the first content to come", || {
        let events = lost.events();
        let receives = events.iter().any(|event| event["kind"] == "replica_receiving");
        if receives { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let epoch = number(&left.cli(["vm", "locate", WORK])["epoch"]);
    assert_eq!(left.cli(["point", "list", WORK]), Value::Array(Vec::new()));
    lost.lose();
    p.first().continue_vm_service();

    let at = eventually(LONG, "the replica to get another home", || {
        let at = left.try_cli(["vm", "locate", WORK]).map_err(|failure| failure.to_string())?;
        if at["node"] == left.name() { Ok(at) } else { Err(at.to_string()) }
    });
    assert!(number(&at["epoch"]) > epoch);
    goes_on(left, WORK);
    let points = left.cli(["point", "list", WORK]);
    let listed = |point: &Value| point["state"] == "listed" && point["copies"] == Value::from(vec![left.name()]);
    assert!(points.as_array().unwrap().iter().all(listed), "nothing was acknowledged by {}: {points}", lost.name());
    let folder = r.folder().join("after-the-first-loss");
    export(left, WORK, None, &folder).unwrap();
    check(left, &folder);
}

fn holder_dies(p: &Cluster, r: &Cluster) {
    let lost = holder(r.first(), WORK);
    let left = if lost == "r1" { "r2" } else { "r1" };
    let (lost, left) = (r.node(&lost), r.node(left));
    let kept = || [left.cli(["settings", "show"]), left.cli(["authorization", "list"])];
    let before = kept();
    let epoch = number(&left.cli(["vm", "locate", WORK])["epoch"]);
    let known = left.cli(["point", "list", WORK]);
    let known = number(&known.as_array().unwrap().last().unwrap()["point"]);
    lost.lose();

    let at = eventually(LONG, "the replica to get a new home", || {
        let at = left.try_cli(["vm", "locate", WORK]).map_err(|failure| failure.to_string())?;
        if at["node"] == left.name() { Ok(at) } else { Err(at.to_string()) }
    });
    assert!(number(&at["epoch"]) > epoch);
    let points = eventually(LONG, "the new home's first point", || {
        let points = left.try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
        let listed = points.as_array().into_iter().flatten().any(|point| point["state"] == "listed");
        if listed { Ok(points) } else { Err(points.to_string()) }
    });
    let of_state = |state: &str| -> Vec<u64> {
        let with = points.as_array().unwrap().iter().filter(|point| point["state"] == state);
        with.map(|point| number(&point["point"])).collect()
    };
    assert!(!of_state("unreachable").is_empty(), "old points stay listed as unreachable: {points}");
    assert!(of_state("listed").iter().all(|point| *point > known), "{known}: {points}");
    let unreachable = &points.as_array().unwrap()[0];
    assert_eq!(unreachable["copies"], Value::from(vec![lost.name()]), "{points}");
    assert_eq!(kept(), before);
    let folder = r.folder().join("re-homed");
    export(left, WORK, None, &folder).unwrap();
    check(left, &folder);
    let failure = export(left, WORK, Some(number(&unreachable["point"])), &r.folder().join("unreachable")).unwrap_err();
    assert!(!failure.message.is_empty() && failure.exit != 0, "{failure}");

    lost.start();
    lost.wait_ready();
    eventually(LONG, "the returned node to answer with the new location", || {
        let found = lost.try_cli(["vm", "locate", WORK]).map_err(|failure| failure.to_string())?;
        if found == at { Ok(()) } else { Err(found.to_string()) }
    });
    let file = lost.vm_path().join(workload(WORK).uuid().to_string()).join("vm.toml");
    eventually(LONG, "the returned node to have the VM unregistered", || !file.exists());
    eventually(LONG, "the returned node to be up", || {
        let seen = entry(&left.cli(["node", "list"]), lost.name());
        if seen["state"] == "up" && seen["vm_service"] == "running" { Ok(()) } else { Err(seen.to_string()) }
    });
    assert_eq!(holder(lost, WORK), left.name(), "a returning node takes nothing back that went on elsewhere");
    goes_on(r.first(), WORK);
    assert_eq!(p.first().cli(["vm", "show", WORK])["fault"], Value::Null);
}

fn owner_dies(p: &Cluster, r: &Cluster) {
    let lost = r.node(&owner(r.first()));
    assert!(!lost.is_witness(), "a witness never owns");
    let left = r.data_nodes().find(|node| node.name() != lost.name()).unwrap();
    // It hears of the owner by itself, and may just have been started.
    owner(left);
    let term = number(&left.cli(["broker", "status"])["term"]);
    lost.lose();
    let begun = Instant::now();
    let placed = eventually(PLACE_MAX, "the second VM to be placed", || {
        p.first().try_cli(["vm", "enable", "second", "--to", R_CAP, "--frequency", "30"])
    });
    let took = begun.elapsed();
    println!("placed {took:?} after the owner was killed");
    assert!(took < PLACE_MAX, "{took:?}");
    assert!(text(&placed["replica_host"]).starts_with(left.name()), "{placed}");
    assert_eq!(holder(left, "second"), left.name());
    assert_eq!(owner(left), left.name());
    let status = left.cli(["broker", "status"]);
    assert!(number(&status["term"]) > term, "{status}");
    assert_eq!(status["cap"], R_CAP);
    eventually(LONG, "the second VM's first point", || crate::stage::newest(left, "second"));

    lost.start();
    lost.wait_ready();
    eventually(SOON, "the old owner to follow the new one", || {
        let seen = lost.try_cli(["broker", "status"]).map_err(|failure| failure.to_string())?;
        if seen["owner"] == left.name() { Ok(()) } else { Err(seen.to_string()) }
    });
    assert_eq!(lost.cli(["authorization", "list"])[0]["primary"], P_CAP);
}
