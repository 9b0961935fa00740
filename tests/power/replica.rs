//! Power cuts under a replica's folder: each listed point exports byte for byte, a committed one is listed, and one that
//! was said to be staged is not lost.

use std::path::Path;

use landfall_agent::drive::replica::{Begun, Epochs, ReplicaStore};
use landfall_kit::power::{Medium, PowerCuts, Unsynced, Workload};
use landfall_proto::Refusal;
use landfall_proto::id::{Epoch, Fingerprint, SenderEpoch, VmId};
use rand_chacha::ChaCha12Rng;

use crate::content;

/// Older points kept: small, so that retention merges at nearly every commit.
pub const KEEP: u8 = 2;

/// Changes of the disk until the power goes, at most: a few cycles of staging, commit and retention.
const OPERATIONS_MAX: u64 = 1200;

/// Every third change set stays as a point; what is between two is folded.
pub fn stays(sequence: u64) -> bool {
    sequence.is_multiple_of(3)
}

pub fn vm() -> VmId {
    "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c001".parse().unwrap()
}

/// The newest points that the store has spoken of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// `finish` returned: it may have been acknowledged to the sender.
    pub staged: u64,
    /// `commit` returned.
    pub listed: u64,
}

/// A holder that takes point after point.
pub struct Holder {
    scratch: tempfile::TempDir,
    /// Points committed over all disks.
    committed: u64,
    /// Points exported and compared.
    pub compared: u64,
}

impl Holder {
    pub fn new() -> Self {
        Self { scratch: tempfile::tempdir().unwrap(), committed: 0, compared: 0 }
    }

    fn commit(&mut self, store: &mut ReplicaStore, said: &mut Said) -> Result<(), Refusal> {
        said.listed = store.commit()?.sequence;
        self.committed += 1;
        Ok(())
    }

    /// Takes points until the newest is `last`, or something fails.
    pub fn receive(&mut self, folder: &Path, last: u64, said: &mut Said) -> Result<(), Refusal> {
        let epochs = Epochs {
            assignment: Epoch::from_number(7),
            cluster: Fingerprint([1; 32]),
            sender: SenderEpoch::from_number(3),
        };
        let mut store = ReplicaStore::open(&folder.join("replica"), vm())?;
        store.set_recovery_points(KEEP)?;
        loop {
            if store.standing().staged_whole {
                self.commit(&mut store, said)?;
            }
            let standing = store.admit(&epochs, &content::disks(), &[])?;
            let next = standing.newest.map_or(0, |tip| tip.sequence) + 1;
            if next > last {
                return Ok(());
            }
            let (set, extents) = content::change_set(self.scratch.path(), &mut store, standing.newest, next)?;
            if let Begun::Staging(from) = store.begin(&epochs, &set)? {
                for extent in &extents[from as usize..] {
                    store.append(&epochs, extent)?;
                }
                store.finish(&epochs, extents.len() as u64)?;
            }
            said.staged = next;
            self.commit(&mut store, said)?;
        }
    }
}

impl Workload for Holder {
    type Acknowledged = Said;

    fn write(&mut self, folder: &Path, _: &mut ChaCha12Rng, said: &mut Said) {
        let _ = self.receive(folder, u64::MAX, said);
    }

    fn check(&mut self, folder: &Path, said: &Said) -> Result<(), String> {
        let shown = |refusal: Refusal| refusal.to_string();
        let store = ReplicaStore::open(&folder.join("replica"), vm()).map_err(shown)?;
        if let Some(fault) = store.fault() {
            return Err(format!("a commit is not completed: {fault}"));
        }
        let points: Vec<u64> = store.manifest().points.iter().map(|point| point.sequence).collect();
        // A commit that a cut interrupted is completed by opening: its point may have taken the place of the head.
        let newest = points.last().copied().unwrap_or(0);
        if said.listed > newest || (stays(said.listed) && said.listed > 0 && !points.contains(&said.listed)) {
            return Err(format!("point {} was committed, listed are {points:?}", said.listed));
        }
        let standing = store.standing();
        let staged = standing.staged.filter(|_| standing.staged_whole).map_or(0, |staged| staged.tip.sequence);
        if said.staged > newest.max(staged) {
            return Err(format!("point {} was staged whole and is lost, listed are {points:?}", said.staged));
        }
        let older = &points[..points.len().saturating_sub(1)];
        if !older.iter().all(|point| stays(*point)) || !older.windows(2).all(|pair| pair[0] + 3 == pair[1]) {
            return Err(format!("{points:?} are not those that stay, and the newest"));
        }
        if points.len() > usize::from(KEEP) + 1 {
            return Err(format!("{points:?} are more points than were asked for"));
        }
        for point in points {
            let exported = tempfile::tempdir().map_err(|error| error.to_string())?;
            let report = store.pin(Some(point)).and_then(|pinned| pinned.export(exported.path(), &mut |_| Ok(())));
            let report = report.map_err(|refusal| format!("point {point} is listed and not whole: {refusal}"))?;
            let found: Vec<Vec<u8>> = report.files.iter().map(|file| std::fs::read(file).unwrap()).collect();
            if found != content::at_point(point) {
                return Err(format!("point {point} is listed and not what was sent"));
            }
            self.compared += 1;
        }
        Ok(())
    }
}

const SEED: u64 = 20_261_132;

fn under_cuts(seed: u64, unsynced: Unsynced) -> PowerCuts {
    PowerCuts { cuts: crate::cuts(), operations: 1..=OPERATIONS_MAX, unsynced, ..PowerCuts::thirty(seed) }
}

#[test]
fn every_listed_point_survives_the_cuts() {
    let mut holder = Holder::new();
    let run = under_cuts(SEED, Unsynced::Nothing).run("every_listed_point_survives_the_cuts", &mut holder);
    let Some(survived) = run.unwrap() else { return };
    println!("{} points committed, {} compared, {survived:?}", holder.committed, holder.compared);
    assert_eq!(survived.cuts, crate::cuts(), "{survived:?}");
    assert!(survived.toll.pages_dropped > 0 && survived.toll.pages_torn > 0, "{survived:?}");
    assert!(survived.toll.names_dropped > 0, "{survived:?}");
    assert!(holder.committed > crate::cuts() && holder.compared > crate::cuts());
}

#[test]
fn every_listed_point_survives_the_cuts_under_ext4() {
    let mut holder = Holder::new();
    let cuts = PowerCuts { on: Medium::Ext4, cuts: crate::cuts_under_ext4(), ..under_cuts(SEED, Unsynced::Nothing) };
    let run = cuts.run("every_listed_point_survives_the_cuts_under_ext4", &mut holder);
    let Some(survived) = run.unwrap() else { return };
    println!("{} points committed, {} compared, {survived:?}", holder.committed, holder.compared);
    assert!(survived.toll.pages_dropped > 0 && survived.toll.pages_torn > 0, "{survived:?}");
    assert!(holder.committed > crate::cuts_under_ext4() && holder.compared > crate::cuts_under_ext4());
}

/// Rounds of cuts until a sync that is left out must have been found: leaves are made again from the block hashes except
/// where these are ahead already, so that a cut must fall between the two.
const ROUNDS_MAX: u64 = 12;

/// Each kind of sync is taken out by itself; such cuts must find it.
#[test]
fn each_sync_that_is_left_out_costs_a_point() {
    let file = |part: &str| Unsynced::Files(part.to_owned());
    for unsynced in [file("staged.log"), file(".qcow2"), file("manifest"), file(".leaves"), Unsynced::Folders] {
        let found = (SEED..SEED + ROUNDS_MAX).find_map(|seed| {
            let cuts = under_cuts(seed, unsynced.clone());
            match cuts.run("each_sync_that_is_left_out_costs_a_point", &mut Holder::new()) {
                Ok(None) => Some(String::new()),
                Ok(Some(_)) => None,
                Err(fault) => Some(fault),
            }
        });
        let fault = found.unwrap_or_else(|| panic!("without the syncs of {unsynced:?} nothing was lost"));
        println!("{unsynced:?}: {fault}");
    }
}
