//! What other leases would do: the measurement behind the cluster's clocks (docs/timing.md). It holds nothing, and so runs
//! only when it is asked for:
//!
//!     cargo test --test simulation timing -- --ignored --nocapture
//!
//! `LANDFALL_SEEDS` is how many lives of a cluster each row is taken from.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_kit::sim::Weather;
use landfall_proto::id::MemberId;
use landfall_proto::model::Timing;
use tokio::time::Instant;

use crate::seeds::{is_child, run, seeds};
use crate::world::{NODES, World};

/// Leases in milliseconds, and losses of the network in percent, that are tried with each other.
const LEASES: [u64; 5] = [1000, 1500, 2000, 3000, 4000];
const LOSSES: [u32; 3] = [0, 10, 25];

/// How long each cluster lives in its weather before its owner is killed.
const LIFE: Duration = Duration::from_secs(600);

/// How often everybody is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// How long the next owner is waited for: beyond that it is told as none.
const NEXT_MAX: Duration = Duration::from_secs(60);

/// What one life showed.
#[derive(Debug, Default, PartialEq)]
struct Life {
    /// How often the CAP changed hands while nothing was wrong but the weather.
    changes: usize,
    /// For how long nobody acted then, in milliseconds.
    without: u64,
    /// How often a live node was suspected by somebody, and how many were held for lost by the owner.
    suspected: usize,
    lost: usize,
    /// From the owner's death until another acted, in milliseconds.
    next: Option<u64>,
}

impl Life {
    fn to_line(&self) -> String {
        let Self { changes, without, suspected, lost, next } = self;
        format!("{changes} {without} {suspected} {lost} {}", next.map_or(-1, |next| next as i64))
    }

    fn of_line(line: &str) -> Self {
        let numbers: Vec<i64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let count = |at: usize| numbers[at] as usize;
        Self {
            changes: count(0),
            without: numbers[1] as u64,
            suspected: count(2),
            lost: count(3),
            next: u64::try_from(numbers[4]).ok(),
        }
    }
}

/// Each row of the table has seeds of its own: (its number, the seed in it).
fn split(seed: u64) -> (usize, u64) {
    let rows = (LEASES.len() * LOSSES.len()) as u64;
    ((seed % rows) as usize, seed / rows)
}

async fn life(seed: u64) -> String {
    let (row, seed) = split(seed);
    let (lease, loss) = (LEASES[row / LOSSES.len()], LOSSES[row % LOSSES.len()]);
    let mut world = World::new(seed, Weather::CALM);
    world.timing = Timing::of_lease(lease);
    Box::pin(world.found()).await;
    world.pass(Duration::from_secs(10)).await;
    world.net.set_weather(Weather { loss: f64::from(loss) / 100.0, ..Weather::CALM });
    let (before, begun) = (world.audit.turns().len(), Instant::now());
    let (mut life, mut suspected, mut lost) = (Life::default(), BTreeSet::new(), BTreeSet::new());
    while begun.elapsed() < LIFE {
        world.pass(LOOK).await;
        if world.audit.acting().is_none() {
            life.without += LOOK.as_millis() as u64;
        }
        let now: BTreeSet<(usize, MemberId)> = (0..NODES).flat_map(|at| silent(&world, at)).collect();
        life.suspected += now.difference(&suspected).count();
        suspected = now;
        (0..NODES).for_each(|at| lost.extend(world.node(at).down.borrow().keys().copied()));
    }
    life.changes = world.audit.turns().len() - before;
    life.lost = lost.len();
    if let Some(owner) = world.owner() {
        world.kill(owner).await;
        let died = Instant::now();
        while life.next.is_none() && died.elapsed() < NEXT_MAX {
            world.pass(Duration::from_millis(5)).await;
            life.next = world.owner().map(|_| died.elapsed().as_millis() as u64);
        }
    }
    world.check();
    life.to_line()
}

/// Members that the node does not hear, each with who says so.
fn silent(world: &World, at: usize) -> Vec<(usize, MemberId)> {
    let node = world.node(at);
    let view = node.view.borrow();
    view.iter().filter(|(member, seen)| **member != node.me && !seen.live).map(|(member, _)| (at, *member)).collect()
}

#[test]
#[ignore = "a measurement"]
fn what_other_leases_would_do() {
    if is_child(life) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let each = seeds(10).end;
    println!("{each} lives of {} minutes each row", LIFE.as_secs() / 60);
    println!(
        "| lease | loss | owner changes an hour | without an owner | suspected an hour | held for lost | next owner p50 | worst |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in 0..(LEASES.len() * LOSSES.len()) {
        let seed = |number: u64| number * (LEASES.len() * LOSSES.len()) as u64 + row as u64;
        let test = "timing::what_other_leases_would_do";
        let lives: Vec<Life> =
            (0..each).map(|number| Life::of_line(&run(test, seed(number), &folder.path().join("line")))).collect();
        let hours = LIFE.as_secs_f64() * lives.len() as f64 / 3600.0;
        let sum = |of: fn(&Life) -> u64| lives.iter().map(of).sum::<u64>() as f64;
        let mut next: Vec<u64> = lives.iter().map(|life| life.next.unwrap_or(u64::MAX)).collect();
        next.sort_unstable();
        let told = |ms: Option<&u64>| match ms {
            Some(&u64::MAX) | None => "none".to_owned(),
            Some(ms) => format!("{:.2} s", *ms as f64 / 1000.0),
        };
        println!(
            "| {} ms | {} % | {:.1} | {:.2} % | {:.1} | {} | {} | {} |",
            LEASES[row / LOSSES.len()],
            LOSSES[row % LOSSES.len()],
            sum(|life| life.changes as u64) / hours,
            sum(|life| life.without) / 10.0 / (hours * 3600.0),
            sum(|life| life.suspected as u64) / hours,
            sum(|life| life.lost as u64),
            told(next.get(next.len() / 2)),
            told(next.last()),
        );
    }
}
