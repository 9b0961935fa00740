//! Disks for tests: in memory, reproducible, and read whole.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::id::UnixMillis;
use landfall_proto::seam::{Clock, Time};

use super::source::{Readable, Run};

/// `length` bytes fixed by `seed`.
pub(crate) fn random_bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// All bytes of a readable disk, holes as zeroes: by its runs, as a scan would read them.
pub(crate) fn whole(content: &dyn Readable) -> Vec<u8> {
    let mut out = vec![0; content.bytes() as usize];
    let mut at = 0;
    while at < content.bytes() {
        let run = content.run_at(at, content.bytes() - at).unwrap();
        if !run.hole {
            content.read_at(at, &mut out[at as usize..(at + run.length) as usize]).unwrap();
        }
        at += run.length;
    }
    out
}

/// A disk in memory; runs of zeroes of at least a block are holes.
pub(crate) struct MemoryDisk(pub(crate) Vec<u8>);

impl Readable for MemoryDisk {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run, Refusal> {
        let rest = &self.0[offset as usize..(offset + max) as usize];
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count() as u64;
        if zeroes >= 4096 || zeroes == max {
            return Ok(Run { hole: true, length: zeroes });
        }
        Ok(Run { hole: false, length: (zeroes + 5000).min(max) })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        buffer.copy_from_slice(&self.0[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
}

/// A clock that goes on by a millisecond with every look.
#[derive(Debug, Default)]
pub(crate) struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn now(&self) -> Time {
        Time(Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed)))
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

/// Runs `test` with the path of qemu-img, or says loudly that it could not be run.
pub(crate) fn with_qemu_img(what: &str, test: impl FnOnce(&Path)) {
    let path = Path::new("qemu-img");
    match Command::new(path).arg("--version").output() {
        Ok(output) if output.status.success() => test(path),
        _ => eprintln!("NOT TESTED with qemu-img, which is not installed: {what}"),
    }
}
