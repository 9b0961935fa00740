//! The ring of records over all disks: written by [`Guest`], judged by [`check`].

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_proto::{Class, Refusal};

use super::record::{Label, RECORD, Slot, decode};

/// The most disks: the number of a VM's disks that the `directory` service allows.
const DISKS_MAX: usize = 64;
/// The most slots a disk: 4 GiB, all of which every start and every check reads.
const SLOTS_MAX: u64 = 1 << 20;

/// Which bytes of each disk belong to the guest: the same on all of them. Both are rounded to whole records, inwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

impl Region {
    fn slots(&self) -> Result<(u64, u64), Refusal> {
        let record = RECORD as u64;
        let start = self.offset.next_multiple_of(record);
        let slots = (self.offset.saturating_add(self.length) / record).saturating_sub(start / record);
        if (1..=SLOTS_MAX).contains(&slots) {
            return Ok((start, slots));
        }
        let most = SLOTS_MAX * record;
        let remedy = format!("use at least one whole record of {RECORD} bytes and at most {most} bytes");
        Err(Refusal::invalid("length", &self.length.to_string(), &remedy))
    }
}

/// What [`check`] reads: a disk's content as the guest sees it.
pub trait ReadAt {
    /// Fills `buffer` from byte `offset`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let bytes = from.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// The writer: knows which record comes next.
#[derive(Debug)]
pub struct Guest {
    disks: Vec<File>,
    start: u64,
    slots: u64,
    next: u64,
}

impl Guest {
    /// Opens raw disks and continues after the newest record. Regions that hold anything but an instant are refused;
    /// `format` blanks them first.
    pub fn open(disks: &[PathBuf], region: Region, format: bool) -> Result<Self, Refusal> {
        let (start, slots) = region.slots()?;
        let open = |path: &PathBuf| {
            let file = File::options().read(true).write(true).open(path).map_err(|error| failed(path, &error))?;
            let length = file.metadata().map_err(|error| failed(path, &error))?.len();
            if length < start + slots * RECORD as u64 {
                let what = format!("{} has {length} bytes, too few for the region", path.display());
                return Err(Refusal::new(Class::Usage, "invalid_value", what)
                    .field("length")
                    .remedy("use a lower offset or length"));
            }
            Ok(file)
        };
        let files = disks.iter().map(open).collect::<Result<Vec<File>, Refusal>>()?;
        if format {
            for (file, path) in files.iter().zip(disks) {
                for slot in 0..slots {
                    file.write_all_at(&[0; RECORD], start + slot * RECORD as u64)
                        .map_err(|error| failed(path, &error))?;
                }
                file.sync_data().map_err(|error| failed(path, &error))?;
            }
        }
        let newest = check(&files, region)?;
        Ok(Self { disks: files, start, slots, next: newest + 1 })
    }

    /// Writes the next record and returns its number.
    pub fn step(&mut self) -> Result<u64, Refusal> {
        let label = label(self.next, self.disks.len(), self.slots);
        let slot = (self.next - 1) / u64::from(label.disks) % self.slots;
        let file = &self.disks[label.disk as usize];
        let written = file.write_all_at(&label.encode()[..], self.start + slot * RECORD as u64);
        written.map_err(|error| failed(Path::new(&format!("disk {}", label.disk)), &error))?;
        self.next += 1;
        Ok(label.number)
    }

    /// Syncs the data of all disks.
    pub fn sync(&self) -> Result<(), Refusal> {
        for (index, file) in self.disks.iter().enumerate() {
            file.sync_data().map_err(|error| failed(Path::new(&format!("disk {index}")), &error))?;
        }
        Ok(())
    }

    /// Writes for ever: a record every `pause`, a sync after every `sync_every` records (0: never).
    pub fn run(mut self, pause: Duration, sync_every: u64) -> Result<Infallible, Refusal> {
        loop {
            let number = self.step()?;
            if sync_every > 0 && number.is_multiple_of(sync_every) {
                self.sync()?;
            }
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
    }
}

/// Returns `k` where the regions of all disks hold exactly what records 1 to `k` leave behind: an instant.
///
/// Anything else is refused with the first slot that shows it: a damaged record, one that belongs elsewhere, one that is
/// missing though a later one is there. The disks come in the guest's order; zero records are an instant too (`0`).
pub fn check<D: ReadAt>(disks: &[D], region: Region) -> Result<u64, Refusal> {
    let (start, slots) = region.slots()?;
    if disks.is_empty() || disks.len() > DISKS_MAX {
        return Err(Refusal::invalid("disks", &disks.len().to_string(), &format!("give 1 to {DISKS_MAX} disks")));
    }
    let mut found = Vec::with_capacity(disks.len() * slots as usize);
    let mut bytes = Box::new([0; RECORD]);
    for slot in 0..slots {
        for (index, disk) in disks.iter().enumerate() {
            let offset = start + slot * RECORD as u64;
            disk.read_at(&mut bytes[..], offset)
                .map_err(|error| failed(Path::new(&format!("disk {index} at byte {offset}")), &error))?;
            found.push(match decode(&bytes) {
                Slot::Blank => 0,
                Slot::Record(found) if found == label(found.number, disks.len(), slots) => found.number,
                Slot::Record(found) => {
                    return Err(torn(index, slot, &format!("it holds a record of another ring: {found:?}")));
                }
                Slot::Damaged => return Err(torn(index, slot, "it holds neither a whole record nor zeroes")),
            });
        }
    }
    // Slots come in the order of the numbers' residues: position p belongs to the numbers p + 1, p + 1 + total, ...
    let newest = found.iter().copied().max().unwrap_or(0);
    let total = found.len() as u64;
    for (position, number) in found.into_iter().enumerate() {
        let first = position as u64 + 1;
        let expected = if newest < first { 0 } else { newest - (newest - first) % total };
        if number != expected {
            let (disk, slot) = (position % disks.len(), position as u64 / disks.len() as u64);
            let why =
                format!("the newest record is {newest}, so record {expected} belongs here, but there is {number}");
            return Err(torn(disk, slot, &why));
        }
    }
    Ok(newest)
}

/// The label of record `number`; its slot follows from the number.
fn label(number: u64, disks: usize, slots: u64) -> Label {
    let disks = disks as u32;
    let disk = (number.saturating_sub(1) % u64::from(disks)) as u32;
    Label { number, disk, disks, slots }
}

fn torn(disk: usize, slot: u64, why: &str) -> Refusal {
    Refusal::new(Class::Failed, "no_instant", format!("disk {disk}, slot {slot}: {why}"))
        .field("disks")
        .remedy("the disks were not read at one instant, or are not this guest's: restore a listed point")
}

fn failed(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(Class::Failed, "io", format!("{}: {error}", path.display()))
        .remedy("check the disk and its permissions")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Region = Region { offset: 5000, length: 9 * RECORD as u64 };

    struct Bench {
        _folder: tempfile::TempDir,
        disks: Vec<PathBuf>,
    }

    impl Bench {
        fn new(count: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let disks: Vec<PathBuf> = (0..count).map(|index| folder.path().join(format!("{index}.raw"))).collect();
            for disk in &disks {
                File::create(disk).unwrap().set_len(64 << 10).unwrap();
            }
            Self { _folder: folder, disks }
        }

        fn copy(&self) -> Vec<Vec<u8>> {
            self.disks.iter().map(|disk| std::fs::read(disk).unwrap()).collect()
        }

        fn check(&self, copies: &[Vec<u8>]) -> Result<u64, Refusal> {
            check(copies, REGION)
        }
    }

    #[test]
    fn every_instant_is_recognised_through_several_turns_of_the_ring() {
        for count in 1..=3 {
            let bench = Bench::new(count);
            let mut guest = Guest::open(&bench.disks, REGION, true).unwrap();
            assert_eq!(bench.check(&bench.copy()).unwrap(), 0);
            for number in 1..=70 {
                assert_eq!(guest.step().unwrap(), number);
                assert_eq!(bench.check(&bench.copy()).unwrap(), number, "{count} disks");
            }
        }
    }

    #[test]
    fn disks_of_two_instants_are_refused() {
        let bench = Bench::new(2);
        let mut guest = Guest::open(&bench.disks, REGION, true).unwrap();
        for before in 1..=60 {
            guest.step().unwrap();
            let early = bench.copy();
            // Up to two records later the mixture can happen to be an instant between the two; from three on never.
            for later in 3..=20 {
                let mut ahead = Guest::open(&bench.disks, REGION, false).unwrap();
                for _ in 0..later {
                    ahead.step().unwrap();
                }
                let late = bench.copy();
                let mixed = [early[0].clone(), late[1].clone()];
                assert_eq!(bench.check(&mixed).unwrap_err().code, "no_instant", "{before} + {later}");
                let mixed = [late[0].clone(), early[1].clone()];
                assert_eq!(bench.check(&mixed).unwrap_err().code, "no_instant", "{before} + {later}");
                for (disk, bytes) in bench.disks.iter().zip(&early) {
                    std::fs::write(disk, bytes).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_stale_block_or_a_flipped_bit_is_refused() {
        let bench = Bench::new(2);
        let mut guest = Guest::open(&bench.disks, REGION, true).unwrap();
        for _ in 0..40 {
            guest.step().unwrap();
        }
        let old = bench.copy();
        // One turn and one more, so that the newest record is on the other disk: without it there would be an instant.
        for _ in 0..17 {
            guest.step().unwrap();
        }
        let new = bench.copy();
        for slot in 0..8 {
            let range = 8192 + slot * RECORD..8192 + (slot + 1) * RECORD;
            let mut mixed = new.clone();
            mixed[1][range.clone()].copy_from_slice(&old[1][range.clone()]);
            assert!(bench.check(&mixed).is_err(), "slot {slot}");
            let mut flipped = new.clone();
            flipped[0][range.start + 2000] ^= 1;
            assert!(bench.check(&flipped).is_err(), "slot {slot}");
        }
        assert_eq!(bench.check(&[new[1].clone(), new[0].clone()]).unwrap_err().code, "no_instant");
    }

    #[test]
    fn a_restarted_guest_goes_on_and_refuses_what_is_no_instant() {
        let bench = Bench::new(2);
        let mut guest = Guest::open(&bench.disks, REGION, true).unwrap();
        for _ in 0..21 {
            guest.step().unwrap();
        }
        drop(guest);
        assert_eq!(Guest::open(&bench.disks, REGION, false).unwrap().step().unwrap(), 22);
        let file = File::options().write(true).open(&bench.disks[0]).unwrap();
        file.write_all_at(b"not a record", 8192).unwrap();
        assert_eq!(Guest::open(&bench.disks, REGION, false).unwrap_err().code, "no_instant");
        let mut fresh = Guest::open(&bench.disks, REGION, true).unwrap();
        assert_eq!(fresh.step().unwrap(), 1);
    }

    #[test]
    fn bytes_outside_the_region_stay() {
        let bench = Bench::new(1);
        std::fs::write(&bench.disks[0], vec![0xAB; 64 << 10]).unwrap();
        let mut guest = Guest::open(&bench.disks, REGION, true).unwrap();
        for _ in 0..50 {
            guest.step().unwrap();
        }
        let bytes = bench.copy().remove(0);
        assert!(bytes[..8192].iter().all(|byte| *byte == 0xAB));
        assert!(bytes[8192 + 8 * RECORD..].iter().all(|byte| *byte == 0xAB));
        assert!(Guest::open(&bench.disks, Region { offset: 0, length: 1 << 20 }, false).is_err());
        assert!(Guest::open(&bench.disks, Region { offset: 0, length: 100 }, false).is_err());
    }
}
