//! What differs between two recovery points.

use serde::{Deserialize, Serialize};

/// The ranges of one answer: at 20 bytes each they fit a control frame of 64 KiB with room for the disks' names.
pub const DIFFERENCE_RANGES_MAX: u32 = 2_000;

/// What differs between two points of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDifference {
    /// The disk.
    pub target: String,
    /// Its size at the one point; 0 where it was not there.
    pub from_bytes: u64,
    /// Its size at the other.
    pub to_bytes: u64,
    /// Bytes of the blocks of 4 KiB that differ.
    pub differing_bytes: u64,
    /// Offset and length of the ranges that differ, in order.
    pub ranges: Vec<(u64, u64)>,
    /// Ranges that were left out.
    pub left_out: u64,
}
