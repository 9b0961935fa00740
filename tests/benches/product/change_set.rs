//! A change set of one percent against reading the image once and writing what changed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_kit::table::{Aim, Row, Unit};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::Sample;
use super::journal::{cycle_after, cycles};
use super::stage::Stage;
use crate::floor::image::{self, PIECE};

/// Turns of floor and product.
const TURNS: u64 = 5;
/// The image.
const BYTES: u64 = 1 << 30;
/// What changes: runs of this size, so many that they are one percent.
const RUN: usize = 64 << 10;
const RUNS: u64 = BYTES / 100 / RUN as u64;
/// At most this many times the floor.
const TIMES: f64 = 2.0;

/// A stopped VM; from the beginning of the sender's cycle to the acknowledgement, as the sender tells it.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let source = image::make(BYTES);
    let node = stage.p.node("p2");
    let vm = stage.put_image("changing", &source);
    stage.enable(node, &vm.name);
    let mut last = cycle_after(node, &vm.name, 0);
    let (mut own, mut bare) = (Sample::default(), Sample::default());
    for turn in 0..TURNS {
        bare.time(read_and_write(&source.path(), &source.beside("written.raw"), turn));
        // Right after a cycle, so that none begins while the disk changes.
        last = cycle_after(node, &vm.name, cycles(node, &vm.name).last().map_or(last.point, |cycle| cycle.point));
        change(&OpenOptions::new().write(true).open(&vm.disk).expect("the VM's disk"), turn);
        last = cycle_after(node, &vm.name, last.point);
        assert_eq!(last.sent_bytes, RUNS * RUN as u64, "a change set is what was changed");
        own.time(last.took);
    }
    stage.disable(node, &vm.name);
    let name = "change set of 1 % (64 KiB runs) of 1 GiB, stopped VM: p50 (floor: read + hash, write synced)";
    vec![Row::figure(name, Unit::Micros, own.p50()).over(bare.p50()).aim(Aim::TimesFloor(TIMES))]
}

/// Reads and hashes the image once, then writes the runs that change into a copy, synced.
fn read_and_write(source: &Path, target: &Path, turn: u64) -> Duration {
    let copy = OpenOptions::new().write(true).create(true).truncate(false).open(target).expect("a copy");
    copy.set_len(BYTES).expect("room for a copy");
    let begun = Instant::now();
    let (source, mut piece) = (File::open(source).expect("an image"), vec![0; PIECE]);
    let mut hasher = blake3::Hasher::new();
    for offset in (0..BYTES).step_by(PIECE) {
        source.read_exact_at(&mut piece, offset).expect("an image");
        hasher.update(&piece);
    }
    std::hint::black_box(hasher.finalize());
    change(&copy, turn);
    copy.sync_data().expect("a sync");
    begun.elapsed()
}

/// Writes the runs of this turn: random bytes at places that no two runs of a turn share.
fn change(disk: &File, turn: u64) {
    let mut random = ChaCha12Rng::seed_from_u64(turn);
    let mut run = vec![0; RUN];
    let every = BYTES / RUNS / RUN as u64 * RUN as u64;
    for number in 0..RUNS {
        random.fill_bytes(&mut run);
        let within = random.next_u64() % (every / RUN as u64) * RUN as u64;
        disk.write_all_at(&run, number * every + within).expect("a disk that can be written");
    }
}
