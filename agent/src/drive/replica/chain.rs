//! The qcow2 files of a replica: the only place that writes any.
//!
//! A base ([`base`](super::base)) has all its tables preallocated, so that whatever is written into it later changes data
//! clusters only. So a merge that was killed can be repeated, and no table of a base is ever written twice. An overlay is written once, under a temporary name,
//! and never opened for writing again. Backing names are plain, so that the folder can be moved. Everything blocks.

use std::fs::File;
use std::io;
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

use super::base::Base;
use super::layout::{Layout, is_plain};
use crate::drive::image::durable::{self, fault};
use crate::drive::image::extent;
use crate::drive::image::qcow2;
use crate::drive::image::source::{Layers, Readable, Run};
use crate::drive::image::tree::BLOCK_BYTES;
use crate::drive::image::wait::wait;

/// What one copy between files takes.
pub(super) const COPY_BYTES: u64 = 1 << 20;
/// qcow2 counts in sectors: a disk that ends within one is padded with zeroes.
const SECTOR_BYTES: u64 = 512;
/// What the first-level table of an overlay takes at most: each reader of a chain holds that of every layer in memory.
const TABLE_MOST: u64 = 256 << 10;

type Imago = imago::file::File;

pub(super) fn damaged(path: &Path, why: &str) -> Refusal {
    Refusal::new(Class::Failed, "damaged", format!("{} {why}", quoted(&path.to_string_lossy())))
        .field("path")
        .remedy("fetch the replica from another copy, or let it be compared and sent again (`landfall vm resync`)")
}

/// Whether a refusal says that a file of a chain is damaged: its tables, or what it is based on.
pub(super) fn is_damage(refusal: &Refusal) -> bool {
    matches!(refusal.code.as_str(), "damaged" | "bad_image")
}

/// The size of the image of a disk of `bytes`.
pub(super) fn image_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES)
}

/// The clusters of an overlay for a disk of `bytes`: a block where its first-level table then is small enough, which is so
/// up to 64 GiB, else twice as large until it is. In a larger cluster what is below has to be copied around each block
/// that changed, again whenever the overlay is folded or merged.
fn overlay_cluster(bytes: u64) -> u64 {
    let mut cluster = BLOCK_BYTES;
    // An entry of eight bytes for each table of as many clusters as fit one.
    while bytes.div_ceil(cluster * cluster / 8) * 8 > TABLE_MOST {
        cluster *= 2;
    }
    cluster
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
            .cluster_size(overlay_cluster(bytes) as usize)
            .backing(backing.to_owned(), "qcow2".to_owned());
        let opened = builder
            .create_open(PermissiveImplicitOpenGate::default(), |file| Ok(Qcow2::<Imago>::builder(file).write(true)));
        let image = wait(Box::pin(opened)).map_err(|error| fault("create", &temporary, &error))?;
        Ok(Self { image: FormatAccess::new(image), path })
    }

    /// Writes a checked extent.
    pub fn apply(&self, extent: &Extent) -> Result<(), Refusal> {
        match &extent.content {
            Content::Data(data, _) => self.write(extent.offset, data),
            Content::Zero(_) => self.zero(extent.offset, extent::length(extent)),
        }
    }

    /// Writes `data` at `offset` of the disk.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        durable::step("write overlay")
            .and_then(|()| wait(Box::pin(self.image.write(data, offset))))
            .map_err(|error| fault("write", &durable::temporary(&self.path), &error))
    }

    /// Zeroes `length` bytes from `offset` of the disk, to the end of their last sector.
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), Refusal> {
        let end = (offset + length).next_multiple_of(SECTOR_BYTES);
        durable::step("zero overlay")
            .and_then(|()| wait(Box::pin(self.image.write_zeroes(offset, end - offset))))
            .map_err(|error| fault("write", &durable::temporary(&self.path), &error))
    }

    /// Completes it: synced, read-only, and named. The folder is for the caller to sync.
    pub fn finish(self) -> Result<(), Refusal> {
        let path = self.path.clone();
        durable::rename(&self.complete()?, &path)
    }

    /// As [`Overlay::finish`], but leaves it to the caller to rename the file that is returned.
    pub fn complete(self) -> Result<PathBuf, Refusal> {
        let temporary = durable::temporary(&self.path);
        wait(Box::pin(self.image.flush())).map_err(|error| fault("write", &temporary, &error))?;
        drop(self.image);
        sync_path(&temporary)?;
        durable::set_read_only(&temporary, true)?;
        Ok(temporary)
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

    /// Whether what is at `at` is in the overlay itself, and up to where the next bytes are the same. Past the end of its
    /// disk, which a later overlay may have grown, it has nothing.
    pub fn run_at(&self, at: u64) -> Result<(bool, u64), Refusal> {
        let size = self.image.size();
        if at >= size {
            return Ok((false, u64::MAX));
        }
        let mapped = wait(Box::pin(self.image.get_mapping(at, size - at)));
        let (mapping, length) = mapped.map_err(|error| fault("read the tables of", &self.path, &error))?;
        if length == 0 || matches!(mapping, Mapping::Eof { .. }) {
            return Err(damaged(&self.path, "ends before its disk does"));
        }
        Ok((!matches!(mapping, Mapping::Zero { explicit: false, .. }), at + length))
    }

    /// Whether any of `range` is in the overlay itself, in whatever order it is asked.
    pub fn has_any(&self, range: &std::ops::Range<u64>) -> Result<bool, Refusal> {
        let (mut at, mut found) = (range.start, false);
        while !found && at < range.end {
            (found, at) = self.run_at(at)?;
        }
        Ok(found)
    }

    /// Whether any of `range` is in the overlay itself. Each range begins where the one before ended.
    pub fn touch(&mut self, range: &std::ops::Range<u64>) -> Result<bool, Refusal> {
        let (mut until, mut own) = self.seen;
        let mut found = own && until > range.start;
        while until < range.end {
            if until >= self.image.size() {
                return Err(damaged(&self.path, "ends before its disk does"));
            }
            (own, until) = self.run_at(until)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_has_the_smallest_clusters_whose_table_is_small_enough() {
        for (bytes, cluster) in [
            (65_536, 4 << 10),
            (64 << 30, 4 << 10),
            ((64 << 30) + 512, 8 << 10),
            (256 << 30, 8 << 10),
            (1 << 40, 16 << 10),
            (4 << 40, 32 << 10),
        ] {
            assert_eq!(overlay_cluster(bytes), cluster, "{bytes}");
        }
    }
}
