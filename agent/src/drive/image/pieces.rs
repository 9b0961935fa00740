//! A disk in pieces, in order: the bytes of what it has, and where its holes are, unread.
//!
//! Of a long range each piece is read and worked on by one of a few threads, while it is still in that processor's cache; what
//! follows from it is taken in order. So a disk and whoever hashes it do not wait for each other, and a VM that stands still
//! while its disks are scanned does so for less time. Everything here blocks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use landfall_proto::Refusal;

use super::source::Readable;
use super::tree::{self, BLOCK_BYTES, Hash, LEAF_BYTES, Merger};

/// What one read takes: large enough for a disk's own read-ahead, small enough to be hashed out of a processor's cache.
const READ_BYTES: usize = 512 << 10;

/// Threads that read and work on pieces: guests want the other processors.
const WORKERS: usize = 2;

/// Pieces beside those that are worked on: done before their turn, or just being taken. With them a pass holds 2 MiB.
const SPARE: usize = 2;

/// From what length on a range is worth threads of its own.
const THREADS_FROM: u64 = 8 << 20;

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

/// What is found out of each piece, by several threads at once.
type Work<'a, T> = &'a (dyn Fn(&Piece<'_>) -> Result<T, Refusal> + Sync);

/// What is done with each piece and what was found out of it, in order; a refusal ends it.
type Each<'a, T> = &'a mut dyn FnMut(&Piece<'_>, T) -> Result<(), Refusal>;

/// Hands out `range` in pieces that begin and end at blocks.
pub(super) fn pieces<T: Send>(
    content: &dyn Readable,
    range: Range<u64>,
    work: Work<'_, T>,
    each: Each<'_, T>,
) -> Result<(), Refusal> {
    if range.end.saturating_sub(range.start) < THREADS_FROM {
        return one_by_one(content, range, work, each);
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let (filled, come) = channel();
    let (used, empty) = channel();
    let workers = processors.min(WORKERS);
    for _ in 0..workers + SPARE {
        _ = used.send(Vec::new());
    }
    let course = Mutex::new(Course { runs: Runs::new(range.clone()), next: 0, empty });
    thread::scope(|scope| {
        let course = &course;
        let begun = (0..workers).filter(|_| {
            let filled = filled.clone();
            let worker = move || take_pieces(content, course, work, &filled);
            thread::Builder::new().name("read-ahead".to_owned()).spawn_scoped(scope, worker).is_ok()
        });
        if begun.count() == 0 {
            return one_by_one(content, range, work, each);
        }
        // The workers have the others: once they are done, nothing more comes.
        drop(filled);
        in_order(&come, used, each)
    })
}

/// Takes in what the workers have done, in the order of the pieces. With an error it gives no more buffers back, which ends
/// the workers.
fn in_order<T>(come: &Receiver<Done<T>>, used: Sender<Vec<u8>>, each: Each<'_, T>) -> Result<(), Refusal> {
    let (mut early, mut next) = (BTreeMap::new(), 0);
    while let Ok((number, done)) = come.recv() {
        early.insert(number, done);
        while let Some(done) = early.remove(&next) {
            let (Owned { offset, length, hole, buffer }, found) = done?;
            each(&Piece { offset, length, data: (!hole).then_some(buffer.as_slice()) }, found)?;
            next += 1;
            // The workers may be done.
            _ = used.send(buffer);
        }
    }
    drop(used);
    Ok(())
}

/// A piece's number, and what became of it.
type Done<T> = (u64, Result<(Owned, T), Refusal>);

/// A piece on its way from the thread that read it. A hole has a buffer too: it counts for the bound on what is held.
struct Owned {
    offset: u64,
    length: u64,
    hole: bool,
    buffer: Vec<u8>,
}

/// Where the workers have got to.
struct Course {
    runs: Runs,
    /// The number of the next piece.
    next: u64,
    empty: Receiver<Vec<u8>>,
}

impl Course {
    /// The next piece, unread, in a buffer of its own: so that the one whose turn is first always has one. `None` at the
    /// end, and where the pass was given up.
    fn next(&mut self, content: &dyn Readable) -> Option<(u64, Result<Owned, Refusal>)> {
        let buffer = self.empty.recv().ok()?;
        let number = self.next;
        self.next += 1;
        match self.runs.next(content) {
            Ok(Some((offset, length, hole))) => Some((number, Ok(Owned { offset, length, hole, buffer }))),
            Ok(None) => None,
            Err(refusal) => {
                self.runs.end();
                Some((number, Err(refusal)))
            }
        }
    }
}

/// Reads pieces and works on them until there are no more, or one fails.
fn take_pieces<T>(content: &dyn Readable, course: &Mutex<Course>, work: Work<'_, T>, filled: &Sender<Done<T>>) {
    loop {
        let taken = course.lock().unwrap_or_else(PoisonError::into_inner).next(content);
        let Some((number, piece)) = taken else { return };
        let done = piece.and_then(|mut piece| {
            piece.buffer.resize(if piece.hole { 0 } else { piece.length as usize }, 0);
            if !piece.hole {
                content.read_at(piece.offset, &mut piece.buffer)?;
            }
            let data = (!piece.hole).then_some(piece.buffer.as_slice());
            let found = work(&Piece { offset: piece.offset, length: piece.length, data })?;
            Ok((piece, found))
        });
        let failed = done.is_err();
        // Nobody hears it where the other side gave up first.
        if filled.send((number, done)).is_err() || failed {
            return;
        }
    }
}

fn one_by_one<T>(
    content: &dyn Readable,
    range: Range<u64>,
    work: Work<'_, T>,
    each: Each<'_, T>,
) -> Result<(), Refusal> {
    let (mut runs, mut buffer) = (Runs::new(range), Vec::new());
    while let Some((offset, length, hole)) = runs.next(content)? {
        if !hole {
            buffer.resize(length as usize, 0);
            content.read_at(offset, &mut buffer)?;
        }
        let piece = Piece { offset, length, data: (!hole).then_some(buffer.as_slice()) };
        let found = work(&piece)?;
        each(&piece, found)?;
    }
    Ok(())
}

/// What is to be read in one go of a range, and what is a hole, in order.
struct Runs {
    offset: u64,
    end: u64,
    /// Up to where the last look at the content said that it is alike: one look serves many pieces.
    seen: u64,
    hole: bool,
}

impl Runs {
    fn new(range: Range<u64>) -> Self {
        Self { offset: range.start, end: range.end, seen: range.start, hole: false }
    }

    /// Nothing more comes.
    fn end(&mut self) {
        self.offset = self.end;
    }

    /// The next piece: offset, length, whether it is a hole.
    fn next(&mut self, content: &dyn Readable) -> Result<Option<(u64, u64, bool)>, Refusal> {
        let (offset, left) = (self.offset, self.end.saturating_sub(self.offset));
        if left == 0 {
            return Ok(None);
        }
        if offset >= self.seen {
            let run = content.run_at(offset, left)?;
            // A hole counts only in whole blocks; at the disk's end the short block is whole.
            let whole = if run.length == left { left } else { run.length - run.length % BLOCK_BYTES };
            self.hole = run.hole && whole > 0;
            self.seen = offset + if self.hole { whole } else { run.length.next_multiple_of(BLOCK_BYTES) };
        }
        // Pieces end where leaves do, so that leaves are found whole.
        let length = left.min(self.seen - offset).min(READ_BYTES as u64 - offset % READ_BYTES as u64);
        self.offset += length;
        Ok(Some((offset, length, self.hole)))
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::refusal::Class;

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
            let mut bytes = random_bytes(THREADS_FROM as usize * 2 + 5000, 3);
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
            let work = |piece: &Piece<'_>| Ok(piece.data.map(<[u8]>::to_vec));
            let mut take = |piece: &Piece<'_>, data: Option<Vec<u8>>| {
                assert_eq!(piece.data, data.as_deref());
                found.push((piece.offset, piece.length, data));
                Ok(())
            };
            let range = BLOCK_BYTES..disk.bytes();
            if ahead { pieces(&disk, range, &work, &mut take) } else { one_by_one(&disk, range, &work, &mut take) }
                .unwrap();
        }
        assert_eq!(found[0], found[1]);
        assert!(found[0].iter().any(|(.., data)| data.is_none()) && found[0].iter().any(|(.., data)| data.is_some()));
    }

    #[test]
    fn a_read_that_fails_ahead_is_the_failure_of_the_pass_once_its_turn_has_come() {
        let disk = Striped::new(10 << 20);
        let mut until = 0;
        let failed = pieces(&disk, 0..disk.bytes(), &|_| Ok(()), &mut |piece, ()| {
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
        let ended = pieces(&disk, 0..disk.bytes(), &|_| Ok(()), &mut |_, ()| {
            taken += 1;
            if taken < 3 { Ok(()) } else { Err(Refusal::new(Class::Failed, "enough", "no more is wanted")) }
        });
        assert_eq!((ended.unwrap_err().code.as_str(), taken), ("enough", 3));
    }

    #[test]
    fn work_that_fails_is_the_failure_of_the_pass_and_nothing_behind_it_is_taken() {
        let disk = Striped::new(u64::MAX);
        let mut until = 0;
        let work = |piece: &Piece<'_>| match piece.offset {
            at if at >= 5 << 20 => Err(Refusal::new(Class::Failed, "no_hash", format!("{at}"))),
            _ => Ok(()),
        };
        let failed = pieces(&disk, 0..disk.bytes(), &work, &mut |piece, ()| {
            until = piece.offset + piece.length;
            Ok(())
        });
        assert_eq!(failed.unwrap_err().message, (5 << 20).to_string());
        assert_eq!(until, 5 << 20);
    }
}
