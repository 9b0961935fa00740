//! `cluster recover` with a failover under way: the VM runs at one cluster at most, and at one in the end.

use landfall_kit::process::{Cluster, Node, NodeSpec, eventually, pair};

use crate::stage::{
    LANDFALL, LONG, P_CAP, R_CAP, WORK, at_step, enable, failover, goes_on, guests, quick, records, refused,
    run_images, runs, status, workload,
};

/// How often the primary's cluster is to be brought to its release before the replica's notices that it decides nothing.
const TRIES: usize = 10;

/// The replica's cluster and the primary's, each with a second voter; the VM has been replicated for a while.
fn replicated(second: &str) -> (Cluster, Cluster, std::path::PathBuf) {
    let spec = if second.ends_with('w') { NodeSpec::witness(second) } else { quick(second) };
    let (r, p) = (Cluster::of(LANDFALL, "Cluster-R", R_CAP), Cluster::of(LANDFALL, "Cluster-P", P_CAP));
    let (r, p) = (r.spec(quick("r1")), p.spec(quick("p1")));
    let (r, p) = if second.starts_with('r') { (r.spec(spec), p) } else { (r, p.spec(spec)) };
    let (r, p) = (r.start(), p.start());
    pair(&p, &r);
    r.first().cli(["settings", "set", "replication_enabled=true", "copies=1"]);
    let folder = workload("").create_in(&p.first().vm_path()).unwrap();
    runs(p.first());
    enable(&p, &["--timeout", "55s"]);
    goes_on(r.first());
    (r, p, folder)
}

/// Loses `gone`, the other voter, for good, and begins the next life at `left`.
fn recover(left: &Node, gone: &Node) {
    gone.lose();
    eventually(LONG, "the next life", || {
        left.try_cli(["cluster", "recover", "--yes"]).map_err(|failure| failure.to_string())
    });
}

/// A planned failover that P has released and R, which has lost `gone`, cannot take: for some seconds after its last
/// confirmation the holder, `left`, still acknowledges what comes.
fn released(p1: &Node, left: &Node, gone: &Node) {
    for _ in 0..TRIES {
        gone.lose();
        failover(p1, &["planned", WORK, "--yes"]).unwrap();
        let step = eventually(LONG, "the release, or that points count no more", || {
            let step = status(p1)["step"].as_str().unwrap_or_default().to_owned();
            let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
            let unconfirmed = step == "sending" && shown["health_reasons"].to_string().contains("point_unconfirmed");
            if step == "released" || unconfirmed { Ok(step) } else { Err(step) }
        });
        if step == "released" {
            return;
        }
        failover(p1, &["cancel", WORK, "--timeout", "50s"]).unwrap();
        gone.start();
        gone.wait_ready();
        goes_on(left);
    }
    panic!("never released within {TRIES} tries");
}

#[test]
fn a_hand_over_that_is_open_when_the_replicas_cluster_is_recovered_ends_at_one_side() {
    let (r, p, folder) = replicated("rw");
    let (r1, p1) = (r.first(), p.first());
    released(p1, r1, r.node("rw"));
    let last = records(p1, &folder);
    recover(r1, r.node("rw"));
    // Whether its log has the take, which nobody could confirm, depends on who owned the CAP in that moment. Where it has
    // not, nothing begins by itself: R may have taken it, and P says only that it was released.
    let open = eventually(LONG, "the hand-over to be known as open, or taken", || {
        let status = status(p1);
        match (status["step"].as_str(), status["fault"]["code"].as_str()) {
            (Some("departed"), _) => Ok(false),
            (Some("released"), Some("right_unknown")) => Ok(true),
            _ => Err(status.to_string()),
        }
    });
    if open {
        assert_eq!((status(r1)["step"].as_str(), guests(r1), guests(p1)), (Some("unknown"), 0, 0));
        refused(r1, &["unplanned", WORK, "--yes"], "right_unknown");
        refused(r1, &["resolve", WORK, "--keep", "here"], "not_confirmed");
        failover(r1, &["resolve", WORK, "--keep", "here", "--yes"]).unwrap();
    }
    println!("the hand-over was {}", if open { "open" } else { "in the survivor's log" });
    at_step(r1, "running");
    at_step(p1, "departed");
    assert_eq!((guests(r1), guests(p1)), (1, 0));
    assert_eq!(r1.kill_with_argument("write"), 1);
    assert!(records(r1, &run_images(r1, "run")[0]) >= last, "nothing is lost by it");
}

#[test]
fn a_survivor_that_knows_nothing_of_a_hand_over_waits_for_an_operator() {
    let (r, p, folder) = replicated("r2");
    let p1 = p.first();
    let holder = r.node(r.first().cli(["vm", "locate", WORK])["node"].as_str().unwrap());
    let left = r.nodes().iter().find(|node| node.name() != holder.name()).unwrap();
    released(p1, holder, left);
    let last = records(p1, &folder);
    holder.lose();
    left.start();
    left.wait_ready();
    recover(left, holder);
    at_step(left, "unknown");
    let open = eventually(LONG, "P to be told that R does not know", || {
        let status = status(p1);
        if status["fault"]["code"] == "right_unknown" { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!((open["step"].as_str(), guests(left), guests(p1)), (Some("released"), 0, 0));
    // It has no point to begin with, and says so.
    refused(left, &["resolve", WORK, "--keep", "here", "--yes"], "no_point");
    let plan = failover(left, &["resolve", WORK, "--keep", "there", "--dry-run"]).unwrap();
    assert!(plan["steps"].to_string().contains("decline"), "{plan}");
    failover(left, &["resolve", WORK, "--keep", "there", "--yes"]).unwrap();
    runs(p1);
    assert_eq!((status(p1)["right_to_run"].as_bool(), guests(left)), (Some(true), 0));
    // What the survivor did not have is sent anew.
    goes_on(left);
    assert!(records(p1, &folder) >= last);
}

#[test]
fn a_primarys_cluster_that_is_recovered_learns_that_its_vm_has_gone() {
    let (r, p, folder) = replicated("pw");
    let (r1, p1) = (r.first(), p.first());
    failover(p1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    at_step(r1, "running");
    let last = records(p1, &folder);
    recover(p1, p.node("pw"));
    at_step(p1, "departed");
    assert_eq!((guests(r1), guests(p1), records(p1, &folder)), (1, 0, last));
    failover(r1, &["cancel", WORK, "--timeout", "50s"]).unwrap();
    runs(p1);
    assert_eq!(guests(r1), 0);
    goes_on(r1);
}

#[test]
fn a_replicas_cluster_that_is_recovered_goes_on_running_what_it_was_handed() {
    let (r, p, _) = replicated("rw");
    let (r1, p1) = (r.first(), p.first());
    failover(p1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    at_step(r1, "running");
    p1.freeze();
    recover(r1, r.node("rw"));
    assert_eq!(at_step(r1, "unknown")["right_to_run"], false);
    assert_eq!(guests(r1), 1, "what runs goes on");
    p1.thaw();
    let known = at_step(r1, "running");
    assert_eq!((known["right_to_run"].as_bool(), guests(r1), guests(p1)), (Some(true), 1, 0));
}
