//! The contents of a file, twice: what programs see, and what a power cut would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha12Rng;

/// The unit that a cut keeps, drops or tears.
pub(super) const PAGE: usize = 4096;
/// The unit at which a page is torn: what a disk writes at once.
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;

#[derive(Clone, Debug, Default)]
struct Image {
    pages: BTreeMap<u64, Page>,
    bytes: u64,
}

/// A file's contents. Pages that were never written are holes and read as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    live: Image,
    durable: Image,
    dirty: BTreeSet<u64>,
}

/// What a cut did to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    pub dropped: u64,
    pub torn: u64,
    pub kept: u64,
}

impl Contents {
    pub fn bytes(&self) -> u64 {
        self.live.bytes
    }

    pub fn pages(&self) -> u64 {
        self.live.pages.len() as u64
    }

    /// What a program reads at `offset`: up to `len` bytes, fewer at the end of the file.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.live.bytes.min(offset.saturating_add(len as u64));
        let mut data = vec![0; end.saturating_sub(offset) as usize];
        for (page, within, range) in pieces(offset, data.len()) {
            if let Some(source) = self.live.pages.get(&page) {
                let len = range.len();
                data[range].copy_from_slice(&source[within..within + len]);
            }
        }
        data
    }

    /// How many pages a write there would add.
    pub fn new_pages(&self, offset: u64, len: usize) -> u64 {
        pieces(offset, len).filter(|(page, ..)| !self.live.pages.contains_key(page)).count() as u64
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, within, range) in pieces(offset, data.len()) {
            let target = self.live.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(target)[within..within + range.len()].copy_from_slice(&data[range]);
            self.dirty.insert(page);
        }
        self.live.bytes = self.live.bytes.max(offset + data.len() as u64);
    }

    pub fn resize(&mut self, bytes: u64) {
        if bytes < self.live.bytes {
            self.zero(bytes, self.live.bytes - bytes);
        }
        self.live.bytes = bytes;
    }

    /// Makes a range read as zeros; whole pages become holes. The size stays.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let inside: Vec<u64> =
            self.live.pages.range(offset / PAGE as u64..end.div_ceil(PAGE as u64)).map(|(&page, _)| page).collect();
        for page in inside {
            let start = page * PAGE as u64;
            let (from, to) = (offset.max(start) - start, end.min(start + PAGE as u64) - start);
            if (from, to) == (0, PAGE as u64) {
                self.live.pages.remove(&page);
            } else if let Some(target) = self.live.pages.get_mut(&page) {
                Arc::make_mut(target)[from as usize..to as usize].fill(0);
            }
            self.dirty.insert(page);
        }
    }

    /// Makes everything durable.
    pub fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            match self.live.pages.get(&page) {
                Some(data) => self.durable.pages.insert(page, data.clone()),
                None => self.durable.pages.remove(&page),
            };
        }
        self.durable.bytes = self.live.bytes;
    }

    /// A sync that failed: the pages count as clean from here on, and are not on the disk.
    pub fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    /// The power goes: from here on there is only what the disk has.
    pub fn cut(&mut self, keep: f64, random: &mut ChaCha12Rng) -> Loss {
        let mut loss = Loss::default();
        let mut left = self.durable.clone();
        for page in std::mem::take(&mut self.dirty) {
            if !random.random_bool(keep) {
                loss.dropped += 1;
                continue;
            }
            let new = self.live.pages.get(&page).cloned().unwrap_or_else(|| Arc::new([0; PAGE]));
            if random.random_bool(0.75) {
                loss.kept += 1;
                left.pages.insert(page, new);
                continue;
            }
            loss.torn += 1;
            let old = left.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            for (target, source) in Arc::make_mut(old).chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
                if random.random() {
                    target.copy_from_slice(source);
                }
            }
        }
        if random.random_bool(keep) {
            left.bytes = self.live.bytes;
        }
        self.live = left;
        // Whatever the pages hold past the end must not come back when the file grows again.
        let past = self.live.pages.last_key_value().map_or(0, |(page, _)| (page + 1) * PAGE as u64);
        self.zero(self.live.bytes, past.saturating_sub(self.live.bytes));
        self.dirty.clear();
        self.durable = self.live.clone();
        loss
    }
}

/// A range of a file as (page, offset within it, range of the data), in order.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let size = (PAGE - within).min(len - done);
        let range = done..done + size;
        done += size;
        (size > 0).then_some((at / PAGE as u64, within, range))
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn random(seed: u64) -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(seed)
    }

    #[test]
    fn what_was_synced_survives_every_cut_and_the_rest_only_some() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut file = Contents::default();
            file.write(0, &[1; 3 * PAGE]);
            file.sync();
            file.write(PAGE as u64, &[2; PAGE]);
            file.cut(0.5, &mut random(seed));
            let after = file.read(0, 3 * PAGE);
            assert!(after[..PAGE].iter().chain(&after[2 * PAGE..]).all(|&byte| byte == 1), "seed {seed}");
            let new = after[PAGE..2 * PAGE].iter().filter(|&&byte| byte == 2).count();
            assert_eq!(new % SECTOR, 0, "seed {seed}: torn inside a sector");
            match new {
                0 => lost += 1,
                PAGE => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 20 && lost > 20 && torn > 5, "{kept} kept, {lost} lost, {torn} torn");
    }

    #[test]
    fn after_a_failed_sync_a_second_one_saves_nothing() {
        let mut file = Contents::default();
        file.write(0, b"gone");
        file.fail_sync();
        assert_eq!(file.read(0, 4), b"gone", "programs still see it");
        file.sync();
        file.cut(1.0, &mut random(1));
        assert_eq!(file.read(0, 4), [0; 4]);
    }

    #[test]
    fn a_shrunken_file_reads_zeros_where_it_grows_again() {
        let mut file = Contents::default();
        file.write(0, &[3; 2 * PAGE]);
        file.resize(100);
        file.resize(PAGE as u64);
        let read = file.read(0, 2 * PAGE);
        assert_eq!(read.len(), PAGE);
        assert!(read[..100].iter().all(|&byte| byte == 3) && read[100..].iter().all(|&byte| byte == 0));
        assert_eq!(file.pages(), 1);
    }
}
