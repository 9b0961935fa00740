//! Unplanned failover: the primary is gone.

use landfall_agent::drive::replica::Manifest;
use landfall_kit::process::{Cluster, Node, eventually};

use crate::stage::{
    LONG, WORK, at_step, failover, goes_on, guests, node_of, points, records, records_of_point, refused, replicated,
    run_images, runs, status, twice, workload,
};

/// A dry run shows a plan with nothing in its way, and leaves everything as it is.
fn unchanged(node: &Node, verb: &[&str]) {
    let before = status(node);
    let plan = failover(node, verb).unwrap();
    assert_eq!(plan["blockers"].as_array().map(Vec::len), Some(0), "{plan}");
    let after = status(node);
    assert_eq!((&after["step"], &after["promotion"]), (&before["step"], &before["promotion"]), "{verb:?}");
}

/// Waits until every node has the points alone that are listed, whichever its own copy listed before.
fn listed_alike(r: &Cluster) {
    let left = points(r.first()).unwrap();
    for node in r.nodes() {
        eventually(LONG, &format!("{} to list what is left", node.name()), || {
            let path = node.storage_path().join(workload("").uuid().to_string()).join("manifest");
            let manifest = Manifest::load(&path).map_err(|refusal| refusal.to_string())?.ok_or("no manifest")?;
            let listed: Vec<u64> = manifest.points.iter().map(|point| point.sequence).collect();
            if listed == left { Ok(()) } else { Err(format!("{listed:?}")) }
        });
    }
}

#[test]
fn a_lost_primary_goes_on_at_the_replica_and_can_be_taken_back_until_it_is_final() {
    let (r, p, _) = replicated(&["r1", "r2"]);
    let (r1, p1) = (r.first(), p.first());
    refused(r1, &["unplanned", WORK, "--yes"], "primary_runs");
    let plan = failover(r1, &["unplanned", WORK, "--dry-run"]).unwrap();
    assert_eq!(plan["blockers"][0]["code"], "primary_runs", "{plan}");
    p1.lose();
    refused(r1, &["unplanned", WORK], "not_confirmed");
    refused(r1, &["unplanned", WORK, "--name", "web"], "other_name");
    let newest = *points(r1).unwrap().last().unwrap();
    let before = records_of_point(&r, newest);
    let begun = failover(r1, &["unplanned", WORK, "--name", WORK, "--timeout", "50s"]).unwrap();
    assert_eq!((begun["kind"].as_str(), begun["step"].as_str()), (Some("unplanned"), Some("running")), "{begun}");
    assert_eq!((&begun["point"], &begun["right_to_run"]), (&newest.into(), &false.into()), "a branch: {begun}");
    let shown = r1.cli(["vm", "show", WORK]);
    assert_eq!((&shown["state"], &shown["vm_state"]), (&"failed_over_waiting_completion".into(), &"running".into()));

    // It stays where it runs, whatever becomes of the agents.
    let holder = node_of(&r, &begun);
    let other = r.nodes().iter().find(|node| node.name() != holder.name()).unwrap();
    let moved = r1.try_cli(["vm", "move", WORK, "--to", other.name()]).unwrap_err();
    assert_eq!((moved.exit, moved.code.as_str()), (3, "failed_over"), "{moved}");
    let guest = holder.family().with_argument("write");
    holder.restart_agent();
    other.restart_agent();
    runs(other);
    assert_eq!(holder.family().with_argument("write"), guest, "the same process");
    refused(r1, &["unplanned", WORK, "--yes"], "failed_over");
    refused(r1, &["test", WORK], "failed_over");

    // The old primary is back: two branches, and nothing is sent.
    p1.start();
    p1.wait_ready();
    let branched = at_step(p1, "branched");
    assert_eq!(branched["branch"]["promotion"], begun["promotion"], "{branched}");
    let shown = p1.cli(["vm", "show", WORK]);
    assert_eq!((&shown["health"], &shown["state"]), (&"critical".into(), &"error".into()), "{shown}");
    let images = run_images(holder, "run");
    assert_eq!(holder.kill_with_argument("write"), 1);
    assert!(records(r1, &images[0]) >= before);

    unchanged(r1, &["cancel", WORK, "--dry-run"]);
    failover(r1, &["cancel", WORK, "--timeout", "50s"]).unwrap();
    assert_eq!((guests(holder), run_images(holder, "run")), (0, Vec::new()));
    goes_on(r1);
    twice(r1);

    // For good, from an older point.
    let older = points(r1).unwrap()[0];
    let point = older.to_string();
    match failover(r1, &["unplanned", WORK, "--yes", "--force", "--point", &point, "--timeout", "50s"]) {
        Ok(_) => {}
        // Retention was faster than the command: from what is oldest now.
        Err(failure) => {
            assert_eq!(failure.code, "not_found", "{failure}");
            let point = points(r1).unwrap().last().unwrap().to_string();
            failover(r1, &["unplanned", WORK, "--yes", "--force", "--point", &point, "--timeout", "50s"]).unwrap();
        }
    }
    unchanged(r1, &["complete", WORK, "--dry-run"]);
    failover(r1, &["complete", WORK]).unwrap();
    at_step(r1, "completed");
    eventually(LONG, "the other points to be gone", || match points(r1) {
        Ok(points) if points.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    listed_alike(&r);
    let shown = r1.cli(["vm", "show", WORK]);
    assert_eq!(shown["in_sync"].as_array().map(Vec::len), Some(2), "{shown}");
    assert_eq!(shown["state"], "failed_over");
    refused(r1, &["cancel", WORK], "completed");
    runs(r1);
}
