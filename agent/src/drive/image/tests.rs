//! Index and scan together: what is read, hashed and found changed is exactly what is there.

use proptest::prelude::*;

use super::durable::faults;
use super::index::UNKNOWN;
use super::test_disk::{MemoryDisk, StepClock, random_bytes};
use super::*;
use landfall_proto::id::Root;
use landfall_proto::message::data::{Content, EXTENT_MAX, Extent};

/// Applies extents to a disk.
fn apply(disk: &mut [u8], extents: &[Extent]) {
    for extent in extents {
        let (start, length) = (extent.offset as usize, extent::length(extent) as usize);
        match &extent.content {
            Content::Data(data, _) => disk[start..start + length].copy_from_slice(data),
            Content::Zero(_) => disk[start..start + length].fill(0),
        }
    }
}

fn scanned(disk: &[u8], baseline: Baseline<'_>, path: &std::path::Path) -> (ScanReport, Vec<Extent>) {
    let (content, mut extents) = (MemoryDisk(disk.to_vec()), Vec::new());
    let writer = IndexWriter::create(path, disk.len() as u64, BLOCK_BYTES).unwrap();
    let report = scan(&content, 3, baseline, writer, &StepClock::default(), &mut |extent| {
        extents.push(extent);
        Ok(())
    });
    (report.unwrap(), extents)
}

fn check_extents(extents: &[Extent], bytes: u64) {
    let mut order = extent::Order::default();
    for extent in extents {
        order.check(extent).unwrap();
        extent::check(extent, &[0, 0, 0, bytes]).unwrap();
        if let Content::Data(data, _) = &extent.content {
            assert!(data.len() <= EXTENT_MAX && data.chunks(4096).all(|block| block.iter().any(|byte| *byte != 0)));
        }
    }
    let joined = extents.windows(2).all(|pair| match (&pair[0].content, &pair[1].content) {
        (Content::Zero(length), Content::Zero(_)) => pair[0].offset + length < pair[1].offset,
        (Content::Data(a, _), Content::Data(b, _)) => {
            pair[0].offset + (a.len() as u64) < pair[1].offset || a.len() + b.len() > EXTENT_MAX
        }
        _ => true,
    });
    assert!(joined, "neighbouring blocks are one extent");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_scan_finds_exactly_the_changed_blocks_and_the_root_of_plain_blake3(
        size in 65_536_usize..3_000_000,
        seed: u64,
        writes in prop::collection::vec((any::<u32>(), 1_usize..20_000, 0_u8..3), 0..12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (old_path, new_path) = (folder.path().join("old"), folder.path().join("new"));
        let mut old = random_bytes(size, seed);
        let (from, to) = (size / 3, size / 2);
        old[from..to].fill(0);
        let (first, all) = scanned(&old, Baseline::Zeroes, &old_path);
        prop_assert_eq!(first.root.0, *blake3::hash(&old).as_bytes());
        let mut rebuilt = vec![0; size];
        apply(&mut rebuilt, &all);
        prop_assert!(rebuilt == old, "from zeroes");

        let mut new = old.clone();
        for (at, length, kind) in writes {
            let start = at as usize % size;
            let end = (start + length).min(size);
            match kind {
                0 => new[start..end].fill(0),
                1 => new[start..end].copy_from_slice(&random_bytes(end - start, u64::from(at))),
                // Written with what was there: not a change.
                _ => {}
            }
        }
        let index = HashIndex::open(&old_path).unwrap().unwrap();
        let (second, extents) = scanned(&new, Baseline::Index(&index), &new_path);
        prop_assert_eq!(second.root.0, *blake3::hash(&new).as_bytes());
        check_extents(&extents, size as u64);
        let differ: Vec<u64> = old
            .chunks(4096).zip(new.chunks(4096)).enumerate()
            .filter(|(_, (a, b))| a != b).map(|(block, _)| block as u64).collect();
        let found: Vec<u64> = extents.iter().flat_map(|extent| {
            let (first, end) = extent::block_range(extent);
            first..end
        }).collect();
        prop_assert_eq!(found, differ);
        let mut patched = old;
        apply(&mut patched, &extents);
        prop_assert!(patched == new);
    }

    #[test]
    fn an_index_answers_for_every_size_of_node_as_the_tree_does(size in 65_536_usize..2_000_000, shift in 12_u32..24) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let disk = random_bytes(size, 1);
        scanned(&disk, Baseline::None, &path);
        let index = HashIndex::open(&path).unwrap().unwrap();
        let node = 1_usize << shift;
        let expected: Vec<Hash> = disk.chunks(node).enumerate()
            .map(|(at, data)| tree::data_hash(size as u64, (at * node) as u64, data)).collect();
        prop_assert_eq!(&index.node_hashes(node as u64, 0, 16_384).unwrap(), &expected);
        let last = expected.len() as u64 - 1;
        prop_assert_eq!(index.node_hashes(node as u64, last, 5).unwrap(), &expected[last as usize..]);
        prop_assert_eq!(index.compute_root().unwrap(), index.root());
    }

    #[test]
    fn a_grown_disk_is_covered_from_its_old_end_on(size in 65_536_usize..400_000, more in 1_usize..300_000) {
        let folder = tempfile::tempdir().unwrap();
        let (old_path, new_path) = (folder.path().join("old"), folder.path().join("new"));
        let old = random_bytes(size, 2);
        scanned(&old, Baseline::None, &old_path);
        let mut new = old.clone();
        new.resize(size + more, 0);
        new[size + more / 2..].fill(7);
        let index = HashIndex::open(&old_path).unwrap().unwrap();
        let (report, extents) = scanned(&new, Baseline::Index(&index), &new_path);
        prop_assert_eq!(report.root.0, *blake3::hash(&new).as_bytes());
        check_extents(&extents, (size + more) as u64);
        let mut grown = old;
        grown.resize(size + more, 0xaa);
        apply(&mut grown, &extents);
        prop_assert!(grown == new, "everything past the last whole block is sent, zeroes too");
        // A holder grows its index by zeroes and patches what came.
        let mut held = HashIndex::open_writable(&old_path).unwrap().unwrap();
        held.grow((size + more) as u64).unwrap();
        for extent in &extents {
            let (first, end) = extent::block_range(extent);
            let hashes: Vec<Hash> =
                (first..end).map(|block| extent::block_hash(extent, (size + more) as u64, block)).collect();
            held.patch(first, &hashes).unwrap();
        }
        prop_assert_eq!(held.compute_root().unwrap(), Some(report.root));
    }
}

#[test]
fn a_fuzzy_pass_then_a_frozen_one_send_everything_that_the_holder_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let (fuzzy_path, path) = (folder.path().join("fuzzy"), folder.path().join("exact"));
    let mut holder = random_bytes(1 << 20, 1);
    let mut disk = holder.clone();
    disk[100_000..200_000].fill(9);
    disk[500_000..510_000].fill(0);

    scanned(&disk, Baseline::None, &fuzzy_path);
    let mut index = HashIndex::open_writable(&fuzzy_path).unwrap().unwrap();
    let mut comparison = Comparison::new(1 << 20);
    let theirs_path = folder.path().join("theirs");
    scanned(&holder, Baseline::None, &theirs_path);
    let theirs = HashIndex::open(&theirs_path).unwrap().unwrap();
    while let Some(Question { node_bytes, first, count }) = comparison.next_question() {
        let own = index.node_hashes(u64::from(node_bytes), first, count).unwrap();
        comparison.answer(&own, &theirs.node_hashes(u64::from(node_bytes), first, count).unwrap()).unwrap();
    }
    let ranges = comparison.into_ranges();
    assert_eq!(ranges.len(), 2);

    // The guest goes on writing, into what was read already and into what is read now.
    disk[150_000..160_000].fill(11);
    disk[900_000..900_100].fill(12);
    let mut sent = Vec::new();
    let half = 1;
    let bytes = send_ranges(&MemoryDisk(disk.clone()), 3, &ranges[..half], Some(&mut index), &mut |extent| {
        sent.push(extent);
        Ok(())
    });
    assert_eq!(bytes.unwrap(), ranges[0].end - ranges[0].start);
    apply(&mut holder, &sent);
    // The second range is never sent: the index forgets what the holder has there.
    index.forget(&ranges[1]).unwrap();
    assert_eq!(index.read(ranges[1].start / 4096, 1).unwrap(), [UNKNOWN]);
    disk[120_000] = 13;

    let (report, extents) = scanned(&disk, Baseline::Index(&index), &path);
    apply(&mut holder, &extents);
    assert!(holder == disk);
    assert_eq!(report.root.0, *blake3::hash(&disk).as_bytes());
    assert!(report.changed_bytes < 40_000, "only what the first pass missed: {}", report.changed_bytes);
}

#[test]
fn a_disk_that_several_threads_hash_is_found_as_by_one_pass_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let (old_path, new_path) = (folder.path().join("old"), folder.path().join("new"));
    let mut disk = random_bytes((12 << 20) + 5000, 4);
    disk[3 << 20..5 << 20].fill(0);
    let (report, _) = scanned(&disk, Baseline::None, &old_path);
    assert_eq!(report.root.0, *blake3::hash(&disk).as_bytes());
    let mut held = disk.clone();
    let changed: Vec<usize> = (0..3072).filter(|block| block * 7919 % 100 == 0).collect();
    for block in &changed {
        disk[block * 4096 + 9] ^= 1;
    }
    let index = HashIndex::open(&old_path).unwrap().unwrap();
    let (report, extents) = scanned(&disk, Baseline::Index(&index), &new_path);
    assert_eq!(report.root.0, *blake3::hash(&disk).as_bytes());
    assert_eq!(report.changed_bytes, changed.len() as u64 * 4096);
    check_extents(&extents, disk.len() as u64);
    apply(&mut held, &extents);
    assert!(held == disk);
}

#[test]
fn an_index_is_the_same_whatever_it_was_guessed_by() {
    let folder = tempfile::tempdir().unwrap();
    let indexes = IndexFolder::open(folder.path()).unwrap();
    let target = "vda".parse().unwrap();
    let mut disk = random_bytes(2_000_003, 6);
    let (report, _) = scanned(&disk, Baseline::None, &indexes.fuzzy_path(&target));
    indexes.keep(&target, &report.root).unwrap();
    disk[70_000..400_000].fill(3);
    let (report, _) = scanned(&disk, Baseline::None, &folder.path().join("plain"));
    assert!(indexes.any(&target, 2_000_004).unwrap().is_none(), "of a disk of another size");
    let earlier = indexes.any(&target, 2_000_003).unwrap().unwrap();
    assert_ne!(earlier.root(), Some(report.root));
    let (guessed, extents) = scanned(&disk, Baseline::Guess(&earlier), &folder.path().join("guessed"));
    assert_eq!((guessed.root, extents.len()), (report.root, 0));
    let bytes = ["plain", "guessed"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn a_sink_can_end_a_scan_and_nothing_is_left_under_the_indexs_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let stop = || landfall_proto::Refusal::new(landfall_proto::refusal::Class::Failed, "stopped", "stopped");
    struct Impatient(u64);
    impl ExtentSink for Impatient {
        fn extent(&mut self, _: Extent) -> Result<(), landfall_proto::Refusal> {
            Ok(())
        }
        fn progress(&mut self, offset: u64) -> Result<(), landfall_proto::Refusal> {
            let stop = landfall_proto::Refusal::new(landfall_proto::refusal::Class::Failed, "stopped", "stopped");
            if offset > self.0 { Err(stop) } else { Ok(()) }
        }
    }
    let disk = MemoryDisk(random_bytes(4 << 20, 1));
    let writer = IndexWriter::create(&path, 4 << 20, BLOCK_BYTES).unwrap();
    let ended = scan(&disk, 0, Baseline::None, writer, &StepClock::default(), &mut Impatient(2 << 20));
    assert_eq!(ended.unwrap_err().code, "stopped");
    let writer = IndexWriter::create(&path, 4 << 20, BLOCK_BYTES).unwrap();
    let ended = scan(&disk, 0, Baseline::Zeroes, writer, &StepClock::default(), &mut |_| Err(stop()));
    assert_eq!(ended.unwrap_err().code, "stopped");
    assert!(!path.exists());
}

#[test]
fn a_damaged_or_foreign_index_is_none_and_a_failed_write_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let indexes = IndexFolder::open(folder.path()).unwrap();
    let target = "vda".parse().unwrap();
    let disk = random_bytes(300_000, 1);
    let (report, _) = scanned(&disk, Baseline::None, &indexes.fuzzy_path(&target));
    indexes.keep(&target, &report.root).unwrap();
    assert_eq!(indexes.find(&target, &report.root).unwrap().unwrap().root(), Some(report.root));
    assert!(indexes.find(&target, &Root([1; 32])).unwrap().is_none());

    let path = folder.path().join(format!("vda-{}.index", report.root));
    let good = std::fs::read(&path).unwrap();
    for (at, cut) in [(0, good.len()), (9, good.len()), (33, good.len()), (100, good.len()), (4096, 5000), (4096, 3)] {
        let mut bad = good[..cut].to_vec();
        if cut == good.len() {
            bad[at] ^= 1;
        }
        std::fs::write(&path, &bad).unwrap();
        assert!(HashIndex::open(&path).unwrap().is_none(), "byte {at}, cut {cut}");
    }
    std::fs::write(&path, &good).unwrap();

    let content = MemoryDisk(random_bytes(300_000, 2));
    let mut failed = 0;
    for at in 0.. {
        faults::fail_from(Some(at), 28);
        let done = IndexWriter::create(&path, 300_000, BLOCK_BYTES)
            .and_then(|writer| scan(&content, 0, Baseline::None, writer, &StepClock::default(), &mut |_| Ok(())));
        faults::fail_from(None, 0);
        let found = HashIndex::open(&path).unwrap().unwrap().root().unwrap();
        match done {
            Ok(report) => {
                assert_eq!(found, report.root);
                break;
            }
            Err(refusal) => {
                assert_eq!(refusal.code, "disk_full", "{refusal}");
                failed += 1;
            }
        }
    }
    assert!(failed >= 7, "{failed} steps can fail");
    indexes.retain(&[(target, Root([9; 32]))]).unwrap();
    assert!(!path.exists());
}
