//! How large the demo's disks are and how fast it goes.

use std::path::PathBuf;

use crate::cli::Demo;

const MIB: u64 = 1 << 20;

/// Sizes and intervals.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The user's own image for the first disk.
    pub disk: Option<PathBuf>,
    /// Bytes of the first disk, where the demo makes it.
    pub image_bytes: u64,
    /// Bytes of each of the two disks that the guest writes.
    pub guest_bytes: u64,
    /// Microseconds between two records of the guest: slow enough that what it writes while the VM migrates stays far
    /// below 2 % of the disks.
    pub pause_us: u64,
    /// Milliseconds between change sets: production has 30 s and more.
    pub interval_ms: u64,
}

impl Pace {
    /// The pace that was asked for.
    pub fn of(asked: &Demo) -> Self {
        let disk = asked.disk.clone();
        if asked.fast {
            return Self { disk, image_bytes: 24 * MIB, guest_bytes: 4 * MIB, pause_us: 50_000, interval_ms: 250 };
        }
        Self { disk, image_bytes: 52 * MIB, guest_bytes: 6 * MIB, pause_us: 40_000, interval_ms: 400 }
    }
}
