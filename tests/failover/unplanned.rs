//! Unplanned failover: the primary is gone.

use landfall_kit::process::eventually;

use crate::stage::{
    LONG, WORK, at_step, failover, goes_on, guests, node_of, points, records, records_of_point, refused, replicated,
    run_images, runs,
};

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

    failover(r1, &["cancel", WORK, "--timeout", "50s"]).unwrap();
    assert_eq!((guests(holder), run_images(holder, "run")), (0, Vec::new()));
    goes_on(r1);

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
    failover(r1, &["complete", WORK]).unwrap();
    at_step(r1, "completed");
    eventually(LONG, "the other points to be gone", || match points(r1) {
        Ok(points) if points.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(r1.cli(["vm", "show", WORK])["state"], "failed_over");
    refused(r1, &["cancel", WORK], "completed");
    runs(r1);
}
