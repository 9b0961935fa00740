//! Change tracking is a hint: whatever a disk or an index has become meanwhile, points are the disk, and only differences
//! travel.

use std::fs;
use std::path::{Path, PathBuf};

use landfall_kit::process::{Cluster, Node, VmFolder, eventually};
use serde_json::Value;

use crate::lean::{noise, traffic, write};
use crate::stage::{LONG, WORK, enable, export, found, goes_on, join_up, newest, number, primaries, replicas};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const DISK: u64 = 24 * MIB;

fn put(node: &Node) -> PathBuf {
    let folder = VmFolder::new(WORK).disk("vda", DISK, 1).create_in(&node.vm_path()).unwrap();
    found(node, WORK);
    folder.join("vda.raw")
}

/// A node that keeps the replica of a VM of the first of `nodes`, which are the primaries', and that VM's disk.
fn replicated(nodes: &[&str]) -> (Cluster, Cluster, PathBuf) {
    let r = replicas().node("r1").start();
    let p = primaries(nodes).start();
    join_up(&p, &r);
    let disk = put(p.first());
    enable(p.first(), WORK);
    goes_on(r.first(), WORK);
    (r, p, disk)
}

/// The newest point is what the disk is.
fn same(r: &Cluster, disk: &Path, name: &str) {
    let to = r.folder().join(name);
    export(r.first(), WORK, None, &to).unwrap();
    assert!(fs::read(to.join("vda.raw")).unwrap() == fs::read(disk).unwrap(), "{name}: the point is not the disk");
}

fn shown(node: &Node) -> Result<Value, String> {
    node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())
}

#[test]
fn a_restored_or_replaced_image_costs_only_what_differs() {
    let (r, p, disk) = replicated(&["p1"]);
    let (p1, r1) = (p.first(), r.first());
    let older = disk.with_extension("older");
    fs::copy(&disk, &older).unwrap();
    write(&disk, &noise(MIB, 5), 2 * MIB);
    goes_on(r1, WORK);

    // Restored from the older copy, times and all: another file under the old name.
    let before = traffic(p1).0;
    fs::rename(&older, &disk).unwrap();
    goes_on(r1, WORK);
    assert_eq!(traffic(p1).0 - before, MIB, "what the older copy has of its own");
    same(&r, &disk, "restored");

    // Replaced by another disk that differs in ten blocks, and then in nothing.
    let other = disk.with_extension("other");
    fs::copy(&disk, &other).unwrap();
    (0..10).for_each(|at| write(&other, &noise(BLOCK, at), at * MIB));
    let before = traffic(p1).0;
    fs::rename(&other, &disk).unwrap();
    goes_on(r1, WORK);
    assert_eq!(traffic(p1).0 - before, 10 * BLOCK);
    same(&r, &disk, "replaced");
    let before = traffic(p1).0;
    fs::copy(&disk, &other).unwrap();
    fs::rename(&other, &disk).unwrap();
    goes_on(r1, WORK);
    assert_eq!(traffic(p1).0 - before, 0, "the same content in another file");
    same(&r, &disk, "the same");
}

#[test]
fn a_block_that_changed_elsewhere_and_changed_back_is_sent_by_whoever_sent_it_first() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1", "p2"]).start();
    join_up(&p, &r);
    let [p1, p2] = ["p1", "p2"].map(|name| p.node(name));
    let disk = put(p1);
    write(&disk, &noise(BLOCK, 1), 7 * BLOCK);
    enable(p1, WORK);
    goes_on(r.first(), WORK);

    let there = p2.vm_path().join(WORK);
    fs::rename(p1.vm_path().join(WORK), &there).unwrap();
    sends(p2, "new_sender");
    write(&there.join("vda.raw"), &noise(BLOCK, 2), 7 * BLOCK);
    goes_on(r.first(), WORK);
    same(&r, &there.join("vda.raw"), "changed");

    // Changed back on its way, where nobody looks: p1's index, which is of before, says that nothing is new.
    let between = p.folder().join("between");
    fs::rename(&there, &between).unwrap();
    write(&between.join("vda.raw"), &noise(BLOCK, 1), 7 * BLOCK);
    let before = newest(r.first(), WORK).unwrap();
    fs::rename(&between, p1.vm_path().join(WORK)).unwrap();
    sends(p1, "sent_elsewhere");
    assert!(goes_on(r.first(), WORK) > before);
    same(&r, &disk, "changed back");
}

/// Waits until `node` sends the VM, having compared both sides because of `code`.
fn sends(node: &Node, code: &str) {
    eventually(LONG, &format!("{} to send", node.name()), || {
        let shown = shown(node)?;
        let here = shown["primary_host"].as_str().is_some_and(|host| host.starts_with(node.name()));
        let point = shown["last_point_at"].is_string() && shown["source"] == "index";
        if here && point && shown["compared"]["code"] == code { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// A change set of 12 MiB, slowly: six seconds.
const LARGE: u64 = 12 * MIB;
/// What may be sent again after a break: frames on their way, and what the holder had not written yet.
const AGAIN: u64 = 4 * MIB;

#[test]
fn a_change_set_that_is_cut_off_goes_on_where_it_was_durable() {
    let (r, p, disk) = replicated(&["p1"]);
    let (p1, r1) = (p.first(), r.first());
    for (turn, cut) in [(&r, "holder"), (&p, "sender")].into_iter().enumerate() {
        let (cluster, who) = cut;
        p1.cli(["vm", "set", WORK, "--limit", "16"]);
        // Counted where nobody dies.
        let counting = if who == "holder" { p1 } else { r1 };
        let before = traffic(counting).0;
        write(&disk, &noise(LARGE, 10 + turn as u64), 4 * MIB);
        eventually(LONG, "half of the change set", || {
            let sent = traffic(counting).0 - before;
            if sent >= LARGE / 2 { Ok(()) } else { Err(sent.to_string()) }
        });
        let point = number(&shown(p1).unwrap()["sent_point"]["point"]);
        let node = cluster.first();
        node.kill_agent();
        cluster.start_agents();
        node.wait_ready();
        crate::stage::owner(node);
        p1.cli(["vm", "set", WORK, "--limit", "unlimited"]);
        eventually(LONG, &format!("point {point}, which was cut off at the {who}"), || match newest(r1, WORK) {
            Ok(newest) if newest >= point => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let sent = traffic(counting).0 - before;
        assert!((LARGE..LARGE + AGAIN).contains(&sent), "{sent} bytes for {LARGE}, cut off at the {who}");
        goes_on(r1, WORK);
        same(&r, &disk, who);
    }
}
