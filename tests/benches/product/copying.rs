//! The initial copy of an image against a bare transfer of it.

use std::time::{Duration, Instant};

use landfall_kit::process::eventually;
use landfall_kit::table::{Aim, Row, Unit};

use super::Sample;
use super::journal::cycles;
use super::stage::{LONG, Stage};
use crate::floor::image::{self, Image};
use crate::floor::transfer;

/// Turns of floor and product.
const TURNS: usize = 3;
/// The image: random bytes, no holes.
const BYTES: u64 = 512 << 20;
/// At least 60 % of the floor's throughput.
const TIMES: f64 = 1.67;

/// A stopped VM, from the command that enables replication until its first point is acknowledged.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let source = image::make(BYTES);
    let (mut own, mut sending, mut bare) = (Sample::default(), Sample::default(), Sample::default());
    for turn in 0..TURNS {
        bare.add(transfer::measure(&source));
        let (took, cycle) = copied(stage, &format!("copied-{turn}"), &source);
        own.add(mib_per_second(&source, took));
        sending.add(mib_per_second(&source, cycle));
    }
    let name = "initial copy of 512 MiB, from `vm enable` to its point: (floor: image sent over quinn, synced)";
    let cycle = "initial copy of 512 MiB, of it the sender's own cycle";
    vec![
        Row::figure(name, Unit::MibPerSecond, own.p50()).over(bare.p50()).aim(Aim::TimesFloor(TIMES)),
        Row::figure(cycle, Unit::MibPerSecond, sending.p50()).over(bare.p50()),
    ]
}

fn copied(stage: &Stage, name: &str, source: &Image) -> (Duration, Duration) {
    let node = stage.p.node("p2");
    let vm = stage.put_image(name, source);
    let begun = Instant::now();
    stage.enable(node, &vm.name);
    let cycle = eventually(LONG, "the first point", || cycles(node, &vm.name).into_iter().next());
    let took = begun.elapsed();
    stage.disable(node, &vm.name);
    (took, cycle.took)
}

fn mib_per_second(source: &Image, took: Duration) -> f64 {
    source.bytes() as f64 / f64::from(1 << 20) / took.as_secs_f64()
}
