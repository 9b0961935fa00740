//! Damage in a replica's files: found, named for each point that shows it, and repaired out of a second copy.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use landfall_proto::Refusal;
use landfall_proto::id::UnixMillis;
use landfall_proto::message::control::PointState;

use super::repair::{Fetched, LeafSource, WantedLeaf};
use super::test_primary::{Primary, VM, check_points, epochs, exported, listed};
use super::*;
use crate::drive::image::durable;
use crate::drive::image::test_disk::random_bytes;

/// Two copies of one replica with four points, each of which changes a leaf of its own.
struct Pair {
    folder: tempfile::TempDir,
    primary: Primary,
    one: ReplicaStore,
    two: ReplicaStore,
}

fn pair() -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_000_000, 100_001], 21);
    primary.disks[0].1.copy_from_slice(&random_bytes(1_000_000, 3));
    let open = |name: &str| {
        let mut store = ReplicaStore::open(&folder.path().join(name), VM).unwrap();
        store.set_recovery_points(5).unwrap();
        store
    };
    let (mut one, mut two) = (open("one"), open("two"));
    for round in 0..4_usize {
        primary.disks[0].1[round * 65_536..][..4096].copy_from_slice(&random_bytes(4096, round as u64));
        primary.replicate(&mut one).unwrap();
        primary.sequence -= 1;
        primary.replicate(&mut two).unwrap();
    }
    assert_eq!(
        one.manifest().points.iter().map(|point| point.root).collect::<Vec<_>>(),
        two.manifest().points.iter().map(|point| point.root).collect::<Vec<_>>()
    );
    Pair { folder, primary, one, two }
}

/// Flips a bit of the bytes that the disk has at `offset`, in the file `name`.
fn flip(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(content.len()).position(|window| window == content).unwrap();
    durable::set_read_only(&path, false).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[content[0] ^ 4], at as u64).unwrap();
    durable::set_read_only(&path, true).unwrap();
}

fn examine(store: &mut ReplicaStore, sequence: u64) -> Vec<u64> {
    let pinned = store.pin(Some(sequence)).unwrap();
    let damage = pinned.examine(&mut |_| Ok(())).unwrap();
    let entry = pinned.entry().clone();
    drop(pinned);
    store.take_examined(&entry, UnixMillis(99), &damage).unwrap()
}

fn states(store: &ReplicaStore) -> Vec<(u64, PointState)> {
    store.points().iter().map(|point| (point.sequence, point.state)).collect()
}

/// Another copy that does not have what belongs there.
struct Liar;

impl LeafSource for Liar {
    fn leaf(&mut self, wanted: &WantedLeaf) -> Result<Vec<u8>, Refusal> {
        Ok(vec![7; wanted.length as usize])
    }
}

/// Another copy of the replica.
struct Other<'a>(&'a mut ReplicaStore);

impl LeafSource for Other<'_> {
    fn leaf(&mut self, wanted: &WantedLeaf) -> Result<Vec<u8>, Refusal> {
        self.0.pin(Some(wanted.point.sequence))?.read_leaf(&wanted.disk, wanted.offset, wanted.length as u32)
    }
}

#[test]
fn a_point_that_is_whole_is_proven_and_says_when() {
    let Pair { folder, mut one, .. } = pair();
    assert_eq!(examine(&mut one, 2), Vec::<u64>::new());
    let verified = |store: &ReplicaStore| -> Vec<_> {
        store.points().iter().map(|point| point.verified_at.map(|at| at.0)).collect()
    };
    assert_eq!(verified(&one), [None, Some(99), None, None]);
    drop(one);
    assert_eq!(verified(&ReplicaStore::open(&folder.path().join("one"), VM).unwrap()), [None, Some(99), None, None]);
}

#[test]
fn a_flipped_bit_damages_the_points_that_show_it_and_no_others_and_is_repaired_from_another_copy() {
    let Pair { folder, primary, mut one, mut two } = pair();
    let path = folder.path().join("one");
    // In the base, in what point 3 covers: points 1 and 2 show it.
    let base = one.manifest().points[0].disks[0].file.clone();
    flip(&path, &base, &primary.history[&1][0].1[2 * 65_536 + 100..][..64]);
    assert_eq!(examine(&mut one, 4), Vec::<u64>::new(), "what point 4 shows is whole");
    assert_eq!(examine(&mut one, 2), [1, 2]);
    assert_eq!(
        states(&one),
        [(1, PointState::Damaged), (2, PointState::Damaged), (3, PointState::Listed), (4, PointState::Listed)]
    );
    let told = one.damage().unwrap();
    assert!(told.contains("point 2 is damaged: disk vda, bytes 131072 to 196608"), "{told}");
    assert_eq!(exported(&one, 2).unwrap_err().code, "damaged");
    // In the overlay of point 2, in what nothing covers: points 2, 3 and 4, the head among them.
    let overlay = one.manifest().points[1].disks[0].file.clone();
    flip(&path, &overlay, &primary.history[&2][0].1[65_536 + 200..][..64]);
    assert_eq!(examine(&mut one, 3), [2, 3, 4]);
    assert!(one.manifest().doubted, "a damaged head is compared");
    drop(one);
    let mut one = ReplicaStore::open(&path, VM).unwrap();
    assert_eq!(states(&one).iter().filter(|(_, state)| *state == PointState::Damaged).count(), 4);

    // What does not have its hash is not believed.
    let known = one.known_damage();
    assert_eq!(one.repair(&known, &mut Liar).unwrap(), 0);
    assert!(one.damage().is_some());

    let pinned = one.pin(None).unwrap();
    assert_eq!(one.repair(&known, &mut Other(&mut two)).unwrap_err().code, "point_in_use");
    drop(pinned);
    // As it is done over the network: what is wanted is asked for first, and believed by its hash alone.
    let (wanted, mut fetched) = (one.wanted(&known, 10).unwrap(), Fetched::default());
    assert_eq!((wanted.len(), one.wanted(&known, 1).unwrap().len()), (2, 1));
    for leaf in &wanted {
        assert!(!fetched.take(leaf, &vec![7; leaf.length as usize]) && !fetched.has(leaf));
        assert!(fetched.take(leaf, &Other(&mut two).leaf(leaf).unwrap()) && fetched.has(leaf));
    }
    assert_eq!(one.repair(&known, &mut fetched).unwrap(), 2);
    assert_eq!((one.damage(), one.manifest().doubted), (None, false));
    check_points(&one, &primary.history);
    chain_test::check_with_qemu(&one);
    for sequence in 1..=4 {
        assert_eq!(examine(&mut one, sequence), Vec::<u64>::new());
    }
}

/// Writes `bytes` at `offset` of the file `name`, whose date stays.
fn overwrite(folder: &Path, name: &str, offset: u64, bytes: &[u8]) {
    let path = folder.join(name);
    durable::set_read_only(&path, false).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let date = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.set_modified(date).unwrap();
    durable::set_read_only(&path, true).unwrap();
}

#[test]
fn an_overlay_that_cannot_be_opened_is_made_anew_out_of_another_copy_and_nothing_is_lost_without_one() {
    let Pair { folder, mut primary, mut one, mut two } = pair();
    let path = folder.path().join("one");
    let broken = one.manifest().points[1].disks[0].file.clone();
    overwrite(&path, &broken, 0, b"junk");
    assert!(chain::is_damage(&primary.replicate(&mut one).unwrap_err()));
    primary.sequence -= 1;
    assert_eq!(one.suspects(), [1, 2, 3, 4], "nothing can be built upon it: the points are read back at once");
    assert_eq!(examine(&mut one, 4), [2, 3, 4]);
    let (known, before) = (one.known_damage(), std::fs::read(path.join(&broken)).unwrap());
    assert_eq!(one.repair(&known, &mut Liar).unwrap(), 0);
    assert_eq!(std::fs::read(path.join(&broken)).unwrap(), before, "without another copy it stays as it is");
    // As over the network: a few leaves at a time.
    let mut rounds = 0;
    while one.damage().is_some() {
        let mut fetched = Fetched::default();
        for leaf in one.wanted(&known, 2).unwrap() {
            assert!(fetched.take(&leaf, &Other(&mut two).leaf(&leaf).unwrap()));
        }
        one.repair(&known, &mut fetched).unwrap();
        rounds += 1;
        assert!(rounds < 20, "{:?}", one.damage());
    }
    assert!(!one.manifest().doubted);
    primary.write();
    primary.replicate(&mut one).unwrap();
    check_points(&one, &primary.history);
    chain_test::check_with_qemu(&one);
    for sequence in 1..=5 {
        assert_eq!(examine(&mut one, sequence), Vec::<u64>::new());
    }
}

#[test]
fn what_a_damaged_table_has_lost_is_repaired_where_it_was_and_no_older_point_is_harmed() {
    let Pair { folder, primary, mut one, mut two } = pair();
    let path = folder.path().join("one");
    let overlay = one.manifest().points[2].disks[0].file.clone();
    let bytes = std::fs::read(path.join(&overlay)).unwrap();
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    // The entry of the third leaf's first block, which point 3 changed, in the first table of the second level.
    let entry = (number(number(40) as usize) & 0x00ff_ffff_ffff_fe00) + 2 * 16 * 8;
    assert_ne!(number(entry as usize), 0);
    overwrite(&path, &overlay, entry, &[0; 8]);
    assert_eq!(examine(&mut one, 3), [3, 4]);
    assert_eq!(one.repair(&one.known_damage(), &mut Other(&mut two)).unwrap(), 1);
    assert_eq!((one.damage(), one.manifest().doubted), (None, false));
    check_points(&one, &primary.history);
    chain_test::check_with_qemu(&one);
    for sequence in 1..=4 {
        assert_eq!(examine(&mut one, sequence), Vec::<u64>::new());
    }
}

#[test]
fn a_damaged_head_is_compared_with_its_primary_and_the_next_point_is_whole() {
    let Pair { folder, mut primary, mut one, .. } = pair();
    let head = one.manifest().points[3].disks[0].file.clone();
    flip(&folder.path().join("one"), &head, &primary.history[&4][0].1[3 * 65_536 + 100..][..64]);
    assert_eq!(examine(&mut one, 4), [4]);
    let standing = one.admit(&epochs(), &primary.specs(), &[]).unwrap();
    assert!(standing.newest.is_none() && standing.comparable);
    primary.write();
    primary.replicate(&mut one).unwrap();
    assert_eq!(examine(&mut one, 5), Vec::<u64>::new());
    assert_eq!(exported(&one, 4).unwrap_err().code, "damaged", "the old point stays damaged, and says so");
    for sequence in [1, 2, 3, 5] {
        exported(&one, sequence).unwrap();
    }
}

#[test]
fn what_somebody_else_changed_is_noticed_before_anything_is_built_upon_it() {
    let Pair { folder, mut primary, mut one, .. } = pair();
    let path = folder.path().join("one");
    for name in store::list(&layout::Layout::new(&path)).unwrap().iter().filter(|name| name.ends_with(".qcow2")) {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path.join(name)).unwrap());
        assert_eq!(mode & 0o222, 0, "{name} can be written between two applications");
    }
    // Touched, and the same: nothing follows, and it is looked at once.
    let head = one.manifest().points[3].disks[0].file.clone();
    File::open(path.join(&head)).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    primary.write();
    primary.replicate(&mut one).unwrap();
    assert!(!one.manifest().doubted && one.doubt().is_none());
    // Changed, where the change set that comes does not write.
    let changed = primary.history[&5][0].1[10 * 65_536 + 9..][..64].to_vec();
    let base = one.manifest().points[0].disks[0].file.clone();
    flip(&path, &base, &changed);
    primary.disks[0].1[0] ^= 1;
    let newest = one.standing().newest;
    let (set, extents) = primary.next_set(newest);
    let refusal = test_primary::stage(&mut one, &set, &extents).unwrap_err();
    assert_eq!(refusal.code, "base_mismatch", "{refusal}");
    let doubt = one.doubt().unwrap();
    assert!(doubt.contains(&base) && doubt.contains("disk vda"), "{doubt}");
    assert_eq!(listed(&one).last(), Some(&5), "nothing was built upon it");
    primary.replicate(&mut one).unwrap();
    assert!(one.doubt().is_none());
    let newest = listed(&one).last().copied().unwrap();
    assert_eq!(examine(&mut one, newest), Vec::<u64>::new());
}

/// What the disks had at a point.
fn content(primary: &Primary, sequence: u64) -> Vec<Vec<u8>> {
    primary.history[&sequence].iter().map(|(_, disk)| disk.clone()).collect()
}

/// Copies a replica as another node does, in one pass; the points that it does not expect to be damaged.
fn fetched(from: &mut ReplicaStore, to: &Path) -> (Import, Vec<u64>) {
    let mut source = from.copy_source(true).unwrap();
    let mut import = Import::begin(to, VM, source.listing().clone()).unwrap();
    while let Some(step) = import.next_step() {
        import.feed(&source.read(&step.file, step.offset, step.length).unwrap()).unwrap();
    }
    let found = import.check().unwrap();
    (import, found)
}

#[test]
fn a_point_that_is_damaged_at_the_holder_is_copied_as_it_is_and_keeps_no_other_from_being_copied() {
    let Pair { folder, mut primary, mut one, .. } = pair();
    let (path, to) = (folder.path().join("one"), folder.path().join("there"));
    let base = one.manifest().points[0].disks[0].file.clone();
    flip(&path, &base, &primary.history[&1][0].1[2 * 65_536 + 100..][..64]);
    // The holder does not know yet: it is for that to look, and what was copied is of no use as it is.
    let (import, found) = fetched(&mut one, &to);
    assert_eq!(found, [1, 2]);
    let refusal = import.finish().unwrap_err();
    assert_eq!(refusal.code, "damaged");
    assert!(refusal.message.contains("point 1 is damaged: disk vda, bytes 131072 to 196608"), "{refusal}");
    assert!(!to.exists());

    assert_eq!(examine(&mut one, 2), [1, 2]);
    assert_eq!(one.copy_source(false).unwrap().listing().damaged, [1, 2]);
    let (import, found) = fetched(&mut one, &to);
    assert_eq!(found, Vec::<u64>::new());
    assert_eq!(import.finish().unwrap(), [1, 2]);
    let mut copy = ReplicaStore::open(&to, VM).unwrap();
    assert_eq!((states(&copy), copy.damage()), (states(&one), one.damage()), "known there as well, by disk and range");
    assert!(!copy.manifest().doubted && copy.doubt().is_none());
    for sequence in [1, 2] {
        assert_eq!(exported(&copy, sequence).unwrap_err().code, "damaged");
    }
    for sequence in [3, 4] {
        assert_eq!(exported(&copy, sequence).unwrap(), content(&primary, sequence));
    }
    // It goes on, and the damage goes with the points that show it.
    for _ in 0..5 {
        primary.write();
        primary.replicate(&mut copy).unwrap();
    }
    assert!(!states(&copy).contains(&(2, PointState::Damaged)), "{:?}", states(&copy));
    chain_test::check_with_qemu(&copy);
}

#[test]
fn a_damaged_head_is_copied_as_doubted_and_the_next_compared_change_set_mends_both() {
    let Pair { folder, mut primary, mut one, .. } = pair();
    let (path, to) = (folder.path().join("one"), folder.path().join("there"));
    let overlay = one.manifest().points[1].disks[0].file.clone();
    flip(&path, &overlay, &primary.history[&2][0].1[65_536 + 200..][..64]);
    assert_eq!(examine(&mut one, 4), [2, 3, 4]);
    let (import, found) = fetched(&mut one, &to);
    assert_eq!(found, Vec::<u64>::new());
    assert_eq!(import.finish().unwrap(), [2, 3, 4]);
    let mut copy = ReplicaStore::open(&to, VM).unwrap();
    assert!(copy.manifest().doubted);
    let newest = one.manifest().newest().unwrap().tip();
    assert_eq!(copy.agree(&epochs(), newest, None).unwrap(), (Some(newest), None), "it stands where its holder does");
    primary.write();
    let specs = primary.specs();
    let (there, here) = (copy.admit(&epochs(), &specs, &[]).unwrap(), one.admit(&epochs(), &specs, &[]).unwrap());
    assert_eq!((there.newest, here.newest), (None, None));
    primary.replicate(&mut one).unwrap();
    primary.sequence -= 1;
    primary.replicate(&mut copy).unwrap();
    for store in [&mut one, &mut copy] {
        assert_eq!(examine(store, 5), Vec::<u64>::new());
        assert_eq!(exported(store, 5).unwrap(), content(&primary, 5));
        assert_eq!(exported(store, 1).unwrap(), content(&primary, 1));
    }
}

#[test]
fn a_block_is_repaired_in_the_overlay_that_has_no_other_of_its_leaf() {
    let folder = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(&folder.path().join("scratch"), &[1_000_000], 31);
    primary.disks[0].1.copy_from_slice(&random_bytes(1_000_000, 4));
    primary.every = 3;
    let mut stores = ["one", "two"].map(|name| {
        let mut store = ReplicaStore::open(&folder.path().join(name), VM).unwrap();
        store.set_recovery_points(5).unwrap();
        store
    });
    // Blocks of leaf 2: its first with change set 4, of which nothing is listed, its sixth with the head.
    for (set, offset) in [(1, 0), (2, 0), (3, 0), (4, 2 * 65_536), (5, 2 * 65_536 + 5 * 4096)] {
        primary.disks[0].1[offset..][..4096].copy_from_slice(&random_bytes(4096, 50 + set));
        for store in &mut stores {
            primary.replicate(store).unwrap();
            primary.sequence -= 1;
        }
        primary.sequence += 1;
    }
    let [mut one, mut two] = stores;
    assert_eq!(listed(&one), [3, 5]);
    let head = one.manifest().points[1].disks[0].file.clone();
    flip(&folder.path().join("one"), &head, &primary.history[&5][0].1[2 * 65_536 + 5 * 4096 + 100..][..64]);
    assert_eq!(examine(&mut one, 5), [5]);
    let known = one.known_damage();
    assert_eq!(one.repair(&known, &mut Other(&mut two)).unwrap(), 1);
    assert_eq!(one.damage(), None);
    check_points(&one, &primary.history);
    chain_test::check_with_qemu(&one);
    // What is damaged in the base now is not what the head shows: it was given the whole leaf.
    let base = one.manifest().points[0].disks[0].file.clone();
    flip(&folder.path().join("one"), &base, &primary.history[&5][0].1[2 * 65_536 + 9 * 4096..][..64]);
    assert_eq!(examine(&mut one, 3), [3]);
    assert_eq!(examine(&mut one, 5), Vec::<u64>::new());
}

#[test]
fn a_copy_makes_lost_leaf_hashes_anew_where_the_content_has_its_root() {
    let Pair { folder, primary, mut one, .. } = pair();
    let (path, to) = (folder.path().join("one"), folder.path().join("there"));
    for (point, damage) in [(0_usize, 5000_u64), (2, 4100)] {
        let leaves = path.join(&one.manifest().points[point].disks[0].leaves);
        durable::set_read_only(&leaves, false).unwrap();
        let file = File::options().write(true).open(&leaves).unwrap();
        file.write_all_at(&[0xa5; 64], damage.min(file.metadata().unwrap().len() - 64)).unwrap();
    }
    assert_eq!(examine(&mut one, 1), Vec::<u64>::new(), "its content has its root");
    let (import, found) = fetched(&mut one, &to);
    assert_eq!(found, Vec::<u64>::new());
    assert_eq!(import.finish().unwrap(), Vec::<u64>::new());
    let copy = ReplicaStore::open(&to, VM).unwrap();
    check_points(&copy, &primary.history);
    for point in &copy.manifest().points {
        let sound = |disk| export::sound_leaves(&layout::Layout::new(&to), disk).is_some();
        assert!(point.disks.iter().all(sound), "point {} can be proven leaf by leaf again", point.sequence);
    }
}
