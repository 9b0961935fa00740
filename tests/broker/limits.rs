//! What replication may take of the line, changed in the middle of it, and how many first copies go at once.

use std::time::{Duration, Instant};

use landfall_kit::process::{Node, VmFolder, eventually};
use serde_json::Value;

use crate::lean::{noise, write};
use crate::stage::{LONG, R_CAP, SOON, found, goes_on, join_up, number, primaries, replicas};

const MIB: u64 = 1 << 20;
/// The disk, all noise: at the first limit it takes eight seconds.
const DISK: u64 = 8 * MIB;
/// Mbit/s, and the same in bytes a second.
const LIMIT: (&str, f64) = ("8", 1e6);
/// What is measured: less than half of the disk, after what may be caught up at first.
const PART: u64 = 3 * MIB;

/// Puts a stopped VM with a disk of noise on `node`.
fn put(node: &Node, name: &str, seed: u64) {
    let folder = VmFolder::new(name).disk("vda", DISK, seed).create_in(&node.vm_path()).unwrap();
    write(&folder.join("vda.raw"), &noise(DISK, seed), 0);
    found(node, name);
}

fn shown(node: &Node, vm: &str) -> Result<Value, String> {
    node.try_cli(["vm", "show", vm]).map_err(|failure| failure.to_string())
}

/// Waits until so many bytes of `vm` went over the line, and returns how many did.
fn wire(node: &Node, vm: &str, least: u64) -> u64 {
    eventually(LONG, &format!("{least} bytes of {vm}"), || {
        let wire = number(&shown(node, vm)?["wire_bytes"]);
        if wire >= least { Ok(wire) } else { Err(wire.to_string()) }
    })
}

#[test]
fn a_limit_is_neither_ignored_nor_too_tight_and_is_followed_in_the_middle_of_a_copy() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1", "p2"]).start();
    join_up(&p, &r);
    let (p1, p2, r1) = (p.node("p1"), p.node("p2"), r.first());
    put(p1, "slow", 1);
    p1.cli(["vm", "enable", "slow", "--to", R_CAP, "--frequency", "30", "--limit", LIMIT.0]);
    let first = wire(p1, "slow", MIB);
    let begun = Instant::now();
    let last = wire(p1, "slow", first + PART);
    let (took, ideal) = (begun.elapsed(), Duration::from_secs_f64((last - first) as f64 / LIMIT.1));
    // Looked at from outside, through commands: what is held to 5 % in virtual time is seen roughly here.
    assert!(took > ideal.mul_f64(0.8), "{last} - {first} bytes took {took:?}, and should have taken {ideal:?}");
    assert!(took < ideal.mul_f64(2.5) + Duration::from_secs(1), "{took:?} instead of {ideal:?}");
    let limited = shown(p1, "slow").unwrap();
    assert_eq!((&limited["bandwidth_limit"], number(&limited["limited_to_kbit"])), (&"8".into(), 8000), "{limited}");
    assert_eq!(limited["state"], "initial_replication", "{limited}");

    // A first copy waits for its turn, whoever is slow before it, and a limit is lifted while it holds a session back.
    p1.cli(["settings", "set", "maximum_initial_copies=1", "--wait"]);
    p1.cli(["vm", "set", "slow", "--limit", "0.1"]);
    put(p1, "next", 2);
    p1.cli(["vm", "enable", "next", "--to", R_CAP, "--frequency", "30"]);
    eventually(SOON, "the second copy to wait", || {
        let shown = shown(p1, "next")?;
        if shown["activity"] == "queued" { Ok(()) } else { Err(shown.to_string()) }
    });
    let before = number(&shown(p1, "slow").unwrap()["wire_bytes"]);
    assert!(before < DISK, "the first one is not through");
    p1.cli(["vm", "set", "slow", "--limit", "unlimited"]);
    for vm in ["slow", "next"] {
        goes_on(r1, vm);
        assert_eq!(number(&shown(p1, vm).unwrap()["sent_bytes"]), DISK, "{vm}: no byte was sent twice");
    }

    // The cluster's limit is divided by the nodes that send.
    put(p2, "other", 3);
    p2.cli(["vm", "enable", "other", "--to", R_CAP, "--frequency", "30"]);
    goes_on(r1, "other");
    p1.cli(["settings", "set", "bandwidth_limit=00:00-24:00=80", "--wait"]);
    for (node, vm) in [(p1, "slow"), (p1, "next"), (p2, "other")] {
        eventually(SOON, &format!("{vm} to have its part"), || {
            let shown = shown(node, vm)?;
            if shown["limited_to_kbit"] == 40_000 { Ok(()) } else { Err(shown.to_string()) }
        });
    }
    changed_in_place(p1, r1);
}

#[test]
fn a_slow_change_set_keeps_no_other_vm_from_its_cycles() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (p1, r1) = (p.first(), r.first());
    p1.cli(["settings", "set", "maximum_active_transfers=1", "--wait"]);
    put(p1, "slow", 1);
    p1.cli(["vm", "enable", "slow", "--to", R_CAP, "--frequency", "30", "--timeout", "120s"]);
    goes_on(r1, "slow");
    // At 0.1 Mbit/s this takes more than four minutes.
    p1.cli(["vm", "set", "slow", "--limit", "0.1"]);
    // Paused, lest an instant is taken in the middle of the writing: half of it would be a change set of its own.
    p1.cli(["vm", "pause", "slow"]);
    write(&p1.vm_path().join("slow").join("vda.raw"), &noise(PART, 7), 0);
    p1.cli(["vm", "resume", "slow"]);
    let sending = |word: &str| {
        eventually(LONG, &format!("slow to be {word}"), || {
            let shown = shown(p1, "slow")?;
            let big = shown["pending_bytes"].as_u64().is_some_and(|bytes| bytes >= PART);
            if shown["activity"] == "sending" && big { Ok(shown) } else { Err(shown.to_string()) }
        })
    };
    let before = sending("under way");
    put(p1, "quick", 2);
    p1.cli(["vm", "enable", "quick", "--to", R_CAP, "--frequency", "30", "--timeout", "120s"]);
    for _ in 0..3 {
        goes_on(r1, "quick");
    }
    let after = sending("still under way");
    assert_eq!(before["sent_point"], after["sent_point"], "one change set, all the time: {before}, {after}");
    assert!(number(&after["wire_bytes"]) > number(&before["wire_bytes"]), "it goes on in its turn");
    p1.cli(["vm", "set", "slow", "--limit", "unlimited"]);
    goes_on(r1, "slow");
}

fn changed_in_place(p1: &Node, r1: &Node) {
    for (arguments, word) in [
        (&["vm", "set", "slow", "--limit", "0"][..], "pause"),
        (&["vm", "set", "slow", "--limit", "08:00-18:00=5, 12:00-13:00=1"], "overlap"),
        (&["vm", "set", "slow", "--limit", "later=5"], "mon-fri"),
        (&["vm", "set", "slow"], "--limit"),
        (&["vm", "set", "slow", "--recovery-points", "25"], "0 to 24"),
        (&["settings", "set", "bandwidth_limit=08:00-18:00=0, else=5"], "pause"),
        (&["settings", "set", "bandwidth_limit=mon=5, mon-tue=6"], "overlap"),
        (&["settings", "set", "maximum_initial_copies=0"], "1 to 1024"),
    ] {
        let refused = p1.call(arguments.iter().copied());
        assert_eq!(refused.code, Some(2), "{arguments:?}: {refused}");
        assert!(refused.stderr.contains(word), "{arguments:?}: {refused}");
    }
    let refused = r1.call(["vm", "set", "slow", "--limit", "5"]);
    assert_eq!(refused.code, Some(3), "it is changed at the primary's side: {refused}");
    let set = p1.cli(["vm", "set", "slow", "--frequency", "900", "--recovery-points", "2"]);
    assert_eq!((number(&set["frequency_seconds"]), number(&set["recovery_points"])), (900, 2), "{set}");
    let there = shown(r1, "slow").unwrap();
    assert_eq!((number(&there["frequency_seconds"]), number(&there["recovery_points"])), (900, 2), "{there}");
    eventually(LONG, "two older points beside the newest", || {
        let points = r1.try_cli(["point", "list", "slow"]).map_err(|failure| failure.to_string())?;
        if points.as_array().map(Vec::len) == Some(3) { Ok(()) } else { Err(points.to_string()) }
    });
    goes_on(r1, "slow");
}
