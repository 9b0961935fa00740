//! A VM's disks whose content at each point follows from the point's number, and the change sets between them.

use std::path::Path;

use landfall_agent::drive::image::{
    BLOCK_BYTES, Baseline, Comparison, HashIndex, IndexWriter, Question, Readable, Run, content_root, scan, send_ranges,
};
use landfall_agent::drive::replica::ReplicaStore;
use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root, UnixMillis};
use landfall_proto::message::control::Consistency;
use landfall_proto::message::data::{ChangeSet, Extent, Tip};
use landfall_proto::model::DiskSpec;
use landfall_proto::seam::{Clock, Time};

/// The disks' sizes: many blocks, and an end within a block.
const SIZES: [usize; 2] = [700_000, 90_001];

/// The content of each disk at a point: blocks change by turns, and some are zeroes.
pub fn at_point(sequence: u64) -> Vec<Vec<u8>> {
    let disk = |(disk, size): (usize, &usize)| {
        let mut data = vec![0; *size];
        for (at, block) in data.chunks_mut(BLOCK_BYTES as usize).enumerate() {
            let age = (sequence + at as u64 * 7 + disk as u64) / 9;
            if !(age + at as u64).is_multiple_of(5) {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&age.to_le_bytes()).update(&(at as u64).to_le_bytes());
                hasher.finalize_xof().fill(block);
            }
        }
        data
    };
    SIZES.iter().enumerate().map(disk).collect()
}

fn target(disk: usize) -> DiskTarget {
    format!("vd{}", char::from(b'a' + disk as u8)).parse().unwrap()
}

/// The disks as a session announces them.
pub fn disks() -> Vec<DiskSpec> {
    SIZES.iter().enumerate().map(|(at, size)| DiskSpec { target: target(at), bytes: *size as u64 }).collect()
}

/// The change set that makes point `sequence` on `base`, and its extents; without a base they are what the store lacks.
pub fn change_set(
    scratch: &Path,
    store: &mut ReplicaStore,
    base: Option<Tip>,
    sequence: u64,
) -> Result<(ChangeSet, Vec<Extent>), Refusal> {
    let mut extents = Vec::new();
    for (at, data) in at_point(sequence).into_iter().enumerate() {
        let mut sink = |extent| {
            extents.push(extent);
            Ok(())
        };
        match base {
            Some(base) => {
                let before = index(scratch, &at_point(base.sequence)[at]);
                let writer = IndexWriter::create(&scratch.join("now"), data.len() as u64, BLOCK_BYTES)?;
                scan(&Memory(data), at as u16, Baseline::Index(&before), writer, &NoClock, &mut sink)?;
            }
            None => {
                let own = index(scratch, &data);
                let mut comparison = Comparison::new(data.len() as u64);
                while let Some(Question { node_bytes, first, count }) = comparison.next_question() {
                    let mine = own.node_hashes(u64::from(node_bytes), first, count)?;
                    comparison.answer(&mine, &store.hashes(&target(at), node_bytes, first, count)?)?;
                }
                send_ranges(&Memory(data), at as u16, &comparison.into_ranges(), None, &mut sink)?;
            }
        }
    }
    let roots = at_point(sequence).into_iter().map(|data| Root(*blake3::hash(&data).as_bytes()));
    let disks: Vec<(DiskSpec, Root)> = disks().into_iter().zip(roots).collect();
    let root = content_root(disks.iter().map(|(spec, root)| (&spec.target, spec.bytes, root)));
    let (tip, taken_at) = (Tip { sequence, root }, UnixMillis(sequence * 1000));
    let (consistency, stays) = (Consistency::Crash, crate::replica::stays(sequence));
    Ok((ChangeSet { base, tip, disks, taken_at, consistency, stays, resume_at: 0 }, extents))
}

fn index(scratch: &Path, data: &[u8]) -> HashIndex {
    let path = scratch.join("before");
    let writer = IndexWriter::create(&path, data.len() as u64, BLOCK_BYTES).unwrap();
    scan(&Memory(data.to_vec()), 0, Baseline::None, writer, &NoClock, &mut |_| Ok(())).unwrap();
    HashIndex::open(&path).unwrap().unwrap()
}

/// A disk in memory; long runs of zeroes are holes.
struct Memory(Vec<u8>);

impl Readable for Memory {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run, Refusal> {
        let zeroes = self.0[offset as usize..(offset + max) as usize].iter().take_while(|byte| **byte == 0).count();
        let hole = zeroes as u64 >= BLOCK_BYTES || zeroes as u64 == max;
        Ok(Run { hole, length: if hole { zeroes as u64 } else { (zeroes as u64 + BLOCK_BYTES).min(max) } })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        buffer.copy_from_slice(&self.0[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
}

/// A clock that stands still: how long a scan takes decides nothing here.
#[derive(Debug)]
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Time {
        Time::default()
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis::default()
    }
}
