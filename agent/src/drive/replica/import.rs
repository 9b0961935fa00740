//! Taking a replica's files over from another node.
//!
//! They are written into a folder beside the replica's, whose name begins with a dot, read and checked there, and take
//! the replica's place in one step: whatever is at that place before stays until then. A copy that breaks off is begun
//! again. Everything blocks.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::message::data::EXTENT_MAX;
use landfall_proto::refusal::{Class, quoted};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::chain::{self, PointDisk};
use super::export::{read_verified, sound_leaves};
use super::layout::{FILES_MAX, Layout, MANIFEST, is_plain};
use super::manifest::{self, DiskEntry, Manifest, PointEntry};
use super::pins::FolderLock;
use super::store::ReplicaStore;
use crate::drive::image::durable::{self, fault};
use crate::drive::image::source::Readable;
use crate::drive::image::tree::{self, LEAF_BYTES};

/// The largest file that is taken: the base of the largest disk with its tables, and some slack.
const FILE_BYTES_MAX: u64 = tree::MAX_DISK_BYTES + (tree::MAX_DISK_BYTES >> 8);

/// What to ask the other node for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStep {
    /// The file.
    pub file: String,
    /// Byte offset.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// A copy under way.
#[derive(Debug)]
pub struct Import {
    vm: VmId,
    folder: PathBuf,
    layout: Layout,
    files: Vec<(String, u64)>,
    /// The next piece to ask for: file and offset.
    next: (usize, u64),
    asked: VecDeque<(usize, CopyStep)>,
    open: Option<(usize, File)>,
    received: u64,
}

impl Import {
    /// Begins to take `files` (as the other node listed them) for the replica of `vm` in `folder`.
    pub fn begin(folder: &Path, vm: VmId, files: Vec<(String, u64)>) -> Result<Self, Refusal> {
        if files.len() > FILES_MAX || !files.iter().any(|(name, _)| name == MANIFEST) {
            return Err(bad_list(&format!("{} files, or no manifest", files.len())));
        }
        for (at, (name, size)) in files.iter().enumerate() {
            if !is_plain(name) || *size > FILE_BYTES_MAX || files[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(bad_list(&format!("{} of {size} bytes", quoted(name))));
            }
        }
        let parent = durable::folder_of(folder);
        let temporary = parent.join(format!(".{vm}.import"));
        remove_folder(&temporary)?;
        fs::create_dir_all(&temporary).map_err(|error| fault("create", &temporary, &error))?;
        let layout = Layout::new(&temporary);
        Ok(Self {
            vm,
            folder: folder.to_owned(),
            layout,
            files,
            next: (0, 0),
            asked: VecDeque::new(),
            open: None,
            received: 0,
        })
    }

    /// What to ask for next; may be called again before the answer is there. `None` when everything was asked for.
    pub fn next_step(&mut self) -> Option<CopyStep> {
        loop {
            let (at, offset) = self.next;
            let (name, size) = self.files.get(at)?;
            if offset >= *size {
                self.next = (at + 1, 0);
                continue;
            }
            let length = (*size - offset).min(EXTENT_MAX as u64) as u32;
            let step = CopyStep { file: name.clone(), offset, length };
            self.next = (at, offset + u64::from(length));
            self.asked.push_back((at, step.clone()));
            return Some(step);
        }
    }

    /// Takes the answer to the oldest step without one: a piece shorter than asked for ends in zeroes.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        let Some((at, step)) = self.asked.pop_front().filter(|(_, step)| piece.len() <= step.length as usize) else {
            return Err(bad_list("a piece that was not asked for"));
        };
        let path = self.layout.path(&step.file);
        if self.open.as_ref().is_none_or(|(open, _)| *open != at) {
            self.close()?;
            let file = durable::create(&path)?;
            file.set_len(self.files[at].1).map_err(|error| fault("write", &path, &error))?;
            self.open = Some((at, file));
        }
        if let Some((_, file)) = &self.open {
            durable::step("write copy")
                .and_then(|()| file.write_all_at(piece, step.offset))
                .map_err(|error| fault("write", &path, &error))?;
        }
        self.received += piece.len() as u64;
        Ok(())
    }

    /// Bytes that were received.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn close(&mut self) -> Result<(), Refusal> {
        let Some((at, file)) = self.open.take() else { return Ok(()) };
        let path = self.layout.path(&self.files[at].0);
        durable::sync(&file, &path)?;
        if self.files[at].0 != MANIFEST {
            durable::set_read_only(&path, true)?;
        }
        Ok(())
    }

    /// Checks everything that was copied and puts it in its place. The oldest and the newest point are read whole, of
    /// the others what differs from the point before. Whatever fails, the replica's place is as it was.
    pub fn finish(mut self) -> Result<ReplicaStore, Refusal> {
        self.close()?;
        if !self.asked.is_empty() || self.next.0 < self.files.len() {
            return Err(bad_list("a copy that is not complete"));
        }
        let path = self.layout.path(MANIFEST);
        let manifest = Manifest::load(&path)?.ok_or_else(|| manifest::bad(&path, "is missing"))?;
        if manifest.vm != self.vm {
            return Err(manifest::bad(&path, &format!("belongs to VM {}, not {}", manifest.vm, self.vm)));
        }
        for (at, point) in manifest.points.iter().enumerate() {
            let whole = at == 0 || at + 1 == manifest.points.len();
            let before = if whole { None } else { manifest.points.get(at - 1) };
            for disk in &point.disks {
                self.check_disk(point, disk, before)?;
            }
        }
        durable::sync_folder(self.layout.folder())?;
        self.place()?;
        ReplicaStore::open(&self.folder, self.vm)
    }

    fn check_disk(&self, point: &PointEntry, disk: &DiskEntry, before: Option<&PointEntry>) -> Result<(), Refusal> {
        let damaged = |range: std::ops::Range<u64>, why: &str| {
            let message = format!(
                "the copy of point {} is damaged: disk {}, bytes {} to {}: {why}",
                point.sequence, disk.target, range.start, range.end
            );
            Refusal::new(Class::Failed, "damaged", message).remedy("copy again, or from another node")
        };
        let Some(leaves) = sound_leaves(&self.layout, disk) else {
            return Err(damaged(0..disk.bytes, "its leaf hashes do not make its root"));
        };
        chain::chain(&self.layout, &disk.file)?;
        let content = PointDisk::open(&self.layout, &disk.file, disk.bytes)?;
        let earlier = before.and_then(|point| point.disk(&disk.target)).filter(|entry| entry.bytes == disk.bytes);
        let Some(earlier) = earlier.and_then(|entry| sound_leaves(&self.layout, entry)) else {
            return read_verified(&content, disk, &self.layout, &mut |_, _| Ok(()))
                .map_err(|fault| fault.into_refusal(damaged));
        };
        let (mut now, mut then) = (leaves.hashes_from(0)?, earlier.hashes_from(0)?);
        let mut buffer = vec![0; LEAF_BYTES as usize];
        for leaf in 0..leaves.count() {
            let (wanted, old) = (now.next_hash()?, then.next_hash()?);
            if wanted != old {
                let (start, length) = (leaf * LEAF_BYTES, tree::node_length(disk.bytes, LEAF_BYTES, leaf));
                let data = &mut buffer[..length as usize];
                content.read_at(start, data)?;
                if wanted != Some(tree::data_hash(disk.bytes, start, data)) {
                    return Err(damaged(start..start + length, "its bytes do not have their hash"));
                }
            }
        }
        Ok(())
    }

    /// Gives the folder its place in one step, and removes what was there.
    fn place(&self) -> Result<(), Refusal> {
        let (from, to) = (self.layout.folder(), self.folder.as_path());
        let parent = durable::folder_of(to);
        if !to.exists() {
            durable::rename(from, to)?;
            return durable::sync_folder(parent);
        }
        let _lock = FolderLock::take(&Layout::new(to))?;
        durable::step("exchange")
            .and_then(|()| renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).map_err(Into::into))
            .map_err(|error| fault("exchange", to, &error))?;
        durable::sync_folder(parent)?;
        remove_folder(from)
    }
}

fn remove_folder(folder: &Path) -> Result<(), Refusal> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fault("remove", folder, &error)),
        _ => Ok(()),
    }
}

fn bad_list(what: &str) -> Refusal {
    Refusal::new(Class::Failed, "bad_copy", format!("the other node sent {what}")).remedy("copy again")
}
