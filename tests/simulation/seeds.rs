//! Runs of one scenario under many seeds, each in a process of its own, so that one alone replays exactly.

use std::fs;
use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;

use landfall_kit::power::{rerun, role};

use crate::entropy;

/// A run's stack: futures of a debug build are large.
const STACK_BYTES: usize = 16 << 20;

/// The seeds to run: `few` of them from zero, or what `LANDFALL_SEEDS` says.
pub fn seeds(few: u64) -> Range<u64> {
    let Ok(text) = std::env::var("LANDFALL_SEEDS") else { return 0..few };
    let range = match text.split_once("..") {
        Some((from, to)) => from.parse().ok().zip(to.parse().ok()).map(|(from, to)| from..to),
        None => text.parse().ok().map(|count| 0..count),
    };
    range.unwrap_or_else(|| panic!("LANDFALL_SEEDS={text}: give a count or a range, such as 500 or 17..18"))
}

/// Runs `scenario` under each seed. `test` is the calling test's full name; what the scenario returns is its trace.
pub fn each_seed<F: Future<Output = String> + 'static>(test: &str, few: u64, scenario: fn(u64) -> F) {
    if is_child(scenario) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (folder, seeds) = (folder.path(), Mutex::new(seeds(few)));
    let next = || seeds.lock().unwrap().next();
    // A run uses one processor.
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let worker = || {
            while let Some(seed) = next() {
                run(test, seed, &folder.join(seed.to_string()));
            }
        };
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|fault| std::panic::resume_unwind(fault));
        }
    });
}

/// Whether this process is one run, which it then carries out; to be asked first by a test that calls [`run`].
pub fn is_child<F: Future<Output = String> + 'static>(scenario: fn(u64) -> F) -> bool {
    let Some(role) = role() else { return false };
    let (seed, path) = role.split_once(' ').expect("a role is a seed and a path");
    let seed: u64 = seed.parse().unwrap();
    // A thread of its own: the test harness may have drawn randomness on this one.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        entropy::pin(seed);
        landfall_kit::sim::run(scenario(seed))
    });
    let trace = thread.unwrap().join().unwrap_or_else(|fault| std::panic::resume_unwind(fault));
    fs::write(path, trace).unwrap();
    true
}

/// One run in a process of its own; its trace.
pub fn run(test: &str, seed: u64, path: &Path) -> String {
    let mut command = rerun(test, &format!("{seed} {}", path.display()));
    let output = command.stdin(Stdio::null()).output().unwrap();
    if !output.status.success() {
        panic!(
            "seed {seed} failed; run it alone with\n  LANDFALL_SEEDS={seed}..{} cargo test --test simulation {test} -- \
             --exact\n{}{}",
            seed + 1,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
    fs::read_to_string(path).unwrap()
}
