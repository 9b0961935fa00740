//! Reversing: the roles are swapped, and the way home is by delta.

use std::fs;

use landfall_kit::process::{Node, eventually};

use crate::stage::{
    DISKS_BYTES, LONG, R_CAP, WORK, at_step, authorize, failover, goes_on, guests, insist, is, points, records,
    refused, replicated, run_images, runs, status,
};

/// Waits until both sides were compared, and says how much has crossed the line since the sender has begun.
fn crossed(node: &Node) -> u64 {
    let shown = eventually(LONG, "the comparison", || {
        let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["compared"].is_null() || shown["sent_point"].is_null() { Err(shown.to_string()) } else { Ok(shown) }
    });
    shown["wire_bytes"].as_u64().unwrap()
}

/// Exports the newest point and compares it with images that nobody writes.
fn same_disks(node: &Node, images: &std::path::Path, to: &std::path::Path) {
    node.cli(["point", "export", WORK, &to.display().to_string()]);
    for disk in ["vda.raw", "vdb.raw"] {
        assert!(fs::read(images.join(disk)).unwrap() == fs::read(to.join(disk)).unwrap(), "{disk} is another");
    }
}

#[test]
fn a_planned_failover_is_reversed_and_comes_home_by_delta() {
    let (r, p, folder) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    let failure = failover(r1, &["reverse", WORK]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (4, "no_failover"), "{failure}");
    let failure = failover(r1, &["reverse", "nothing"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (4, "not_found"), "{failure}");
    failover(p1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    at_step(r1, "running");
    refused(r1, &["reverse", WORK], "replication_disabled");
    let plan = failover(r1, &["reverse", WORK, "--dry-run"]).unwrap();
    assert_eq!(plan["blockers"][0]["code"], "replication_disabled", "{plan}");
    authorize(p1, R_CAP);
    let plan = failover(r1, &["reverse", WORK, "--dry-run"]).unwrap();
    assert_eq!(plan["blockers"].as_array().map(Vec::len), Some(0), "{plan}");

    let guest = r1.family().with_argument("write");
    failover(r1, &["reverse", WORK, "--timeout", "55s"]).unwrap();
    is(r1, "primary");
    is(p1, "replica");
    assert_eq!((guests(r1), guests(p1)), (1, 0));
    assert_eq!(r1.family().with_argument("write"), guest, "the same process");
    goes_on(p1);
    let wire = crossed(r1);
    println!("the way home: {wire} bytes on the wire for {DISKS_BYTES} bytes of disks");
    assert!(wire < DISKS_BYTES / 5, "{wire}");
    assert!(folder.join("vda.raw").exists() && !folder.join("vm.toml").exists(), "set aside, and nothing removed");
    assert_eq!(status(r1)["right_to_run"], true);

    // Home, as planned, and the original direction again.
    failover(r1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    let away = run_images(r1, "run");
    at_step(p1, "running");
    assert_eq!((guests(r1), guests(p1)), (0, 1));
    let last = records(r1, &away[0]);
    same_disks(p1, &away[0], &p.folder().join("home"));
    failover(p1, &["reverse", WORK, "--timeout", "55s"]).unwrap();
    is(r1, "replica");
    goes_on(r1);
    let wire = crossed(p1);
    println!("and back: {wire} bytes on the wire");
    assert!(wire < DISKS_BYTES / 5, "{wire}");
    assert_eq!(run_images(r1, "run").len(), 0, "what the failover made has become a point");
    let home = run_images(p1, "run");
    assert_eq!(p1.kill_with_argument("write"), 1);
    assert!(records(p1, &home[0]) >= last);
    assert!(points(r1).unwrap().len() > 1);
}

#[test]
fn every_agent_may_be_killed_while_a_failover_is_reversed() {
    let (r, p, _) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    authorize(p1, R_CAP);
    failover(p1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    at_step(r1, "running");
    p1.kill_agent();
    failover(r1, &["reverse", WORK]).unwrap_err();
    p1.start();
    p1.wait_ready();
    insist(r1, &["reverse", WORK], &[]);
    r1.restart_agent();
    p1.restart_agent();
    is(p1, "replica");
    p1.restart_agent();
    r1.restart_agent();
    is(r1, "primary");
    runs(r1);
    assert_eq!((guests(r1), guests(p1)), (1, 0));
    goes_on(p1);
}

#[test]
fn an_unplanned_failover_is_completed_and_reversed_and_the_other_branch_stays_readable() {
    let (r, p, folder) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    authorize(p1, R_CAP);
    // The VM is off when its node comes back.
    p1.lose();
    failover(r1, &["unplanned", WORK, "--yes", "--timeout", "50s"]).unwrap();
    refused(r1, &["reverse", WORK], "not_completed");
    failover(r1, &["complete", WORK]).unwrap();
    at_step(r1, "completed");
    p1.start();
    p1.wait_ready();
    let branched = at_step(p1, "branched");
    assert_eq!((&branched["branch"]["at"], &branched["right_to_run"]), (&R_CAP.into(), &true.into()), "{branched}");
    let shown = p1.cli(["vm", "show", WORK]);
    assert_eq!(shown["health"], "critical", "{shown}");
    if guests(p1) == 1 {
        refused(r1, &["reverse", WORK], "primary_runs");
        failover(p1, &["resolve", WORK, "--keep", "there", "--yes", "--timeout", "50s"]).unwrap();
    }
    assert_eq!(guests(p1), 0);
    let last = records(p1, &folder);
    failover(r1, &["reverse", WORK, "--timeout", "55s"]).unwrap();
    is(p1, "replica");
    let promotion = branched["branch"]["promotion"].as_str().unwrap();
    let named = folder.join(format!("vm.toml.{promotion}"));
    eventually(LONG, "the losing branch to be set aside under its name", || named.exists());
    assert_eq!(records(p1, &folder), last);
    goes_on(p1);
    let wire = crossed(r1);
    assert!(wire < DISKS_BYTES / 5, "{wire}");
}
