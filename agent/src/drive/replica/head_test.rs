//! Points with change sets between them that are no points: what is listed, what it restores to, and how many files it
//! takes.

use std::sync::Arc;

use super::pins::Wants;
use super::test_primary::{Primary, VM, check_points, listed};
use super::*;
use crate::drive::image::test_disk::random_bytes;

fn depth(store: &ReplicaStore) -> usize {
    let newest = store.manifest().newest().unwrap();
    let layout = layout::Layout::new(store.folder());
    newest.disks.iter().map(|disk| chain::chain(&layout, &disk.file).unwrap().len()).max().unwrap()
}

fn expected(now: u64, every: u64, keep: u64) -> Vec<u64> {
    let older: Vec<u64> = (1..now).filter(|number| number % every == 0).collect();
    older.iter().copied().skip(older.len().saturating_sub(keep as usize)).chain([now]).collect()
}

#[test]
fn the_newest_is_listed_with_the_ones_that_stay_and_what_is_between_is_folded() {
    let folder = tempfile::tempdir().unwrap();
    let long = std::env::var_os("LANDFALL_LONG").is_some();
    for (keep, every, rounds) in [(2, 40, if long { 400 } else { 130 }), (3, 5, 40), (0, 4, 12)] {
        let mut primary = Primary::new(&folder.path().join("scratch"), &[1_500_000, 100_001], every);
        primary.every = every;
        let mut store = ReplicaStore::open(&folder.path().join(every.to_string()), VM).unwrap();
        store.set_recovery_points(keep).unwrap();
        let (mut deepest, mut sent) = (0, 0);
        for now in 1..=rounds {
            primary.write();
            primary.replicate(&mut store).unwrap();
            assert!(store.fault().is_none(), "{:?}", store.fault());
            assert_eq!(listed(&store), expected(now, every, keep.into()));
            deepest = deepest.max(depth(&store));
            let head = store.manifest().newest().unwrap().bytes;
            assert!(now % every == 1 || now == 1 || head >= sent, "the bytes of what is between are the head's");
            sent = head;
            if now % 17 == 0 || now == rounds {
                check_points(&store, &primary.history);
            }
        }
        // One base, the points, and what is between the last two.
        assert!(deepest <= usize::from(keep) + 2 + 16, "{deepest} files deep");
        chain_test::check_with_qemu(&store);
        let files = store::list(&layout::Layout::new(store.folder())).unwrap();
        assert!(files.len() < 4 * (usize::from(keep) + 2 + 16), "{files:?}");
        drop(store);
        check_points(&ReplicaStore::open(&folder.path().join(every.to_string()), VM).unwrap(), &primary.history);
    }
}

#[test]
fn a_head_that_is_read_stays_as_it_is_until_the_reader_has_done() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_500_000], 8);
    primary.every = 100;
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(2).unwrap();
    let grow = |primary: &mut Primary, store: &mut ReplicaStore, count: u64| {
        for _ in 0..count {
            let at = (primary.sequence as usize % 20) * 65_536;
            primary.disks[0].1[at..at + 4096].copy_from_slice(&random_bytes(4096, primary.sequence));
            primary.replicate(store).unwrap();
        }
    };
    grow(&mut primary, &mut store, 7);
    let pinned = store.pin(None).unwrap();
    let layout = layout::Layout::new(store.folder());
    let files = chain::chain(&layout, &pinned.entry().disks[0].file).unwrap();
    let state = || -> Vec<_> {
        use std::os::unix::fs::MetadataExt;
        let meta = |name: &String| std::fs::metadata(layout.path(name)).unwrap();
        files.iter().map(|name| (meta(name).ino(), meta(name).mtime_nsec(), meta(name).len())).collect()
    };
    let before = state();
    grow(&mut primary, &mut store, 30);
    assert_eq!(listed(&store), [7, 37], "what is read stays listed");
    assert_eq!(state(), before, "none of its files is touched");
    assert!(depth(&store) <= files.len() + 8, "what came since is folded");
    check_points(&store, &primary.history);
    let to = folder.path().join("out");
    let raw = pinned.export(&to, &mut |_| Ok(())).unwrap();
    assert!(std::fs::read(&raw.files[0]).unwrap() == primary.history[&7][0].1);
    drop(pinned);
    grow(&mut primary, &mut store, 6);
    assert_eq!(listed(&store), [43]);
    assert!(depth(&store) <= 16, "{}", depth(&store));
    check_points(&store, &primary.history);
}

#[test]
fn a_disk_that_grows_between_two_points_is_folded_with_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[300_001], 9);
    primary.every = 9;
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(1).unwrap();
    for round in 0..30_usize {
        let size = primary.disks[0].1.len();
        primary.disks[0].1.resize(size + [0, 5000, 0, 70_001][round % 4], 0xa5);
        primary.write();
        primary.replicate(&mut store).unwrap();
        check_points(&store, &primary.history);
    }
    assert_eq!(listed(&store), [27, 30]);
    chain_test::check_with_qemu(&store);
}

/// Somebody who has said which point is to be read, and has not begun.
#[derive(Debug)]
struct Wanted(u64);

impl Wants for Wanted {
    fn wants(&self, sequence: u64) -> bool {
        sequence == self.0
    }
}

#[test]
fn a_point_that_somebody_will_read_stays_also_over_a_restart_and_goes_when_nobody_will() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[300_001], 4);
    primary.every = 100;
    let path = folder.path().join("r");
    let wanted = || ReplicaStore::open_wanted(&path, VM, Arc::new(Wanted(2))).unwrap();
    let grow = |primary: &mut Primary, mut store: ReplicaStore| {
        for _ in 0..4 {
            primary.write();
            primary.replicate(&mut store).unwrap();
        }
        check_points(&store, &primary.history);
        listed(&store)
    };
    let mut store = wanted();
    store.set_recovery_points(0).unwrap();
    assert_eq!(grow(&mut primary, store), [2, 4]);
    assert_eq!(grow(&mut primary, wanted()), [2, 8]);
    assert_eq!(grow(&mut primary, ReplicaStore::open(&path, VM).unwrap()), [12]);
}
