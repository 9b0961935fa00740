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
use super::index::{HashIndex, Hashes, IndexWriter};
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
    let mut known = Known::new(baseline, bytes)?;
    let mut out = Coalescer { disk, pending: None, sink };
    let (mut read_bytes, mut changed_bytes, mut old) = (0, 0, Vec::new());
    pieces(content, 0..bytes, &mut |piece| {
        read_bytes += piece.data.map_or(0, |data| data.len() as u64);
        for leaf in piece.leaves() {
            known.read(&leaf, &mut old)?;
            if let Some(hash) = leaf.unchanged(&old, bytes) {
                writer.push_all(&old, hash)?;
                continue;
            }
            for (at, (block, data, length)) in leaf.blocks().enumerate() {
                let hash = block_hash(bytes, block, data, length);
                if known.differs(old.get(at), data, &hash) {
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
    for range in ranges {
        pieces(content, range.start..range.end.min(bytes), &mut |piece| {
            let first = piece.offset / BLOCK_BYTES;
            let mut hashes = Vec::new();
            for (block, data, length) in piece.blocks() {
                hashes.push(block_hash(bytes, block, data, length));
                out.block(block * BLOCK_BYTES, data, length)?;
                sent += length;
            }
            if let Some(index) = index.as_deref_mut() {
                index.patch(first, &hashes)?;
            }
            out.sink.progress(piece.offset + piece.length)
        })?;
    }
    out.flush()?;
    Ok(sent)
}

fn block_hash(disk_bytes: u64, block: u64, data: Option<&[u8]>, length: u64) -> Hash {
    match data {
        Some(data) => tree::data_hash(disk_bytes, block * BLOCK_BYTES, data),
        None => tree::zero_hash(disk_bytes, block * BLOCK_BYTES, length),
    }
}

/// The hashes of the baseline, in step with the scan.
enum Known {
    Ignore,
    Zeroes,
    Index { hashes: Hashes, comparable: u64 },
}

impl Known {
    fn new(baseline: Baseline<'_>, bytes: u64) -> Result<Self, Refusal> {
        Ok(match baseline {
            Baseline::None => Self::Ignore,
            Baseline::Zeroes => Self::Zeroes,
            Baseline::Index(index) => {
                let same = index.disk_bytes() == bytes;
                // Where the disk grew, a short last block became a longer one: it cannot be compared.
                let comparable = if same { index.count() } else { index.disk_bytes().min(bytes) / BLOCK_BYTES };
                Self::Index { hashes: index.hashes_from(0)?, comparable }
            }
        })
    }

    /// Reads the hashes of the next piece's blocks into `old`; fewer where the baseline says nothing of them.
    fn read(&mut self, piece: &Piece<'_>, old: &mut Vec<Hash>) -> Result<(), Refusal> {
        old.clear();
        if let Self::Index { hashes, comparable } = self {
            let first = piece.offset / BLOCK_BYTES;
            let end = (piece.offset + piece.length).div_ceil(BLOCK_BYTES).min(*comparable);
            for _ in first..end {
                old.extend(hashes.next_hash()?);
            }
        }
        Ok(())
    }

    /// Whether a block with this content and hash differs from the baseline, whose hash of it is `old`.
    fn differs(&self, old: Option<&Hash>, data: Option<&[u8]>, hash: &Hash) -> bool {
        match self {
            Self::Ignore => false,
            Self::Zeroes => data.is_some_and(|data| !is_zero(data)),
            Self::Index { .. } => old != Some(hash),
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
