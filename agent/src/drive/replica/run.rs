//! What a failed-over or tested VM writes: images of its own over a point, in a folder beside the replica's files.
//!
//! ```text
//!   run-<id>/needs       the number of the point that the images are based on, while they are; it is kept as long
//!   run-<id>/images/     one image a disk, complete: an overlay over the point, or the whole disk byte for byte
//!   run-<id>/images.tmp  images that are being made, and begun anew after a crash
//!   run-<id>/network     what its adapters have, once that is decided
//!   run-<id>/seed.img    what the guest is told of it
//!   branch-<id>/         what was a run, of a branch that was not kept: see `branch`
//!   taken-<id>           the disks of the VM that ran here until the promotion <id> are a point
//! ```
//!
//! An overlay is there at once and keeps its point from being de-listed. A raw image is for commands that know nothing
//! else: a copy of the point, checked against its hashes while it is written; it needs the point no more. The replica's
//! own files are only read, so that replication goes on beside a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;
use landfall_proto::model::{PointName, PromotionId};
use landfall_proto::refusal::Class;

use super::chain;
use super::export::PinnedPoint;
use super::layout::Layout;
use super::manifest::PointEntry;
use super::pins::{Pin, Shared};
use super::store::{ReplicaStore, list};
use crate::drive::image::durable::{self, fault};

/// What the name of a test's folder begins with, and that of a failover's. Only the former is ever a leftover.
const TEST_PREFIX: &str = "test-";
const RUN_PREFIX: &str = "run-";
/// What the name of the file begins with that says since which promotion the VM's old disks are a point here.
const TAKEN_PREFIX: &str = "taken-";
const NEEDS: &str = "needs";
const IMAGES: &str = "images";
/// The end of the name of a run's folder that does not say yet what it needs.
const BEGUN: &str = ".begun";

/// The runs of a replica.
pub(super) type Runs = BTreeMap<PromotionId, Held>;

/// A run and what it keeps.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) test: bool,
    /// `None` where it needs no point any more.
    pub(super) pin: Option<Pin>,
}

pub(super) fn run_name(id: PromotionId, test: bool) -> String {
    format!("{}{id}", if test { TEST_PREFIX } else { RUN_PREFIX })
}

fn run_of(name: &str) -> Option<(PromotionId, bool)> {
    let test = name.strip_prefix(TEST_PREFIX).map(|digits| (digits, true));
    let (digits, test) = test.or_else(|| name.strip_prefix(RUN_PREFIX).map(|digits| (digits, false)))?;
    let number = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some((PromotionId(number), test))
}

/// The tests whose images are in the folder of a replica, which need not be open.
pub fn tests_in(folder: &Path) -> Vec<PromotionId> {
    let names =
        fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| run_of(&name).filter(|(_, test)| *test).map(|(id, _)| id)).collect()
}

/// Finds the runs in a folder and keeps the points that they need; removes what a crash left of one that was begun.
pub(super) fn find(shared: &std::sync::Arc<Shared>) -> Result<Runs, Refusal> {
    let layout = &shared.layout;
    let mut runs = Runs::new();
    for name in list(layout)? {
        if name.strip_suffix(BEGUN).and_then(run_of).is_some() {
            remove_folder(&layout.path(&name))?;
        }
        let Some((id, test)) = run_of(&name) else { continue };
        runs.insert(id, Held { test, pin: needed(shared, &name)? });
    }
    Ok(runs)
}

/// Where a run keeps what concerns its adapters.
#[derive(Clone, Debug)]
pub struct NetworkPlaces {
    /// What they have.
    pub network: PathBuf,
    /// The image that tells the guest.
    pub seed: PathBuf,
}

/// Keeps the point that the images in a folder are based on, where they are.
pub(super) fn needed(shared: &std::sync::Arc<Shared>, name: &str) -> Result<Option<Pin>, Refusal> {
    let needs = shared.layout.path(name).join(NEEDS);
    match fs::read_to_string(&needs) {
        Ok(text) => {
            let damaged = |_| fault("read", &needs, &std::io::Error::other("it does not name a point"));
            Ok(Some(Pin::new(shared, vec![text.trim().parse().map_err(damaged)?], false)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault("read", &needs, &error)),
    }
}

/// A run whose images are to be made, or are there.
#[derive(Debug)]
pub struct RunFolder {
    point: PinnedPoint,
    folder: PathBuf,
    layout: Layout,
}

impl ReplicaStore {
    /// Begins a run over a listed point, or finds the one that was begun: from here on the point stays, also over a
    /// restart. Refused where the point does not have that content.
    pub fn begin_run(&mut self, id: PromotionId, point: PointName, test: bool) -> Result<RunFolder, Refusal> {
        // The same content may have got another number since, and its first one may be gone.
        let again = |newest: &&PointEntry| newest.root == point.root && newest.sequence > point.sequence;
        let again = self.manifest.newest().filter(again);
        let sequence = match self.manifest.point(point.sequence) {
            Some(listed) => listed.sequence,
            None => again.map_or(point.sequence, |newest| newest.sequence),
        };
        let pinned = self.pin(Some(sequence))?;
        if pinned.entry().root != point.root {
            let message = format!("point {} is not the one that was chosen: its content is another", point.sequence);
            return Err(Refusal::new(Class::Refused, "other_content", message).field("point"));
        }
        let (layout, shared) = (self.layout().clone(), std::sync::Arc::clone(&self.shared));
        let folder = layout.path(&run_name(id, test));
        let known = self.runs.contains_key(&id);
        if !known {
            let begun = layout.path(&format!("{}{BEGUN}", run_name(id, test)));
            remove_folder(&begun)?;
            fs::create_dir(&begun).map_err(|error| fault("create", &begun, &error))?;
            durable::replace(&begun.join(NEEDS), sequence.to_string().as_bytes())?;
            durable::rename(&begun, &folder)?;
            durable::sync_folder(layout.folder())?;
            let pin = Some(Pin::new(&shared, vec![sequence], false));
            self.runs.insert(id, Held { test, pin });
        }
        Ok(RunFolder { point: pinned, folder, layout })
    }

    /// Lets go of the point of a run whose images do not need it.
    pub fn release_run(&mut self, id: PromotionId) -> Result<(), Refusal> {
        if let Some(held) = self.runs.get_mut(&id)
            && held.pin.is_some()
        {
            let folder = self.shared.layout.path(&run_name(id, held.test));
            durable::remove(&folder.join(NEEDS))?;
            durable::sync_folder(&folder)?;
            held.pin = None;
        }
        Ok(())
    }

    /// Removes a run with all that was written into it.
    pub fn end_run(&mut self, id: PromotionId) -> Result<(), Refusal> {
        let Some(held) = self.runs.get(&id) else { return Ok(()) };
        remove_folder(&self.layout().path(&run_name(id, held.test)))?;
        durable::sync_folder(self.layout().folder())?;
        self.runs.remove(&id);
        Ok(())
    }

    /// Remembers that the disks of the VM that ran here until the promotion `id` are a point. Images that an earlier failover
    /// made for it are not needed any more and go; those of a branch are kept.
    pub fn note_taken(&mut self, id: PromotionId, branch: bool) -> Result<(), Refusal> {
        let name = format!("{TAKEN_PREFIX}{id}");
        for earlier in
            list(self.layout())?.iter().filter(|earlier| earlier.starts_with(TAKEN_PREFIX) && **earlier != name)
        {
            durable::remove(&self.layout().path(earlier))?;
        }
        durable::replace(&self.layout().path(&name), if branch { b"branch" } else { b"" })
    }

    /// Whether that is remembered.
    pub fn has_taken(&self, id: PromotionId) -> bool {
        self.layout().path(&format!("{TAKEN_PREFIX}{id}")).exists()
    }

    /// Removes the images of failovers whose VM has left and whose content is a point, or keeps them as a branch.
    pub fn settle_taken(&mut self, id: PromotionId) -> Result<(), Refusal> {
        let note = self.layout().path(&format!("{TAKEN_PREFIX}{id}"));
        let branch = fs::read(&note).map_err(|error| fault("read", &note, &error))? == b"branch";
        let left: Vec<PromotionId> = self.runs.iter().filter(|(_, held)| !held.test).map(|(id, _)| *id).collect();
        for run in left {
            if branch { self.keep_branch(run)? } else { self.end_run(run)? }
        }
        Ok(())
    }

    /// The runs of this replica.
    pub fn runs(&self) -> Vec<PromotionId> {
        self.runs.keys().copied().collect()
    }

    /// De-lists every other point: the failover to this one is final.
    pub fn keep_only(&mut self, sequence: u64) -> Result<(), Refusal> {
        if self.manifest.points.len() == 1 && self.manifest.point(sequence).is_some() {
            return Ok(());
        }
        if self.manifest.point(sequence).is_none() {
            return Err(Refusal::not_found("point", &sequence.to_string()));
        }
        self.drop_staged()?;
        let before = self.manifest.clone();
        self.manifest.points.retain(|point| point.sequence == sequence);
        self.manifest.elsewhere.clear();
        if let Err(refusal) = self.save() {
            self.manifest = before;
            return Err(refusal);
        }
        // The indexes are of the newest point that was.
        self.trusted.clear();
        self.check_untouched()?;
        self.retain()
    }
}

impl RunFolder {
    /// Where the image of a disk is, once it is made.
    pub fn image(&self, target: &DiskTarget, raw: bool) -> PathBuf {
        image_in(&self.folder.join(IMAGES), target, raw)
    }

    /// Where what is decided of the adapters' addresses is kept, and the image that tells the guest.
    pub fn places(&self) -> NetworkPlaces {
        NetworkPlaces { network: self.folder.join("network"), seed: self.folder.join("seed.img") }
    }

    /// Whether the point has this disk.
    pub fn has(&self, target: &DiskTarget) -> bool {
        self.point.entry().disk(target).is_some()
    }

    /// Whether the images are there.
    pub fn is_made(&self) -> bool {
        self.folder.join(IMAGES).exists()
    }

    /// Makes the images: `raw` says of each disk whether it is wanted byte for byte. Blocks for as long as copying takes;
    /// `progress` gets the bytes copied so far and may end it.
    pub fn make(
        &self,
        raw: &dyn Fn(&DiskTarget) -> bool,
        progress: &mut dyn FnMut(u64) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if self.is_made() {
            return Ok(());
        }
        let making = durable::temporary(&self.folder.join(IMAGES));
        remove_folder(&making)?;
        fs::create_dir(&making).map_err(|error| fault("create", &making, &error))?;
        let mut done = 0;
        for disk in &self.point.entry().disks {
            let raw = raw(&disk.target);
            let path = image_in(&making, &disk.target, raw);
            if raw {
                self.point.write_raw(&disk.target, &path, &mut |bytes| progress(done + bytes))?;
                done += disk.bytes;
            } else {
                // From run-<id>/images to the replica's folder.
                chain::create_writable(&self.layout, &disk.file, "../../", &path, disk.bytes)?;
            }
        }
        durable::sync_folder(&making)?;
        durable::rename(&making, &self.folder.join(IMAGES))?;
        durable::sync_folder(&self.folder)
    }

    /// Remembers in which life of the machine the VM was last started.
    pub fn note_start(&self, boot: &str) -> Result<(), Refusal> {
        durable::replace(&self.folder.join("started"), boot.as_bytes())
    }

    /// In which life of the machine the VM was last started.
    pub fn started_in(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("started")).ok()
    }
}

fn image_in(folder: &Path, target: &DiskTarget, raw: bool) -> PathBuf {
    folder.join(format!("{target}.{}", if raw { "raw" } else { "qcow2" }))
}

pub(super) fn remove_folder(folder: &Path) -> Result<(), Refusal> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fault("remove", folder, &error)),
        _ => Ok(()),
    }
}
