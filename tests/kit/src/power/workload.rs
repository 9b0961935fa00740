//! Many power cuts under a workload, each followed by a check of what the workload had been promised.

use std::ops::RangeInclusive;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::disk::{Toll, Unsynced};
use super::{Medium, PowerDisk};

/// Something that writes to a folder and remembers what it was told is durable.
pub trait Workload {
    /// What was acknowledged: kept outside the folder, so that no cut touches it.
    type Acknowledged: Default;

    /// Writes, adding to `acknowledged` only what the code under test has said is durable.
    ///
    /// Returns as soon as anything fails (the power is off: every call is an error), or when it has done enough. It lets
    /// go of everything before it returns.
    fn write(&mut self, folder: &Path, random: &mut ChaCha12Rng, acknowledged: &mut Self::Acknowledged);

    /// Opens what is there and says what is missing, damaged or there only in part.
    fn check(&mut self, folder: &Path, acknowledged: &Self::Acknowledged) -> Result<(), String>;
}

/// A series of cuts.
#[derive(Clone, Debug)]
pub struct PowerCuts {
    /// What the workload sees.
    pub on: Medium,
    /// Decides where each cut falls and what it spares.
    pub seed: u64,
    /// How many cuts.
    pub cuts: u64,
    /// After how many changes of the disk the power goes, at least and at most.
    pub operations: RangeInclusive<u64>,
    /// After how many cuts an empty disk takes over, so that creating is cut too.
    pub fresh_every: u64,
    /// Syncs that the disks only pretend to carry out.
    pub unsynced: Unsynced,
}

/// What a series of cuts came to.
#[derive(Clone, Debug, Default)]
pub struct Survived {
    /// Cuts that fell while the workload was writing.
    pub cuts: u64,
    /// What the disks lost and kept.
    pub toll: Toll,
}

impl PowerCuts {
    /// Thirty cuts from the seed (a thousand in the long form), each after 1-400 changes, an empty disk after every ten.
    pub fn thirty(seed: u64) -> Self {
        let cuts = crate::rounds(30, 1_000);
        Self { on: Medium::Files, seed, cuts, operations: 1..=400, fresh_every: 10, unsynced: Unsynced::Nothing }
    }

    /// Runs `workload` under the cuts. `Ok(None)` means that this machine has no FUSE (`test` was said to be skipped);
    /// an error names the cut, so that `PowerCuts` with the same seed finds it again.
    ///
    /// A test asserts on [`Survived`] too: cuts that lost nothing prove nothing.
    pub fn run<W: Workload>(&self, test: &str, workload: &mut W) -> Result<Option<Survived>, String> {
        let mut survived = Survived::default();
        let mut random = ChaCha12Rng::seed_from_u64(self.seed);
        let mut done = 0;
        while done < self.cuts {
            let Some(mut disk) = PowerDisk::mount_as_or_skip(self.on, test) else { return Ok(None) };
            disk.leave_out(self.unsynced.clone());
            let mut acknowledged = W::Acknowledged::default();
            for _ in 0..self.fresh_every.min(self.cuts - done) {
                disk.cut_after(random.random_range(self.operations.clone()), random.random());
                workload.write(disk.path(), &mut random, &mut acknowledged);
                survived.cuts += u64::from(disk.is_dark());
                // A workload that was done first loses its power now: nothing may hang on its having more to do.
                disk.cut(random.random());
                disk.restore().map_err(|fault| format!("cut {done} of seed {}: remount: {fault}", self.seed))?;
                workload
                    .check(disk.path(), &acknowledged)
                    .map_err(|fault| format!("cut {done} of seed {}: {fault}", self.seed))?;
                done += 1;
            }
            survived.toll += disk.toll();
        }
        Ok(Some(survived))
    }
}

impl std::ops::AddAssign for Toll {
    fn add_assign(&mut self, other: Self) {
        self.pages_dropped += other.pages_dropped;
        self.pages_torn += other.pages_torn;
        self.pages_kept += other.pages_kept;
        self.names_dropped += other.names_dropped;
        self.names_kept += other.names_kept;
    }
}
