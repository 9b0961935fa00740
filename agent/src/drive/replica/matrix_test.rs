//! The crash matrix: each step of staging, applying, listing, merging, folding and copying, by name, with each way of
//! failing at it. After each, every listed point is restored and compared, nothing that was acknowledged is lost, and the
//! next attempt succeeds.
//!
//! What a commit has to do is prepared once, and its steps are counted in a run without a fault; then the same commit is
//! done again and again over copies of that folder, with a fault at another step each time: a disk that is full from then
//! on, one that gives errors from then on (a failed sync among them), and SIGKILL. Power cuts are in `tests/power`. The
//! short form takes the first step of each name and some of the others, `LANDFALL_LONG=1` takes all.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use super::test_primary::{Primary, VM, check_points, epochs, listed, stage};
use super::*;
use crate::drive::image::durable::{TEMPORARY, faults};

const SIZES: [usize; 2] = [400_000, 70_001];
const CASE: &str = "LANDFALL_MATRIX_CASE";
const STEP: &str = "LANDFALL_MATRIX_STEP";
const FOLDER: &str = "LANDFALL_MATRIX_FOLDER";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A commit that has something to do.
struct Case {
    name: &'static str,
    keep: u8,
    /// Of each change set before it, whether it stays as a point.
    before: &'static [bool],
    stays: bool,
}

const CASES: [Case; 5] = [
    Case { name: "first content", keep: 1, before: &[], stays: true },
    Case { name: "a point on a point, the oldest merged", keep: 1, before: &[true, true], stays: true },
    Case { name: "a head on a head, four folded", keep: 2, before: &[true, false, false, false, false], stays: false },
    Case {
        name: "a head on a point, what was between folded into it",
        keep: 2,
        before: &[true, false, false, true],
        stays: false,
    },
    Case {
        name: "a head, the oldest merged with all between",
        keep: 1,
        before: &[true, false, false, true, false, false, true],
        stays: false,
    },
];

/// The primary as it is before the commit of a case, without a store.
fn primary(scratch: &Path, case: &Case) -> Primary {
    let mut primary = Primary::new(scratch, &SIZES, 77);
    for _ in case.before {
        change(&mut primary);
        primary.set_with(None);
    }
    change(&mut primary);
    primary
}

/// Changes that touch both disks each time, so that files have like sizes.
fn change(primary: &mut Primary) {
    let at = primary.sequence as usize;
    primary.write();
    for (_, data) in &mut primary.disks {
        let place = (at * 9000) % data.len();
        data[place] ^= 1;
    }
}

/// Makes the folder of a case, up to the commit.
fn prepare(folder: &Path, scratch: &Path, case: &Case) {
    let mut store = ReplicaStore::open(folder, VM).unwrap();
    store.set_recovery_points(case.keep).unwrap();
    let mut primary = Primary::new(scratch, &SIZES, 77);
    for stays in case.before {
        change(&mut primary);
        primary.every = if *stays { 1 } else { u64::MAX };
        primary.replicate(&mut store).unwrap();
    }
    assert!(store.fault().is_none(), "{}: {:?}", case.name, store.fault());
}

/// What the fault interrupts: a session, the change set, its commit.
fn act(store: &mut ReplicaStore, primary: &mut Primary, case: &Case) -> Result<u64, landfall_proto::Refusal> {
    let standing = store.admit(&epochs(), &primary.specs(), &[])?;
    primary.every = if case.stays { 1 } else { u64::MAX };
    let (set, extents) = faults::outside(|| primary.next_set(standing.newest));
    if standing.newest.is_none() {
        // Some of the first content ahead of its change set, as from a running VM.
        for extent in &extents[..extents.len() / 2] {
            store.fill(&epochs(), extent)?;
        }
    }
    stage(store, &set, &extents)?;
    store.commit().map(|point| point.sequence)
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// What was counted.
#[derive(Default)]
struct Counts {
    steps: usize,
    names: BTreeSet<String>,
    failed: usize,
    killed: usize,
    compared: usize,
}

/// The store after a fault: all that it lists is whole, nothing is lost, and the next attempt is right.
fn check(folder: &Path, scratch: &Path, case: &Case, done: bool, shown: &str, counts: &mut Counts) {
    let mut store = ReplicaStore::open(folder, VM).unwrap_or_else(|refusal| panic!("{shown}: {refusal}"));
    let fresh = case.before.len() as u64;
    let newest = listed(&store).last().copied().unwrap_or(0);
    assert!(newest >= fresh && (!done || newest == fresh + 1), "{shown}: {:?}", listed(&store));
    // What this primary sent: the change set that was interrupted is its last.
    let mut primary = primary(scratch, case);
    primary.set_with(None);
    check_points(&store, &primary.history);
    counts.compared += listed(&store).len();
    if store.standing().staged_whole {
        store.commit().unwrap_or_else(|refusal| panic!("{shown}: {refusal}"));
    }
    assert!(store.fault().is_none(), "{shown}: {:?}", store.fault());
    change(&mut primary);
    primary.every = u64::MAX;
    primary.replicate(&mut store).unwrap_or_else(|refusal| panic!("{shown}, next: {refusal}"));
    assert!(store.fault().is_none() && listed(&store).len() <= usize::from(case.keep) + 1, "{shown}");
    check_points(&store, &primary.history);
    counts.compared += listed(&store).len();
    let names = store::list(&layout::Layout::new(folder)).unwrap();
    assert!(names.iter().all(|name| !name.ends_with(TEMPORARY)), "{shown}: {names:?}");
}

/// The steps that are tried: all, or the first of each name and every fifth.
fn chosen(names: &[String]) -> Vec<usize> {
    let long = std::env::var_os("LANDFALL_LONG").is_some();
    let mut seen = BTreeSet::new();
    (0..names.len()).filter(|at| seen.insert(&names[*at]) || long || at % 5 == 0).collect()
}

/// Lets the commit of a case fail at one step after another.
fn run_case(folder: &Path, number: usize, case: &Case) -> Counts {
    let (scratch, template) = (folder.join("scratch"), folder.join(format!("case-{number}")));
    prepare(&template, &scratch, case);
    let whole = folder.join("whole");
    copy(&template, &whole);
    faults::fail_from(None, 0);
    act(&mut ReplicaStore::open(&whole, VM).unwrap(), &mut primary(&scratch, case), case).unwrap();
    let names = faults::names();
    std::fs::remove_dir_all(&whole).unwrap();
    let mut counts = Counts { steps: names.len(), names: names.iter().cloned().collect(), ..Counts::default() };
    let broken = folder.join("broken");
    for at in chosen(&names) {
        for error in [ENOSPC, EIO] {
            copy(&template, &broken);
            let shown = format!("{}, error {error} at step {at} ({})", case.name, names[at]);
            // Made before: its own files count steps too.
            let mut primary = primary(&scratch, case);
            faults::fail_from(Some(at as u64), error);
            let opened = ReplicaStore::open(&broken, VM);
            let done = opened.and_then(|mut store| act(&mut store, &mut primary, case));
            faults::fail_from(None, 0);
            counts.failed += usize::from(done.is_err());
            if let Err(refusal) = &done {
                assert!(refusal.remedy.is_some(), "{shown}: {refusal}");
            }
            check(&broken, &scratch, case, done.is_ok(), &shown, &mut counts);
            std::fs::remove_dir_all(&broken).unwrap();
        }
        copy(&template, &broken);
        let shown = format!("{}, killed at step {at} ({})", case.name, names[at]);
        assert!(!kill_at(&broken, number, at), "{shown}: the child ended by itself");
        counts.killed += 1;
        check(&broken, &scratch, case, false, &shown, &mut counts);
        std::fs::remove_dir_all(&broken).unwrap();
    }
    counts
}

/// Whether a child that is to die at a step of a case ended well.
fn kill_at(folder: &Path, case: usize, step: usize) -> bool {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "drive::replica::matrix_test::the_child", "--test-threads=1"]);
    command.env(CASE, case.to_string()).env(STEP, step.to_string()).env(FOLDER, folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn every_step_fails_and_every_listed_point_restores() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Counts::default();
    for (number, case) in CASES.iter().enumerate() {
        let mut counts = run_case(folder.path(), number, case);
        let (steps, names) = (counts.steps, counts.names.len());
        let Counts { failed, killed, compared, .. } = counts;
        println!(
            "{}: {steps} steps of {names} names; {failed} failed, {killed} killed, {compared} points compared",
            case.name
        );
        assert!(failed > 0 && killed > 0);
        all.names.append(&mut counts.names);
        (all.steps, all.failed) = (all.steps + steps, all.failed + failed);
        (all.killed, all.compared) = (all.killed + killed, all.compared + compared);
    }
    let Counts { steps, names, failed, killed, compared } = all;
    println!(
        "crash matrix: {steps} steps of {} names in {} cases; {failed} failures, {killed} kills, {compared} points \
         restored and compared: {names:?}",
        names.len(),
        CASES.len()
    );
    for name in ["write overlay", "write base", "sync folder", "rename manifest"] {
        assert!(names.contains(name), "no step is called {name}: {names:?}");
    }
}

/// Dies at a step of a case: run by the parent through this test's own name.
#[test]
fn the_child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let case = &CASES[number(CASE)];
    let scratch = tempfile::tempdir().unwrap();
    let mut primary = primary(scratch.path(), case);
    // The primary's own files count steps too: from here on, as where they were counted.
    faults::kill_at(number(STEP) as u64);
    let mut store = ReplicaStore::open(Path::new(&folder), VM).unwrap();
    act(&mut store, &mut primary, case).unwrap();
}
