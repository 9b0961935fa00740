//! Figures, not a test: `cargo test --release -p landfall-agent --lib figures -- --ignored --nocapture`.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use landfall_proto::id::Root;
use landfall_proto::message::data::{ChangeSet, Extent, Tip};
use landfall_proto::model::DiskSpec;

use super::test_primary::{VM, epochs};
use super::*;
use crate::drive::image::test_disk::{StepClock, random_bytes};
use crate::drive::image::{BLOCK_BYTES, Baseline, HashIndex, IndexWriter, Source, content_root, scan};
use crate::vm_service::{Image, ImageFormat};

const DISK: u64 = 1 << 30;

fn rate(what: &str, bytes: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{what}: {:.0} MiB/s ({:.0} MiB in {:.0} ms)",
        bytes as f64 / 1048576.0 / seconds,
        bytes as f64 / 1048576.0,
        seconds * 1e3
    );
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let file = std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
    file.set_len(DISK).unwrap();
    for at in 0..(DISK / 2) >> 20 {
        file.write_all_at(&random_bytes(1 << 20, at), at << 21).unwrap();
    }
    let image = Image { target: "vda".parse().unwrap(), path, format: ImageFormat::Raw, bytes: DISK };
    let pass = |name: &str, baseline: Baseline<'_>, sink: Sink<'_>| {
        let source = Source::open(&image).unwrap();
        let writer = IndexWriter::create(&folder.path().join(name), DISK, BLOCK_BYTES).unwrap();
        let mut take = |extent| {
            sink(extent);
            Ok(())
        };
        scan(&source, 0, baseline, writer, &StepClock::default(), &mut take).unwrap();
        let index = HashIndex::open(&folder.path().join(name)).unwrap().unwrap();
        (index.root().unwrap(), index)
    };
    let began = Instant::now();
    let (_, index) = pass("a", Baseline::None, &mut |_| {});
    rate("index of a half-full 1 GiB raw disk, cached", DISK, began);
    let began = Instant::now();
    let (root, _) = pass("b", Baseline::Index(&index), &mut |_| {});
    rate("scan of it against its index, nothing changed", DISK, began);

    let mut store = ReplicaStore::open(&folder.path().join("r"), VM).unwrap();
    store.set_recovery_points(2).unwrap();
    let spec = DiskSpec { target: image.target.clone(), bytes: DISK };
    let began = Instant::now();
    store.admit(&epochs(), std::slice::from_ref(&spec), &[]).unwrap();
    store.hashes(&spec.target, 1 << 24, 0, 1).unwrap();
    println!("empty base with all tables and its index: {} ms", began.elapsed().as_millis());
    let began = Instant::now();
    let mut bytes = 0;
    pass("c", Baseline::Zeroes, &mut |extent| {
        bytes += crate::drive::image::extent::length(&extent);
        store.fill(&epochs(), &extent).unwrap();
    });
    rate("scan and fill of first content", bytes, began);
    let set = |sequence, base, root: Root| ChangeSet {
        base,
        tip: Tip { sequence, root: content_root([(&spec.target, DISK, &root)]) },
        disks: vec![(spec.clone(), root)],
        taken_at: landfall_proto::id::UnixMillis(0),
        consistency: landfall_proto::message::control::Consistency::Crash,
        stays: true,
        resume_at: 0,
    };
    store.begin(&epochs(), &set(1, None, root)).unwrap();
    let began = Instant::now();
    store.finish(&epochs(), 0).unwrap();
    store.commit().unwrap();
    println!("verify, sync and list it: {} ms", began.elapsed().as_millis());

    land_changes(&file, &mut store, index, &pass, &set);
    let began = Instant::now();
    store.pin(None).unwrap().export(&folder.path().join("out"), &mut |_| Ok(())).unwrap();
    rate("verified export", DISK, began);
}

type Sink<'a> = &'a mut dyn FnMut(Extent);

fn land_changes(
    file: &std::fs::File,
    store: &mut ReplicaStore,
    index: HashIndex,
    pass: &dyn Fn(&str, Baseline<'_>, Sink<'_>) -> (Root, HashIndex),
    set: &dyn Fn(u64, Option<Tip>, Root) -> ChangeSet,
) {
    let mut previous = index;
    for (sequence, step, length) in
        [(2, 1 << 20, 262_144_usize), (3, 1 << 20, 4096), (4, 1 << 20, 262_144), (5, 1 << 20, 4096)]
    {
        for at in (0..DISK).step_by(step) {
            file.write_all_at(&random_bytes(length, at + sequence), at).unwrap();
        }
        let (name, mut extents) = (sequence.to_string(), Vec::new());
        let (root, index) = pass(&name, Baseline::Index(&previous), &mut |extent| extents.push(extent));
        previous = index;
        let bytes: u64 = extents.iter().map(crate::drive::image::extent::length).sum();
        let set = set(sequence, store.standing().newest, root);
        let began = Instant::now();
        store.begin(&epochs(), &set).unwrap();
        extents.iter().for_each(|extent| store.append(&epochs(), extent).unwrap());
        store.finish(&epochs(), extents.len() as u64).unwrap();
        rate(&format!("stage {} extents of {length} bytes", extents.len()), bytes, began);
        let began = Instant::now();
        store.commit().unwrap();
        rate("  apply and list (from the fourth point on with a merge)", bytes, began);
    }
}
