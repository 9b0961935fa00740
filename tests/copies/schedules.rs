//! The schedules by name. Each ends with the oracle: every acknowledged point is on every member of the in-sync set.

use std::fs;

use landfall_kit::process::{Cluster, eventually};

use crate::oracle::every_member_has_what_was_acknowledged;
use crate::pair::{held_by, in_sync, in_sync_at, members, noted, other, replicated};
use crate::stage::{LONG, WORK, entry, goes_on, holder, newest, number, replicas};

/// Two nodes that keep replicas, and a witness.
fn three() -> Cluster {
    replicas().node("r1").node("r2").witness("rw").start()
}

/// The number of the newest point that the primary was told of.
fn acknowledged(p: &Cluster) -> u64 {
    number(&p.first().cli(["vm", "show", WORK])["durable_point"]["point"])
}

#[test]
fn second_copy_lagging_when_the_holder_dies() {
    let r = three();
    let p = replicated(&r, 2);
    let held = r.node(&holder(r.first(), WORK));
    let second = other(&r, held.name());
    second.stop_agent();
    in_sync_at(held, &[held.name()]);
    let alone = acknowledged(&p);
    eventually(LONG, "a point that only the holder has", || {
        let now = acknowledged(&p);
        if now > alone { Ok(()) } else { Err(now.to_string()) }
    });
    held.lose();
    second.continue_agent();
    eventually(LONG, "the holder to be held for lost", || {
        let seen = entry(&second.try_cli(["node", "list"]).map_err(|failure| failure.to_string())?, held.name());
        if seen["state"] == "down" { Ok(()) } else { Err(seen.to_string()) }
    });
    assert_eq!(holder(second, WORK), held.name(), "a copy that lags does not take over");
    assert_eq!(members(second), Ok(vec![held.name().to_owned()]));

    held.start();
    held.wait_ready();
    in_sync(second, 2);
    assert!(newest(second, WORK).unwrap() > alone);
    goes_on(second, WORK);
    every_member_has_what_was_acknowledged(&p, &r, second);
}

#[test]
fn a_move_between_the_copies_races_acknowledgements() {
    let r = three();
    let p = replicated(&r, 2);
    for turn in 0..6 {
        let from = holder(r.first(), WORK);
        let to = other(&r, &from);
        let told = acknowledged(&p);
        let at = r.first().cli(["vm", "move", WORK, "--to", to.name(), "--timeout", "120s"]);
        assert_eq!(at["node"], to.name(), "turn {turn}");
        assert_eq!(noted(r.first(), "replica_moved", "bytes"), Some(0), "nothing is copied");
        eventually(LONG, "a point after the move", || {
            let now = acknowledged(&p);
            if now > told { Ok(()) } else { Err(now.to_string()) }
        });
        assert!(newest(r.first(), WORK).unwrap() >= told, "turn {turn}: what was acknowledged is listed");
    }
    in_sync(r.first(), 2);
    every_member_has_what_was_acknowledged(&p, &r, r.first());
}

#[test]
fn a_returning_old_holder_while_a_new_one_is_seeding() {
    let r = three();
    let p = replicated(&r, 2);
    r.first().cli(["settings", "set", "rehome_without_copy_after=2s"]);
    let held = r.node(&holder(r.first(), WORK));
    let second = other(&r, held.name());
    second.lose();
    in_sync_at(held, &[held.name()]);
    let told = goes_on(held, WORK);
    // The primary stands still, so that the new home stays without a point.
    p.first().stop_agent();
    held.lose();
    second.start();
    second.wait_ready();
    let seeding = held_by(second, second.name());
    held.start();
    held.wait_ready();
    let back = held_by(second, held.name());
    assert!(number(&back["epoch"]) > number(&seeding["epoch"]));
    assert!(newest(second, WORK).unwrap() >= told);
    p.first().continue_agent();
    in_sync(second, 2);
    goes_on(second, WORK);
    every_member_has_what_was_acknowledged(&p, &r, second);
}

#[test]
fn a_holder_that_is_alive_without_its_disk() {
    let r = three();
    let p = replicated(&r, 2);
    let held = r.node(&holder(r.first(), WORK));
    let second = other(&r, held.name());
    let away = held.folder().join("away");
    fs::rename(held.storage_path(), &away).unwrap();
    held_by(second, second.name());
    goes_on(second, WORK);
    let epoch = number(&second.cli(["vm", "locate", WORK])["epoch"]);
    // It could not stage, so that it is no copy until it can, and catches up then.
    in_sync_at(second, &[second.name()]);
    fs::rename(&away, held.storage_path()).unwrap();
    in_sync(second, 2);
    goes_on(second, WORK);
    assert_eq!(number(&second.cli(["vm", "locate", WORK])["epoch"]), epoch, "it stays where it is");
    every_member_has_what_was_acknowledged(&p, &r, second);
}

#[test]
fn a_holder_cut_off_from_its_cluster_but_reachable_by_the_primary() {
    let r = three();
    let p = replicated(&r, 2);
    let held = r.node(&holder(r.first(), WORK));
    let second = other(&r, held.name());
    for node in r.nodes().iter().filter(|node| node.name() != held.name()) {
        node.stop_agent();
    }
    // What was under way when they stopped may still be told; from the first failure on nothing is.
    let shown = eventually(LONG, "the primary to be refused", || {
        let shown = p.first().try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Err(shown.to_string()) } else { Ok(shown) }
    });
    let told = number(&shown["durable_point"]["point"]);
    eventually(LONG, "another try to fail", || {
        let now = p.first().try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let failed = |shown: &serde_json::Value| number(&shown["statistics"]["failures"]);
        if failed(&now) > failed(&shown) { Ok(()) } else { Err(now["statistics"].to_string()) }
    });
    assert_eq!(acknowledged(&p), told, "alone it acknowledges nothing");
    r.nodes().iter().filter(|node| node.name() != held.name()).for_each(|node| node.continue_agent());
    goes_on(second, WORK);
    in_sync(second, 2);
    every_member_has_what_was_acknowledged(&p, &r, second);
}

#[test]
fn a_copy_on_a_node_that_is_removed_is_made_anew_elsewhere_and_fewer_are_kept_when_fewer_are_wanted() {
    let r = replicas().node("r1").node("r2").node("r3").start();
    let p = replicated(&r, 2);
    let held = holder(r.first(), WORK);
    let before = in_sync(r.first(), 2);
    let owner = crate::stage::owner(r.first());
    let away = |name: &&String| **name != held && **name != owner;
    if let Some(gone) = before.iter().find(away) {
        let asked = r.data_nodes().find(|node| node.name() != gone).unwrap();
        asked.cli(["node", "remove", gone]);
        let after = eventually(LONG, "another second copy", || match members(asked) {
            Ok(members) if members.len() == 2 && !members.contains(gone) => Ok(members),
            other => Err(format!("{other:?}")),
        });
        assert!(after.contains(&held), "{after:?}");
        goes_on(asked, WORK);
    }
    let asked = r.node(&owner);
    asked.cli(["settings", "set", "copies=1"]);
    in_sync_at(asked, &[&holder(asked, WORK)]);
    goes_on(asked, WORK);
    asked.cli(["settings", "set", "copies=2"]);
    in_sync(asked, 2);
    goes_on(asked, WORK);
    every_member_has_what_was_acknowledged(&p, &r, asked);
}
