//! A holder that is killed with SIGKILL at any moment, again and again, over one replica.
//!
//! The test runs its own binary as the child: it stages and commits points whose content follows from their number, and
//! says so. After each kill every listed point must restore byte for byte, nothing that was said to be listed may be
//! gone, and nothing that was said to be staged may be lost.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use landfall_proto::id::DiskTarget;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::test_primary::{Primary, VM, check_points, epochs, listed, stage};
use super::*;
use crate::drive::image::durable::faults;
use crate::drive::image::test_disk::random_bytes;

const FOLDER: &str = "LANDFALL_KILL_FOLDER";
const STEP: &str = "LANDFALL_KILL_STEP";
const SIZES: [usize; 2] = [1_500_000, 90_001];
const KEEP: u8 = 2;

/// Every third change set stays as a point, so that between any two there are heads to fold.
const STAYS_EVERY: u64 = 3;

fn stays(sequence: u64) -> bool {
    sequence.is_multiple_of(STAYS_EVERY)
}

/// The content of the disks at a point.
fn content(sequence: u64) -> Vec<(DiskTarget, Vec<u8>)> {
    // Each point keeps most of the one before: blocks change by turns.
    SIZES
        .iter()
        .enumerate()
        .map(|(disk, size)| {
            let mut data = vec![0; *size];
            for (at, block) in data.chunks_mut(4096).enumerate() {
                let age = (sequence + at as u64 * 7 + disk as u64) / 9;
                if !(age + at as u64).is_multiple_of(5) {
                    let bytes = random_bytes(32, age << 20 | at as u64);
                    block.chunks_mut(32).for_each(|part| part.copy_from_slice(&bytes[..part.len()]));
                }
            }
            (format!("vd{}", char::from(b'a' + disk as u8)).parse().unwrap(), data)
        })
        .collect()
}

fn history(sequences: impl IntoIterator<Item = u64>) -> BTreeMap<u64, Vec<(DiskTarget, Vec<u8>)>> {
    sequences.into_iter().map(|sequence| (sequence, content(sequence))).collect()
}

/// What the child does until it is killed: run by the parent through this test's own name.
#[test]
fn the_child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let step = std::env::var(STEP).ok().and_then(|step| step.parse().ok());
    let mut store = match step {
        Some(step) => {
            faults::kill_at(step);
            ReplicaStore::open(&folder.join("r"), VM).unwrap()
        }
        None => {
            // At a random moment, rather than at a step that this thread counts: both disks are written at once.
            let mut store = ReplicaStore::open(&folder.join("r"), VM).unwrap();
            store.set_disks_at_once(SIZES.len());
            store
        }
    };
    store.set_recovery_points(KEEP).unwrap();
    let scratch = folder.join("scratch");
    let mut primary = Primary::new(&scratch, &SIZES, 1);
    primary.every = STAYS_EVERY;
    loop {
        if store.standing().staged_whole {
            let point = store.commit().unwrap();
            say("listed", point.sequence);
        }
        let newest = listed(&store).last().copied().unwrap_or(0);
        primary.disks = content(newest + 1);
        primary.sequence = newest;
        primary.history = history(listed(&store));
        let standing = store.admit(&epochs(), &primary.specs(), &[]).unwrap();
        let (set, extents) = match standing.newest {
            Some(tip) => primary.next_set(Some(tip)),
            None => {
                let extents = primary.compared(&mut store);
                let half = extents.len() / 2;
                // First content: some of it ahead of the set, as from a running VM.
                if standing.staged.is_none() {
                    extents[..half].iter().for_each(|extent| store.fill(&epochs(), extent).unwrap());
                }
                let extents = primary.compared(&mut store);
                (primary.set_with(None), extents)
            }
        };
        stage(&mut store, &set, &extents).unwrap();
        say("staged", set.tip.sequence);
    }
}

fn say(what: &str, sequence: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@ {what} {sequence}").unwrap();
    out.flush().unwrap();
}

fn spawn(folder: &Path, step: Option<u64>) -> Child {
    // This very program, even where a build has replaced its file meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "drive::replica::kill_test::the_child", "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(step) = step {
        command.env(STEP, step.to_string());
    }
    command.spawn().unwrap()
}

/// What the child said last: the point listed, and the one staged.
fn heard(child: &mut Child) -> (u64, u64) {
    let (mut last_listed, mut last_staged) = (0, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some((what, sequence)) = line.strip_prefix("@ ").and_then(|rest| rest.split_once(' ')) {
            let sequence = sequence.parse().unwrap();
            if what == "listed" { last_listed = sequence } else { last_staged = sequence }
        }
    }
    (last_listed, last_staged)
}

fn check(folder: &Path, said: (u64, u64), newest_before: u64, seed: u64) -> u64 {
    let store = ReplicaStore::open(&folder.join("r"), VM).unwrap_or_else(|refusal| panic!("seed {seed}: {refusal}"));
    assert!(store.fault().is_none(), "seed {seed}: {:?}", store.fault());
    let points = listed(&store);
    let newest = points.last().copied().unwrap_or(0);
    assert!(newest >= said.0.max(newest_before), "seed {seed}: point {} was listed, now {points:?}", said.0);
    let standing = store.standing();
    let staged = standing.staged.filter(|_| standing.staged_whole).map_or(0, |staged| staged.tip.sequence);
    assert!(newest.max(staged) >= said.1, "seed {seed}: point {} was staged and is lost", said.1);
    assert!(points.len() <= usize::from(KEEP) + 1, "seed {seed}: {points:?}");
    let older = &points[..points.len().saturating_sub(1)];
    assert!(older.iter().all(|point| stays(*point)), "seed {seed}: {points:?}");
    assert!(older.windows(2).all(|pair| pair[0] + STAYS_EVERY == pair[1]), "seed {seed}: {points:?}");
    check_points(&store, &history(points));
    newest
}

fn rounds(short: u64, long: u64) -> u64 {
    if std::env::var_os("LANDFALL_LONG").is_some() { long } else { short }
}

#[test]
fn killed_at_random_moments_every_listed_point_restores() {
    let folder = tempfile::tempdir().unwrap();
    let (mut newest, mut random) = (0, StdRng::seed_from_u64(20_261_122));
    for seed in 0..rounds(30, 600) {
        let mut child = spawn(folder.path(), None);
        // The moment of the kill is drawn, not waited for: any is right.
        let until = Instant::now() + Duration::from_micros(random.random_range(5_000..250_000));
        while Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        let said = heard(&mut child);
        child.wait().unwrap();
        newest = check(folder.path(), said, newest, seed);
    }
    goes_on(folder.path(), newest);
}

/// After all that, the child makes points as if nothing had been: waited for, since a loaded machine may have killed it
/// before it had made any.
fn goes_on(folder: &Path, newest: u64) {
    let mut child = spawn(folder, None);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut listed = lines.filter_map(|line| line.strip_prefix("@ listed ")?.parse::<u64>().ok());
    let further = listed.find(|listed| *listed >= newest + 4);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(further.is_some(), "the child ended before it got beyond point {newest}");
    check(folder, (newest, 0), newest, u64::MAX);
}

#[test]
fn killed_at_each_step_of_io_every_listed_point_restores() {
    let folder = tempfile::tempdir().unwrap();
    let mut newest = 0;
    let mut step = 0;
    for round in 0..rounds(40, 700) {
        let mut child = spawn(folder.path(), Some(step));
        let said = heard(&mut child);
        let status = child.wait().unwrap();
        assert!(!status.success(), "the child ended by itself");
        newest = check(folder.path(), said, newest, round);
        // Steps close together at first, then through several cycles of points and their retention.
        step += if rounds(0, 1) == 1 { 1 } else { 1 + round * 3 };
    }
    assert!(newest > 0);
}
