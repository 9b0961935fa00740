//! How large the program is that a node gets.

use landfall_kit::table::{Aim, Row, Unit};

use super::stage::LANDFALL;

const MEGABYTES: f64 = 16.0;

/// The release binary, stripped as it is built.
pub fn rows() -> Vec<Row> {
    let bytes = std::fs::metadata(LANDFALL).expect("a built program").len();
    let size = bytes as f64 / 1e6;
    vec![Row::figure("the stripped binary", Unit::Megabytes, size).aim(Aim::Value(MEGABYTES))]
}
