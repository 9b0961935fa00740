//! A holder that is alive while the disk of its replicas is full, or answers nothing: another copy goes on, and it comes back.

use std::fs;
use std::os::unix::fs::symlink;

use landfall_kit::power::PowerDisk;
use landfall_kit::process::{Cluster, Node};

use crate::oracle::every_member_has_what_was_acknowledged;
use crate::pair::{held_by, in_sync, in_sync_at, other, replicated};
use crate::stage::{WORK, goes_on, holder, replicas};

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
