//! The qcow2 files of a replica: the only place that writes any.
//!
//! A base has all its tables preallocated, so that whatever is written into it later changes data clusters only; it is
//! written past the image library, at the places where the tables say that the clusters are. So a merge that was killed
//! can be repeated, and no table of a base is ever written twice. An overlay is written once, under a temporary name,
//! and never opened for writing again. Backing names are plain, so that the folder can be moved. Everything blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::{
    FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Mapping, PermissiveImplicitOpenGate, Storage,
    StorageCreateOptions,
};
use landfall_proto::Refusal;
use landfall_proto::message::data::{Content, Extent};
use landfall_proto::refusal::{Class, quoted};

use super::layout::{Layout, is_plain};
use crate::drive::image::durable::{self, fault};
use crate::drive::image::extent;
use crate::drive::image::qcow2;
use crate::drive::image::source::{Layers, Readable, Run};
use crate::drive::image::wait::wait;

/// What one copy between files takes.
const COPY_BYTES: u64 = 1 << 20;
/// qcow2 counts in sectors: a disk that ends within one is padded with zeroes.
const SECTOR_BYTES: u64 = 512;

type Imago = imago::file::File;

fn damaged(path: &Path, why: &str) -> Refusal {
    Refusal::new(Class::Failed, "damaged", format!("{} {why}", quoted(&path.to_string_lossy())))
        .field("path")
        .remedy("fetch the replica from another copy, or let it be compared and sent again (`landfall vm resync`)")
}

/// The size of the image of a disk of `bytes`.
fn image_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES)
}

fn create_file(path: &Path) -> Result<Imago, Refusal> {
    let options = StorageCreateOptions::new().filename(path).overwrite(true);
    durable::step("create image")
        .and_then(|()| wait(Box::pin(Imago::create_open(options))))
        .map_err(|error| fault("create", path, &error))
}

fn sync_path(path: &Path) -> Result<(), Refusal> {
    let file = File::open(path).map_err(|error| fault("open", path, &error))?;
    durable::sync(&file, path)
}

/// Creates a base of zeroes for a disk of `bytes` at `path`, with all its tables, synced.
pub fn create_base(path: &Path, bytes: u64) -> Result<(), Refusal> {
    let temporary = durable::temporary(path);
    let file = create_file(&temporary)?;
    let builder = Qcow2::<Imago>::create_builder(file).size(image_bytes(bytes));
    wait(Box::pin(builder.preallocate(PreallocateMode::FormatAllocate).create()))
        .map_err(|error| fault("create", &temporary, &error))?;
    sync_path(&temporary)?;
    durable::rename(&temporary, path)?;
    durable::sync_folder(durable::folder_of(path))
}

/// Creates an empty overlay at `path` over the file `backing` of a replica, for somebody else to write; `up` leads from
/// its folder to the replica's. Synced; the folder is for the caller to sync.
pub fn create_writable(layout: &Layout, backing: &str, up: &str, path: &Path, bytes: u64) -> Result<(), Refusal> {
    chain(layout, backing)?;
    let file = create_file(path)?;
    let builder = Qcow2::<Imago>::create_builder(file)
        .size(image_bytes(bytes))
        .backing(format!("{up}{backing}"), "qcow2".to_owned());
    wait(Box::pin(builder.create())).map_err(|error| fault("create", path, &error))?;
    sync_path(path)
}

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

/// An overlay being written: it has its name only once it is complete.
pub struct Overlay {
    image: FormatAccess<Imago>,
    path: PathBuf,
}

impl Overlay {
    /// Begins the overlay `name` over `backing`, for a disk of `bytes`.
    pub fn create(layout: &Layout, name: &str, backing: &str, bytes: u64) -> Result<Self, Refusal> {
        let path = layout.path(name);
        chain(layout, backing)?;
        let temporary = durable::temporary(&path);
        let file = create_file(&temporary)?;
        let builder = Qcow2::<Imago>::create_builder(file)
            .size(image_bytes(bytes))
            .backing(backing.to_owned(), "qcow2".to_owned());
        let opened = builder
            .create_open(PermissiveImplicitOpenGate::default(), |file| Ok(Qcow2::<Imago>::builder(file).write(true)));
        let image = wait(Box::pin(opened)).map_err(|error| fault("create", &temporary, &error))?;
        Ok(Self { image: FormatAccess::new(image), path })
    }

    /// Writes a checked extent.
    pub fn apply(&self, extent: &Extent) -> Result<(), Refusal> {
        let written = durable::step("write overlay").and_then(|()| match &extent.content {
            Content::Data(data, _) => wait(Box::pin(self.image.write(data.as_slice(), extent.offset))),
            Content::Zero(_) => {
                let end = (extent.offset + extent::length(extent)).next_multiple_of(SECTOR_BYTES);
                wait(Box::pin(self.image.write_zeroes(extent.offset, end - extent.offset)))
            }
        });
        written.map_err(|error| fault("write", &durable::temporary(&self.path), &error))
    }

    /// Completes it: synced, read-only, and named. The folder is for the caller to sync.
    pub fn finish(self) -> Result<(), Refusal> {
        let temporary = durable::temporary(&self.path);
        wait(Box::pin(self.image.flush())).map_err(|error| fault("write", &temporary, &error))?;
        drop(self.image);
        sync_path(&temporary)?;
        durable::set_read_only(&temporary, true)?;
        durable::rename(&temporary, &self.path)
    }
}

/// The names of the files of a chain, the top one first. Refuses one that leaves the folder.
pub fn chain(layout: &Layout, name: &str) -> Result<Vec<String>, Refusal> {
    let mut names = vec![name.to_owned()];
    loop {
        let Some(last) = names.last() else { return Ok(names) };
        let layer = qcow2::inspect(&layout.path(last))?;
        let Some(backing) = layer.backing else { return Ok(names) };
        if !is_plain(&backing) || names.len() >= qcow2::CHAIN_MAX || names.contains(&backing) {
            return Err(damaged(&layer.path, &format!("is based on {}", quoted(&backing))));
        }
        names.push(backing);
    }
}

/// A disk of a point, open for reading.
pub struct PointDisk {
    layers: Layers,
    bytes: u64,
}

impl PointDisk {
    /// Opens the chain under `name` as a disk of `bytes`. The caller keeps its names from changing meanwhile.
    pub fn open(layout: &Layout, name: &str, bytes: u64) -> Result<Self, Refusal> {
        let path = layout.path(name);
        chain(layout, name)?;
        let layers = Layers::open(&path)?;
        if layers.bytes() != image_bytes(bytes) {
            return Err(damaged(&path, &format!("has {} bytes of disk instead of {bytes}", layers.bytes())));
        }
        Ok(Self { layers, bytes })
    }
}

impl Readable for PointDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run, Refusal> {
        self.layers.run_at(offset, max)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        self.layers.read_at(offset, buffer)
    }
}

/// Which parts of a disk an overlay has itself, asked for in order.
pub struct OwnClusters {
    image: FormatAccess<Imago>,
    path: PathBuf,
    /// Up to where the overlay was looked at, and whether the run that ends there is its own.
    seen: (u64, bool),
}

impl OwnClusters {
    /// Looks at the overlay at `path`, without what it is based on.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let builder = Qcow2::<Imago>::builder_path(path).backing(None);
        let opened = wait(Box::pin(builder.open(PermissiveImplicitOpenGate::default())));
        let image = FormatAccess::new(opened.map_err(|error| fault("open", path, &error))?);
        Ok(Self { image, path: path.to_owned(), seen: (0, false) })
    }

    /// Whether any of `range` is in the overlay itself. Each range begins where the one before ended.
    pub fn touch(&mut self, range: &std::ops::Range<u64>) -> Result<bool, Refusal> {
        let (mut until, mut own) = self.seen;
        let mut found = own && until > range.start;
        while until < range.end {
            let mapped = wait(Box::pin(self.image.get_mapping(until, self.image.size().saturating_sub(until))));
            let (mapping, length) = mapped.map_err(|error| fault("read the tables of", &self.path, &error))?;
            if length == 0 || matches!(mapping, Mapping::Eof { .. }) {
                return Err(damaged(&self.path, "ends before its disk does"));
            }
            own = !matches!(mapping, Mapping::Zero { explicit: false, .. });
            until += length;
            found |= own;
        }
        self.seen = (until, own);
        Ok(found)
    }
}

/// Brings the clusters of the overlay `overlay` into its base `base`, synced, so that the base shows what the overlay
/// does. Returns the file that is to take the overlay's name. Repeating it after a crash gives the same.
pub fn merge(layout: &Layout, base: &str, overlay: &str) -> Result<PathBuf, Refusal> {
    let (base_path, overlay_path) = (layout.path(base), layout.path(overlay));
    let (below, above) = (qcow2::inspect(&base_path)?, qcow2::inspect(&overlay_path)?);
    if below.bytes != above.bytes {
        return rebuild(layout, overlay, above.bytes);
    }
    durable::set_read_only(&base_path, false)?;
    let target = Base::open(&base_path, below.bytes)?;
    copy_own_clusters(&overlay_path, &target)?;
    target.sync()?;
    durable::set_read_only(&base_path, true)?;
    Ok(base_path)
}

/// Makes a new base of the content of `overlay`: where its disk grew, the old base has no tables for the new end.
fn rebuild(layout: &Layout, overlay: &str, bytes: u64) -> Result<PathBuf, Refusal> {
    let content = PointDisk::open(layout, overlay, bytes)?;
    let path = layout.path(&format!("{overlay}.base{}", durable::TEMPORARY));
    create_base(&path, bytes)?;
    let target = Base::open(&path, bytes)?;
    let (mut at, mut buffer) = (0, vec![0; COPY_BYTES as usize]);
    while at < bytes {
        let run = content.run_at(at, (bytes - at).min(COPY_BYTES))?;
        if !run.hole {
            let data = &mut buffer[..run.length as usize];
            content.read_at(at, data)?;
            if data.iter().any(|byte| *byte != 0) {
                target.write(at, data)?;
            }
        }
        at += run.length;
    }
    target.sync()?;
    durable::set_read_only(&path, true)?;
    Ok(path)
}

/// Writes what the overlay has of its own into `target`: its data, and the zeroes that it says explicitly.
fn copy_own_clusters(overlay: &Path, target: &Base) -> Result<(), Refusal> {
    let failed = |error: io::Error| fault("read", overlay, &error);
    let builder = Qcow2::<Imago>::builder_path(overlay).backing(None);
    let opened = wait(Box::pin(builder.open(PermissiveImplicitOpenGate::default()))).map_err(failed)?;
    let image = FormatAccess::new(opened);
    let (mut at, mut buffer) = (0, vec![0; COPY_BYTES as usize]);
    while at < image.size() {
        let (mapping, length) = wait(Box::pin(image.get_mapping(at, image.size() - at))).map_err(failed)?;
        let now = match mapping {
            Mapping::Zero { explicit: false, .. } => length,
            Mapping::Zero { .. } => {
                target.zero(at, length)?;
                length
            }
            Mapping::Eof { .. } => return Err(damaged(overlay, "ends before its disk does")),
            _ => {
                let now = length.min(COPY_BYTES);
                let data = &mut buffer[..now as usize];
                wait(Box::pin(image.read(&mut *data, at))).map_err(failed)?;
                target.write(at, data)?;
                now
            }
        };
        if now == 0 {
            return Err(damaged(overlay, "has an empty run"));
        }
        at += now;
    }
    Ok(())
}
