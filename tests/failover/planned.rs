//! Planned failover: the right to run goes over, and nothing is lost.

use landfall_kit::process::eventually;

use crate::stage::{
    LONG, WORK, at_step, failover, goes_on, guests, records, refused, replicated, run_images, runs, status,
};

#[test]
fn a_planned_failover_loses_nothing_and_comes_back_by_cancel() {
    let (r, p, folder) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    refused(p1, &["planned", WORK], "not_confirmed");
    let plan = failover(p1, &["planned", WORK, "--dry-run"]).unwrap();
    assert_eq!((&plan["loss_seconds"], plan["steps"].as_array().unwrap().len()), (&0.into(), 4), "{plan}");
    let handed = failover(p1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    assert_eq!((handed["step"].as_str(), handed["right_to_run"].as_bool()), (Some("departed"), Some(false)));
    assert_eq!(guests(p1), 0);
    let last = records(p1, &folder);
    let running = at_step(r1, "running");
    assert_eq!((running["kind"].as_str(), running["right_to_run"].as_bool()), (Some("planned"), Some(true)));
    assert_eq!((running["loss_seconds"].as_u64(), guests(r1)), (Some(0), 1));
    assert_eq!(p1.cli(["vm", "show", WORK])["state"], "prepared_for_failover");

    // Nobody starts it at the old place: not its VM service when it starts anew, nor an agent.
    p1.lose();
    p1.start();
    p1.wait_ready();
    eventually(LONG, "p1 to see its VM again", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["vm_state"] == "stopped" { Ok(()) } else { Err(shown.to_string()) }
    });
    assert_eq!((guests(p1), records(p1, &folder)), (0, last));
    refused(p1, &["cancel", WORK], "departed");
    let disabled = p1.try_cli(["vm", "disable", WORK]).unwrap_err();
    assert_eq!((disabled.exit, disabled.code.as_str()), (3, "failing_over"));

    let images = run_images(r1, "run");
    assert_eq!(r1.kill_with_argument("write"), 1);
    assert!(records(r1, &images[0]) >= last, "the newest record that was written there is here");

    // Given back by whoever has it: the old primary learns of it by itself, and goes on.
    failover(r1, &["cancel", WORK, "--timeout", "50s"]).unwrap();
    runs(p1);
    assert_eq!((status(p1)["right_to_run"].as_bool(), guests(r1)), (Some(true), 0));
    goes_on(r1);
}

#[test]
fn every_agent_may_be_killed_while_the_right_to_run_goes_over() {
    let (r, p, folder) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    failover(p1, &["planned", WORK, "--yes"]).unwrap();
    p1.restart_agent();
    eventually(LONG, "the release", || {
        let step = p1.try_cli(["failover", "status", WORK]).map_err(|failure| failure.to_string())?;
        let step = step["step"].as_str().unwrap_or_default().to_owned();
        if ["released", "departed"].contains(&step.as_str()) { Ok(()) } else { Err(step) }
    });
    r1.restart_agent();
    p1.restart_agent();
    at_step(p1, "departed");
    r1.restart_agent();
    runs(r1);
    assert_eq!((guests(p1), guests(r1)), (0, 1));
    let last = records(p1, &folder);
    assert_eq!(r1.kill_with_argument("write"), 1);
    assert!(records(r1, &run_images(r1, "run")[0]) >= last);
}

#[test]
fn a_planned_failover_that_cannot_get_across_is_cancelled_and_the_vm_goes_on() {
    let (r, p, _) = replicated(&["r1"]);
    let (r1, p1) = (r.first(), p.first());
    r1.lose();
    failover(p1, &["planned", WORK, "--yes"]).unwrap();
    let sending = at_step(p1, "sending");
    assert_eq!(sending["right_to_run"], true, "nothing is released before it is acknowledged");
    assert_eq!(guests(p1), 0);
    refused(p1, &["planned", WORK, "--yes"], "failing_over");
    failover(p1, &["cancel", WORK, "--timeout", "50s"]).unwrap();
    runs(p1);
    r1.start();
    r1.wait_ready();
    goes_on(r1);
    assert_eq!(guests(r1), 0);
}
