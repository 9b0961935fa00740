//! Power cuts under a node that copies a replica from another one: at each change of the disk and each sync of it, into an
//! empty place and over an older copy. What has its place is whole, whatever was cut off, and nothing that was there before
//! is lost; the next copy is right, and change sets land in it.

use std::fs;
use std::path::Path;

use landfall_agent::drive::replica::{Import, ReplicaStore};
use landfall_kit::power::{PowerDisk, Workload};
use landfall_proto::Refusal;

use crate::matrix::{Fault, every, put};
use crate::replica::{Holder, KEEP, Said, vm};

/// What is copied, and what is in its place before: nothing, points that are all at the other node as well, points of which
/// none is.
const CASES: [(&str, u64, u64); 3] =
    [("into an empty place", 7, 0), ("over points that are the same", 8, 7), ("over points that are gone", 14, 4)];

/// One of so many changes is tried in the short form, and of the syncs, which are fewer.
const CHANGES_SHORT: u64 = 7;
const SYNCS_SHORT: u64 = 2;

struct Copies {
    disk: PowerDisk,
    holder: Holder,
    /// The other node's folder.
    from: tempfile::TempDir,
    /// What is in place before.
    before: tempfile::TempDir,
    broken_off: u64,
    faults: u64,
}

/// Copies the other node's replica into its place on `disk`, as an agent does: it removes what an earlier try has left.
fn copy(from: &Path, disk: &Path) -> Result<(), Refusal> {
    let mut store = ReplicaStore::open(&from.join("replica"), vm())?;
    let mut source = store.copy_source(true)?;
    let to = disk.join("replica");
    Import::discard(&to, vm())?;
    let mut import = Import::begin(&to, vm(), source.listing().clone())?;
    import.reuse(store.manifest())?;
    for similar in import.similar(store.manifest()) {
        let digests = source.digests(&similar.name, 0, u32::from(u8::MAX))?;
        import.compare(&similar, &digests)?;
    }
    for _ in 0..2 {
        while let Some(step) = import.next_step() {
            import.feed(&source.read(&step.file, step.offset, step.length)?)?;
        }
        assert!(import.check()?.is_empty());
        import.again(source.listing().clone())?;
    }
    while let Some(step) = import.next_step() {
        import.feed(&source.read(&step.file, step.offset, step.length)?)?;
    }
    assert!(import.finish()?.is_empty());
    Ok(())
}

impl Copies {
    fn one(&mut self, name: &str, (last, before): (u64, u64), fault: Fault) {
        let shown = format!("{name}, {fault:?}");
        self.lay(before);
        let seed = last * 10_000 + self.faults;
        match fault {
            Fault::Power(at) => self.disk.cut_after(at, seed),
            Fault::Sync(nth) => self.disk.fail_sync(nth),
        }
        let done = copy(self.from.path(), self.disk.path());
        (self.faults, self.broken_off) = (self.faults + 1, self.broken_off + u64::from(done.is_err()));
        self.disk.cut(seed + 1);
        self.disk.restore().unwrap();
        let place = self.disk.path().join("replica");
        // What was there is there, or the copy is: neither is lost, nor is half of the one in place of the other.
        if before > 0 || done.is_ok() {
            let listed = if done.is_ok() { last } else { before };
            let said = Said { staged: listed, listed };
            self.holder.check(self.disk.path(), &said).unwrap_or_else(|fault| panic!("{shown}: {fault}"));
        } else if place.exists() {
            let said = Said { staged: last, listed: last };
            self.holder.check(self.disk.path(), &said).unwrap_or_else(|fault| panic!("{shown}: {fault}"));
        }
        copy(self.from.path(), self.disk.path()).unwrap_or_else(|refusal| panic!("{shown}, again: {refusal}"));
        let mut said = Said { staged: last, listed: last };
        self.holder.check(self.disk.path(), &said).unwrap_or_else(|fault| panic!("{shown}, again: {fault}"));
        let next = self.holder.receive(self.disk.path(), last + 1, &mut said);
        next.unwrap_or_else(|refusal| panic!("{shown}, next: {refusal}"));
        self.holder.check(self.disk.path(), &said).unwrap_or_else(|fault| panic!("{shown}, next: {fault}"));
    }

    /// What is on the disk before: nothing, or an older copy.
    fn lay(&self, before: u64) {
        Import::discard(&self.disk.path().join("replica"), vm()).unwrap();
        put(&self.before.path().join("replica"), self.disk.path());
        if before == 0 {
            fs::remove_dir_all(self.disk.path().join("replica")).unwrap();
            fs::File::open(self.disk.path()).unwrap().sync_all().unwrap();
        }
    }

    fn case(&mut self, name: &str, last: u64, before: u64) {
        (self.from, self.before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        self.holder.receive(self.from.path(), last, &mut Said::default()).unwrap();
        if before > 0 {
            self.holder.receive(self.before.path(), before, &mut Said::default()).unwrap();
        }
        self.lay(before);
        let (changes, syncs) = (self.disk.operations(), self.disk.syncs());
        copy(self.from.path(), self.disk.path()).unwrap();
        let (changes, syncs) = (self.disk.operations() - changes, self.disk.syncs() - syncs);
        println!("{name}: {changes} changes of the disk, {syncs} syncs among them");
        assert!(syncs > 3 && changes > syncs, "{name}");
        (1..=changes).step_by(every(CHANGES_SHORT)).for_each(|at| self.one(name, (last, before), Fault::Power(at)));
        (1..=syncs).step_by(every(SYNCS_SHORT)).for_each(|nth| self.one(name, (last, before), Fault::Sync(nth)));
    }
}

#[test]
fn the_power_goes_while_a_replica_is_copied_and_its_place_has_what_was_there_or_the_copy() {
    let Some(disk) = PowerDisk::mount_or_skip("copies under power cuts") else { return };
    let (from, before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut copies = Copies { disk, holder: Holder::new(), from, before, broken_off: 0, faults: 0 };
    for (name, last, before) in CASES {
        copies.case(name, last, before);
    }
    let toll = copies.disk.toll();
    let (faults, broken_off, compared) = (copies.faults, copies.broken_off, copies.holder.compared);
    println!("{faults} faults, {broken_off} copies broken off, {compared} points restored and compared; {toll:?}");
    assert!(broken_off > 0 && toll.pages_dropped > 0 && toll.names_dropped > 0, "{toll:?}");
    assert!(u64::from(KEEP) < compared);
}
