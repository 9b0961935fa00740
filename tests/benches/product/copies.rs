//! What a second copy costs: the acknowledgement of a change set that is on two nodes, whose disks are one here.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use landfall_kit::process::eventually;
use landfall_kit::table::{Aim, Row, Unit};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::Value;

use super::Sample;
use super::journal::{cycle_after, cycles};
use super::stage::{LONG, Placed, Stage};
use crate::floor::image;

/// Change sets with one copy, and as many with two.
const TURNS: u64 = 7;
/// The image: small, so that scanning it is little of a cycle.
const BYTES: u64 = 64 << 20;
/// What changes each time.
const CHANGED: u64 = 16 << 20;
/// At most this many times the acknowledgement with one copy.
const TIMES: f64 = 2.2;

/// A stopped VM; from the beginning of the sender's cycle to the acknowledgement, as the sender tells it.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let node = stage.p.node("p2");
    let vm = stage.put_image("copied-twice", &image::make(BYTES));
    stage.enable(node, &vm.name);
    cycle_after(node, &vm.name, 0);
    let one = with(stage, &vm, 1);
    let two = with(stage, &vm, 2);
    stage.r.first().cli(["settings", "set", "copies=1"]);
    stage.disable(node, &vm.name);
    let name = "change set of 16 MiB acknowledged with two copies on one disk: p50 (floor: with one copy)";
    vec![Row::figure(name, Unit::Micros, two.p50()).over(one.p50()).aim(Aim::TimesFloor(TIMES))]
}

/// Acknowledgements with so many copies.
fn with(stage: &Stage, vm: &Placed, copies: usize) -> Sample {
    let (node, asked) = (stage.p.node("p2"), stage.r.first());
    asked.cli(["settings", "set", &format!("copies={copies}")]);
    eventually(LONG, &format!("{copies} in sync"), || {
        let shown = asked.try_cli(["vm", "show", &vm.name]).map_err(|failure| failure.to_string())?;
        let members = shown["in_sync"].as_array().map_or(0, Vec::len);
        if members == copies { Ok(()) } else { Err(Value::from(members).to_string()) }
    });
    let mut sample = Sample::default();
    for turn in 0..TURNS {
        // Right after a cycle, so that none begins while the disk changes.
        let last = cycle_after(node, &vm.name, cycles(node, &vm.name).last().map_or(0, |cycle| cycle.point));
        // Closed again at once: a disk that somebody else may be writing to is not read.
        change(&OpenOptions::new().write(true).open(&vm.disk).expect("the VM's disk"), turn + TURNS * copies as u64);
        let cycle = cycle_after(node, &vm.name, last.point);
        assert_eq!(cycle.sent_bytes, CHANGED, "a change set is what was changed");
        sample.time(cycle.took);
    }
    sample
}

fn change(disk: &File, turn: u64) {
    let mut bytes = vec![0; CHANGED as usize];
    ChaCha12Rng::seed_from_u64(turn).fill_bytes(&mut bytes);
    disk.write_all_at(&bytes, turn % 4 * CHANGED).expect("a disk that can be written");
}
