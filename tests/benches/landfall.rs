//! Every figure of the product beside the floor of the same run: `cargo bench`, about eight minutes.
//!
//! The product is the release binary, run as real agents on loopback; the floors are plain programs that do the least
//! that the same promise costs. An aim that is missed is shown as missed and fails nothing: this is no test.
//!
//! `LANDFALL_ROUNDS=N` makes N rounds of the rows that kill nodes (5 by default).
//! `LANDFALL_IMAGE_MIB=4096` is the full form of the rows of a whole image (1024 by default).
//! `LANDFALL_VMS=50` is the full form of the rows of many VMs (10 by default); it takes 13 GB of disk.
//! `cargo bench -- WORD...` measures only the parts whose names contain one of the words; `--help` names them.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that cannot measure ends with what was missing")]

mod floor;
mod product;

use landfall_kit::table::Table;

fn main() {
    floor::play_child();
    // Cargo itself adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.iter().any(|word| word == "--help") {
        println!("the parts: {}", product::names().collect::<Vec<_>>().join(", "));
        return;
    }
    let mut table = Table::default();
    product::measure(&words, &mut table);
    println!("{table}");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{} aims missed. {cores} cores, load average at the end {}.", table.missed(), load.join(" "));
    println!("One run of one machine: a figure compares only with its floor of the same run.");
}
