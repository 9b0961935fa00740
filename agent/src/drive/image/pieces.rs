//! A disk in pieces, in order: the bytes of what it has, and where its holes are, unread.
//!
//! A long range is read ahead by a thread of its own, so that the disk and whoever hashes it do not wait for each other:
//! a VM that stands still while its disks are scanned does so for less time. Everything here blocks.

use std::ops::Range;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use landfall_proto::Refusal;
use landfall_proto::refusal::Class;

use super::source::Readable;
use super::tree::{self, BLOCK_BYTES, Hash, LEAF_BYTES, Merger};

/// What one read takes: large enough for a disk's own read-ahead, small beside the bound on memory.
const READ_BYTES: usize = 1 << 20;

/// Pieces that are read ahead of the one in hand: one is being read while one waits.
const AHEAD: usize = 2;

/// From what length on a range is read ahead: below it a thread costs more than it saves.
const AHEAD_FROM: u64 = 8 * READ_BYTES as u64;

/// A piece of a disk: its bytes, or `None` for a hole.
pub(super) struct Piece<'a> {
    pub offset: u64,
    pub length: u64,
    pub data: Option<&'a [u8]>,
}

impl<'a> Piece<'a> {
    /// Its parts in each leaf of the disk.
    pub fn leaves(&self) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (offset, end, data) = (self.offset, self.offset + self.length, self.data);
        (offset / LEAF_BYTES..end.div_ceil(LEAF_BYTES)).map(move |leaf| {
            let (start, stop) = (offset.max(leaf * LEAF_BYTES), end.min((leaf + 1) * LEAF_BYTES));
            let data = data.map(|data| &data[(start - offset) as usize..(stop - offset) as usize]);
            Piece { offset: start, length: stop - start, data }
        })
    }

    /// Its hash, where it is a whole leaf with the block hashes `old`: hashing it in one go takes a third of the time that
    /// its blocks take, and most of a disk is as it was.
    pub fn unchanged(&self, old: &[Hash], disk_bytes: u64) -> Option<Hash> {
        if self.length != LEAF_BYTES || disk_bytes == LEAF_BYTES || old.len() as u64 != LEAF_BYTES / BLOCK_BYTES {
            return None;
        }
        let mut merger = Merger::default();
        old.iter().for_each(|hash| merger.push(*hash));
        let hash = match self.data {
            Some(data) => tree::data_hash(disk_bytes, self.offset, data),
            None => tree::zero_hash(disk_bytes, self.offset, self.length),
        };
        merger.finish(false).filter(|before| *before == hash)
    }

    /// Its blocks: number, bytes (`None` in a hole) and length.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, Option<&'a [u8]>, u64)> + use<'a> {
        let (offset, end, data) = (self.offset, self.offset + self.length, self.data);
        (offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).map(move |block| {
            let start = block * BLOCK_BYTES;
            let length = BLOCK_BYTES.min(end - start);
            let from = (start - offset) as usize;
            (block, data.map(|data| &data[from..from + length as usize]), length)
        })
    }
}

/// What is done with each piece; a refusal ends it.
type Each<'a> = &'a mut dyn FnMut(&Piece<'_>) -> Result<(), Refusal>;

/// Hands out `range` in pieces that begin and end at blocks.
pub(super) fn pieces(content: &dyn Readable, range: Range<u64>, each: Each<'_>) -> Result<(), Refusal> {
    if range.end.saturating_sub(range.start) < AHEAD_FROM {
        return one_by_one(content, range, each);
    }
    let (filled, come) = sync_channel::<Result<Owned, Refusal>>(AHEAD);
    let (used, empty) = channel::<Vec<u8>>();
    for _ in 0..=AHEAD {
        _ = used.send(Vec::new());
    }
    let reading = range.clone();
    let read = move || {
        let all = runs(content, reading, &mut |offset, length, hole| {
            let mut data = None;
            if !hole {
                let mut buffer = empty.recv().map_err(|_| given_up())?;
                buffer.resize(length as usize, 0);
                content.read_at(offset, &mut buffer)?;
                data = Some(buffer);
            }
            filled.send(Ok(Owned { offset, length, data })).map_err(|_| given_up())
        });
        if let Err(refusal) = all {
            // Nobody hears it where the other side gave up first.
            _ = filled.send(Err(refusal));
        }
    };
    thread::scope(move |scope| {
        if thread::Builder::new().name("read-ahead".to_owned()).spawn_scoped(scope, read).is_err() {
            return one_by_one(content, range, each);
        }
        for piece in come {
            let Owned { offset, length, data } = piece?;
            each(&Piece { offset, length, data: data.as_deref() })?;
            if let Some(data) = data {
                // The reader may be done.
                _ = used.send(data);
            }
        }
        Ok(())
    })
}

/// A piece on its way from the thread that reads.
struct Owned {
    offset: u64,
    length: u64,
    data: Option<Vec<u8>>,
}

fn given_up() -> Refusal {
    Refusal::new(Class::Failed, "scan", "the pass over the disk was given up")
}

fn one_by_one(content: &dyn Readable, range: Range<u64>, each: Each<'_>) -> Result<(), Refusal> {
    let mut buffer = Vec::new();
    runs(content, range, &mut |offset, length, hole| {
        if hole {
            return each(&Piece { offset, length, data: None });
        }
        buffer.resize(length as usize, 0);
        content.read_at(offset, &mut buffer)?;
        each(&Piece { offset, length, data: Some(&buffer) })
    })
}

/// Says of `range`, in order, what is to be read in one go and what is a hole: offset, length, whether it is a hole.
fn runs(
    content: &dyn Readable,
    range: Range<u64>,
    each: &mut dyn FnMut(u64, u64, bool) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut offset = range.start;
    // Up to where the last look at the content said that there is data: one look serves many reads.
    let mut data_until = offset;
    while offset < range.end {
        let left = range.end - offset;
        if offset >= data_until {
            let run = content.run_at(offset, left)?;
            // A hole counts only in whole blocks; at the disk's end the short block is whole.
            let whole = if run.length == left { left } else { run.length - run.length % BLOCK_BYTES };
            if run.hole && whole > 0 {
                each(offset, whole, true)?;
                offset += whole;
                data_until = offset;
                continue;
            }
            data_until = offset + run.length.next_multiple_of(BLOCK_BYTES);
        }
        // Reads end where leaves do, so that leaves are found whole.
        let length = left.min(data_until - offset).min(READ_BYTES as u64 - offset % READ_BYTES as u64);
        each(offset, length, false)?;
        offset += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::image::source::Run;
    use crate::drive::image::test_disk::random_bytes;

    /// Every other MiB is a hole; reading fails from `fails_at` on.
    struct Striped {
        bytes: Vec<u8>,
        fails_at: u64,
    }

    impl Striped {
        fn new(fails_at: u64) -> Self {
            let mut bytes = random_bytes(AHEAD_FROM as usize * 2 + 5000, 3);
            for (number, stripe) in bytes.chunks_mut(1 << 20).enumerate() {
                if number % 2 == 1 {
                    stripe.fill(0);
                }
            }
            Self { bytes, fails_at }
        }
    }

    impl Readable for Striped {
        fn bytes(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn run_at(&self, offset: u64, max: u64) -> Result<Run, Refusal> {
            let (stripe, rest) = (offset >> 20, (1 << 20) - (offset & 0xf_ffff));
            Ok(Run { hole: stripe % 2 == 1, length: rest.min(max) })
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
            if offset >= self.fails_at {
                return Err(Refusal::new(Class::Failed, "io_error", "this disk is worn"));
            }
            buffer.copy_from_slice(&self.bytes[offset as usize..offset as usize + buffer.len()]);
            Ok(())
        }
    }

    #[test]
    fn what_is_read_ahead_is_the_same_in_order_as_what_is_read_piece_by_piece() {
        let disk = Striped::new(u64::MAX);
        let mut found = [Vec::new(), Vec::new()];
        for (found, ahead) in found.iter_mut().zip([true, false]) {
            let mut take = |piece: &Piece<'_>| {
                found.push((piece.offset, piece.length, piece.data.map(<[u8]>::to_vec)));
                Ok(())
            };
            let range = BLOCK_BYTES..disk.bytes();
            if ahead { pieces(&disk, range, &mut take) } else { one_by_one(&disk, range, &mut take) }.unwrap();
        }
        assert_eq!(found[0], found[1]);
        assert!(found[0].iter().any(|(.., data)| data.is_none()) && found[0].iter().any(|(.., data)| data.is_some()));
    }

    #[test]
    fn a_read_that_fails_ahead_is_the_failure_of_the_pass_once_its_turn_has_come() {
        let disk = Striped::new(10 << 20);
        let mut until = 0;
        let failed = pieces(&disk, 0..disk.bytes(), &mut |piece| {
            until = piece.offset + piece.length;
            Ok(())
        });
        assert_eq!(failed.unwrap_err().code, "io_error");
        assert_eq!(until, 10 << 20);
    }

    #[test]
    fn a_pass_that_is_given_up_ends_its_reading_too() {
        let disk = Striped::new(u64::MAX);
        let mut taken = 0;
        let ended = pieces(&disk, 0..disk.bytes(), &mut |_| {
            taken += 1;
            if taken < 3 { Ok(()) } else { Err(Refusal::new(Class::Failed, "enough", "no more is wanted")) }
        });
        assert_eq!((ended.unwrap_err().code.as_str(), taken), ("enough", 3));
    }
}
