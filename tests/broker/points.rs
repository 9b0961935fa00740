//! What a recovery point is: every byte of all disks at one instant.

use landfall_kit::process::{Cluster, eventually};
use serde_json::Value;

use crate::stage::{
    LONG, WORK, check, enable, export, goes_on, hashes, join_up, newest, number, primaries, put, replicas, text,
    workload,
};

/// Points looked at before the VM is stopped.
const LOOKS: u64 = 3;

#[test]
fn every_listed_point_is_an_instant_and_the_newest_is_the_stopped_vms_disks() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let folder = put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    let mut earlier = 0;
    for look in 0..LOOKS {
        goes_on(r.first(), WORK);
        earlier = all_are_instants(&r, look).max(earlier);
    }

    assert_eq!(p.first().kill_with_argument("write"), 1, "one guest");
    let off = eventually(LONG, "a point of the stopped VM", || {
        let points = r.first().try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
        let last = points.as_array().and_then(|points| points.last()).cloned().unwrap_or_default();
        if last["consistency"] == "off" { Ok(number(&last["point"])) } else { Err(last.to_string()) }
    });
    let to = r.folder().join("off");
    export(r.first(), WORK, Some(off), &to).unwrap();
    assert_eq!(hashes(&to), hashes(&folder));
    assert!(check(r.first(), &to) >= earlier);
}

/// Exports every point that is listed, and returns the records of the newest.
fn all_are_instants(r: &Cluster, look: u64) -> u64 {
    let points = r.first().cli(["point", "list", WORK]);
    let points = points.as_array().unwrap();
    assert!((1..=5).contains(&points.len()), "the newest and at most four older: {points:?}");
    let sequence: Vec<u64> = points.iter().map(|point| number(&point["point"])).collect();
    assert!(sequence.windows(2).all(|pair| pair[0] < pair[1]), "oldest first: {sequence:?}");
    let mut records = Vec::new();
    for point in points {
        let sequence = number(&point["point"]);
        let to = r.folder().join(format!("look-{look}-{sequence}"));
        match export(r.first(), WORK, Some(sequence), &to) {
            Ok(exported) => {
                assert_eq!(exported["root"], point["root"]);
                records.push(check(r.first(), &to));
            }
            // Retention went on meanwhile; then it is not listed any more either.
            Err(failure) => {
                assert_eq!(failure.code, "not_found", "{failure}");
                let listed = r.first().cli(["point", "list", WORK]);
                assert!(listed.as_array().unwrap().iter().all(|listed| listed["point"] != point["point"]));
            }
        }
    }
    assert!(records.windows(2).all(|pair| pair[0] <= pair[1]), "{records:?}");
    records.last().copied().unwrap_or(0)
}

#[test]
fn a_standalone_server_is_a_primary_and_a_replica_at_once() {
    let r = replicas().node("r1").node("r2").start();
    // A cluster of one needs no CAP: its connection point is its own name.
    let fqdn = "s1.contoso.test";
    let s = crate::stage::named_primaries("Standalone", fqdn, &["s1"]).start();
    join_up(&s, &r);
    s.first().cli(["settings", "set", "replication_enabled=true"]);
    s.first().cli(["authorization", "add", crate::stage::R_CAP, "--storage", "default"]);
    put(&workload(WORK), s.first());
    let other = landfall_kit::process::VmFolder::new("Branch_Office").disk("vda", 2 << 20, 9);
    other.create_in(&r.node("r2").vm_path()).unwrap();
    crate::stage::found(r.first(), "Branch_Office");

    enable(s.first(), WORK);
    r.first().cli(["vm", "enable", "Branch_Office", "--to", fqdn, "--frequency", "30", "--timeout", "120s"]);
    goes_on(r.first(), WORK);
    assert!(newest(s.first(), "Branch_Office").is_ok());
    for node in [s.first(), r.first()] {
        let listed = node.cli(["vm", "list"]);
        let mut roles: Vec<String> = listed.as_array().unwrap().iter().map(|vm| text(&vm["role"])).collect();
        roles.sort();
        assert_eq!(roles, ["primary", "replica"], "{listed}");
    }
    let shown = s.first().cli(["vm", "show", "Branch_Office"]);
    assert_eq!(
        (&shown["connection_point"], &shown["in_sync"]),
        (&crate::stage::R_CAP.into(), &Value::from(vec!["s1"]))
    );
    let status = s.first().cli(["cluster", "status"]);
    assert_eq!((&status["cap"], &status["owner"]), (&fqdn.into(), &"s1".into()));

    // Both go on after the one agent that they depend on was killed.
    s.first().restart_agent();
    goes_on(r.first(), WORK);
    assert!(newest(s.first(), "Branch_Office").is_ok());
    let to = s.folder().join("branch");
    eventually(LONG, "the point to be exported", || export(s.first(), "Branch_Office", None, &to));
    let exported = std::fs::read(to.join("vda.raw")).unwrap();
    let disk = std::fs::read(r.node("r2").vm_path().join("Branch_Office/vda.raw")).unwrap();
    assert!(exported == disk, "the replica's content is the disk's");
}
