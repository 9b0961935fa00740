//! Taking a replica's files over from another node.
//!
//! They are written into a folder beside the replica's, whose name begins with a dot, read and checked there, and take
//! the replica's place in one step: whatever is at that place before stays until then. A copy that breaks off is begun
//! again.
//!
//! A copy takes passes, each of one listing. From one to the next a file is kept when its name and its length stand in
//! both. That it is the same is so because the other node keeps the points of one listing pinned until it has made the
//! next: an overlay is written once, and the base changes only when a point that it pins is de-listed. It is no article
//! of faith all the same: a point is found right by reading the files that are here, and a file that went or came anew
//! makes every point be read again.
//!
//! A point that the other node lists as damaged is copied as it is: it must not keep the sound ones from being copied. It
//! is read like every other, and what is found wrong goes with it, so that it is damaged here as well, or whole where files
//! that were here already are. A point that is damaged here alone makes the copy useless. Everything blocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::message::data::CopyListing;
use landfall_proto::refusal::{Class, quoted};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::branch::{branches_in, kept_name};
use super::chain;
use super::check::Checked;
use super::layout::{FILES_MAX, Layout, MANIFEST, is_plain};
use super::leftover;
use super::manifest::{self, Manifest, POINTS_MAX, PointEntry};
use super::pins::FolderLock;
use super::proofs::{Damage, Proofs};
use crate::drive::image::durable::{self, fault};
use crate::drive::image::tree;

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
    pub(super) vm: VmId,
    pub(super) folder: PathBuf,
    pub(super) layout: Layout,
    pub(super) files: Vec<(String, u64)>,
    /// Points that the other node knows to be damaged.
    damaged: Vec<u64>,
    /// The next piece to ask for: file and offset.
    next: (usize, u64),
    asked: VecDeque<(usize, CopyStep)>,
    open: Option<(usize, File)>,
    received: u64,
    /// Files of earlier listings that are here whole and stand in this one.
    pub(super) kept: BTreeSet<String>,
    /// Of files of this pass, which pieces were taken over from what is here.
    pub(super) alike: BTreeMap<String, Vec<bool>>,
    checked: Checked,
}

impl Import {
    /// Begins to take what the other node listed for the replica of `vm` in `folder`.
    pub fn begin(folder: &Path, vm: VmId, listing: CopyListing) -> Result<Self, Refusal> {
        check_list(&listing)?;
        let temporary = temporary(folder, vm);
        remove_folder(&temporary)?;
        fs::create_dir_all(&temporary).map_err(|error| fault("create", &temporary, &error))?;
        let layout = Layout::new(&temporary);
        Ok(Self {
            vm,
            folder: folder.to_owned(),
            layout,
            files: listing.files,
            damaged: listing.damaged,
            next: (0, 0),
            asked: VecDeque::new(),
            open: None,
            received: 0,
            kept: BTreeSet::new(),
            alike: BTreeMap::new(),
            checked: Checked::default(),
        })
    }

    /// Removes what a copy for the replica of `vm` in `folder` left that broke off; no error where there is nothing.
    pub fn discard(folder: &Path, vm: VmId) -> Result<(), Refusal> {
        remove_folder(&temporary(folder, vm))
    }

    /// Takes over from the replica's own folder what its points have in common with those of the other node: files that
    /// were written once and are the same by every root are not copied. How many files that are. The first pass only,
    /// before anything is asked for. As all others they are read and proven before they count.
    pub fn reuse(&mut self, theirs: &Manifest) -> Result<usize, Refusal> {
        let Some(own) = leftover::look(&self.folder, self.vm).filter(|own| !own.doubted) else { return Ok(0) };
        let here = Layout::new(&self.folder);
        let _lock = FolderLock::take(&here)?;
        let is_here = |point: &&PointEntry| {
            let same = |other: &PointEntry| other.tip() == point.tip() && other.disks == point.disks;
            own.points.iter().any(same)
        };
        let mut names = BTreeSet::new();
        // Without a gap from the oldest on: an overlay shows its point only upon the one below it.
        for disk in theirs.points.iter().take_while(is_here).flat_map(|point| &point.disks) {
            // A chain that cannot be followed is of no use; the copy is then made as for a node that has nothing.
            let Ok(chain) = chain::chain(&here, &disk.file) else { return Ok(0) };
            names.extend(chain);
            names.insert(disk.leaves.clone());
        }
        for name in &names {
            let (from, to) = (here.path(name), self.layout.path(name));
            durable::step("link copy")
                .and_then(|()| fs::hard_link(&from, &to))
                .map_err(|error| fault("link", &from, &error))?;
        }
        self.kept = names;
        Ok(self.kept.len())
    }

    /// Begins the next pass, over what the other node lists now in the same session. What is here and still listed is
    /// kept, the rest removed; the manifest is always taken anew.
    pub fn again(&mut self, listing: CopyListing) -> Result<(), Refusal> {
        check_list(&listing)?;
        self.complete()?;
        let CopyListing { files, damaged } = listing;
        let listed: BTreeSet<&(String, u64)> = files.iter().collect();
        let (mut kept, mut lost) = (BTreeSet::new(), false);
        for file in self.files.iter().filter(|(name, _)| name != MANIFEST) {
            if listed.contains(file) {
                kept.insert(file.0.clone());
            } else {
                durable::remove(&self.layout.path(&file.0))?;
                lost = true;
            }
        }
        if lost {
            self.checked = Checked::default();
        }
        (self.files, self.damaged, self.kept, self.next) = (files, damaged, kept, (0, 0));
        Ok(())
    }

    /// What to ask for next; may be called again before the answer is there. `None` when everything was asked for.
    pub fn next_step(&mut self) -> Option<CopyStep> {
        loop {
            let (at, offset) = self.next;
            let (name, size) = self.files.get(at)?;
            let part = if self.kept.contains(name) { None } else { self.next_part(name, *size, offset) };
            let Some((offset, length)) = part else {
                self.next = (at + 1, 0);
                continue;
            };
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
            let file = match self.alike.contains_key(&step.file) {
                true => File::options().write(true).open(&path).map_err(|error| fault("open", &path, &error))?,
                false => durable::create(&path)?,
            };
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

    /// Bytes that were received, of all passes together.
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

    /// Refuses a pass that is not through.
    fn complete(&mut self) -> Result<(), Refusal> {
        self.close()?;
        self.settle_alike()?;
        if !self.asked.is_empty() || self.next.0 < self.files.len() {
            return Err(bad_list("a copy that is not complete"));
        }
        Ok(())
    }

    /// Checks every point that the pass brought and no earlier one: see `check`. The points that are damaged here and not
    /// known to be damaged at the other node: either that has not noticed yet, or this copy is of no use.
    pub fn check(&mut self) -> Result<Vec<u64>, Refusal> {
        let manifest = self.verified()?;
        Ok(self.unexpected(&manifest).map(|(point, _)| point.sequence).collect())
    }

    fn unexpected<'a>(&'a self, manifest: &'a Manifest) -> impl Iterator<Item = (&'a PointEntry, &'a [Damage])> {
        let damaged = manifest.points.iter().map(|point| (point, self.checked.damage(point)));
        damaged.filter(|(point, damage)| !damage.is_empty() && !self.damaged.contains(&point.sequence))
    }

    fn verified(&mut self) -> Result<Manifest, Refusal> {
        self.complete()?;
        let path = self.layout.path(MANIFEST);
        let manifest = Manifest::load(&path)?.ok_or_else(|| manifest::bad(&path, "is missing"))?;
        if manifest.vm != self.vm {
            return Err(manifest::bad(&path, &format!("belongs to VM {}, not {}", manifest.vm, self.vm)));
        }
        // Taken for the time of checking: what a check that failed has seen counts for nothing.
        let mut checked = std::mem::take(&mut self.checked);
        checked.check(&self.layout, &manifest)?;
        self.checked = checked;
        Ok(manifest)
    }

    /// Checks what the last pass brought and puts the replica in its place, to be opened there; the points that are damaged
    /// in it as they were at the other node. Whatever fails, the replica's place is as it was.
    pub fn finish(mut self) -> Result<Vec<u64>, Refusal> {
        let mut manifest = self.verified()?;
        if let Some((point, damage)) = self.unexpected(&manifest).next() {
            return Err(damaged(point, damage));
        }
        self.checked.settle_indexes(&self.layout, &manifest)?;
        // Read and checked just now: whoever opens it need not do that again.
        let (mut proofs, mut carried) = (Proofs::default(), Vec::new());
        for point in &manifest.points {
            let damage = self.checked.damage(point);
            if !damage.is_empty() {
                proofs.of_mut(point).damage = damage.to_vec();
                carried.push(point.sequence);
            }
        }
        if !manifest.doubted && manifest.newest().is_some_and(|newest| carried.contains(&newest.sequence)) {
            manifest.doubted = true;
            manifest.save(&self.layout.path(MANIFEST))?;
        }
        proofs.stamp(&self.layout, &manifest)?;
        proofs.save(&self.layout)?;
        durable::sync_folder(self.layout.folder())?;
        self.place()?;
        Ok(carried)
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
        if !branches_in(to).is_empty() {
            // Nobody removes them but an operator, and they need the files beside them. Whoever takes a copy is in no
            // in-sync set: that nothing is in its place for a moment costs another copy at worst.
            durable::rename(to, &kept_name(to))?;
            durable::rename(from, to)?;
            return durable::sync_folder(parent);
        }
        durable::step("exchange")
            .and_then(|()| renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).map_err(Into::into))
            .map_err(|error| fault("exchange", to, &error))?;
        durable::sync_folder(parent)?;
        remove_folder(from)
    }
}

/// Where a copy is made until it takes its place.
fn temporary(folder: &Path, vm: VmId) -> PathBuf {
    leftover::beside(folder, vm, leftover::IMPORT)
}

fn damaged(point: &PointEntry, damage: &[Damage]) -> Refusal {
    let ranges: Vec<String> = damage.iter().take(3).map(Damage::to_string).collect();
    let message = format!("the copy of point {} is damaged: {}", point.sequence, ranges.join("; "));
    Refusal::new(Class::Failed, "damaged", message).remedy("copy again, or from another node")
}

fn check_list(CopyListing { files, damaged }: &CopyListing) -> Result<(), Refusal> {
    if damaged.len() > POINTS_MAX {
        return Err(bad_list(&format!("{} damaged points", damaged.len())));
    }
    if files.len() > FILES_MAX || !files.iter().any(|(name, _)| name == MANIFEST) {
        return Err(bad_list(&format!("{} files, or no manifest", files.len())));
    }
    let mut names = BTreeSet::new();
    for (name, size) in files {
        if !is_plain(name) || *size > FILE_BYTES_MAX || !names.insert(name) {
            return Err(bad_list(&format!("{} of {size} bytes", quoted(name))));
        }
    }
    Ok(())
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
