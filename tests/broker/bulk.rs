//! Bulk data beside the cluster's own talk: a first copy that takes all it can get, to two nodes, while they decide.

use landfall_kit::process::VmFolder;

use crate::lean::{noise, write};
use crate::stage::{R_CAP, found, goes_on, join_up, primaries, replicas};

/// All of it noise, so that none is left out on the way: some seconds of everything that two cores and a disk can do.
const DISK: u64 = 512 << 20;
/// Decisions while it is copied, at least: the line was busy all the while.
const DECISIONS: u64 = 3;

#[test]
fn a_copy_at_full_speed_keeps_neither_settings_nor_the_owner_waiting() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (p1, r1) = (p.first(), r.first());
    let folder = VmFolder::new("bulk").disk("vda", DISK, 1).create_in(&p1.vm_path()).unwrap();
    write(&folder.join("vda.raw"), &noise(DISK, 1), 0);
    found(p1, "bulk");
    let owners = || [p1, r1].map(|node| node.cli(["broker", "status"])["term"].clone());
    let before = owners();
    p1.cli(["vm", "enable", "bulk", "--to", R_CAP, "--frequency", "30"]);
    let mut decisions = 0;
    while p1.cli(["vm", "show", "bulk"])["state"] != "replicating" {
        // Each has to be agreed upon, told to the VM service of every node, and acknowledged.
        for node in [r1, p1] {
            node.cli(["settings", "set", &format!("maximum_active_transfers={}", 3 + decisions % 2), "--wait"]);
        }
        let nodes = r1.cli(["node", "list"]);
        assert!(nodes.as_array().unwrap().iter().all(|node| node["state"] != "down"), "{nodes}");
        decisions += 1;
    }
    assert!(decisions >= DECISIONS, "{decisions} in all: the copy was too quick to show anything");
    println!("{decisions} settings in each cluster while the copy went on");
    assert_eq!(owners(), before, "an owner was changed");
    goes_on(r1, "bulk");
}
