//! What a session may and may not do to a replica, and what survives the session.

use std::sync::Arc;

use landfall_proto::id::{Epoch, Fingerprint, Root, SenderEpoch};
use landfall_proto::message::control::PointState;
use landfall_proto::message::data::{Content, Extent, Tip};

use super::pins::Nothing;
use super::test_primary::{Primary, VM, check_points, epochs, exported, listed, stage};
use super::*;
use crate::drive::image::durable::faults;
use crate::drive::image::extent;
use crate::drive::send::record::{Known, Record};

fn setup(sizes: &[usize], points: u64) -> (tempfile::TempDir, Primary, ReplicaStore) {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), sizes, 3);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(3).unwrap();
    for _ in 0..points {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    (folder, primary, store)
}

#[test]
fn lower_epochs_are_refused_even_after_a_restart_and_a_newer_session_ends_an_older_one() {
    let (folder, mut primary, mut store) = setup(&[200_000], 1);
    let specs = primary.specs();
    let newer = Epochs { assignment: Epoch::from_number(8), sender: SenderEpoch::from_number(4), ..epochs() };
    let tip = store.standing().newest;
    let (set, extents) = primary.next_set(tip);
    store.begin(&epochs(), &set).unwrap();
    store.admit(&newer, &specs, &[]).unwrap();
    for refused in [
        store.begin(&epochs(), &set).map(|_| ()),
        extents.first().map_or(Ok(()), |extent| store.append(&epochs(), extent)),
        store.finish(&epochs(), 0).map(|_| ()),
        store.admit(&epochs(), &specs, &[]).map(|_| ()),
        store.fill(&epochs(), &extent::data(0, 0, vec![1; 4096])),
    ] {
        if let Err(refusal) = refused {
            assert_eq!(refusal.code, "stale_epoch");
        } else {
            assert!(extents.is_empty());
        }
    }
    drop(store);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    let stale = Epochs { sender: SenderEpoch::from_number(3), ..newer };
    assert_eq!(store.admit(&stale, &specs, &[]).unwrap_err().code, "stale_sender");
    assert_eq!(
        store.begin(&Epochs { sender: SenderEpoch::from_number(9), ..newer }, &set).unwrap_err().code,
        "not_admitted"
    );
    store.admit(&newer, &specs, &[]).unwrap();
    assert_eq!(
        ReplicaStore::open(&folder.path().join("r"), VM).unwrap_err().code,
        "replica_in_use",
        "one process at a time"
    );
}

#[test]
fn sender_epochs_of_different_primary_clusters_are_not_compared() {
    let (folder, mut primary, mut store) = setup(&[200_000], 1);
    let specs = primary.specs();
    let of = |cluster: u8, sender| Epochs {
        cluster: Fingerprint([cluster; 32]),
        sender: SenderEpoch::from_number(sender),
        ..epochs()
    };
    store.admit(&of(0xa1, 900), &specs, &[]).unwrap();
    // The primary's cluster is made anew: its log begins again.
    let anew = of(0xb2, 5);
    store.admit(&anew, &specs, &[]).unwrap();
    let (set, extents) = primary.next_set(store.standing().newest);
    assert_eq!(store.begin(&of(0xa1, 900), &set).unwrap_err().code, "not_admitted", "the session before has ended");
    store.begin(&anew, &set).unwrap();
    for extent in &extents {
        store.append(&anew, extent).unwrap();
    }
    store.finish(&anew, extents.len() as u64).unwrap();
    store.commit().unwrap();
    check_points(&store, &primary.history);
    // Within each cluster the higher epoch has been seen, whatever came between, and after a restart.
    drop(store);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    for stale in [of(0xa1, 899), of(0xb2, 4)] {
        assert_eq!(store.admit(&stale, &specs, &[]).unwrap_err().code, "stale_sender", "{stale:?}");
    }
    store.admit(&of(0xa1, 900), &specs, &[]).unwrap();
    // What is remembered has a bound, and the present cluster stays in it.
    for cluster in 0..20 {
        store.admit(&of(cluster, 7), &specs, &[]).unwrap();
        assert_eq!(store.admit(&of(cluster, 6), &specs, &[]).unwrap_err().code, "stale_sender");
    }
    assert_eq!(store.manifest().senders.len(), 8);
}

#[test]
fn a_set_that_does_not_fit_is_refused_and_changes_nothing() {
    let (_folder, mut primary, mut store) = setup(&[200_000], 2);
    let newest = store.standing().newest;
    primary.write();
    primary.disks[0].1[0] ^= 1;
    let (set, extents) = primary.next_set(newest);
    let base = newest.unwrap();
    let refused = |store: &mut ReplicaStore, change: &dyn Fn(&mut landfall_proto::message::data::ChangeSet)| {
        let mut bad = set.clone();
        change(&mut bad);
        store.begin(&epochs(), &bad).unwrap_err().code
    };
    let other = Tip { sequence: base.sequence, root: Root([1; 32]) };
    assert_eq!(refused(&mut store, &|bad| bad.base = Some(other)), "base_mismatch");
    assert_eq!(refused(&mut store, &|bad| bad.base = Some(Tip { sequence: 1, ..base })), "base_mismatch");
    assert_eq!(refused(&mut store, &|bad| bad.tip.sequence = base.sequence), "stale_sequence");
    assert_eq!(refused(&mut store, &|bad| bad.tip.root = Root([1; 32])), "bad_root");
    assert_eq!(refused(&mut store, &|bad| bad.resume_at = 4), "bad_resume");
    assert_eq!(refused(&mut store, &|bad| bad.disks.clear()), "invalid_value");
    assert_eq!(refused(&mut store, &|bad| bad.disks[0].0.bytes = 100), "disk_size");
    assert_eq!(store.append(&epochs(), &extents[0]).unwrap_err().code, "nothing_staged");

    store.begin(&epochs(), &set).unwrap();
    let beyond = Extent { disk: 0, offset: 200_704, content: Content::Zero(4096) };
    let foreign = Extent { disk: 1, offset: 0, content: Content::Zero(4096) };
    for bad in [beyond, foreign, extent::data(0, 1, vec![0; 4096])] {
        assert_eq!(store.append(&epochs(), &bad).unwrap_err().code, "bad_extent");
    }
    // One extent left out: the root does not come out, the set is dropped, the points stay.
    for extent in &extents[1..] {
        store.append(&epochs(), extent).unwrap();
    }
    assert_eq!(store.finish(&epochs(), extents.len() as u64).unwrap_err().code, "extents_missing");
    assert_eq!(store.finish(&epochs(), extents.len() as u64 - 1).unwrap_err().code, "root_mismatch");
    assert_eq!(store.commit().unwrap_err().code, "nothing_staged");
    assert_eq!(store.standing().staged, None);
    assert_eq!(listed(&store), [1, 2]);
    stage(&mut store, &set, &extents).unwrap();
    store.commit().unwrap();
    assert_eq!(store.begin(&epochs(), &set).unwrap(), Begun::Listed, "an answer got lost");
    check_points(&store, &primary.history);
}

#[test]
fn staging_goes_on_where_a_broken_session_left_it() {
    let (folder, mut primary, mut store) = setup(&[3_000_000], 1);
    for at in (0..3_000_000).step_by(40_000) {
        primary.disks[0].1[at] ^= 1;
    }
    let (mut set, extents) = primary.next_set(store.standing().newest);
    assert!(extents.len() > 50);
    store.begin(&epochs(), &set).unwrap();
    for extent in &extents[..30] {
        store.append(&epochs(), extent).unwrap();
    }
    drop(store);
    // A torn record at the end: as a power cut leaves it.
    let log = folder.path().join("r").join(layout::STAGED);
    let length = std::fs::metadata(&log).unwrap().len();
    std::fs::File::options().write(true).open(&log).unwrap().set_len(length - 5).unwrap();

    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    let standing = store.admit(&epochs(), &primary.specs(), &[]).unwrap();
    let staged = standing.staged.unwrap();
    assert_eq!((staged.tip, standing.staged_whole), (set.tip, false));
    assert_eq!(staged.extents, 29);
    set.resume_at = staged.extents;
    assert_eq!(store.begin(&epochs(), &set).unwrap(), Begun::Staging(29));
    assert_eq!(store.append(&epochs(), &extents[3]).unwrap_err().code, "bad_extent", "sent already");
    for extent in &extents[29..] {
        store.append(&epochs(), extent).unwrap();
    }
    store.finish(&epochs(), extents.len() as u64).unwrap();
    drop(store);

    // Staged whole: still there after a restart, not listed, neither lost nor replaced.
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    assert!(store.standing().staged_whole);
    assert_eq!(listed(&store), [1]);
    set.resume_at = 0;
    assert_eq!(store.begin(&epochs(), &set).unwrap(), Begun::Whole);
    let mut other = set.clone();
    other.taken_at.0 += 1;
    assert_eq!(store.begin(&epochs(), &other).unwrap_err().code, "staged_pending");
    store.finish(&epochs(), extents.len() as u64).unwrap();
    assert_eq!(store.commit().unwrap().sequence, 2);
    check_points(&store, &primary.history);

    primary.disks[0].1[9] ^= 1;
    let (set, extents) = primary.next_set(store.standing().newest);
    stage(&mut store, &set, &extents).unwrap();
    store.drop_staged().unwrap();
    assert_eq!(store.commit().unwrap_err().code, "nothing_staged");
    assert_eq!(listed(&store), [1, 2]);
}

#[test]
fn what_is_staged_whole_is_synced_with_its_name_before_that_is_answered() {
    let (_folder, mut primary, mut store) = setup(&[200_000], 1);
    primary.disks[0].1[0] ^= 1;
    let (set, extents) = primary.next_set(store.standing().newest);
    faults::fail_from(None, 0);
    stage(&mut store, &set, &extents).unwrap();
    let names = faults::names();
    let written = names.iter().position(|name| name == "write trailer").expect("the log ends");
    let after: Vec<&str> = names[written + 1..].iter().map(String::as_str).collect();
    assert!(after.ends_with(&["sync staged.log", "sync folder"]), "answered before it is on disk: {names:?}");
}

#[test]
fn first_content_is_no_point_until_it_is_verified_and_goes_on_by_comparing() {
    let (folder, mut primary, mut store) = setup(&[2_000_000, 300_000], 0);
    let specs = primary.specs();
    let standing = store.admit(&epochs(), &specs, &[]).unwrap();
    assert!(standing.newest.is_none() && !standing.comparable);
    let wanted = primary.compared(&mut store);
    let half = wanted.len() / 2;
    for extent in &wanted[..half] {
        store.fill(&epochs(), extent).unwrap();
    }
    assert!(store.points().is_empty());
    drop(store);

    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    let standing = store.admit(&epochs(), &specs, &[]).unwrap();
    assert!(standing.newest.is_none() && standing.comparable);
    let rest = primary.compared(&mut store);
    let bytes = |extents: &[Extent]| extents.iter().map(extent::length).sum::<u64>();
    assert_eq!(bytes(&rest), bytes(&wanted[half..]), "what was sent is not sent again");
    for extent in &rest {
        store.fill(&epochs(), extent).unwrap();
    }
    // The guest went on: what is left goes with the set.
    primary.disks[0].1[77_777] ^= 1;
    let extents = primary.compared(&mut store);
    assert_eq!(extents.len(), 1);
    let set = primary.set_with(None);
    store.begin(&epochs(), &set).unwrap();
    assert_eq!(store.finish(&epochs(), 0).unwrap_err().code, "root_mismatch");
    assert!(listed(&store).is_empty(), "never a fuzzy point");
    stage(&mut store, &set, &extents).unwrap();
    assert!(listed(&store).is_empty());
    store.commit().unwrap();
    check_points(&store, &primary.history);
    assert_eq!(store.fill(&epochs(), &extents[0]).unwrap_err().code, "not_filling");
}

#[test]
fn a_resync_over_a_chain_makes_an_overlay_and_keeps_the_points() {
    let (folder, mut primary, mut store) = setup(&[1_000_000], 3);
    drop(store);
    std::fs::remove_file(folder.path().join("r").join("vda.index")).unwrap();
    store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    primary.write();
    primary.disks[0].1[500_000] ^= 1;
    let extents = primary.compared(&mut store);
    let set = primary.set_with(None);
    store.admit(&epochs(), &primary.specs(), &[]).unwrap();
    stage(&mut store, &set, &extents).unwrap();
    store.commit().unwrap();
    assert_eq!(listed(&store), [1, 2, 3, 4]);
    check_points(&store, &primary.history);
}

#[test]
fn points_known_elsewhere_are_listed_as_unreachable_until_newer_ones_take_their_room() {
    let (_folder, mut primary, mut store) = setup(&[200_000], 3);
    let known: Vec<_> = store.points();
    let other = tempfile::tempdir().unwrap();
    let mut seeding = ReplicaStore::open(&other.path().join("r"), VM).unwrap();
    seeding.set_recovery_points(1).unwrap();
    seeding.admit(&epochs(), &primary.specs(), &known).unwrap();
    let states: Vec<_> = seeding.points().iter().map(|point| (point.sequence, point.state)).collect();
    assert_eq!(states, [(2, PointState::Unreachable), (3, PointState::Unreachable)]);
    for _ in 0..2 {
        primary.write();
        primary.disks[0].1[0] ^= 1;
        primary.replicate(&mut seeding).unwrap();
    }
    let states: Vec<_> = seeding.points().iter().map(|point| (point.sequence, point.state)).collect();
    assert_eq!(states, [(4, PointState::Listed), (5, PointState::Listed)]);
    // The holder that has them lists them as before.
    store.admit(&epochs(), &primary.specs(), &known).unwrap();
    assert!(store.points().iter().all(|point| point.state == PointState::Listed));
    assert!(exported(&store, 3).unwrap()[0] == primary.history[&3][0].1);
}

#[test]
fn points_of_an_earlier_sender_are_unreachable_when_their_holder_dies_under_the_next_one() {
    let (_folder, mut primary, mut store) = setup(&[200_000], 3);
    // The VM migrates: its new node knows what the holder's welcome tells, and makes one point.
    let mut record = Record::default();
    assert!(record.learn(&store.points()));
    primary.write();
    let point = primary.replicate(&mut store).unwrap();
    let tip = Tip { sequence: point.sequence, root: point.root };
    record.acknowledge(point, None, Known { tip, disks: Vec::new() });
    // The holder dies, and another node is filled.
    let other = tempfile::tempdir().unwrap();
    let mut seeding = ReplicaStore::open(&other.path().join("r"), VM).unwrap();
    seeding.set_recovery_points(3).unwrap();
    seeding.admit(&epochs(), &primary.specs(), &record.known()).unwrap();
    let states: Vec<_> = seeding.points().iter().map(|point| (point.sequence, point.state)).collect();
    assert_eq!(states, [1, 2, 3, 4].map(|sequence| (sequence, PointState::Unreachable)));
    assert_eq!(record.last(), 4, "the next point gets a number of its own");
}

#[test]
fn older_points_of_its_own_do_not_hide_newer_ones_that_only_another_node_has() {
    let (_folder, mut primary, mut store) = setup(&[200_000], 2);
    let other = tempfile::tempdir().unwrap();
    let mut stale = ReplicaStore::open(&other.path().join("r"), VM).unwrap();
    stale.set_recovery_points(1).unwrap();
    stale.admit(&epochs(), &primary.specs(), &[]).unwrap();
    primary.replicate(&mut stale).unwrap();
    let have = stale.points().len();
    for _ in 0..2 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    stale.admit(&epochs(), &primary.specs(), &store.points()).unwrap();
    let newer: Vec<_> = stale.points().into_iter().skip(have).map(|point| point.state).collect();
    assert_eq!(newer, [PointState::Unreachable, PointState::Unreachable], "{:?}", stale.points());
}

#[test]
fn a_lost_or_foreign_manifest_is_refused_and_nothing_is_removed() {
    let (folder, primary, store) = setup(&[200_000], 2);
    drop(store);
    let (replica, kept) = (folder.path().join("r"), folder.path().join("kept"));
    std::fs::rename(replica.join("manifest"), &kept).unwrap();
    assert_eq!(ReplicaStore::open(&replica, VM).unwrap_err().code, "bad_manifest");
    std::fs::write(replica.join("manifest"), b"landfall-replica 1 x\n{}").unwrap();
    assert_eq!(ReplicaStore::open(&replica, VM).unwrap_err().code, "bad_manifest");
    std::fs::rename(&kept, replica.join("manifest")).unwrap();
    let other = landfall_proto::id::VmId(uuid::Uuid::from_u128(1));
    assert_eq!(ReplicaStore::open(&replica, other).unwrap_err().code, "bad_manifest");
    check_points(&ReplicaStore::open(&replica, VM).unwrap(), &primary.history);
}

#[test]
fn a_damaged_log_of_a_commit_under_way_is_never_listed_nor_replaced() {
    for at in [20_u64, 140_000, 131_100] {
        let (folder, mut primary, mut store) = setup(&[500_000], 1);
        primary.disks[0].1[..40_000].fill(7);
        let (set, extents) = primary.next_set(store.standing().newest);
        stage(&mut store, &set, &extents).unwrap();
        drop(store);
        // As a crash right after the first step of a commit leaves it, and then a bit flips.
        let replica = folder.path().join("r");
        let mut log = std::fs::read(replica.join(layout::STAGED)).unwrap();
        log[at as usize] ^= 1;
        std::fs::write(replica.join(layout::APPLYING), log).unwrap();
        std::fs::remove_file(replica.join(layout::STAGED)).unwrap();
        let mut store = ReplicaStore::open(&replica, VM).unwrap();
        assert!(store.fault().is_some(), "byte {at}");
        assert_eq!(listed(&store), [1]);
        assert!(store.begin(&epochs(), &set).is_err());
        assert!(replica.join(layout::APPLYING).exists());
        check_points(&store, &primary.history);
    }
}

#[test]
fn stores_readers_and_writers_can_be_moved_to_another_thread() {
    fn movable<T: Send + 'static>() {}
    movable::<ReplicaStore>();
    movable::<PinnedPoint>();
    movable::<CopySource>();
    movable::<Import>();
    movable::<crate::drive::image::Source>();
    movable::<crate::drive::image::HashIndex>();
    movable::<crate::drive::image::IndexWriter>();
    movable::<crate::drive::image::ChangeSetWriter>();
    movable::<crate::drive::image::ChangeSetReader>();
}

#[test]
fn a_replica_that_was_acknowledged_is_never_begun_anew_where_its_storage_is_not_mounted() {
    let (folder, primary, store) = setup(&[200_000], 2);
    drop(store);
    let (location, mounted) = (folder.path().join("location"), folder.path().join("mounted"));
    let replica = location.join("r");
    std::fs::create_dir(&mounted).unwrap();
    std::fs::rename(folder.path().join("r"), mounted.join("r")).unwrap();
    let refused = |what: &str| {
        let refusal = ReplicaStore::open_acknowledged(&replica, VM, Arc::new(Nothing)).unwrap_err();
        assert_eq!(refusal.code, "replica_missing", "{what}");
        assert!(refusal.message.contains(&*replica.to_string_lossy()), "{refusal}");
    };
    refused("without the location");
    assert!(!location.exists());
    std::fs::create_dir(&location).unwrap();
    refused("at an empty mount point");
    assert_eq!(std::fs::read_dir(&location).unwrap().count(), 0, "nothing was made there");
    // What a placement left there before anything was acknowledged is no replica either.
    let mut left = ReplicaStore::open(&replica, VM).unwrap();
    left.admit(&epochs(), &primary.specs(), &[]).unwrap();
    drop(left);
    refused("over what was left");
    std::fs::remove_dir_all(&location).unwrap();
    assert!(ReplicaStore::open(&replica, VM).is_err(), "a location that is not there is not made");
    std::fs::rename(&mounted, &location).unwrap();
    check_points(&ReplicaStore::open_acknowledged(&replica, VM, Arc::new(Nothing)).unwrap(), &primary.history);
}

#[test]
fn a_replica_whose_first_point_is_only_staged_is_not_missing() {
    let (folder, mut primary, mut store) = setup(&[200_000], 0);
    primary.write();
    store.admit(&epochs(), &primary.specs(), &[]).unwrap();
    let extents = primary.compared(&mut store);
    let set = primary.set_with(None);
    stage(&mut store, &set, &extents).unwrap();
    drop(store);
    let mut store = ReplicaStore::open_acknowledged(&folder.path().join("r"), VM, Arc::new(Nothing)).unwrap();
    store.commit().unwrap();
}

#[test]
fn disks_that_are_written_at_once_make_the_same_points() {
    let (_folder, mut primary, mut store) = setup(&[300_000, 65_536, 90_001, 200_000, 70_000], 0);
    store.set_disks_at_once(3);
    for _ in 0..6 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    assert_eq!(listed(&store).len(), 4);
    check_points(&store, &primary.history);
}
