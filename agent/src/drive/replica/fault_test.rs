//! Every step of IO fails in turn: the listed points stay as they are, and what was interrupted is completed or sent
//! again.

use super::test_primary::{Primary, VM, check_points, listed};
use super::*;
use crate::drive::image::durable::faults;

/// How many steps to pass over between two that fail, so that the short form stays short.
fn stride() -> u64 {
    if std::env::var_os("LANDFALL_LONG").is_some() { 1 } else { 3 }
}

/// Lets step after step of one cycle fail, with the store kept open or opened anew afterwards.
fn every_step(first_content: bool, reopen: bool, number: i32) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r");
    let mut primary = Primary::new(&folder.path().join("scratch"), &[400_000, 70_001], 11);
    let mut store = ReplicaStore::open(&path, VM).unwrap();
    store.set_recovery_points(1).unwrap();
    if !first_content {
        for _ in 0..2 {
            primary.write();
            primary.replicate(&mut store).unwrap();
        }
    }
    let (mut at, mut failures) = (0, 0);
    loop {
        if first_content {
            drop(store);
            std::fs::remove_dir_all(&path).unwrap();
            store = ReplicaStore::open(&path, VM).unwrap();
            store.set_recovery_points(1).unwrap();
        }
        primary.write();
        primary.disks[0].1[at as usize] ^= 1;
        primary.disks[1].1[at as usize] ^= 1;
        let before = listed(&store);
        let specs = primary.specs();
        store.admit(&test_primary::epochs(), &specs, &[]).unwrap();
        let newest = store.standing().newest;
        let (set, extents) = primary.next_set(newest);
        faults::fail_from(Some(at), number);
        let done = test_primary::stage(&mut store, &set, &extents).and_then(|()| store.commit());
        let taken = faults::taken();
        faults::fail_from(None, 0);
        if let Err(refusal) = &done {
            assert!(!refusal.message.is_empty() && refusal.remedy.is_some(), "step {at}: {refusal}");
            failures += 1;
        }
        if reopen {
            drop(store);
            store = ReplicaStore::open(&path, VM).unwrap();
        }
        let now = listed(&store);
        assert!(done.is_err() || now.contains(&set.tip.sequence), "step {at}: a committed point is not listed");
        assert!(before.iter().rev().take(1).all(|point| now.contains(point)) || now.contains(&set.tip.sequence));
        check_points(&store, &primary.history);
        // What is staged whole is completed, the rest is sent again.
        if store.standing().staged_whole {
            store.commit().unwrap_or_else(|refusal| panic!("step {at}: {refusal}"));
        }
        primary.replicate(&mut store).unwrap_or_else(|refusal| panic!("step {at}: {refusal}"));
        assert!(store.fault().is_none(), "step {at}: {:?}", store.fault());
        assert!(listed(&store).len() <= 2, "step {at}");
        check_points(&store, &primary.history);
        if done.is_ok() && taken <= at {
            break;
        }
        at += stride();
    }
    assert!(failures > 10, "{failures} steps failed");
}

#[test]
fn a_disk_that_fills_up_at_any_step_costs_no_listed_point() {
    every_step(false, false, 28);
}

#[test]
fn an_io_error_at_any_step_followed_by_a_restart_costs_no_listed_point() {
    every_step(false, true, 5);
}

#[test]
fn first_content_survives_a_failure_at_any_step() {
    every_step(true, false, 28);
    every_step(true, true, 5);
}

/// A small file system of its own, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where this process may not mount: the test says so.
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "landfall-test"])
            .arg(folder.path())
            .output();
        done.is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_file_system_that_is_really_full_costs_no_point_and_replication_goes_on_once_there_is_room() {
    let Some(small) = Small::mount(48) else {
        eprintln!("NOT TESTED: a full file system, because this process may not mount one");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let (path, ballast) = (small.0.path().join("r"), small.0.path().join("ballast"));
    std::fs::write(&ballast, vec![1; 16 << 20]).unwrap();
    let mut primary = Primary::new(scratch.path(), &[8 << 20], 12);
    let mut store = ReplicaStore::open(&path, VM).unwrap();
    store.set_recovery_points(24).unwrap();
    let refusal = (0..24_u64)
        .find_map(|round| {
            let bytes = crate::drive::image::test_disk::random_bytes(2 << 20, round);
            primary.disks[0].1[(round as usize % 3) << 20..][..2 << 20].copy_from_slice(&bytes);
            primary.replicate(&mut store).err()
        })
        .unwrap();
    assert_eq!(refusal.code, "disk_full", "{refusal}");
    assert!(refusal.message.contains(path.to_str().unwrap()) && refusal.remedy.is_some(), "{refusal}");
    assert!(listed(&store).len() > 2);
    check_points(&store, &primary.history);
    // A store that was full when it was opened still lets its points be read.
    drop(store);
    let mut store = ReplicaStore::open(&path, VM).unwrap();
    check_points(&store, &primary.history);
    std::fs::remove_file(&ballast).unwrap();
    if store.standing().staged_whole {
        store.commit().unwrap();
    }
    store.set_recovery_points(2).unwrap();
    primary.write();
    primary.replicate(&mut store).unwrap();
    assert!(store.fault().is_none());
    assert_eq!(listed(&store).len(), 3);
    check_points(&store, &primary.history);
}
