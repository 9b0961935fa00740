//! A primary for tests: disks in memory, scanned and sent as the real one's are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Epoch, Fingerprint, Root, SenderEpoch, UnixMillis, VmId};
use landfall_proto::message::control::{Consistency, Point};
use landfall_proto::message::data::{ChangeSet, Extent, Tip};
use landfall_proto::model::DiskSpec;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Begun, Epochs, ReplicaStore};
use crate::drive::image::test_disk::{MemoryDisk, StepClock, random_bytes};
use crate::drive::image::{
    BLOCK_BYTES, Baseline, Comparison, HashIndex, IndexWriter, Question, content_root, scan, send_ranges,
};

/// The VM of all tests.
pub(crate) const VM: VmId = VmId(uuid::Uuid::from_u128(0x6f1c_2a52));

pub(crate) fn epochs() -> Epochs {
    let cluster = Fingerprint([0xa1; 32]);
    Epochs { assignment: Epoch::from_number(7), cluster, sender: SenderEpoch::from_number(3) }
}

/// The disks of a VM, and what was sent of them.
pub(crate) struct Primary {
    pub(crate) disks: Vec<(DiskTarget, Vec<u8>)>,
    /// The content at each point that was made.
    pub(crate) history: BTreeMap<u64, Vec<(DiskTarget, Vec<u8>)>>,
    pub(crate) sequence: u64,
    /// Every so many change sets one stays as a point.
    pub(crate) every: u64,
    random: StdRng,
    scratch: PathBuf,
}

impl Primary {
    pub(crate) fn new(scratch: &Path, sizes: &[usize], seed: u64) -> Self {
        std::fs::create_dir_all(scratch).unwrap();
        let disks = sizes.iter().enumerate().map(|(at, size)| {
            let mut content = vec![0; *size];
            content[..*size / 2].copy_from_slice(&random_bytes(*size / 2, seed + at as u64));
            (format!("vd{}", char::from(b'a' + at as u8)).parse().unwrap(), content)
        });
        Self {
            disks: disks.collect(),
            history: BTreeMap::new(),
            sequence: 0,
            every: 1,
            random: StdRng::seed_from_u64(seed),
            scratch: scratch.to_owned(),
        }
    }

    pub(crate) fn specs(&self) -> Vec<DiskSpec> {
        self.disks.iter().map(|(target, data)| DiskSpec { target: target.clone(), bytes: data.len() as u64 }).collect()
    }

    /// Some writes: scattered small ones, a long one, and zeroes.
    pub(crate) fn write(&mut self) {
        for (_, data) in &mut self.disks {
            for _ in 0..self.random.random_range(0..8) {
                let start = self.random.random_range(0..data.len());
                let long = self.random.random_bool(0.2);
                let end = (start + self.random.random_range(1..if long { 300_000 } else { 5000 })).min(data.len());
                if self.random.random_bool(0.3) {
                    data[start..end].fill(0);
                } else {
                    data[start..end].copy_from_slice(&random_bytes(end - start, self.random.random()));
                }
            }
        }
    }

    fn index(&self, name: &str, data: &[u8]) -> (HashIndex, Root) {
        let path = self.scratch.join(name);
        let writer = IndexWriter::create(&path, data.len() as u64, BLOCK_BYTES).unwrap();
        let disk = MemoryDisk(data.to_vec());
        let report = scan(&disk, 0, Baseline::None, writer, &StepClock::default(), &mut |_| Ok(())).unwrap();
        (HashIndex::open(&path).unwrap().unwrap(), report.root)
    }

    /// The next change set against point `base` (by sequence), and its extents.
    pub(crate) fn next_set(&mut self, base: Option<Tip>) -> (ChangeSet, Vec<Extent>) {
        let mut extents = Vec::new();
        for (at, (target, data)) in self.disks.clone().iter().enumerate() {
            let before =
                base.and_then(|tip| self.history[&tip.sequence].iter().find(|(name, _)| name == target).cloned());
            let known = before.map(|(_, before)| self.index("before", &before).0);
            let baseline = known.as_ref().map_or(Baseline::Zeroes, Baseline::Index);
            let path = self.scratch.join("now");
            let writer = IndexWriter::create(&path, data.len() as u64, BLOCK_BYTES).unwrap();
            let disk = MemoryDisk(data.clone());
            let mut sink = |extent| {
                extents.push(extent);
                Ok(())
            };
            scan(&disk, at as u16, baseline, writer, &StepClock::default(), &mut sink).unwrap();
        }
        (self.set_with(base), extents)
    }

    /// The change set that makes the present content the next point.
    pub(crate) fn set_with(&mut self, base: Option<Tip>) -> ChangeSet {
        self.sequence += 1;
        self.history.insert(self.sequence, self.disks.clone());
        let disks: Vec<(DiskSpec, Root)> = self
            .specs()
            .into_iter()
            .zip(&self.disks)
            .map(|(spec, (_, data))| (spec, Root(*blake3::hash(data).as_bytes())))
            .collect();
        let root = content_root(disks.iter().map(|(spec, root)| (&spec.target, spec.bytes, root)));
        ChangeSet {
            base,
            tip: Tip { sequence: self.sequence, root },
            disks,
            taken_at: UnixMillis(self.sequence * 1000),
            consistency: Consistency::Crash,
            stays: self.sequence.is_multiple_of(self.every),
            resume_at: 0,
        }
    }

    /// Compares with what the store has, and returns the extents that it lacks.
    pub(crate) fn compared(&self, store: &mut ReplicaStore) -> Vec<Extent> {
        let mut extents = Vec::new();
        for (at, (target, data)) in self.disks.iter().enumerate() {
            let (own, _) = self.index("own", data);
            let mut comparison = Comparison::new(data.len() as u64);
            while let Some(Question { node_bytes, first, count }) = comparison.next_question() {
                let mine = own.node_hashes(u64::from(node_bytes), first, count).unwrap();
                comparison.answer(&mine, &store.hashes(target, node_bytes, first, count).unwrap()).unwrap();
            }
            let ranges = comparison.into_ranges();
            let mut sink = |extent| {
                extents.push(extent);
                Ok(())
            };
            send_ranges(&MemoryDisk(data.clone()), at as u16, &ranges, None, &mut sink).unwrap();
        }
        extents
    }

    /// Makes the present content a point: first content by comparing, later ones on the newest point.
    pub(crate) fn replicate(&mut self, store: &mut ReplicaStore) -> Result<Point, Refusal> {
        let standing = store.admit(&epochs(), &self.specs(), &[])?;
        let (set, extents) = match standing.newest {
            Some(tip) => self.next_set(Some(tip)),
            None => {
                let extents = self.compared(store);
                (self.set_with(None), extents)
            }
        };
        stage(store, &set, &extents)?;
        store.commit()
    }
}

/// Stages a whole change set.
pub(crate) fn stage(store: &mut ReplicaStore, set: &ChangeSet, extents: &[Extent]) -> Result<(), Refusal> {
    if store.begin(&epochs(), set)? == Begun::Staging(0) {
        for extent in extents {
            store.append(&epochs(), extent)?;
        }
        store.finish(&epochs(), extents.len() as u64)?;
    }
    Ok(())
}

/// Exports a point and returns its disks' bytes.
pub(crate) fn exported(store: &ReplicaStore, sequence: u64) -> Result<Vec<Vec<u8>>, Refusal> {
    let folder = tempfile::tempdir().unwrap();
    let report = store.pin(Some(sequence))?.export(folder.path(), &mut |_| Ok(()))?;
    Ok(report.files.iter().map(|file| std::fs::read(file).unwrap()).collect())
}

/// Every listed point restores byte for byte.
pub(crate) fn check_points(store: &ReplicaStore, history: &BTreeMap<u64, Vec<(DiskTarget, Vec<u8>)>>) {
    for point in &store.manifest().points {
        let expected: Vec<&Vec<u8>> = history[&point.sequence].iter().map(|(_, data)| data).collect();
        let found = exported(store, point.sequence).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert!(found.iter().eq(expected), "point {} is not what was sent", point.sequence);
    }
}

pub(crate) fn listed(store: &ReplicaStore) -> Vec<u64> {
    store.manifest().points.iter().map(|point| point.sequence).collect()
}
