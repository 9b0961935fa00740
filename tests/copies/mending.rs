//! Damage in a replica's files on one node: found, named, repaired out of the other copy; and where both are damaged, said.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use landfall_kit::process::{Node, eventually};
use serde_json::{Value, json};

use crate::pair::{held_by, in_sync, other, reasons, replicated};
use crate::stage::{
    LONG, WORK, check, enable, export, flip, flip_at_once, goes_on, holder, join_up, newest, primaries, put, replicas,
    testing, workload,
};

fn states(node: &Node) -> Vec<Value> {
    let points = node.cli(["point", "list", WORK]);
    points.as_array().unwrap().iter().map(|point| point["state"].clone()).collect()
}

fn events(node: &Node) -> String {
    node.call(["event", "tail", "--recent", "1000", "--no-follow"]).stdout
}

/// Waits until both nodes list the newest point, with nothing taken any more.
fn settled(node: &Node) -> u64 {
    eventually(LONG, "every point to be on both", || {
        let points = node.try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
        let both = points.as_array().unwrap().iter().all(|point| point["copies"] == json!(["r1", "r2"]));
        if both { newest(node, WORK) } else { Err(points.to_string()) }
    })
}

#[test]
fn a_flipped_bit_is_repaired_out_of_the_other_copy_and_where_both_have_one_the_points_are_damaged() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = replicated(&r, 2);
    let held = r.node(&holder(r.first(), WORK));
    let second = other(&r, held.name());
    // While nothing is taken, so that only reading finds it.
    held.cli(["vm", "pause", WORK]);
    let head = settled(held);

    flip(held);
    let proof = held.cli(["point", "verify", WORK, "--wait"]);
    let repaired = proof["repaired"].as_str().unwrap_or_default();
    assert!(repaired.contains("disk vda, bytes 0 to 65536") && repaired.contains(second.name()), "{proof}");
    assert!(proof["verified_at"].is_string() && proof["point"] == head, "{proof}");
    let copies = proof["copies"].as_array().unwrap();
    assert_eq!(copies.iter().map(|copy| &copy["node"]).collect::<Vec<_>>(), [held.name(), second.name()], "{proof}");
    assert!(copies.iter().all(|copy| copy["verified_at"].is_string() && copy["fault"].is_null()), "{proof}");
    assert!(states(held).iter().all(|state| state == "listed"), "{:?}", states(held));
    assert!(events(held).contains("point_repaired") && !events(held).contains("point_damaged"), "{}", events(held));
    let again = held.cli(["point", "verify", WORK, "--wait"]);
    assert!(again["repaired"].is_null() && again["verified_at"].is_string(), "it is whole on the disk, too: {again}");

    // The node with the second copy reads by itself what somebody touched, and asks the holder.
    flip(second);
    held.cli(["settings", "set", "scrub_rate=1000"]);
    second.restart_agent();
    eventually(LONG, "the second copy to be repaired", || {
        let _ = held.try_cli(["point", "list", WORK]);
        let told = events(second);
        if told.contains("point_repaired") { Ok(()) } else { Err(told) }
    });
    held.cli(["vm", "resume", WORK]);
    goes_on(held, WORK);
    let shown = p.first().cli(["vm", "show", WORK]);
    assert_eq!(shown["in_sync"], json!(["r1", "r2"]), "a repaired copy keeps its place");
    assert_ne!(shown["compared"]["code"], "doubted", "nothing had to be compared: {shown}");
    every_point_restores(held);

    // Both, at the same place.
    held.cli(["vm", "pause", WORK]);
    settled(held);
    flip_at_once(&[second, held]);
    let failure = held.try_cli(["point", "verify", WORK, "--wait"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (1, "damaged"), "{failure}");
    assert!(failure.message.contains("disk vda, bytes 0 to 65536"), "{failure}");
    assert!(states(held).iter().all(|state| state == "damaged"), "all of them show it: {:?}", states(held));
    // Whichever node is asked, and of both copies.
    for asked in r.nodes() {
        let wanted = ["point_damaged", "copy_damaged"];
        eventually(LONG, &format!("{} to say what is damaged", asked.name()), || {
            let found = reasons(asked);
            if wanted.iter().all(|code| found.contains(&(*code).to_owned())) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        let points = asked.cli(["point", "list", WORK]);
        let at_both = |point: &Value| point["damaged_at"] == json!(["r1", "r2"]) && point["copies"] == json!([]);
        assert!(points.as_array().unwrap().iter().all(at_both), "{points}");
    }
    assert_eq!(held.cli(["vm", "show", WORK])["health"], "critical");
    let failure = held.try_cli(["failover", "test", WORK]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, "damaged"), "{failure}");

    // The primary has what belongs there.
    held.cli(["vm", "resume", WORK]);
    eventually(LONG, "a point after the damaged ones that is whole", || {
        newest(held, WORK)?;
        held.try_cli(["point", "verify", WORK, "--wait"]).map_err(|failure| failure.to_string())
    });
    eventually(LONG, "both copies", || {
        let shown = p.first().cli(["vm", "show", WORK])["in_sync"].clone();
        if shown == json!(["r1", "r2"]) { Ok(()) } else { Err(shown.to_string()) }
    });
    goes_on(held, WORK);
    p.first().cli(["vm", "pause", WORK]);
}

/// Spoils the first bytes of the file that shows `vda` at the newest point of a replica that stands still, its date as it
/// was: nobody has touched it.
fn spoil(node: &Node, head: u64) -> PathBuf {
    let shown = node.cli(["vm", "show", WORK]);
    let folder = node.storage_path().join(shown["uuid"].as_str().unwrap());
    let file = folder.join(format!("vda-{head:020}.qcow2"));
    let before = fs::metadata(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = File::options().write(true).open(&file).unwrap();
    open.write_all_at(b"junk", 0).unwrap();
    open.set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(&file, before.permissions()).unwrap();
    file
}

#[test]
fn a_file_that_cannot_be_opened_is_made_anew_out_of_the_other_copy_and_replication_goes_on() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = replicated(&r, 2);
    let held = r.node(&holder(r.first(), WORK));
    let second = other(&r, held.name());
    // The holder repairs what it lacks; the other copy leaves the set and comes back with what it lacks.
    for (node, told) in [(held, "point_repaired"), (second, "copy_joined")] {
        let before = events(node).matches(told).count();
        // Paused so that the file is the newest one until it is spoilt; the next change set finds it.
        held.cli(["vm", "pause", WORK]);
        spoil(node, settled(held));
        held.cli(["vm", "resume", WORK]);
        goes_on(held, WORK);
        eventually(LONG, &format!("{} to tell what it did", node.name()), || {
            let events = events(node);
            if events.matches(told).count() > before { Ok(()) } else { Err(events) }
        });
        eventually(LONG, "both copies", || {
            let shown = p.first().cli(["vm", "show", WORK])["in_sync"].clone();
            if shown == json!(["r1", "r2"]) { Ok(()) } else { Err(shown.to_string()) }
        });
    }
    every_point_restores(held);
}

fn every_point_restores(node: &Node) {
    let to = node.folder().join("restored");
    export(node, WORK, None, &to).unwrap();
    check(node, &to);
}

#[test]
fn a_point_that_is_damaged_beyond_repair_keeps_its_replica_neither_from_moving_nor_from_a_second_copy() {
    // The first point stays, whatever comes after it.
    let apart = |name: &str| testing(name, "point_interval_ms", 900_000.into());
    let r = replicas().spec(apart("r1")).spec(apart("r2")).witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    let held = r.node(&holder(r.first(), WORK));
    let to = other(&r, held.name());
    goes_on(held, WORK);
    held.cli(["vm", "pause", WORK]);
    let head = eventually(LONG, "a point", || newest(held, WORK));
    flip(held);
    // Nobody knows yet: the node that copies finds it, the holder names it, and the rest is proven as ever.
    to.cli(["vm", "move", WORK, "--to", to.name(), "--timeout", "120s"]);
    held_by(to, to.name());
    assert!(states(to).iter().all(|state| state == "damaged"), "{:?}", states(to));
    assert!(events(to).contains("point_damaged"), "{}", events(to));
    let failure = to.try_cli(["failover", "test", WORK]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, "damaged"), "{failure}");

    // The primary has what belongs there; the point that stays is damaged for good.
    to.cli(["vm", "resume", WORK]);
    eventually(LONG, "a point that is whole", || match newest(to, WORK) {
        Ok(point) if point > head => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(states(to)[0], "damaged");
    to.cli(["settings", "set", "copies=2"]);
    in_sync(to, 2);
    goes_on(to, WORK);
    let points = eventually(LONG, "both copies to say what they have", || {
        let points = held.try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
        let old = points[0]["damaged_at"] == json!(["r1", "r2"]) && points[0]["state"] == "damaged";
        if old { Ok(points) } else { Err(points.to_string()) }
    });
    assert_eq!(states(to)[0], "damaged", "{points}");
    let found = reasons(r.node("rw"));
    assert!(found.contains(&"copy_damaged".to_owned()), "{found:?}");
    let failure = to.try_cli(["failover", "unplanned", WORK, "--yes", "--point", &points[0]["point"].to_string()]);
    assert_eq!(failure.unwrap_err().exit, 3);
    // Over to the second copy, with what is whole.
    held.cli(["vm", "move", WORK, "--to", held.name(), "--timeout", "120s"]);
    goes_on(held, WORK);
    let folder = r.folder().join("exported");
    export(held, WORK, None, &folder).unwrap();
    check(held, &folder);
}
