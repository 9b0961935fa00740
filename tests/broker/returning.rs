//! Holders that come back: without their storage, after the replica went elsewhere, and in time.

use std::fs;
use std::path::Path;
use std::time::Duration;

use landfall_kit::process::{Cluster, VmFolder, eventually};
use landfall_proto::id::Epoch;
use landfall_proto::message::data::Welcome;
use serde_json::Value;

use crate::intruder::Intruder;
use crate::stage::{
    LONG, R_CAP, SOON, WORK, check, enable, entry, export, found, goes_on, holder, join_up, newest, number, one_to_one,
    primaries, put, replicas, text, workload,
};

/// The reasons that `shown` gives for its health.
fn reasons(shown: &Value) -> String {
    let reasons = shown["health_reasons"].as_array().into_iter().flatten();
    reasons.filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

/// The plain names in a folder, but for what a probe of the storage leaves.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| !name.starts_with(".landfall")).collect()
}

/// What a node does that boots before the file system of its replicas is mounted.
#[test]
fn a_holder_whose_storage_is_not_mounted_says_so_and_goes_on_once_it_is() {
    let (p, r) = one_to_one();
    let (r1, p1) = (r.first(), p.first());
    goes_on(r1, WORK);
    let away = r1.folder().join("unmounted");
    r1.lose();
    let before = newest_in(&r1.storage_path());
    fs::rename(r1.storage_path(), &away).unwrap();
    fs::create_dir(r1.storage_path()).unwrap();
    r1.start();
    r1.wait_ready();

    let shown = eventually(LONG, "the fault to be shown", || {
        let shown = r1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if reasons(&shown).contains("holds no recovery point") { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert_eq!(shown["health"], "critical", "{shown}");
    let refused = r1.try_cli(["point", "list", WORK]).unwrap_err();
    assert!(refused.message.contains("holds no recovery point"), "{refused}");
    eventually(LONG, "the primary to be refused", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let fault = reasons(&shown);
        if fault.contains("holds no recovery point") { Ok(()) } else { Err(shown.to_string()) }
    });
    assert_eq!(names(&r1.storage_path()), Vec::<String>::new(), "nothing is made at the mount point");

    fs::remove_dir_all(r1.storage_path()).unwrap();
    fs::rename(&away, r1.storage_path()).unwrap();
    eventually(LONG, "the points to be listed again", || {
        let now = newest(r1, WORK)?;
        if now >= before { Ok(()) } else { Err(now.to_string()) }
    });
    goes_on(r1, WORK);
    let folder = r.folder().join("exported");
    export(r1, WORK, None, &folder).unwrap();
    check(r1, &folder);
}

/// One replica's files are lost; its neighbour on the same node stays where it is. A session that is opened at the old
/// holder afterwards is told that the replica is elsewhere, whatever assignment it believes in.
#[test]
fn a_replica_whose_files_are_lost_gets_a_new_home_and_its_neighbour_stays() {
    let r = replicas().node("r1").node("r2").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    r.first().cli(["settings", "set", "node_down_after=2s", "rehome_without_copy_after=3s"]);
    let p1 = p.first();
    let (work, second) = (workload(WORK), VmFolder::new("second").disk("vda", 1 << 20, 2));
    put(&work, p1);
    second.create_in(&p1.vm_path()).unwrap();
    found(p1, second.name());
    enable(p1, WORK);
    enable(p1, second.name());
    newest_at(&r, second.name());
    goes_on(r.first(), WORK);
    let old = r.node(&holder(r.first(), WORK));
    let other = r.nodes().iter().find(|node| node.name() != old.name()).unwrap();
    if holder(r.first(), second.name()) != old.name() {
        r.first().cli(["vm", "move", second.name(), "--to", old.name(), "--timeout", "120s"]);
    }
    let before = r.first().cli(["vm", "locate", WORK]);
    let neighbour = r.first().cli(["vm", "locate", second.name()]);

    old.lose();
    let away = old.folder().join("lost");
    fs::rename(old.storage_path().join(work.uuid().to_string()), &away).unwrap();
    old.start();
    old.wait_ready();
    let after = eventually(LONG, "the lost replica to get a new home", || {
        let at = other.try_cli(["vm", "locate", WORK]).map_err(|failure| failure.to_string())?;
        if at["node"] == other.name() { Ok(at) } else { Err(at.to_string()) }
    });
    assert!(number(&after["epoch"]) > number(&before["epoch"]), "{before} {after}");
    newest_at(&r, WORK);
    goes_on(other, WORK);
    let still = other.cli(["vm", "locate", second.name()]);
    assert_eq!((&still["node"], &still["epoch"]), (&neighbour["node"], &neighbour["epoch"]), "the neighbour stays");
    assert!(!old.storage_path().join(work.uuid().to_string()).exists(), "nothing was made where files are missing");

    let intruder = Intruder::as_node(p1, old);
    for epoch in [&before["epoch"], &after["epoch"]] {
        let epoch = Epoch::from_number(number(epoch));
        match intruder.opens(old, &work, epoch) {
            Welcome::Moved(to) => {
                assert_eq!((to.node.as_str(), to.epoch.number()), (other.name(), number(&after["epoch"])));
            }
            welcome => panic!("{} takes no data of {WORK} any more: {welcome:?}", old.name()),
        }
    }
    let stranger = VmFolder::new("never-placed").disk("vda", 1 << 20, 9);
    let welcome = intruder.opens(old, &stranger, Epoch::from_number(number(&after["epoch"])));
    assert_eq!(welcome, Welcome::NotHere);
}

/// Waits until `vm` has a listed point.
fn newest_at(r: &Cluster, vm: &str) -> u64 {
    eventually(LONG, &format!("a point of {vm}"), || newest(r.first(), vm))
}

#[test]
fn a_holder_that_returns_in_time_takes_its_replica_back() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    r.first().cli(["settings", "set", "node_down_after=2s", "rehome_without_copy_after=10m"]);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    goes_on(r.first(), WORK);
    let lost = r.node(&holder(r.first(), WORK));
    let left = r.data_nodes().find(|node| node.name() != lost.name()).unwrap();
    let before = left.cli(["vm", "locate", WORK]);
    let point = newest(left, WORK).unwrap();
    lost.lose();
    eventually(LONG, "the holder to be held for lost", || {
        let seen = entry(&left.try_cli(["node", "list"]).map_err(|failure| failure.to_string())?, lost.name());
        if seen["state"] == "down" { Ok(()) } else { Err(seen.to_string()) }
    });
    assert!(newest(left, WORK).is_err(), "nobody else has the points");

    lost.start();
    lost.wait_ready();
    eventually(LONG, "the points to be listed again", || {
        let now = newest(left, WORK)?;
        if now >= point { Ok(()) } else { Err(now.to_string()) }
    });
    goes_on(left, WORK);
    let after = left.cli(["vm", "locate", WORK]);
    assert_eq!((&after["node"], &after["epoch"]), (&before["node"], &before["epoch"]), "it was never re-homed");
    let points = left.cli(["point", "list", WORK]);
    let unreachable = points.as_array().unwrap().iter().any(|point| point["state"] != "listed");
    assert!(!unreachable, "{points}");
    let folder = r.folder().join("exported");
    export(left, WORK, None, &folder).unwrap();
    check(left, &folder);
}

/// A disk whose initial copy takes long enough to die in.
const LARGE: u64 = 192 << 20;

#[test]
fn a_chosen_node_that_dies_before_the_first_point_is_not_waited_for() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    // The cluster of the replicas does nothing by itself for the length of the test: it is the primary that asks again.
    r.first().cli(["settings", "set", "node_down_after=1h"]);
    let p1 = p.first();
    let vm = VmFolder::new("large").disk("vda", LARGE, 5);
    vm.create_in(&p1.vm_path()).unwrap();
    found(p1, vm.name());
    p1.cli(["vm", "enable", vm.name(), "--to", R_CAP, "--frequency", "30"]);
    let before = r.first().cli(["vm", "locate", vm.name()]);
    let lost = r.node(&text(&before["node"]));
    lost.lose();
    let left = r.data_nodes().find(|node| node.name() != lost.name()).unwrap();
    assert!(newest(left, vm.name()).is_err(), "nothing was acknowledged");
    let after = eventually(Duration::from_secs(120), "the primary to be given another node", || {
        let at = left.try_cli(["vm", "locate", vm.name()]).map_err(|failure| failure.to_string())?;
        if at["node"] == left.name() { Ok(at) } else { Err(at.to_string()) }
    });
    assert!(number(&after["epoch"]) > number(&before["epoch"]), "{before} {after}");
    eventually(Duration::from_secs(120), "the first point", || newest(left, vm.name()));
    eventually(SOON, "the primary to be content", || {
        let shown = p1.try_cli(["vm", "show", vm.name()]).map_err(|failure| failure.to_string())?;
        let content = shown["fault"].is_null() && text(&shown["replica_host"]).starts_with(left.name());
        if content { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// The newest point that the only replica in `location` lists, read from its file names.
fn newest_in(location: &Path) -> u64 {
    let replica = location.join(names(location).first().unwrap());
    let points = names(&replica).into_iter().filter_map(|name| {
        let name = name.strip_suffix(".qcow2")?.to_owned();
        name.rsplit_once('-')?.1.parse().ok()
    });
    points.max().unwrap()
}
