//! Reading a listed point, verified while it is read: as raw images, or just to know that it is whole.
//!
//! What does not match its leaf hash is an error that names point, disk and byte range; a file gets its final name only
//! when every disk was right. Where the leaf hashes themselves are damaged the disk is still checked, against its root.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, VmId};
use landfall_proto::message::data::Tip;
use landfall_proto::refusal::{Class, quoted};

use super::chain::PointDisk;
use super::layout::Layout;
use super::manifest::{DiskEntry, PointEntry};
use super::pins::Pin;
use crate::drive::image::durable::{self, fault};
use crate::drive::image::index::{HashIndex, Hashes};
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, Hash, LEAF_BYTES, Merger};

/// What one read takes.
const READ_BYTES: u64 = 1 << 20;

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The images, in the order of the VM's disks.
    pub files: Vec<PathBuf>,
    /// The sizes of the disks together.
    pub bytes: u64,
    /// Bytes that were not zero, and so written.
    pub data_bytes: u64,
}

/// Called with the bytes that were read so far; a refusal ends the reading.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> Result<(), Refusal>;

/// A listed point that is not de-listed while this exists. Its methods block, and may be used beside the store.
#[derive(Debug)]
pub struct PinnedPoint {
    pin: Pin,
    vm: VmId,
    entry: PointEntry,
}

impl PinnedPoint {
    pub(super) fn new(pin: Pin, vm: VmId, entry: PointEntry) -> Self {
        Self { pin, vm, entry }
    }

    /// The VM.
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// The point as it is listed.
    pub fn entry(&self) -> &PointEntry {
        &self.entry
    }

    /// Its identity.
    pub fn tip(&self) -> Tip {
        self.entry.tip()
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.pin.shared().layout
    }

    /// The qcow2 file that shows a disk, for a throw-away overlay on top; read-only, and there while this exists.
    pub fn disk_file(&self, target: &DiskTarget) -> Result<PathBuf, Refusal> {
        let entry = self.entry.disk(target).ok_or_else(|| Refusal::not_found("disk", target.as_str()))?;
        Ok(self.layout().path(&entry.file))
    }

    pub(super) fn open(&self, entry: &DiskEntry) -> Result<PointDisk, Refusal> {
        let _names = self.pin.shared().opening();
        PointDisk::open(self.layout(), &entry.file, entry.bytes)
    }

    /// Reads every disk and checks it. Blocks for as long as that takes.
    pub fn verify(&self, progress: Progress<'_>) -> Result<(), Refusal> {
        let mut done = 0;
        for entry in &self.entry.disks {
            self.read_disk(entry, &mut |offset, data| {
                let _ = data;
                progress(done + offset)
            })?;
            done += entry.bytes;
        }
        Ok(())
    }

    /// Writes one raw image per disk into `folder`, `vda.raw` for the disk `vda`, sparse where it is zero. Refuses to
    /// replace a file. Blocks for as long as that takes.
    pub fn export(&self, folder: &Path, progress: Progress<'_>) -> Result<ExportReport, Refusal> {
        fs::create_dir_all(folder).map_err(|error| fault("create", folder, &error))?;
        let files: Vec<PathBuf> =
            self.entry.disks.iter().map(|disk| folder.join(format!("{}.raw", disk.target))).collect();
        if let Some(there) = files.iter().find(|file| file.exists()) {
            let message = format!("{} is there already", quoted(&there.to_string_lossy()));
            return Err(Refusal::new(Class::Refused, "file_exists", message)
                .field("dir")
                .remedy("export into another folder, or move the file away"));
        }
        let written = self.write_all(&files, progress).and_then(|report| {
            for file in &files {
                durable::rename(&durable::temporary(file), file)?;
            }
            durable::sync_folder(folder)?;
            Ok(report)
        });
        if written.is_err() {
            for file in &files {
                // What cannot be removed now is overwritten by the next export.
                let _ = durable::remove(&durable::temporary(file));
            }
        }
        written
    }

    fn write_all(&self, files: &[PathBuf], progress: Progress<'_>) -> Result<ExportReport, Refusal> {
        let mut report = ExportReport { files: files.to_vec(), bytes: 0, data_bytes: 0 };
        for (entry, file) in self.entry.disks.iter().zip(files) {
            let before = report.bytes;
            report.data_bytes += self.write_disk(entry, &durable::temporary(file), &mut |at| progress(before + at))?;
            report.bytes += entry.bytes;
        }
        Ok(report)
    }

    /// Writes one disk, checked, to `path`, synced; returns the bytes that were not zero.
    fn write_disk(&self, entry: &DiskEntry, path: &Path, progress: Progress<'_>) -> Result<u64, Refusal> {
        let image = durable::create(path)?;
        image.set_len(entry.bytes).map_err(|error| fault("write", path, &error))?;
        let mut written = 0;
        self.read_disk(entry, &mut |offset, data| {
            if let Some(data) = data {
                written += write_sparse(&image, offset, data).map_err(|error| fault("write", path, &error))?;
            }
            progress(offset)
        })?;
        durable::sync(&image, path)?;
        Ok(written)
    }

    /// Writes one disk as a raw image to `path`, checked while it is read, and synced. Blocks for as long as that takes.
    pub fn write_raw(&self, target: &DiskTarget, path: &Path, progress: Progress<'_>) -> Result<(), Refusal> {
        let entry = self.entry.disk(target).ok_or_else(|| Refusal::not_found("disk", target.as_str()))?;
        self.write_disk(entry, path, progress).map(drop)
    }

    fn read_disk(&self, entry: &DiskEntry, each: Each<'_>) -> Result<(), Refusal> {
        let content = self.open(entry).map_err(|refusal| self.damaged(entry, 0..entry.bytes, &refusal.message))?;
        read_verified(&content, entry, self.layout(), each)
            .map_err(|fault| fault.into_refusal(|range, why| self.damaged(entry, range, why)))
    }

    pub(super) fn damaged(&self, entry: &DiskEntry, range: std::ops::Range<u64>, why: &str) -> Refusal {
        let (point, disk) = (self.entry.sequence, &entry.target);
        let message = format!("point {point} is damaged: disk {disk}, bytes {} to {}: {why}", range.start, range.end);
        Refusal::new(Class::Failed, "damaged", message)
            .field("point")
            .remedy("restore another point, or this one from another node that has it (`landfall point list`)")
    }
}

/// Takes a verified piece: its offset, and its bytes (`None` where it is zero).
pub(super) type Each<'a> = &'a mut dyn FnMut(u64, Option<&[u8]>) -> Result<(), Refusal>;

/// Why a disk could not be read through.
pub(super) enum ReadFault {
    /// These bytes are not what the point lists, or cannot be read.
    Damage(std::ops::Range<u64>, String),
    /// The receiver of the bytes ended it.
    Ended(Refusal),
}

impl ReadFault {
    pub(super) fn into_refusal(self, damage: impl FnOnce(std::ops::Range<u64>, &str) -> Refusal) -> Refusal {
        match self {
            Self::Damage(range, why) => damage(range, &why),
            Self::Ended(refusal) => refusal,
        }
    }
}

/// The leaf hashes of a disk at a point, where they make its root.
pub(super) fn sound_leaves(layout: &Layout, entry: &DiskEntry) -> Option<HashIndex> {
    let leaves = HashIndex::open(&layout.path(&entry.leaves)).ok().flatten()?;
    let fits = leaves.node_bytes() == LEAF_BYTES && leaves.disk_bytes() == entry.bytes;
    (fits && leaves.compute_root().ok().flatten() == Some(entry.root)).then_some(leaves)
}

/// Reads a disk and hands out what was found to be right.
pub(super) fn read_verified(
    content: &PointDisk,
    entry: &DiskEntry,
    layout: &Layout,
    each: Each<'_>,
) -> Result<(), ReadFault> {
    let leaves = sound_leaves(layout, entry);
    let mut known = match leaves.as_ref().map(|leaves| leaves.hashes_from(0)).transpose() {
        Ok(known) => known,
        Err(refusal) => return Err(ReadFault::Ended(refusal)),
    };
    let (mut buffer, mut offset) = (vec![0; READ_BYTES as usize], 0);
    let mut merger = Merger::default();
    while offset < entry.bytes {
        let length = READ_BYTES.min(entry.bytes - offset);
        let unreadable = |refusal: Refusal| ReadFault::Damage(offset..offset + length, refusal.message);
        let run = content.run_at(offset, length).map_err(unreadable)?;
        let data = if run.hole && run.length == length {
            None
        } else {
            let data = &mut buffer[..length as usize];
            content.read_at(offset, data).map_err(unreadable)?;
            Some(&*data)
        };
        check_piece(entry.bytes, offset, length, data, known.as_mut(), &mut merger)?;
        each(offset, data).map_err(ReadFault::Ended)?;
        offset += length;
    }
    if merger.finish(true) != Some(entry.root.0) {
        return Err(ReadFault::Damage(
            0..entry.bytes,
            "it does not have its root, and its leaf hashes are lost".into(),
        ));
    }
    Ok(())
}

fn check_piece(
    disk_bytes: u64,
    offset: u64,
    length: u64,
    data: Option<&[u8]>,
    mut known: Option<&mut Hashes>,
    merger: &mut Merger,
) -> Result<(), ReadFault> {
    let mut at = 0;
    while at < length {
        let now = LEAF_BYTES.min(length - at);
        let hash: Hash = match data {
            Some(data) => tree::data_hash(disk_bytes, offset + at, &data[at as usize..(at + now) as usize]),
            None => tree::zero_hash(disk_bytes, offset + at, now),
        };
        if let Some(known) = known.as_deref_mut() {
            let wanted = known.next_hash().map_err(ReadFault::Ended)?;
            if wanted != Some(hash) {
                let why = "its bytes do not have the hash that they had when the point was made";
                return Err(ReadFault::Damage(offset + at..offset + at + now, why.to_owned()));
            }
        }
        merger.push(hash);
        at += now;
    }
    Ok(())
}

/// Writes the leaves of `data` that are not zero; returns how many bytes that were.
fn write_sparse(image: &File, offset: u64, data: &[u8]) -> std::io::Result<u64> {
    let mut written = 0;
    for (at, leaf) in data.chunks(LEAF_BYTES as usize).enumerate() {
        if leaf.iter().any(|byte| *byte != 0) {
            durable::step("write export")?;
            image.write_all_at(leaf, offset + at as u64 * LEAF_BYTES)?;
            written += leaf.len() as u64;
        }
    }
    Ok(written)
}
