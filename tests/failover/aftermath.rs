//! After a failover: the second copy of what was reversed, a site that never comes back, and branches that nobody needs.

use landfall_kit::process::eventually;

use crate::stage::{
    DISKS_BYTES, LONG, R_CAP, WORK, at_step, authorize, failover, goes_on, guests, insist, is, node_of, refused,
    replicated, run_images, runs, status, twice,
};

#[test]
fn a_reversed_replica_gets_its_second_copy_by_itself_and_is_failed_over_from_it() {
    let (r, p, _) = replicated(&["r1", "r2", "r3"]);
    let (r1, p1) = (r.first(), p.first());
    authorize(p1, R_CAP);
    twice(r1);
    failover(p1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    at_step(r1, "running");
    insist(r1, &["reverse", WORK], &["no_failover"]);
    is(r1, "primary");
    goes_on(p1);
    failover(r1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    at_step(p1, "running");
    insist(p1, &["reverse", WORK], &["no_failover"]);
    is(r1, "replica");
    goes_on(r1);
    twice(r1);
    goes_on(r1);
    // The node that had the VM's disks is lost: the other one has every acknowledged byte.
    let holder = r1.cli(["vm", "locate", WORK])["node"].as_str().unwrap().to_owned();
    let shown = r1.cli(["vm", "show", WORK]);
    let mut copies = shown["in_sync"].as_array().unwrap().iter().filter_map(|node| node.as_str());
    let other = r.node(copies.find(|node| *node != holder).unwrap());
    let wire = p1.cli(["vm", "show", WORK])["wire_bytes"].as_u64().unwrap();
    r.node(&holder).lose();
    goes_on(other);
    assert_eq!(other.cli(["vm", "locate", WORK])["node"], other.name());
    let since = p1.cli(["vm", "show", WORK])["wire_bytes"].as_u64().unwrap() - wire;
    assert!(since < DISKS_BYTES / 5, "{since} bytes crossed the line for a holder that was lost");
    p1.lose();
    let begun = failover(other, &["unplanned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    assert_eq!(node_of(&r, &begun).name(), other.name());
    runs(other);
}

#[test]
fn a_site_that_never_comes_back_is_given_up_and_its_vm_is_the_clusters_own() {
    let (r, p, _) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    p1.lose();
    failover(r1, &["unplanned", WORK, "--yes", "--timeout", "50s"]).unwrap();
    let early = r1.try_cli(["vm", "disable", WORK]).unwrap_err();
    assert_eq!((early.exit, early.code.as_str()), (3, "failed_over"), "{early}");
    failover(r1, &["complete", WORK]).unwrap();
    at_step(r1, "completed");
    let guest = r1.family().with_argument("write");
    r1.cli(["vm", "disable", WORK]);
    assert_eq!(status(r1)["step"], "none");
    // It is the cluster's own, over a restart of the agent as well.
    r1.restart_agent();
    runs(r1);
    assert_eq!(r1.family().with_argument("write"), guest, "the same process");
    // Should the site come back after all, nothing is placed beside the VM, and it says what is to be done.
    p1.start();
    p1.wait_ready();
    eventually(LONG, "the old site to be told", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let told = shown["health_reasons"].to_string();
        if told.contains("own since a failover") { Ok(()) } else { Err(shown.to_string()) }
    });
    assert_eq!(r1.family().with_argument("write"), guest);
    p1.cli(["vm", "disable", WORK]);
}

#[test]
fn a_branch_that_gave_way_is_kept_until_an_operator_removes_it() {
    let (r, p, _) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    p1.lose();
    let begun = failover(r1, &["unplanned", WORK, "--yes", "--timeout", "50s"]).unwrap();
    p1.start();
    p1.wait_ready();
    at_step(p1, "branched");
    refused(p1, &["resolve", WORK, "--keep", "here"], "not_confirmed");
    let plan = failover(p1, &["resolve", WORK, "--keep", "here", "--dry-run"]).unwrap();
    assert_eq!(plan["blockers"].as_array().map(Vec::len), Some(0), "{plan}");
    assert_eq!(status(p1)["step"], "branched", "a dry run decides nothing");
    insist(p1, &["resolve", WORK, "--keep", "here", "--yes"], &["no_branch"]);
    goes_on(r1);
    assert_eq!(guests(r1), 0);
    let branch = begun["promotion"].as_str().unwrap();
    assert_eq!(status(r1)["branches"], serde_json::json!([branch]));
    assert_eq!(run_images(r1, "branch").len(), 1);

    for (wrong, exit, code) in [("0d0d", 2, "invalid_value"), ("0".repeat(32).as_str(), 4, "no_branch")] {
        let failure = failover(r1, &["discard", WORK, "--branch", wrong, "--yes"]).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (exit, code), "{failure}");
        assert_eq!(failure.field.as_deref(), Some("branch"), "{failure}");
    }
    refused(r1, &["discard", WORK, "--branch", branch], "not_confirmed");
    let plan = failover(r1, &["discard", WORK, "--branch", branch, "--dry-run"]).unwrap();
    assert_eq!((plan["node"].as_str(), plan["blockers"].as_array().map(Vec::len)), (Some("r1"), Some(0)), "{plan}");
    assert_eq!(run_images(r1, "branch").len(), 1, "a dry run removes nothing");
    failover(r1, &["discard", WORK, "--branch", branch, "--name", WORK]).unwrap();
    assert_eq!((status(r1)["branches"].clone(), run_images(r1, "branch").len()), (serde_json::json!([]), 0));
    goes_on(r1);
}
