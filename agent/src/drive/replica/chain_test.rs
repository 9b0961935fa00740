//! Chains of points, read back by this program and by qemu-img.

use std::path::Path;
use std::process::Command;

use landfall_proto::message::data::CopyListing;

use super::test_primary::{Primary, VM, check_points, epochs, exported, listed, stage};
use super::*;
use crate::drive::image::durable::TEMPORARY;
use crate::drive::image::source::Readable;
use crate::drive::image::test_disk::{random_bytes, with_qemu_img};

fn qemu(qemu_img: &Path, args: &[&str]) {
    let output = Command::new(qemu_img).args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "qemu-img {args:?}: {text}");
    assert!(!text.contains("leaked") && !text.contains("ERROR"), "qemu-img {args:?}: {text}");
}

/// Every listed point as qemu-img sees it: clean, and the same as what this program exports.
pub(super) fn check_with_qemu(store: &ReplicaStore) {
    with_qemu_img("chains of points", |qemu_img| {
        for point in &store.manifest().points {
            let folder = tempfile::tempdir().unwrap();
            let pinned = store.pin(Some(point.sequence)).unwrap();
            let report = pinned.export(folder.path(), &mut |_| Ok(())).unwrap();
            for (disk, raw) in point.disks.iter().zip(&report.files) {
                let image = pinned.disk_file(&disk.target).unwrap();
                let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
                qemu(qemu_img, &["check", "-f", "qcow2", image]);
                qemu(qemu_img, &["compare", "-f", "qcow2", "-F", "raw", image, raw]);
            }
        }
    });
}

fn no_leftovers(store: &ReplicaStore) {
    let points = &store.manifest().points;
    let mut wanted: Vec<String> = points
        .iter()
        .flat_map(|point| &point.disks)
        .flat_map(|disk| [disk.file.clone(), disk.leaves.clone(), layout::index_name(&disk.target)])
        .chain(["manifest", "lock", "proofs"].map(str::to_owned))
        .collect();
    wanted.sort();
    wanted.dedup();
    let mut found = store::list(&layout::Layout::new(store.folder())).unwrap();
    found.sort();
    // An index that was not known to be right is made when it is needed.
    wanted.retain(|name| !name.ends_with(".index") || found.contains(name));
    assert_eq!(found, wanted);
}

#[test]
fn chains_of_points_restore_byte_for_byte_while_retention_moves_on() {
    let folder = tempfile::tempdir().unwrap();
    for (round, keep) in [(1, 5), (2, 0), (3, 2)] {
        let mut primary = Primary::new(&folder.path().join("scratch"), &[2_500_000, 100_001, 65_536], round);
        let mut store = ReplicaStore::open(&folder.path().join(round.to_string()), VM).unwrap();
        store.set_recovery_points(keep).unwrap();
        for cycle in 1..=9_u64 {
            primary.write();
            let point = primary.replicate(&mut store).unwrap();
            assert_eq!(point.sequence, cycle);
            assert!(store.fault().is_none());
            let expected: Vec<u64> = (cycle.saturating_sub(u64::from(keep)).max(1)..=cycle).collect();
            assert_eq!(listed(&store), expected);
            no_leftovers(&store);
            if cycle % 3 == 0 {
                check_points(&store, &primary.history);
                check_with_qemu(&store);
            }
        }
        store.set_recovery_points(0).unwrap();
        assert_eq!(listed(&store), [9]);
        check_points(&store, &primary.history);
        check_with_qemu(&store);
        no_leftovers(&store);
    }
}

#[test]
fn the_root_of_a_disk_is_what_b3sum_prints_for_its_export() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[300_000], 1);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    primary.replicate(&mut store).unwrap();
    let raw = exported(&store, 1).unwrap();
    assert_eq!(store.manifest().points[0].disks[0].root.0, *blake3::hash(&raw[0]).as_bytes());
}

#[test]
fn an_overlay_takes_the_blocks_that_changed_and_little_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[4 << 20], 8);
    primary.disks[0].1.copy_from_slice(&random_bytes(4 << 20, 1));
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(2).unwrap();
    primary.replicate(&mut store).unwrap();
    for leaf in 0..64 {
        primary.disks[0].1[leaf * 65_536 + leaf % 16 * 4096] ^= 1;
    }
    primary.replicate(&mut store).unwrap();
    let head = folder.path().join("r").join(&store.manifest().points[1].disks[0].file);
    let bytes = std::fs::metadata(head).unwrap().len();
    assert!(bytes <= 64 * 4096 + 16 * 4096, "64 blocks and some tables: {bytes} bytes");
    check_points(&store, &primary.history);
    check_with_qemu(&store);
}

/// Of more than 4 GiB, so that the table of its reference counts has to grow and to move: long form only.
#[test]
fn a_large_overlay_is_whole() {
    if std::env::var_os("LANDFALL_LONG").is_none() {
        return;
    }
    const BYTES: u64 = 5 << 30;
    let folder = tempfile::tempdir().unwrap();
    let layout = layout::Layout::new(folder.path());
    chain::create_base(&layout.path("base"), BYTES).unwrap();
    let overlay = chain::Overlay::create(&layout, "overlay", "base", BYTES).unwrap();
    let mut piece = random_bytes(1 << 20, 3);
    for at in (0..BYTES).step_by(1 << 20) {
        piece[..8].copy_from_slice(&at.to_le_bytes());
        overlay.write(at, &piece).unwrap();
    }
    overlay.finish().unwrap();
    let disk = chain::PointDisk::open(&layout, "overlay", BYTES).unwrap();
    let mut read = vec![0; 1 << 20];
    for at in (0..BYTES).step_by(1 << 20) {
        piece[..8].copy_from_slice(&at.to_le_bytes());
        disk.read_at(at, &mut read).unwrap();
        assert!(read == piece, "at {at}");
    }
    let path = layout.path("overlay");
    with_qemu_img("a large overlay", |qemu_img| qemu(qemu_img, &["check", "-f", "qcow2", path.to_str().unwrap()]));
}

#[test]
fn an_unchanged_disk_shares_its_file_and_an_added_one_gets_a_base() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[500_000, 200_000], 4);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(3).unwrap();
    primary.replicate(&mut store).unwrap();
    primary.disks[0].1[5] ^= 1;
    primary.replicate(&mut store).unwrap();
    let points = &store.manifest().points;
    assert_eq!(points[0].disks[1], points[1].disks[1]);
    assert_ne!(points[0].disks[0].file, points[1].disks[0].file);
    // Nothing changed at all: still a point.
    primary.replicate(&mut store).unwrap();
    primary.disks.push(("vdz".parse().unwrap(), random_bytes(150_000, 9)));
    primary.replicate(&mut store).unwrap();
    primary.write();
    primary.replicate(&mut store).unwrap();
    check_points(&store, &primary.history);
    check_with_qemu(&store);
    primary.disks.remove(1);
    for _ in 0..4 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    assert_eq!(store.manifest().points.len(), 4);
    check_points(&store, &primary.history);
    check_with_qemu(&store);
    no_leftovers(&store);
}

#[test]
fn a_grown_disk_keeps_its_older_points_and_its_base_follows_when_they_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[400_001], 5);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(2).unwrap();
    for size in [400_001, 400_001, 700_000, 700_000, 1_300_000, 1_300_007, 1_300_007, 1_300_007, 1_300_007] {
        primary.disks[0].1.resize(size, 0);
        primary.write();
        primary.replicate(&mut store).unwrap();
        check_points(&store, &primary.history);
        check_with_qemu(&store);
        no_leftovers(&store);
    }
    primary.disks[0].1.truncate(1_000_000);
    let refusal = primary.replicate(&mut store).unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.field.as_deref()), ("shrunk", Some("disk.bytes")));
    check_points(&store, &primary.history);
}

#[test]
fn a_pinned_point_stays_and_what_is_newer_waits_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[500_000], 6);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(1).unwrap();
    for _ in 0..2 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    let pinned = store.pin(Some(1)).unwrap();
    for _ in 0..3 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    assert_eq!(listed(&store), [1, 2, 3, 4, 5]);
    pinned.verify(&mut |_| Ok(())).unwrap();
    let other = store.pin(Some(4)).unwrap();
    drop(pinned);
    primary.write();
    primary.replicate(&mut store).unwrap();
    assert_eq!(listed(&store), [4, 5, 6]);
    other.verify(&mut |_| Ok(())).unwrap();
    check_points(&store, &primary.history);
    assert_eq!(store.pin(Some(1)).unwrap_err().code, "not_found");
    drop(other);
    store.set_recovery_points(1).unwrap();
    assert_eq!(listed(&store), [5, 6]);
    let pinned = store.pin(None).unwrap();
    let elsewhere = folder.path().join("r");
    let refusal = store.destroy().unwrap_err();
    assert_eq!(refusal.code, "point_in_use");
    drop(pinned);
    ReplicaStore::open(&elsewhere, VM).unwrap().destroy().unwrap();
    assert!(!elsewhere.exists());
}

#[test]
fn the_folder_can_be_moved() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[500_000], 6);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(3).unwrap();
    for _ in 0..3 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    drop(store);
    std::fs::rename(folder.path().join("r"), folder.path().join("moved")).unwrap();
    let store = ReplicaStore::open(&folder.path().join("moved"), VM).unwrap();
    check_points(&store, &primary.history);
    check_with_qemu(&store);
}

#[test]
fn a_listed_points_files_are_read_only_and_nothing_is_exported_over_a_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[500_000], 6);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    for _ in 0..4 {
        primary.write();
        primary.replicate(&mut store).unwrap();
        for disk in &store.manifest().points[0].disks {
            let mode = std::fs::metadata(store.folder().join(&disk.file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o444);
        }
    }
    let out = folder.path().join("out");
    store.pin(None).unwrap().export(&out, &mut |_| Ok(())).unwrap();
    assert_eq!(store.pin(None).unwrap().export(&out, &mut |_| Ok(())).unwrap_err().code, "file_exists");
}

#[test]
fn damage_is_named_by_point_disk_and_range_and_repaired_by_comparing() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_000_000], 8);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(2).unwrap();
    for _ in 0..3 {
        primary.disks[0].1[900_000] ^= 1;
        primary.replicate(&mut store).unwrap();
    }
    // One byte of guest data in the base, which all three points show.
    let (base, wanted) = (store.folder().join(&store.manifest().points[0].disks[0].file), &primary.disks[0].1);
    let bytes = std::fs::read(&base).unwrap();
    let at = bytes.windows(64).position(|window| window == &wanted[131_100..131_164]).unwrap();
    std::fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::File::options().write(true).open(&base).unwrap().write_all_at(&[!bytes[at]], at as u64).unwrap();

    let out = folder.path().join("out");
    let refusal = store.pin(Some(3)).unwrap().export(&out, &mut |_| Ok(())).unwrap_err();
    assert_eq!(refusal.code, "damaged");
    for word in ["point 3", "vda", "131072", "196608"] {
        assert!(refusal.message.contains(word), "{refusal}");
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "not even half a result");

    assert_eq!(store.verify_newest().unwrap_err().code, "damaged");
    let standing = store.standing();
    assert!(standing.newest.is_none() && standing.comparable);
    drop(store);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    assert!(store.standing().newest.is_none(), "remembered");
    let extents = primary.compared(&mut store);
    assert_eq!(extents.len(), 1, "the damaged block alone");
    let set = primary.set_with(None);
    store.admit(&epochs(), &primary.specs(), &[]).unwrap();
    stage(&mut store, &set, &extents).unwrap();
    store.commit().unwrap();
    assert_eq!(store.standing().newest, Some(set.tip));
    assert!(exported(&store, 4).unwrap()[0] == primary.disks[0].1);
    assert_eq!(exported(&store, 3).unwrap_err().code, "damaged");
    for _ in 0..3 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    check_points(&store, &primary.history);
}

#[test]
fn lost_leaves_cost_nothing_and_a_lost_overlay_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_000_000], 9);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(2).unwrap();
    for _ in 0..3 {
        primary.disks[0].1[900_000] ^= 1;
        primary.replicate(&mut store).unwrap();
    }
    let disk = store.manifest().points[1].disks[0].clone();
    std::fs::remove_file(store.folder().join(&disk.leaves)).unwrap();
    std::fs::remove_file(store.folder().join("vda.index")).unwrap();
    check_points(&store, &primary.history);
    primary.disks[0].1[1] ^= 1;
    primary.replicate(&mut store).unwrap();
    check_points(&store, &primary.history);
    drop(store);
    std::fs::remove_file(folder.path().join("r").join(&disk.file)).unwrap();
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    assert!(store.fault().is_some());
    assert_eq!(primary.replicate(&mut store).unwrap_err().code, "missing_file", "said before anything is sent");
    assert_eq!(exported(&store, 2).unwrap_err().code, "damaged");
    assert_eq!(exported(&store, 4).unwrap_err().code, "damaged");
}

#[test]
fn a_replica_is_copied_whole_and_a_damaged_piece_never_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[2_000_000, 100_000], 10);
    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(3).unwrap();
    for _ in 0..5 {
        primary.write();
        primary.replicate(&mut store).unwrap();
    }
    let target = folder.path().join("there").join("replica");
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    let mut source = store.copy_source(true).unwrap();
    let specs = primary.specs();
    let (set, extents) = primary.next_set(store.standing().newest);
    assert_eq!(stage(&mut store, &set, &extents).unwrap_err().code, "frozen");
    let total: u64 = source.files().iter().map(|(_, size)| size).sum();

    for damage in [Some(3_u64), None, None] {
        let mut import = Import::begin(&target, VM, source.listing().clone()).unwrap();
        let mut pieces = 0;
        while let Some(step) = import.next_step() {
            let mut piece = source.read(&step.file, step.offset, step.length).unwrap();
            if step.file.ends_with(".qcow2") {
                pieces += 1;
            }
            if damage == Some(pieces) && piece.len() > 70_000 {
                piece[69_000] ^= 1;
            }
            import.feed(&piece).unwrap();
        }
        assert!(import.received() < total, "holes are not sent");
        match (damage, import.finish()) {
            (Some(_), Err(refusal)) => {
                assert!(!target.exists(), "{refusal}");
            }
            (None, Ok(damaged)) => {
                assert!(damaged.is_empty(), "{damaged:?}");
                let copy = ReplicaStore::open(&target, VM).unwrap();
                assert_eq!(copy.manifest(), store.manifest());
                check_points(&copy, &primary.history);
                check_with_qemu(&copy);
                let leftovers = std::fs::read_dir(target.parent().unwrap()).unwrap().count();
                assert_eq!(leftovers, 1);
            }
            (damage, done) => panic!("{damage:?}: {done:?}"),
        }
    }
    assert_eq!(source.read("../../etc/passwd", 0, 10).unwrap_err().code, "not_found");
    assert!(source.read("manifest", 0, 1 << 20).is_err());
    drop(source);
    stage(&mut store, &set, &extents).unwrap();
    assert!(store.copy_source(true).is_err(), "staged and maybe acknowledged: not handed over without it");
    store.commit().unwrap();
    assert_eq!(specs.len(), 2);
    for (files, why) in [
        (vec![("../x".to_owned(), 1), ("manifest".to_owned(), 1)], "a name that leaves the folder"),
        (vec![("a".to_owned(), 1)], "no manifest"),
        (vec![("manifest".to_owned(), u64::MAX)], "a size without bound"),
    ] {
        let listing = CopyListing { files, damaged: Vec::new() };
        assert_eq!(Import::begin(&target, VM, listing).unwrap_err().code, "bad_copy", "{why}");
    }
    let listing = CopyListing { files: vec![("manifest".to_owned(), 1)], damaged: vec![7; 1000] };
    assert_eq!(Import::begin(&target, VM, listing).unwrap_err().code, "bad_copy", "more points than any replica has");
    assert!(!TEMPORARY.is_empty());
}
