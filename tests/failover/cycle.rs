//! The whole cycle, again and again, with agents killed at random moments: test, planned, reverse, unplanned, reverse, home.
//!
//! At each turn the disks that are compared belong to a VM that is off. The seed decides who is killed and when; a failure
//! prints it, and `LANDFALL_SEED` sets it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use landfall_kit::process::{Cluster, Node, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::stage::{
    LONG, R_CAP, WORK, at_step, authorize, goes_on, guests, insist, is, points, replicated, run_images, status,
};

/// Rounds of the short form, and of the long one.
const ROUNDS: u64 = 2;
const ROUNDS_LONG: u64 = 100;

/// Who is killed, and when.
struct Fate {
    random: StdRng,
    kills: usize,
}

impl Fate {
    /// Kills an agent or two within the next moments, and starts them again.
    fn strike(&mut self, nodes: &[&Node]) {
        for _ in 0..self.random.random_range(0..=2) {
            // Not a wait for something to happen, but where in it the kill falls.
            std::thread::sleep(Duration::from_millis(self.random.random_range(0..1_500)));
            let node = nodes[self.random.random_range(0..nodes.len())];
            node.restart_agent();
            self.kills += 1;
        }
    }
}

/// The disks of a VM that is off are byte for byte those of the newest point on `to`.
fn same(to: &Node, images: &Path, export: &Path) {
    if export.exists() {
        fs::remove_dir_all(export).unwrap();
    }
    to.cli(["point", "export", WORK, &export.display().to_string()]);
    for disk in ["vda.raw", "vdb.raw"] {
        assert!(fs::read(images.join(disk)).unwrap() == fs::read(export.join(disk)).unwrap(), "{disk}");
    }
}

/// Where the VM's images are: in its own folder, or where a failover has made them.
fn images(node: &Node, folder: &Path) -> std::path::PathBuf {
    run_images(node, "run").first().cloned().unwrap_or_else(|| folder.to_owned())
}

#[test]
fn the_whole_cycle_survives_kills_at_random_moments_and_loses_no_byte() {
    let seed = std::env::var("LANDFALL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64)
    });
    println!("LANDFALL_SEED={seed}");
    let mut fate = Fate { random: StdRng::seed_from_u64(seed), kills: 0 };
    let (r, p, folder) = replicated(&["r1"]);
    authorize(p.first(), R_CAP);
    for round in 0..landfall_kit::rounds(ROUNDS, ROUNDS_LONG) {
        turn(&mut fate, &r, &p, &folder);
        println!("round {round} held; {} agents were killed so far", fate.kills);
    }
}

fn turn(fate: &mut Fate, r: &Cluster, p: &Cluster, folder: &Path) {
    let (r1, p1) = (r.first(), p.first());
    let nodes = [r1, p1];
    let export = r.folder().join("cycle");

    insist(r1, &["test", WORK], &["test_running"]);
    fate.strike(&nodes);
    at_step(r1, "running");
    insist(r1, &["test", WORK, "--stop"], &["no_failover"]);
    fate.strike(&nodes);
    eventually(LONG, "the test to be gone", || run_images(r1, "test").is_empty());

    insist(p1, &["planned", WORK, "--yes"], &["failing_over"]);
    fate.strike(&nodes);
    at_step(p1, "departed");
    at_step(r1, "running");
    assert_eq!((guests(p1), guests(r1)), (0, 1), "one side runs it");
    let left = images(p1, folder);
    // Nothing is taken any more: its newest point is what was released.
    same(r1, &left, &export);

    insist(r1, &["reverse", WORK], &["no_failover"]);
    fate.strike(&nodes);
    is(r1, "primary");
    is(p1, "replica");
    goes_on(p1);
    assert_eq!((guests(p1), guests(r1)), (0, 1));

    // The other site is gone, and its VM with it.
    let newest = *points(p1).unwrap().last().unwrap();
    r1.lose();
    insist(p1, &["unplanned", WORK, "--yes"], &["failed_over"]);
    fate.strike(&[p1]);
    at_step(p1, "running");
    insist(p1, &["complete", WORK], &[]);
    at_step(p1, "completed");
    assert!(status(p1)["point"].as_u64() >= Some(newest), "nothing acknowledged is lost");
    r1.start();
    r1.wait_ready();
    at_step(r1, "branched");
    assert_eq!((guests(p1), guests(r1)), (1, 0), "a VM that was off when its branch was heard of stays off");
    let lost = images(r1, folder);
    let before: Vec<Vec<u8>> = ["vda.raw", "vdb.raw"].map(|disk| fs::read(lost.join(disk)).unwrap()).into();

    insist(p1, &["reverse", WORK], &["no_failover"]);
    fate.strike(&nodes);
    is(p1, "primary");
    is(r1, "replica");
    goes_on(r1);
    let kept = run_images(r1, "branch");
    let kept = kept.iter().map(|images| ["vda.raw", "vdb.raw"].map(|disk| fs::read(images.join(disk)).unwrap()));
    assert!(kept.into_iter().any(|disks| disks.as_slice() == before), "the losing branch is kept as it was");
    assert_eq!((guests(p1), guests(r1)), (1, 0));
    for branch in run_images(r1, "branch") {
        // As an operator does who needs it no more.
        fs::remove_dir_all(branch.parent().unwrap()).unwrap();
    }
}
