//! Test failover.

use landfall_kit::process::eventually;

use crate::stage::{
    LONG, WORK, failover, goes_on, guests, node_of, records, records_of_point, refused, replicated, run_images, runs,
    status,
};

#[test]
fn a_test_runs_from_its_point_while_replication_goes_on_and_leaves_nothing() {
    let (r, p, _) = replicated(&["r1"]);
    let r1 = r.first();
    let plan = failover(r1, &["test", WORK, "--dry-run"]).unwrap();
    assert_eq!((plan["blockers"].as_array().unwrap().len(), status(r1)["step"].as_str()), (0, Some("none")), "{plan}");
    assert!(plan["loss_seconds"].is_u64() && plan["command"][1] == "guest", "{plan}");
    let point = goes_on(r1);
    let before = records_of_point(&r, point);

    let failure = failover(r1, &["test", WORK, "--point", "999999"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (4, "not_found"), "{failure}");
    let failure = failover(p.first(), &["test", WORK]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (4, "no_replica"), "{failure}");
    let begun = failover(r1, &["test", WORK, "--timeout", "50s"]).unwrap();
    assert_eq!((begun["kind"].as_str(), begun["step"].as_str()), (Some("test"), Some("running")), "{begun}");
    assert_ne!(begun["run_vm"], begun["uuid"]);
    assert_eq!(guests(r1), 1);
    let listed = r1.cli(["vm", "list"]);
    let name = format!("{WORK} - Test");
    assert!(listed.as_array().unwrap().iter().any(|vm| vm["name"] == name.as_str()), "{listed}");
    refused(r1, &["test", WORK], "test_running");
    let enabled = r1.try_cli(["vm", "enable", &name, "--to", "p-broker-cap.contoso.test"]).unwrap_err();
    assert_eq!(enabled.code, "test_vm", "{enabled}");
    goes_on(r1);

    // The VM outlives the agent, and what the agent left is found again.
    let guest = r1.family().with_argument("write");
    r1.restart_agent();
    runs(p.first());
    goes_on(r1);
    assert_eq!(r1.family().with_argument("write"), guest, "the same process");
    assert_eq!(node_of(&r, &status(r1)).name(), "r1");

    let images = run_images(r1, "test");
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(r1.kill_with_argument("write"), 1);
    assert!(records(r1, &images[0]) >= before, "it begins with what the point has");
    failover(r1, &["test", WORK, "--stop", "--wait"]).unwrap();
    eventually(LONG, "the test's images to be gone", || run_images(r1, "test").is_empty());
    assert_eq!((status(r1)["step"].as_str(), guests(r1)), (Some("none"), 0));
    let listed = r1.cli(["vm", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    goes_on(r1);
    let failure = failover(r1, &["test", WORK, "--stop"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (4, "no_failover"), "{failure}");
}
