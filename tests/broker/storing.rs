//! Images that go to another place on their node, and images that are large.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use landfall_kit::process::{Node, VmFolder, eventually};

use crate::stage::{
    DISKS, LONG, SOON, WORK, check, enable, export, goes_on, holder, join_up, newest, number, one_to_one, primaries,
    replicas, runs_at,
};

/// The memory that an agent may take for reading or receiving a disk of any size.
const MEMORY_MAX: u64 = 64 << 20;
/// A disk that is far larger than that.
const LARGE: u64 = 512 << 20;

#[test]
fn images_that_move_on_their_node_are_compared_and_not_copied() {
    let (p, r) = one_to_one();
    let (p1, r1) = (p.first(), r.first());
    let before = goes_on(r1, WORK);
    let sent = || number(&p1.cli(["vm", "show", WORK])["sent_bytes"]);
    let first_copy = sent();

    // As an administrator does it: the VM is taken off the node, its images go to another disk, and it is put back.
    let (folder, aside) = (p1.vm_path().join(WORK), p1.folder().join("aside"));
    fs::rename(&folder, &aside).unwrap();
    eventually(SOON, "the VM to be off", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["vm_state"] == "running" { Err(shown.to_string()) } else { Ok(()) }
    });
    let elsewhere = p1.folder().join("other-disk");
    fs::create_dir(&elsewhere).unwrap();
    let file = aside.join("vm.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    for (target, _) in DISKS {
        let (name, to) = (format!("{target}.raw"), elsewhere.join(format!("{target}.raw")));
        // A copy and not a rename: another file with other times and another number.
        fs::copy(aside.join(&name), &to).unwrap();
        fs::remove_file(aside.join(&name)).unwrap();
        text = text.replace(&format!("\"{name}\""), &format!("\"{}\"", to.display()));
    }
    fs::write(&file, text).unwrap();
    fs::rename(&aside, &folder).unwrap();
    runs_at(p1, WORK);
    assert!(goes_on(r1, WORK) > before);
    let resent = sent().saturating_sub(first_copy);
    assert!(resent < DISKS[0].1 / 50, "{resent} bytes were sent after the images had moved");
    let exported = r.folder().join("after-the-move");
    export(r1, WORK, None, &exported).unwrap();
    check(r1, &exported);
}

#[test]
fn a_large_disk_is_scanned_received_and_compared_in_little_memory() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (p1, r1) = (p.first(), r.first());
    let large = VmFolder::new("large").disk("vda", LARGE, 7);
    large.create_in(&p1.vm_path()).unwrap();
    crate::stage::found(p1, "large");
    let (done, peaks) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    std::thread::scope(|scope| {
        for (node, peak) in [p1, r1].into_iter().zip(&peaks) {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    peak.fetch_max(memory(node).unwrap_or_default(), Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
        }
        let told = Ended(&done);
        enable(p1, "large");
        let first = eventually(LONG, "the initial copy", || newest(r1, "large"));
        // Both sides read the whole disk again.
        p1.cli(["vm", "resync", "large"]);
        eventually(LONG, "a point that was made after the comparison", || match newest(r1, "large") {
            Ok(point) if point > first && p1.log().contains("compared") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        drop(told);
    });
    for (node, peak) in ["p1", "r1"].iter().zip(peaks) {
        let peak = peak.into_inner();
        assert!(peak > 0, "the memory of {node} was never read");
        assert!(peak < MEMORY_MAX, "the agent of {node} took {} MiB", peak >> 20);
    }
    assert_eq!(holder(r1, "large"), "r1");
}

/// Says that whoever watches may end, also when the test fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes of memory that the agent has taken for itself: neither its program nor files that it maps.
fn memory(node: &Node) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(node.agent_id()?.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
