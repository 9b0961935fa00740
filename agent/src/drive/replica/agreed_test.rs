//! Two copies of one replica, at each point at which their holder may die.

use landfall_proto::id::Epoch;

use super::test_primary::{Primary, VM, check_points, epochs, listed, stage};
use super::*;
use crate::drive::image::change_set::ChangeSetReader;

/// A holder and its second copy, alike, with some points.
fn alike() -> (tempfile::TempDir, Primary, ReplicaStore, ReplicaStore) {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[200_000, 70_000], 11);
    let mut holder = ReplicaStore::open(&folder.path().join("holder"), VM).unwrap();
    holder.set_recovery_points(3).unwrap();
    primary.replicate(&mut holder).unwrap();
    copy(&mut holder, &folder.path().join("copy"), true);
    let mut second = ReplicaStore::open(&folder.path().join("copy"), VM).unwrap();
    second.set_recovery_points(3).unwrap();
    for _ in 0..2 {
        primary.write();
        pass_one(&mut primary, &mut holder, &mut second);
    }
    (folder, primary, holder, second)
}

/// Copies a replica's files as another node does, and returns the bytes that came from the other folder.
fn copy(from: &mut ReplicaStore, to: &std::path::Path, reuse: bool) -> u64 {
    let mut source = from.copy_source(true).unwrap();
    let mut import = Import::begin(to, VM, source.listing().clone()).unwrap();
    if reuse {
        import.reuse(from.manifest()).unwrap();
        for similar in import.similar(from.manifest()) {
            let (mut offset, mut digests) = (0, Vec::new());
            while offset < similar.bytes {
                let some = source.digests(&similar.name, offset, 2).unwrap();
                offset += some.len() as u64 * landfall_proto::message::data::DIGEST_BYTES;
                digests.push(some);
            }
            digests.iter().for_each(|some| import.compare(&similar, some).unwrap());
        }
    }
    while let Some(step) = import.next_step() {
        let piece = source.read(&step.file, step.offset, step.length).unwrap();
        import.feed(&piece).unwrap();
    }
    let received = import.received();
    import.finish().unwrap();
    received
}

/// One change set to both: the second copy applies once both have staged.
fn pass_one(primary: &mut Primary, holder: &mut ReplicaStore, second: &mut ReplicaStore) {
    let (set, extents) = primary.next_set(holder.standing().newest);
    let newest = holder.standing().newest.unwrap();
    assert_eq!(second.agree(&epochs(), newest, None).unwrap(), (Some(newest), None));
    stage(holder, &set, &extents).unwrap();
    stage(second, &set, &extents).unwrap();
    holder.commit().unwrap();
    second.apply(set.tip).unwrap();
    second.apply(set.tip).unwrap();
}

fn next_holder() -> Epochs {
    Epochs { assignment: Epoch::from_number(8), ..epochs() }
}

#[test]
fn a_holder_that_dies_between_staged_and_listed_has_its_point_listed_by_the_next_and_by_itself_when_it_returns() {
    let (_folder, mut primary, mut holder, mut second) = alike();
    let before = holder.standing().newest.unwrap();
    primary.write();
    let (set, extents) = primary.next_set(Some(before));
    second.agree(&epochs(), before, None).unwrap();
    stage(&mut holder, &set, &extents).unwrap();
    stage(&mut second, &set, &extents).unwrap();
    // It may have been acknowledged. The second copy holds the replica now and completes it, which needs no primary.
    second.take_up(&next_holder()).unwrap();
    assert_eq!(second.staged_log().unwrap().set.tip, set.tip);
    second.commit().unwrap();
    // The old holder is back, told what is listed, and takes no older assignment any more.
    assert_eq!(holder.agree(&next_holder(), set.tip, None).unwrap(), (Some(set.tip), None));
    assert_eq!(holder.agree(&epochs(), set.tip, None).unwrap_err().code, "stale_epoch");
    for store in [&holder, &second] {
        assert_eq!(listed(store), [1, 2, 3, 4]);
        check_points(store, &primary.history);
    }
}

#[test]
fn what_only_one_copy_has_staged_is_dropped_there_and_what_only_the_holder_has_is_passed_on_from_its_log() {
    let (_folder, mut primary, mut holder, mut second) = alike();
    let before = holder.standing().newest.unwrap();
    primary.write();
    let (set, extents) = primary.next_set(Some(before));
    second.agree(&epochs(), before, None).unwrap();
    stage(&mut second, &set, &extents).unwrap();
    // The holder has never got it: it goes on without, and so does the copy.
    assert_eq!(second.agree(&epochs(), before, None).unwrap(), (Some(before), None));
    assert!(second.staged_log().is_none());

    stage(&mut holder, &set, &extents).unwrap();
    let log = holder.staged_log().unwrap();
    assert_eq!(second.agree(&epochs(), before, Some(log.set.tip)).unwrap(), (Some(before), None));
    second.begin(&epochs(), &log.set).unwrap();
    let mut reader = ChangeSetReader::open_sealed(&log.path).unwrap();
    while let Some(extent) = reader.next_extent().unwrap() {
        second.append(&epochs(), &extent).unwrap();
    }
    second.finish(&epochs(), log.extents).unwrap();
    assert_eq!(second.agree(&epochs(), before, Some(log.set.tip)).unwrap(), (Some(before), Some(log.set.tip)));
    assert_eq!(second.apply(before).unwrap_or_else(|refusal| panic!("{refusal}")), (), "it is the newest already");
    let unknown = landfall_proto::message::data::Tip { sequence: 99, ..before };
    assert_eq!(second.apply(unknown).unwrap_err().code, "nothing_staged");
    holder.commit().unwrap();
    second.apply(log.set.tip).unwrap();
    check_points(&second, &primary.history);
    assert_eq!(listed(&holder), listed(&second));
}

#[test]
fn a_copy_that_was_away_gets_only_what_it_lacks() {
    let (folder, mut primary, mut holder, second) = alike();
    drop(second);
    primary.write();
    primary.replicate(&mut holder).unwrap();
    let lacks = copy(&mut holder, &folder.path().join("copy"), true);
    let whole = copy(&mut holder, &folder.path().join("whole"), true);
    assert!(lacks * 2 < whole, "{lacks} of {whole} bytes");
    for name in ["copy", "whole"] {
        let copied = ReplicaStore::open(&folder.path().join(name), VM).unwrap();
        assert_eq!(listed(&copied), listed(&holder));
        check_points(&copied, &primary.history);
    }
}

#[test]
fn a_copy_that_went_another_way_or_is_damaged_counts_only_as_far_as_it_is_the_same() {
    let (folder, mut primary, mut holder, mut second) = alike();
    // It took a point that was never acknowledged, as a holder that was cut off.
    let before = primary.disks.clone();
    primary.write();
    primary.replicate(&mut second).unwrap();
    drop(second);
    primary.disks = before;
    primary.write();
    primary.replicate(&mut holder).unwrap();
    copy(&mut holder, &folder.path().join("copy"), true);
    let copied = ReplicaStore::open(&folder.path().join("copy"), VM).unwrap();
    assert_eq!(listed(&copied), listed(&holder));
    check_points(&copied, &primary.history);
    drop(copied);

    // A flipped byte in what it has: the copy is refused, and succeeds without its files.
    let base = folder.path().join("copy").join(&holder.manifest().points[0].disks[0].file);
    let mut bytes = std::fs::read(&base).unwrap();
    let at = bytes.len() - 70_000;
    bytes[at] ^= 1;
    crate::drive::image::durable::set_read_only(&base, false).unwrap();
    std::fs::write(&base, bytes).unwrap();
    let source = holder.copy_source(true).unwrap();
    let mut import = Import::begin(&folder.path().join("copy"), VM, source.listing().clone()).unwrap();
    assert!(import.reuse(holder.manifest()).unwrap() > 0);
    drop((import, source));
    copy(&mut holder, &folder.path().join("copy"), false);
    check_points(&ReplicaStore::open(&folder.path().join("copy"), VM).unwrap(), &primary.history);
}

#[test]
fn a_copy_that_was_away_for_longer_than_points_are_kept_gets_the_pieces_that_differ() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[3_000_000], 21);
    let mut holder = ReplicaStore::open(&folder.path().join("holder"), VM).unwrap();
    primary.replicate(&mut holder).unwrap();
    copy(&mut holder, &folder.path().join("copy"), true);
    for _ in 0..4 {
        primary.disks[0].1[1_000_000] ^= 1;
        primary.replicate(&mut holder).unwrap();
    }
    let copied = ReplicaStore::open(&folder.path().join("copy"), VM).unwrap();
    assert!(listed(&copied).iter().all(|point| !listed(&holder).contains(point)), "no point is common");
    drop(copied);
    let lacks = copy(&mut holder, &folder.path().join("copy"), true);
    assert!(lacks < 200_000, "{lacks} bytes for one block that changed");
    let copied = ReplicaStore::open(&folder.path().join("copy"), VM).unwrap();
    assert_eq!(listed(&copied), listed(&holder));
    check_points(&copied, &primary.history);
}
