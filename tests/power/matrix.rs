//! The crash matrix on a disk that loses its power: a commit is done again and again over the same folder, and each time
//! the power goes at another change of the disk, or another sync fails, once, and loses what it was to save. After each
//! the power goes (again), every listed point is restored and compared, nothing that was said to be staged or listed is
//! lost, and the next change set lands.
//!
//! The matrix of `agent/src/drive/replica` has the same for full disks, errors from a step on and kills. The short form
//! takes some of the changes, `LANDFALL_LONG=1` takes all.

use std::fs::{self, File};
use std::path::Path;

use landfall_kit::power::{PowerDisk, Workload};

use crate::replica::{Holder, Said};

/// A commit that has something to do: the point that it lists. Every third stays and two older ones are kept, so that the
/// points before say what is left for it: see the names.
const CASES: [(&str, u64); 5] = [
    ("first content", 1),
    ("a point on a head", 3),
    ("a head on a point, what was between is folded", 4),
    ("a head on a head", 8),
    ("a head, the oldest merged with all between", 10),
];

/// One of so many changes is tried in the short form, and of the syncs, which are fewer.
const CHANGES_SHORT: u64 = 11;
const SYNCS_SHORT: u64 = 3;

pub fn every(short: u64) -> usize {
    if std::env::var_os("LANDFALL_LONG").is_some() { 1 } else { short as usize }
}

/// Puts the folder of a replica onto the disk, durably.
pub fn put(template: &Path, disk: &Path) {
    let folder = disk.join("replica");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(template).into_iter().flatten() {
        let entry = entry.unwrap();
        let to = folder.join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        File::open(&to).unwrap().sync_all().unwrap();
    }
    File::open(&folder).unwrap().sync_all().unwrap();
    File::open(disk).unwrap().sync_all().unwrap();
}

/// What is done to the disk during a commit.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Power(u64),
    Sync(u64),
}

/// What was counted.
#[derive(Debug, Default)]
struct Counts {
    changes: u64,
    syncs: u64,
    cuts: u64,
    failed_syncs: u64,
    refused: u64,
}

struct Matrix {
    disk: PowerDisk,
    holder: Holder,
    template: tempfile::TempDir,
    counts: Counts,
}

impl Matrix {
    /// The commit of point `last` with a fault in it, and everything that must hold afterwards.
    fn one(&mut self, name: &str, last: u64, fault: Fault) {
        let shown = format!("{name}, {fault:?}");
        put(&self.template.path().join("replica"), self.disk.path());
        let seed = last * 100_000 + self.counts.cuts + self.counts.failed_syncs;
        match fault {
            Fault::Power(at) => self.disk.cut_after(at, seed),
            Fault::Sync(nth) => self.disk.fail_sync(nth),
        }
        let mut said = Said { staged: last - 1, listed: last - 1 };
        let done = self.holder.receive(self.disk.path(), last, &mut said);
        self.counts.refused += u64::from(done.is_err());
        match fault {
            Fault::Power(_) => self.counts.cuts += 1,
            Fault::Sync(_) => self.counts.failed_syncs += 1,
        }
        // What is on the disk is what counts, whatever was answered.
        self.disk.cut(seed + 1);
        self.disk.restore().unwrap();
        let folder = self.disk.path();
        self.holder.check(folder, &said).unwrap_or_else(|fault| panic!("{shown}: {fault}"));
        let next = self.holder.receive(folder, last + 1, &mut said);
        next.unwrap_or_else(|refusal| panic!("{shown}, next: {refusal}"));
        assert_eq!(said.listed, last + 1, "{shown}");
        self.holder.check(folder, &said).unwrap_or_else(|fault| panic!("{shown}, next: {fault}"));
    }

    fn case(&mut self, name: &str, last: u64) {
        self.template = tempfile::tempdir().unwrap();
        fs::create_dir(self.template.path().join("replica")).unwrap();
        self.holder.receive(self.template.path(), last - 1, &mut Said::default()).unwrap();
        put(&self.template.path().join("replica"), self.disk.path());
        let (changes, syncs) = (self.disk.operations(), self.disk.syncs());
        self.holder.receive(self.disk.path(), last, &mut Said::default()).unwrap();
        let (changes, syncs) = (self.disk.operations() - changes, self.disk.syncs() - syncs);
        println!("{name}: {changes} changes of the disk, {syncs} syncs among them");
        assert!(syncs > 5 && changes > syncs, "{name}");
        (self.counts.changes, self.counts.syncs) = (self.counts.changes + changes, self.counts.syncs + syncs);
        (1..=changes).step_by(every(CHANGES_SHORT)).for_each(|at| self.one(name, last, Fault::Power(at)));
        (1..=syncs).step_by(every(SYNCS_SHORT)).for_each(|nth| self.one(name, last, Fault::Sync(nth)));
    }
}

#[test]
fn the_power_goes_at_every_change_and_every_sync_fails_and_every_listed_point_restores() {
    let Some(disk) = PowerDisk::mount_or_skip("the crash matrix") else { return };
    let template = tempfile::tempdir().unwrap();
    let mut matrix = Matrix { disk, holder: Holder::new(), template, counts: Counts::default() };
    for (name, last) in CASES {
        matrix.case(name, last);
    }
    let (Counts { changes, syncs, cuts, failed_syncs, refused }, toll) = (&matrix.counts, matrix.disk.toll());
    println!(
        "crash matrix: {changes} changes and {syncs} syncs in {} cases; {cuts} power cuts and {failed_syncs} failed \
         syncs, {refused} commits broken off, {} points restored and compared; {toll:?}",
        CASES.len(),
        matrix.holder.compared
    );
    assert!(*refused > 0 && toll.pages_dropped > 0 && toll.pages_torn > 0 && toll.names_dropped > 0, "{toll:?}");
}
