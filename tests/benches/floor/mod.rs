//! Floors: plain programs that do the least that the product could do, with the same crates and no more.
//!
//! A bench that shows a figure beside its floor declares `mod floor;`, calls [`play_child`] first in `main`, and measures
//! both in turns, so that whatever else the machine does weighs on both.

#![allow(clippy::expect_used, reason = "a bench that cannot measure ends with what was missing")]

pub mod append;
pub mod echo;
pub mod image;
pub mod link;
pub mod transfer;

use std::time::Duration;

use landfall_kit::table::{Row, Unit};

/// How long each rate is measured.
pub const MEASURED: Duration = Duration::from_secs(2);
/// The size of the images that are copied and sent.
pub const IMAGE_BYTES: u64 = 512 << 20;

/// Does a part that needs a process of its own, and ends the process; returns at once in the bench itself.
pub fn play_child() {
    append::play_child();
    echo::play_child();
}

/// Every floor, measured once.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, connections, streams) in [
        ("1 connection", 1, 1),
        ("8 connections", 8, 1),
        ("64 connections", 64, 1),
        ("64 streams of 1 connection", 1, 64),
    ] {
        let echoed = echo::measure(connections, streams, MEASURED);
        rows.push(Row::floor(&format!("quinn mTLS echo of 64 B, {name}: p50"), Unit::Micros, echoed.p50_micros));
        rows.push(Row::floor(&format!("quinn mTLS echo of 64 B, {name}: rate"), Unit::PerSecond, echoed.per_second));
    }
    let synced = append::measure(append::PROCESSES, MEASURED);
    rows.push(Row::floor("append + fdatasync of 300 B, 3 processes: p50", Unit::Micros, synced.p50_micros));
    rows.push(Row::floor("append + fdatasync of 300 B, 3 processes: p99", Unit::Micros, synced.p99_micros));
    rows.push(Row::floor("append + fdatasync of 300 B, 3 processes: rate of all", Unit::PerSecond, synced.per_second));
    let source = image::make(IMAGE_BYTES);
    rows.push(Row::floor("image read, hashed, written, fdatasync", Unit::MibPerSecond, image::measure(&source)));
    rows.push(Row::floor(
        "image read, sent over quinn, written, fdatasync",
        Unit::MibPerSecond,
        transfer::measure(&source),
    ));
    rows
}
