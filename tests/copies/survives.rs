//! The ordinary course: a second copy is made, kept, takes over, and is made anew.

use landfall_kit::process::{Node, eventually};
use serde_json::{Value, json};

use crate::oracle::every_member_has_what_was_acknowledged;
use crate::pair::{held_by, in_sync, noted, other, reasons, replicated};
use crate::stage::{DISKS, LONG, WORK, check, export, goes_on, holder, number, replicas, testing};

#[test]
fn a_second_copy_takes_over_with_nothing_sent_again_and_a_returning_holder_is_brought_up_by_delta() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = replicated(&r, 2);
    let lost = r.node(&holder(r.first(), WORK));
    let left = other(&r, lost.name());
    eventually(LONG, "every point to be on both", || {
        let points = left.try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
        let both = points.as_array().unwrap().iter().all(|point| point["copies"] == json!(["r1", "r2"]));
        if both { Ok(()) } else { Err(points.to_string()) }
    });
    assert_eq!(p.first().cli(["vm", "show", WORK])["in_sync"], json!(["r1", "r2"]), "the primary is told who has it");
    assert_eq!(reasons(left), Vec::<String>::new());
    let before = p.first().cli(["vm", "show", WORK]);
    let listed = left.cli(["point", "list", WORK]);
    lost.lose();
    held_by(left, left.name());
    goes_on(left, WORK);
    let points = left.cli(["point", "list", WORK]);
    assert!(points.as_array().unwrap().iter().all(|point| point["state"] == "listed"), "{points}");
    assert_eq!(in_sync(left, 1), [left.name()]);
    assert_eq!(reasons(left), ["copies_missing"]);
    let after = p.first().cli(["vm", "show", WORK]);
    assert_eq!((&after["source"], &after["fault"]), (&"index".into(), &Value::Null), "{after}");
    let sent = number(&after["sent_bytes"]) - number(&before["sent_bytes"]);
    assert!(sent < DISKS[0].1 / 4, "change sets only: {sent} bytes; {listed}");

    lost.start();
    lost.wait_ready();
    in_sync(left, 2);
    let copied = noted(lost, "copy_joined", "bytes").expect("it says what it copied");
    println!("{copied} bytes were copied to the node that returned");
    assert!(copied < DISKS[0].1 / 8, "only what it lacks is copied: {copied} bytes");
    goes_on(left, WORK);
    eventually(LONG, "health to be normal again", || {
        let found = reasons(left);
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let folder = r.folder().join("exported");
    export(left, WORK, None, &folder).unwrap();
    check(left, &folder);
    every_member_has_what_was_acknowledged(&p, &r, left);
}

#[test]
fn the_points_that_stay_are_the_same_on_both_copies_whichever_of_them_goes_on() {
    let apart = |name: &str| testing(name, "point_interval_ms", 3000.into());
    let r = replicas().spec(apart("r1")).spec(apart("r2")).witness("rw").start();
    let p = replicated(&r, 2);
    // `vm enable` has asked for a few older ones. Whatever somebody reads is listed for as long, and does not count here.
    let older = |node: &Node| -> Result<Vec<u64>, String> {
        let points = node.try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
        let points = points.as_array().cloned().unwrap_or_default();
        let staying = points.iter().filter(|point| point["stays"] == true);
        Ok(staying.map(|point| number(&point["point"])).collect())
    };
    for turn in 0..3 {
        let lost = r.node(&holder(r.first(), WORK));
        let left = other(&r, lost.name());
        let before = eventually(LONG, "a few points an interval apart", || match older(left) {
            Ok(points) if points.len() >= 2 && points.windows(2).any(|pair| pair[0] + 1 < pair[1]) => Ok(points),
            other => Err(format!("{other:?}")),
        });
        lost.lose();
        held_by(left, left.name());
        let after = eventually(LONG, "the points at the other node", || older(left));
        let oldest = *after.first().unwrap_or(&0);
        for point in before.iter().filter(|point| **point >= oldest) {
            assert!(after.contains(point), "turn {turn}: {point} was listed, and is not: {before:?}, {after:?}");
        }
        goes_on(left, WORK);
        lost.start();
        lost.wait_ready();
        in_sync(left, 2);
    }
    every_member_has_what_was_acknowledged(&p, &r, r.first());
}
