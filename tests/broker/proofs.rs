//! Points an interval apart with the newest always the last change set, and points that are read back: whole, or damaged
//! and said to be.

use std::time::Duration;

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{
    LONG, SOON, WORK, check, enable, export, flip, goes_on, join_up, newest, number, one_to_one, primaries, put,
    replicas, testing, workload,
};

/// How far apart points are here: many change sets.
const APART: Duration = Duration::from_secs(4);

/// [`one_to_one`], with further points.
fn replicated() -> (Cluster, Cluster) {
    let (p, r) = one_to_one();
    goes_on(r.first(), WORK);
    (p, r)
}

fn listed(node: &Node) -> Vec<Value> {
    node.cli(["point", "list", WORK]).as_array().unwrap().clone()
}

#[test]
fn older_points_are_an_interval_apart_and_the_newest_is_always_the_last_change_set() {
    let r = replicas().spec(testing("r1", "point_interval_ms", (APART.as_millis() as i64).into())).start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    let mut last = 0;
    let points = eventually(LONG, "three older points", || {
        let points = r.first().cli(["point", "list", WORK]).as_array().unwrap().clone();
        let (head, older) = points.split_last().ok_or("no point")?;
        assert!(older.iter().all(|point| point["stays"] == true), "{points:?}");
        assert!(number(&head["point"]) >= last, "the newest is never older than it was: {points:?}");
        last = number(&head["point"]);
        if older.len() >= 3 { Ok(points) } else { Err(format!("{points:?}")) }
    });
    // Half an interval is the least that lies between two, and change sets came meanwhile.
    let numbers: Vec<u64> = points.iter().map(|point| number(&point["point"])).collect();
    assert!(numbers[1..numbers.len() - 1].windows(2).all(|pair| pair[1] >= pair[0] + 2), "{numbers:?}");
    let mut records = Vec::new();
    for point in &numbers[..numbers.len() - 1] {
        let to = r.folder().join(format!("point-{point}"));
        export(r.first(), WORK, Some(*point), &to).unwrap();
        records.push(check(r.first(), &to));
    }
    assert!(records.windows(2).all(|pair| pair[0] < pair[1]), "each has what came since the one before: {records:?}");
    // The primary knows the same, after its agent was started anew as well.
    p.first().restart_agent();
    r.first().restart_agent();
    goes_on(r.first(), WORK);
    assert!(listed(r.first()).len() <= 5);
}

#[test]
fn a_flipped_bit_is_named_its_points_are_refused_and_the_newest_is_compared_with_the_primary() {
    let (p, r) = replicated();
    let r1 = r.first();

    let proof = r1.cli(["point", "verify", WORK, "--wait"]);
    assert!(proof["verified_at"].is_string() && proof["read_bytes"] == proof["bytes"], "{proof}");
    let failure = r1.try_cli(["point", "verify", WORK, "--point", "999999"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (4, "not_found"), "{failure}");

    // While nothing is taken, so that only reading finds it.
    r1.cli(["vm", "pause", WORK]);
    let head = newest(r1, WORK).unwrap();
    flip(r1);
    let point = head.to_string();
    let failure = r1.try_cli(["point", "verify", WORK, "--point", &point, "--wait"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (1, "damaged"), "{failure}");
    assert!(failure.message.contains("disk vda, bytes 0 to 65536"), "{failure}");
    let points = listed(r1);
    assert!(points.iter().all(|point| point["state"] == "damaged"), "all of them show it: {points:?}");
    let shown = r1.cli(["vm", "show", WORK]);
    let reasons = shown["health_details"].as_array().unwrap().clone();
    assert!(
        reasons.iter().any(|reason| reason["code"] == "point_damaged" && reason["severity"] == "critical"),
        "{shown}"
    );
    let events = r1.call(["event", "tail", "--recent", "1000", "--no-follow"]).stdout;
    assert!(events.contains("point_damaged"), "{events}");

    // The head is compared, and what comes next is whole.
    r1.cli(["vm", "resume", WORK]);
    let next = eventually(LONG, "a point after the damaged ones", || match newest(r1, WORK) {
        Ok(point) if point > head => Ok(point),
        other => Err(format!("{other:?}")),
    });
    let compared = p.first().cli(["vm", "show", WORK])["compared"].clone();
    assert_eq!(compared["code"], "doubted", "{compared}");
    let proven = eventually(SOON, "a new point to be proven", || {
        r1.try_cli(["point", "verify", WORK, "--wait"]).map_err(|failure| failure.to_string())
    });
    assert!(number(&proven["point"]) >= next && proven["verified_at"].is_string(), "{proven}");
}

#[test]
fn a_node_reads_its_points_back_by_itself_and_finds_what_is_damaged() {
    let (_p, r) = replicated();
    let r1 = r.first();
    r1.cli(["vm", "pause", WORK]);
    assert!(listed(r1).iter().all(|point| point["verified_at"].is_null()), "a week has not gone by");
    for bad in ["scrub_interval=1m", "scrub_rate=-1", "scrub_rate=fast", "point_interval=1s", "point_interval=2d"] {
        assert_eq!(r1.try_cli(["settings", "set", bad]).unwrap_err().exit, 2, "{bad}");
    }
    // What somebody touched is read at once; here the node was stopped meanwhile.
    flip(r1);
    r1.cli(["settings", "set", "scrub_rate=1000"]);
    r1.restart_agent();
    eventually(LONG, "the damage to be found", || {
        let points = r1.try_cli(["point", "list", WORK]).map_err(|failure| failure.to_string())?;
        let damaged = points.as_array().unwrap().iter().filter(|point| point["state"] == "damaged").count();
        if damaged >= points.as_array().unwrap().len() - 1 && damaged > 0 { Ok(()) } else { Err(points.to_string()) }
    });
}
