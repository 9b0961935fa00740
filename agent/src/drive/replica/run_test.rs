//! Runs over points: what they show, what they keep, and what a crash leaves of them.

use std::fs;
use std::path::Path;

use landfall_proto::id::DiskTarget;
use landfall_proto::model::{PointName, PromotionId};

use super::test_primary::{Primary, VM, check_points, listed};
use super::*;
use crate::drive::image::Source;
use crate::drive::image::source::Readable;
use crate::vm_service::{Image, ImageFormat};

const RUN: PromotionId = PromotionId(0xabc);

fn name(store: &ReplicaStore, sequence: u64) -> PointName {
    PointName { sequence, root: store.manifest().point(sequence).unwrap().root }
}

fn content(path: &Path, target: &DiskTarget, bytes: usize) -> Vec<u8> {
    let image =
        Image { target: target.clone(), path: path.to_owned(), format: ImageFormat::Qcow2, bytes: bytes as u64 };
    let source = Source::open(&image).unwrap();
    let mut data = vec![0; bytes];
    source.read_at(0, &mut data).unwrap();
    data
}

fn check_overlays(run: &RunFolder, disks: &[(DiskTarget, Vec<u8>)]) {
    for (target, data) in disks {
        assert!(content(&run.image(target, false), target, data.len()) == *data, "{target}");
    }
}

#[test]
fn an_overlay_keeps_its_point_while_replication_goes_on_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let replica = folder.path().join("r");
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_048_576, 102_400], 3);
    let mut store = ReplicaStore::open(&replica, VM).unwrap();
    store.set_recovery_points(1).unwrap();
    for _ in 0..2 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    let run = store.begin_run(RUN, name(&store, 1), false).unwrap();
    run.make(&|_| false, &mut |_| Ok(())).unwrap();
    check_overlays(&run, &primary.history[&1]);
    drop(run);
    for _ in 0..3 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    assert_eq!(listed(&store)[0], 1, "the point that runs stays");
    drop(store);
    let mut store = ReplicaStore::open(&replica, VM).unwrap();
    assert_eq!((store.runs(), listed(&store)[0]), (vec![RUN], 1));
    primary.write();
    primary.replicate(&mut store).unwrap();
    let run = store.begin_run(RUN, name(&store, 1), false).unwrap();
    assert!(run.is_made());
    check_overlays(&run, &primary.history[&1]);
    check_points(&store, &primary.history);
    drop(run);
    store.end_run(RUN).unwrap();
    store.set_recovery_points(1).unwrap();
    primary.replicate(&mut store).unwrap();
    assert_eq!(listed(&store).len(), 2);
    check_points(&store, &primary.history);
    assert!(
        !fs::read_dir(&replica).unwrap().any(|entry| entry.unwrap().file_name().to_str().unwrap().starts_with("run-"))
    );
}

#[test]
fn raw_images_are_the_point_and_let_it_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_048_576, 102_400], 4);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    primary.replicate(&mut store).unwrap();
    let run = store.begin_run(RUN, name(&store, 1), false).unwrap();
    let mut last = 0;
    let mut progress = |bytes| {
        assert!(bytes >= last);
        last = bytes;
        Ok(())
    };
    run.make(&|target| target.as_str() == "vda", &mut progress).unwrap();
    for ((target, data), raw) in primary.history[&1].iter().zip([true, false]) {
        let path = run.image(target, raw);
        let found = if raw { fs::read(&path).unwrap() } else { content(&path, target, data.len()) };
        assert!(found == *data, "{target}");
    }
    drop(run);
    store.release_run(RUN).unwrap();
    primary.write();
    primary.replicate(&mut store).unwrap();
    assert_eq!(listed(&store), [2]);
}

#[test]
fn what_a_crash_left_is_made_anew_and_another_content_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let replica = folder.path().join("r");
    let mut primary = Primary::new(&folder.path().join("scratch"), &[262_144], 5);
    let mut store = ReplicaStore::open(&replica, VM).unwrap();
    primary.replicate(&mut store).unwrap();
    let point = name(&store, 1);
    let other = PointName { root: landfall_proto::id::Root([1; 32]), ..point };
    assert_eq!(store.begin_run(RUN, other, false).unwrap_err().code, "other_content");
    assert_eq!(store.begin_run(RUN, PointName { sequence: 9, ..point }, false).unwrap_err().code, "not_found");
    // Ended by its receiver, as a crash would end it.
    let run = store.begin_run(RUN, point, false).unwrap();
    let ended = || Err(landfall_proto::Refusal::new(landfall_proto::Class::Failed, "ended", "ended"));
    assert_eq!(run.make(&|_| true, &mut |_| ended()).unwrap_err().code, "ended");
    assert!(!run.is_made());
    drop(run);
    drop(store);
    fs::create_dir(replica.join(format!("run-{}.begun", PromotionId(9)))).unwrap();
    let mut store = ReplicaStore::open(&replica, VM).unwrap();
    assert_eq!(store.runs(), [RUN]);
    let run = store.begin_run(RUN, point, false).unwrap();
    run.make(&|_| true, &mut |_| Ok(())).unwrap();
    let (target, data) = &primary.history[&1][0];
    assert!(fs::read(run.image(target, true)).unwrap() == *data);
    assert!(!replica.join(format!("run-{}.begun", PromotionId(9))).exists());
}

#[test]
fn a_final_failover_keeps_its_point_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_048_576], 6);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(4).unwrap();
    for _ in 0..4 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    let run = store.begin_run(RUN, name(&store, 2), false).unwrap();
    run.make(&|_| false, &mut |_| Ok(())).unwrap();
    store.keep_only(2).unwrap();
    store.keep_only(2).unwrap();
    assert_eq!(listed(&store), [2]);
    check_points(&store, &primary.history);
    check_overlays(&run, &primary.history[&2]);
    assert_eq!(store.keep_only(9).unwrap_err().code, "not_found");
    // Its content can be compared and continued from there.
    assert!(store.hashes(&"vda".parse().unwrap(), 4096, 0, 4).is_ok());
}
