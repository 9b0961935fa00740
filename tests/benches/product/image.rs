//! One image all the way: its first copy, a scattered change set, and a comparison of equal disks.
//!
//! `LANDFALL_IMAGE_MIB=4096` is the full form; 1024 where nothing is set. Every name says which was run.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_kit::table::{Aim, Row, Unit};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::Sample;
use super::journal::{Cycle, cycle_after, cycles};
use super::stage::{Placed, Stage};
use crate::floor::image::{self, Image, PIECE};
use crate::floor::transfer;

/// The image where the environment says nothing, in MiB.
const MIB: u64 = 1024;
/// Turns of change set and comparison, each beside its floor.
const TURNS: u64 = 3;
/// A block, and how many blocks there are for one that changes.
const BLOCK: u64 = 4096;
const EVERY: u64 = 100;

/// At least 60 % of the floor's throughput.
const COPY_TIMES: f64 = 1.67;
/// The blocks with their headers and everything else of the session.
const WIRE_TIMES: f64 = 1.15;
const CHANGE_TIMES: f64 = 2.0;
/// The part of the disk that a comparison of equal disks may send.
const COMPARE_PART: f64 = 0.001;
const COMPARE_TIMES: f64 = 1.5;

/// A stopped VM on p2, every other MiB of its disk a hole.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let mib = std::env::var("LANDFALL_IMAGE_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(MIB).max(64);
    let source = image::make_half(mib << 20);
    let node = stage.p.node("p2");
    let floor = transfer::measure(&source);
    let vm = stage.put_image("whole-image", &source);
    let begun = Instant::now();
    stage.enable(node, &vm.name);
    let first = cycle_after(node, &vm.name, 0);
    let copied = source.rate(begun);
    let name = format!("initial copy of {mib} MiB, half of it zero (floor: all of it read, sent over quinn, synced)");
    let copy = Row::figure(&name, Unit::MibPerSecond, copied).over(floor).aim(Aim::TimesFloor(COPY_TIMES));
    let mut rows = vec![copy];
    rows.extend(changes(stage, &source, &vm, first));
    rows.extend(comparisons(stage, &source, &vm));
    stage.disable(node, &vm.name);
    rows
}

/// A hundredth of the blocks, scattered.
fn changes(stage: &Stage, source: &Image, vm: &Placed, first: Cycle) -> Vec<Row> {
    let node = stage.p.node("p2");
    let (mut own, mut bare, mut wire) = (Sample::default(), Sample::default(), Sample::default());
    let (mut last, blocks) = (first, source.bytes() / BLOCK / EVERY);
    for turn in 0..TURNS {
        bare.time(hash_and_write(&source.path(), &source.beside("written.raw"), turn));
        // Right after a cycle, so that none begins while the disk changes.
        last = cycle_after(node, &vm.name, newest(stage, vm).map_or(last.point, |cycle| cycle.point));
        change(&OpenOptions::new().write(true).open(&vm.disk).expect("the VM's disk"), source.bytes(), turn);
        last = cycle_after(node, &vm.name, last.point);
        assert_eq!(last.sent_bytes, blocks * BLOCK, "a change set is what was changed");
        own.time(last.took);
        wire.add(last.wire_bytes as f64 / 1e6);
    }
    let mib = source.bytes() >> 20;
    let on_wire = format!("1 % of {mib} MiB changed, scattered blocks of 4 KiB: on the wire (floor: the blocks)");
    let took = format!("1 % of {mib} MiB changed, scattered blocks: p50 (floor: read + hash, blocks written synced)");
    vec![
        Row::figure(&on_wire, Unit::Megabytes, wire.p50())
            .over((blocks * BLOCK) as f64 / 1e6)
            .aim(Aim::TimesFloor(WIRE_TIMES)),
        Row::figure(&took, Unit::Micros, own.p50()).over(bare.p50()).aim(Aim::TimesFloor(CHANGE_TIMES)),
    ]
}

/// Both sides compared by wish, where they are equal.
fn comparisons(stage: &Stage, source: &Image, vm: &Placed) -> Vec<Row> {
    let node = stage.p.node("p2");
    let (mut own, mut bare, mut wire) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..TURNS {
        bare.time(hash_both(&source.path(), &vm.disk));
        let last = newest(stage, vm).map_or(0, |cycle| cycle.point);
        node.cli(["vm", "resync", &vm.name]);
        // The cycle that compares reads both sides' hashes, and so has more on the wire than any without changes.
        let cycle = (0..4).map(|more| cycle_after(node, &vm.name, last + more)).max_by_key(|cycle| cycle.wire_bytes);
        let cycle = cycle.expect("four cycles");
        assert_eq!(cycle.sent_bytes, 0, "the disks are equal");
        own.time(cycle.took);
        wire.add(cycle.wire_bytes as f64 / 1e6);
    }
    let mib = source.bytes() >> 20;
    let on_wire = format!("equal disks of {mib} MiB compared by hash tree: on the wire");
    let took = format!("equal disks of {mib} MiB compared by hash tree: p50 (floor: both images hashed in parallel)");
    vec![
        Row::figure(&on_wire, Unit::Megabytes, wire.p50()).aim(Aim::Value(source.bytes() as f64 * COMPARE_PART / 1e6)),
        Row::figure(&took, Unit::Micros, own.p50()).over(bare.p50()).aim(Aim::TimesFloor(COMPARE_TIMES)),
    ]
}

fn newest(stage: &Stage, vm: &Placed) -> Option<Cycle> {
    cycles(stage.p.node("p2"), &vm.name).last().copied()
}

fn hash(path: &Path) {
    let (file, mut piece, mut hasher) = (File::open(path).expect("an image"), vec![0; PIECE], blake3::Hasher::new());
    let bytes = file.metadata().expect("an image").len();
    for offset in (0..bytes).step_by(PIECE) {
        file.read_exact_at(&mut piece, offset).expect("an image");
        hasher.update(&piece);
    }
    std::hint::black_box(hasher.finalize());
}

fn hash_both(one: &Path, other: &Path) -> Duration {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads = [one, other].map(|path| scope.spawn(move || hash(path)));
        threads.into_iter().for_each(|thread| thread.join().expect("an image that can be read"));
    });
    begun.elapsed()
}

/// Reads and hashes the image once, then writes the blocks that change into a copy, synced.
fn hash_and_write(source: &Path, target: &Path, turn: u64) -> Duration {
    let bytes = std::fs::metadata(source).expect("an image").len();
    let copy = OpenOptions::new().write(true).create(true).truncate(false).open(target).expect("a copy");
    copy.set_len(bytes).expect("room for a copy");
    let begun = Instant::now();
    hash(source);
    change(&copy, bytes, turn);
    copy.sync_data().expect("a sync");
    begun.elapsed()
}

/// Writes this turn's blocks: noise, one in each hundred, anywhere in it.
fn change(disk: &File, bytes: u64, turn: u64) {
    let mut random = ChaCha12Rng::seed_from_u64(turn);
    let mut block = vec![0; BLOCK as usize];
    for number in 0..bytes / BLOCK / EVERY {
        random.fill_bytes(&mut block);
        let within = random.next_u64() % EVERY;
        disk.write_all_at(&block, (number * EVERY + within) * BLOCK).expect("a disk that can be written");
    }
}
