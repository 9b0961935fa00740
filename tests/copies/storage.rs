//! A holder that is alive while the disk of its replicas is full, or answers nothing: another copy goes on, and it comes back.

use std::fs;
use std::os::unix::fs::symlink;

use landfall_kit::power::PowerDisk;
use landfall_kit::process::{Cluster, Node, eventually};

use crate::oracle::every_member_has_what_was_acknowledged;
use crate::pair::{held_by, in_sync, in_sync_at, other, reasons, replicated};
use crate::stage::{LONG, WORK, enable, goes_on, holder, join_up, primaries, put, replicas, workload};

/// Two nodes whose replicas are on disks of their own; none where such disks cannot be had.
fn on_disks(test: &str) -> Option<([PowerDisk; 2], Cluster)> {
    let disks = [PowerDisk::mount_or_skip(test)?, PowerDisk::mount_or_skip(test)?];
    let r = replicas().node("r1").node("r2").witness("rw").create();
    for (node, disk) in r.data_nodes().zip(&disks) {
        fs::remove_dir(node.storage_path()).unwrap();
        symlink(disk.path(), node.storage_path()).unwrap();
    }
    r.start_agents();
    r.form();
    Some((disks, r))
}

/// `fault` befalls the disk of the holder, and passes.
fn survives(r: &Cluster, disks: &[PowerDisk; 2], fault: impl Fn(&PowerDisk, bool)) {
    let held = r.node(&holder(r.first(), WORK));
    let second: &Node = other(r, held.name());
    let disk = &disks[usize::from(held.name() == "r2")];
    fault(disk, true);
    held_by(second, second.name());
    goes_on(second, WORK);
    in_sync_at(second, &[second.name()]);
    fault(disk, false);
    in_sync(second, 2);
    goes_on(second, WORK);
    assert_eq!(holder(second, WORK), second.name(), "it stays where it is");
}

#[test]
fn a_holder_that_is_alive_with_a_full_or_hung_disk() {
    let Some((disks, r)) = on_disks("a holder with a full or hung disk") else { return };
    let p = replicated(&r, 2);
    survives(&r, &disks, |disk, full| disk.limit(full.then_some(0)));
    survives(&r, &disks, PowerDisk::hang);
    every_member_has_what_was_acknowledged(&p, &r, r.first());
}

#[test]
fn a_full_disk_is_a_fault_until_it_has_room_though_nobody_sends() {
    let Some(disk) = PowerDisk::mount_or_skip("a full disk that has room again") else { return };
    let r = replicas().node("r1").create();
    fs::remove_dir(r.first().storage_path()).unwrap();
    symlink(disk.path(), r.first().storage_path()).unwrap();
    r.start_agents();
    r.form();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    r.first().cli(["settings", "set", "node_down_after=2s"]);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    goes_on(r.first(), WORK);
    let faulty = |wanted: bool| {
        eventually(LONG, &format!("a fault: {wanted}"), || {
            let found = reasons(r.first());
            if found.contains(&"replica_fault".to_owned()) == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    disk.limit(Some(0));
    faulty(true);
    p.first().cli(["vm", "pause", WORK]);
    disk.limit(None);
    faulty(false);
    p.first().cli(["vm", "resume", WORK]);
    goes_on(r.first(), WORK);
}
