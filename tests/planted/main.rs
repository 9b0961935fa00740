//! Known mistakes, planted one at a time: for each there is a test that fails because of it, and passes without.
//!
//! The mistakes are those of `landfall_proto::planted`; [`table`] says of each which rule of ARCHITECTURE.md it breaks, which
//! test finds it, and with which words. That test is run in a process of its own that has the bug. It must fail, by itself
//! and as foreseen: neither a crash elsewhere nor a run that never ends counts. A bug that survives fails this suite.
//!
//! `LANDFALL_PLANTED=NoVoteHold cargo test --workspace --lib -- a_returning_voter` runs a test with a bug by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod child;
mod shipped;
mod suites;
mod table;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landfall_proto::planted::Bug;

use child::Ended;
use suites::Suites;
use table::{Found, table};

/// Runs each of `work` once, as many at a time as there are processors.
fn each<T: Sync, R: Send>(work: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(work.len().max(1));
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = work.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let result = run(item);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// What a bug's test came to: a line of the report, and what is wrong with it.
fn try_one(suites: &Suites, found: &Found) -> (Duration, String, Option<String>) {
    let run = child::run(suites, found, Some(found.bug));
    let name = found.bug.name();
    let wrong = match &run.ended {
        Ended::Passed => Some(format!("{name} survives: {} passes with it", found.test)),
        Ended::Failed if run.output.contains(found.says) => None,
        Ended::Failed => Some(format!("{name}: {} fails without saying {:?}", found.test, found.says)),
        Ended::Otherwise(how) => Some(format!("{name}: {} {how}", found.test)),
    };
    let line = format!("{name:26} {:4} {:<90} {:5.1} s", found.rule, found.shown(), run.took.as_secs_f64());
    (run.took, line, wrong.map(|wrong| format!("{wrong}\n{}", run.tail())))
}

#[test]
fn every_planted_bug_is_found() {
    let (suites, table) = (Suites::build(), table());
    let mut results = each(&table, |found| try_one(&suites, found));
    results.sort_by_key(|(took, ..)| *took);
    results.iter().for_each(|(_, line, _)| println!("{line}"));
    let wrong: Vec<String> = results.into_iter().filter_map(|(.., wrong)| wrong).collect();
    assert!(wrong.is_empty(), "{} of {} bugs are not found:\n{}", wrong.len(), table.len(), wrong.join("\n\n"));
}

/// Else a test that always fails would find everything.
#[test]
fn every_test_that_finds_a_bug_passes_without_it() {
    let (suites, mut table) = (Suites::build(), table());
    let mut seen = BTreeSet::new();
    table.retain(|found| seen.insert((found.shown(), found.seeds)));
    let failed: Vec<String> = each(&table, |found| (found.test, child::run(&suites, found, None)))
        .into_iter()
        .filter(|(_, run)| run.ended != Ended::Passed)
        .map(|(test, run)| format!("{test}: {:?}\n{}", run.ended, run.tail()))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_bug_has_its_line_and_there_are_thirty() {
    let lines: Vec<Bug> = table().iter().map(|found| found.bug).collect();
    assert_eq!(lines, Bug::ALL, "the table has the order of the bugs");
    assert!(lines.len() >= 30, "{} bugs", lines.len());
}
