//! The floors by themselves: what this machine does without the product. `cargo bench --bench floors`

mod floor;

use landfall_kit::table::Table;

fn main() {
    floor::play_child();
    let mut table = Table::default();
    table.extend(floor::rows());
    println!("{table}");
    println!("One run of one machine: a figure compares only with its floor of the same run.");
}
