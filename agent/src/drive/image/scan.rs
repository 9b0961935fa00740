//! One pass over a disk: read, hash, write the new index, and say what changed.
//!
//! The scan of a disk that stands still gives its root and exactly the changes since the baseline; that of a running
//! one is fuzzy: its index describes what was read, which is no instant. For a VM that can only be stopped, not cloned:
//!
//! 1. while it runs, scan into a fuzzy index, send the differences ([`send_ranges`] patches the index with what was
//!    really sent, [`HashIndex::forget`] marks what the holder has of its own);
//! 2. frozen, scan against that index and spool what is left; thaw; send.
//!
//! Holes are hashed without reading. Everything here blocks.

use std::ops::Range;
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::id::Root;
use landfall_proto::message::data::{Content, EXTENT_MAX, Extent};
use landfall_proto::seam::Clock;

use super::extent;
use super::index::{HashIndex, IndexWriter};
use super::pieces::{Piece, pieces};
use super::source::Readable;
use super::tree::{self, BLOCK_BYTES, Hash};

/// Where changed extents go, in order of disk and offset.
pub trait ExtentSink {
    /// Takes one; a refusal ends the pass.
    fn extent(&mut self, extent: Extent) -> Result<(), Refusal>;

    /// Hears how far the pass has got; a refusal ends it.
    fn progress(&mut self, _offset: u64) -> Result<(), Refusal> {
        Ok(())
    }
}

impl<F: FnMut(Extent) -> Result<(), Refusal>> ExtentSink for F {
    fn extent(&mut self, extent: Extent) -> Result<(), Refusal> {
        self(extent)
    }
}

/// What a scan compares with.
#[derive(Clone, Copy, Debug)]
pub enum Baseline<'a> {
    /// Nothing: only the index is wanted, and no extent is emitted.
    None,
    /// Nothing, as well; where a leaf has the hash that an index has of it, its blocks have theirs, and need not be hashed
    /// one by one. What that index describes does not matter.
    Guess(&'a HashIndex),
    /// A disk of zeroes: what a holder begins with.
    Zeroes,
    /// The disk that an index describes. What a grown disk has beyond it counts as changed.
    Index(&'a HashIndex),
}

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanReport {
    /// The disk's root.
    pub root: Root,
    /// Bytes that were read; the rest were holes.
    pub read_bytes: u64,
    /// Bytes in blocks that changed, zeroes included.
    pub changed_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Scans `content` as disk number `disk`: writes its index and emits what differs from `baseline`. Blocks for as long
/// as reading the disk takes.
pub fn scan(
    content: &dyn Readable,
    disk: u16,
    baseline: Baseline<'_>,
    mut writer: IndexWriter,
    clock: &dyn Clock,
    sink: &mut dyn ExtentSink,
) -> Result<ScanReport, Refusal> {
    let began = clock.now();
    let bytes = content.bytes();
    if writer.disk_bytes() != bytes {
        return Err(writer.wrong_size(bytes));
    }
    let mut out = Coalescer { disk, pending: None, sink };
    let (mut read_bytes, mut changed_bytes) = (0, 0);
    let work = |piece: &Piece<'_>| hash_leaves(piece, baseline, bytes);
    pieces(content, 0..bytes, &work, &mut |piece, hashed| {
        read_bytes += piece.data.map_or(0, |data| data.len() as u64);
        for (leaf, Hashed { old, unchanged, new }) in piece.leaves().zip(hashed) {
            if let Some(hash) = unchanged {
                writer.push_all(&old, hash)?;
                continue;
            }
            for (at, ((block, data, length), hash)) in leaf.blocks().zip(new).enumerate() {
                if baseline.differs(old.get(at), data, &hash) {
                    changed_bytes += length;
                    out.block(block * BLOCK_BYTES, data, length)?;
                }
                writer.push(hash)?;
            }
        }
        out.sink.progress(piece.offset + piece.length)
    })?;
    out.flush()?;
    let root = writer.finish()?;
    Ok(ScanReport { root, read_bytes, changed_bytes, took: clock.now().since(began) })
}

/// Reads the bytes of `ranges` (aligned to blocks, in order) and emits them as extents. An `index` given is patched with
/// what was read, so that it goes on describing what the receiver has. Returns the bytes emitted. Blocks.
pub fn send_ranges(
    content: &dyn Readable,
    disk: u16,
    ranges: &[Range<u64>],
    mut index: Option<&mut HashIndex>,
    sink: &mut dyn ExtentSink,
) -> Result<u64, Refusal> {
    let bytes = content.bytes();
    let mut out = Coalescer { disk, pending: None, sink };
    let mut sent = 0;
    let hash = |piece: &Piece<'_>| Ok(block_hashes(piece, bytes));
    for range in ranges {
        pieces(content, range.start..range.end.min(bytes), &hash, &mut |piece, hashes| {
            for (block, data, length) in piece.blocks() {
                out.block(block * BLOCK_BYTES, data, length)?;
                sent += length;
            }
            if let Some(index) = index.as_deref_mut() {
                index.patch(piece.offset / BLOCK_BYTES, &hashes)?;
            }
            out.sink.progress(piece.offset + piece.length)
        })?;
    }
    out.flush()?;
    Ok(sent)
}

fn block_hashes(piece: &Piece<'_>, disk_bytes: u64) -> Vec<Hash> {
    let hash = |(block, data, length): (u64, Option<&[u8]>, u64)| match data {
        Some(data) => tree::data_hash(disk_bytes, block * BLOCK_BYTES, data),
        None => tree::zero_hash(disk_bytes, block * BLOCK_BYTES, length),
    };
    piece.blocks().map(hash).collect()
}

/// What was found out of a leaf, or the part of one.
struct Hashed {
    /// What the baseline has of its blocks; fewer where that says nothing of them.
    old: Vec<Hash>,
    /// The hash of the leaf, where all its blocks are as the baseline has them.
    unchanged: Option<Hash>,
    /// The hashes of its blocks, where not.
    new: Vec<Hash>,
}

fn hash_leaves(piece: &Piece<'_>, baseline: Baseline<'_>, disk_bytes: u64) -> Result<Vec<Hashed>, Refusal> {
    let known = baseline.read(piece, disk_bytes)?;
    let first = piece.offset / BLOCK_BYTES;
    let hash = |leaf: Piece<'_>| {
        let from = (leaf.offset / BLOCK_BYTES - first) as usize;
        let to = ((leaf.offset + leaf.length).div_ceil(BLOCK_BYTES) - first) as usize;
        let old = known[from.min(known.len())..to.min(known.len())].to_vec();
        let unchanged = leaf.unchanged(&old, disk_bytes);
        let new = if unchanged.is_some() { Vec::new() } else { block_hashes(&leaf, disk_bytes) };
        Hashed { old, unchanged, new }
    };
    Ok(piece.leaves().map(hash).collect())
}

impl Baseline<'_> {
    /// The hashes of a piece's blocks; fewer where it says nothing of them.
    fn read(&self, piece: &Piece<'_>, disk_bytes: u64) -> Result<Vec<Hash>, Refusal> {
        let (Self::Index(index) | Self::Guess(index)) = self else { return Ok(Vec::new()) };
        // Where the disk grew, a short last block became a longer one: it cannot be compared.
        let same = index.disk_bytes() == disk_bytes;
        let comparable = if same { index.count() } else { index.disk_bytes().min(disk_bytes) / BLOCK_BYTES };
        let first = piece.offset / BLOCK_BYTES;
        let end = (piece.offset + piece.length).div_ceil(BLOCK_BYTES).min(comparable);
        if first < end { index.read(first, end - first) } else { Ok(Vec::new()) }
    }

    /// Whether a block with this content and hash differs from the baseline, whose hash of it is `old`.
    fn differs(&self, old: Option<&Hash>, data: Option<&[u8]>, hash: &Hash) -> bool {
        match self {
            Self::None | Self::Guess(_) => false,
            Self::Zeroes => data.is_some_and(|data| !is_zero(data)),
            Self::Index(_) => old != Some(hash),
        }
    }
}

/// What data is compared with: the C library compares with the widest instructions that there are, at any opt-level.
static ZEROES: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

fn is_zero(data: &[u8]) -> bool {
    data.chunks(ZEROES.len()).all(|part| part == &ZEROES[..part.len()])
}

/// Joins neighbouring changed blocks to extents.
struct Coalescer<'a> {
    disk: u16,
    pending: Option<(u64, Pending)>,
    sink: &'a mut dyn ExtentSink,
}

enum Pending {
    Data(Vec<u8>),
    Zero(u64),
}

impl Coalescer<'_> {
    fn block(&mut self, offset: u64, data: Option<&[u8]>, length: u64) -> Result<(), Refusal> {
        let data = data.filter(|data| !is_zero(data));
        match (&mut self.pending, data) {
            (Some((start, Pending::Data(have))), Some(data))
                if *start + have.len() as u64 == offset && have.len() + data.len() <= EXTENT_MAX =>
            {
                have.extend_from_slice(data);
            }
            (Some((start, Pending::Zero(have))), None) if *start + *have == offset => *have += length,
            (_, data) => {
                self.flush()?;
                let pending = match data {
                    Some(data) => {
                        let mut first = Vec::with_capacity(BLOCK_BYTES as usize * 4);
                        first.extend_from_slice(data);
                        Pending::Data(first)
                    }
                    None => Pending::Zero(length),
                };
                self.pending = Some((offset, pending));
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        match self.pending.take() {
            None => Ok(()),
            Some((offset, Pending::Data(data))) => self.sink.extent(extent::data(self.disk, offset, data)),
            Some((offset, Pending::Zero(length))) => {
                self.sink.extent(Extent { disk: self.disk, offset, content: Content::Zero(length) })
            }
        }
    }
}
