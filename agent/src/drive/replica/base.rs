//! The base of a chain: a qcow2 file whose tables are all preallocated.
//!
//! It is written past the image library, at the places where the tables say that the clusters are, so that no table is
//! ever written twice. Everything blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, Mapping, PermissiveImplicitOpenGate};
use landfall_proto::Refusal;
use landfall_proto::message::data::{Content, Extent};

use super::chain::{COPY_BYTES, damaged, image_bytes};
use crate::drive::image::durable::{self, fault};
use crate::drive::image::qcow2;
use crate::drive::image::source::{Readable, Run};
use crate::drive::image::wait::wait;

type Imago = imago::file::File;

/// A base, open for reading or changing its data clusters.
#[derive(Debug)]
pub struct Base {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// Where the guest's bytes are: offset in the disk, offset in the file, length; in order, without gaps.
    runs: Vec<(u64, u64, u64)>,
}

impl Base {
    /// Opens the base of a disk of `bytes`; refuses one whose tables are not all there.
    pub fn open(path: &Path, bytes: u64) -> Result<Self, Refusal> {
        let layer = qcow2::inspect(path)?;
        if layer.backing.is_some() || layer.bytes != image_bytes(bytes) {
            return Err(damaged(path, &format!("is no base of a disk of {bytes} bytes")));
        }
        let failed = |error: io::Error| fault("open", path, &error);
        let image = wait(Box::pin(Qcow2::<Imago>::builder_path(path).open(PermissiveImplicitOpenGate::default())))
            .map_err(failed)?;
        let (image, mut runs, mut at) = (FormatAccess::new(image), Vec::<(u64, u64, u64)>::new(), 0);
        while at < layer.bytes {
            let (mapping, length) = wait(Box::pin(image.get_mapping(at, layer.bytes - at))).map_err(failed)?;
            let Mapping::Raw { offset, writable: true, .. } = mapping else {
                return Err(damaged(path, &format!("has no cluster of its own for disk offset {at}")));
            };
            match runs.last_mut() {
                Some((_, host, have)) if *host + *have == offset => *have += length,
                _ => runs.push((at, offset, length)),
            }
            at += length;
        }
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), bytes, runs })
    }

    /// Calls `each` with the parts of a range: offset in the file, offset in the range, length.
    fn parts(
        &self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(u64, usize, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let run = self.runs.partition_point(|(start, ..)| *start <= at).checked_sub(1);
            let Some((start, host, have)) = run.and_then(|run| self.runs.get(run)).copied() else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let now = (end - at).min((start + have).saturating_sub(at));
            if now == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            each(host + (at - start), (at - offset) as usize, now)?;
            at += now;
        }
        Ok(())
    }

    /// Writes `data` at `offset` of the disk.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.parts(offset, data.len() as u64, |host, from, length| {
            durable::step("write base")?;
            self.file.write_all_at(&data[from..from + length as usize], host)
        })
        .map_err(|error| fault("write", &self.path, &error))
    }

    /// Zeroes `length` bytes from `offset` of the disk, giving the room back where the file system can.
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), Refusal> {
        self.parts(offset, length, |host, _, length| {
            durable::step("zero base")?;
            punch(&self.file, host, length)
        })
        .map_err(|error| fault("write", &self.path, &error))
    }

    /// Writes a checked extent.
    pub fn apply(&self, extent: &Extent) -> Result<(), Refusal> {
        match &extent.content {
            Content::Data(data, _) => self.write(extent.offset, data),
            Content::Zero(length) => self.zero(extent.offset, *length),
        }
    }

    /// Bytes of the disk that the file system keeps for it: what was never written, or zeroed, takes no room.
    pub fn stored_bytes(&self) -> Result<u64, Refusal> {
        let mut stored = 0;
        for (_, host, length) in &self.runs {
            let (mut at, end) = (*host, host + length);
            while let Some((from, until)) =
                next_data(&self.file, at).map_err(|error| fault("read", &self.path, &error))?
            {
                stored += until.min(end).saturating_sub(from.min(end));
                at = until;
                if at >= end {
                    break;
                }
            }
        }
        Ok(stored)
    }

    /// Syncs what was written.
    pub fn sync(&self) -> Result<(), Refusal> {
        durable::sync(&self.file, &self.path)
    }
}

/// The next run of the file from `at` that is no hole: where it starts and ends.
fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(at)) {
        Ok(from) => Ok(Some((from, seek(file, SeekFrom::Hole(from))?))),
        // None from here on.
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeroes = vec![0; length.min(COPY_BYTES) as usize];
            let mut done = 0;
            while done < length {
                let now = (length - done).min(COPY_BYTES);
                file.write_all_at(&zeroes[..now as usize], offset + done)?;
                done += now;
            }
            Ok(())
        }
        other => other.map_err(io::Error::from),
    }
}

impl Readable for Base {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn run_at(&self, _offset: u64, max: u64) -> Result<Run, Refusal> {
        Ok(Run { hole: false, length: max })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        let length = buffer.len() as u64;
        self.parts(offset, length, |host, from, length| {
            self.file.read_exact_at(&mut buffer[from..from + length as usize], host)
        })
        .map_err(|error| fault("read", &self.path, &error))
    }
}
