//! Three processes that each append 300 bytes and sync them: a log entry on three nodes that share this disk.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use landfall_kit::table::quantile;

/// How many write at once: the voters of a small cluster.
pub const PROCESSES: usize = 3;
const ENTRY: [u8; 300] = [7; 300];
/// Holds the file and the time in a process that only appends.
const FILE: &str = "LANDFALL_FLOOR_FILE";
const MILLIS: &str = "LANDFALL_FLOOR_MILLIS";

/// What was measured.
pub struct Synced {
    /// The median time of one append with its sync, in microseconds.
    pub p50_micros: f64,
    /// The time that one in a hundred exceeds.
    pub p99_micros: f64,
    /// Appends a second, of all processes together.
    pub per_second: f64,
}

/// Appends for `long` in `processes` at once, each to a file of its own.
pub fn measure(processes: usize, long: Duration) -> Synced {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
    let begin = |number| {
        let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
        command.env(FILE, folder.path().join(format!("log-{number}"))).env(MILLIS, long.as_millis().to_string());
        command.stdout(Stdio::piped()).spawn().expect("a process")
    };
    let children: Vec<_> = (0..processes).map(begin).collect();
    let mut micros = Vec::new();
    for child in children {
        let output = child.wait_with_output().expect("a process that ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        micros.extend(text.lines().filter_map(|line| line.parse::<f64>().ok()));
    }
    micros.sort_unstable_by(f64::total_cmp);
    Synced {
        p50_micros: quantile(&micros, 0.5),
        p99_micros: quantile(&micros, 0.99),
        per_second: micros.len() as f64 / long.as_secs_f64(),
    }
}

/// Appends, prints each time and ends the process, where this process is one of the three.
pub fn play_child() {
    let (Ok(file), Ok(millis)) = (std::env::var(FILE), std::env::var(MILLIS)) else { return };
    let long = Duration::from_millis(millis.parse().expect("a number"));
    for micros in append(Path::new(&file), long) {
        println!("{micros:.1}");
    }
    std::process::exit(0);
}

fn append(path: &Path, long: Duration) -> Vec<f64> {
    let mut file = File::create(path).expect("a file");
    let (begun, mut micros) = (Instant::now(), Vec::new());
    while begun.elapsed() < long {
        let asked = Instant::now();
        file.write_all(&ENTRY).and_then(|()| file.sync_data()).expect("a sync");
        micros.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    micros
}
