//! A replica's folder, open: who may change it, what it stands at, and how it comes back after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Epoch, Fingerprint, SenderEpoch, VmId};
use landfall_proto::message::control::{Point, PointState};
use landfall_proto::message::data::{ChangeSet, Staged, Tip};
use landfall_proto::model::DiskSpec;
use landfall_proto::planted::{self, Bug};
use landfall_proto::refusal::{Class, quoted};

use super::base::Base;
use super::branch::{self, Branches};
use super::export::PinnedPoint;
use super::layout::{APPLYING, FILES_MAX, LOGS, Layout, MANIFEST, is_point_name};
use super::manifest::{self, Manifest, POINTS_MAX, PointEntry, RECOVERY_POINTS_MAX, SenderSeen};
use super::pins::{FolderLock, Nothing, Pin, Shared, Wants};
use super::proofs::Proofs;
use super::run::{self, Runs};
use super::stage::Staging;
use crate::drive::image::change_set::ChangeSetReader;
use crate::drive::image::durable::{self, fault};
use crate::drive::image::index::HashIndex;
use crate::drive::image::tree;

/// Who sends, as the holder believes: data of lower ones is refused (R3), senders of one cluster with one another.
/// Which cluster may send at all is the committed state's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// The assignment of the holder.
    pub assignment: Epoch,
    /// The primary cluster, by its CA.
    pub cluster: Fingerprint,
    /// The sender's own, in that cluster.
    pub sender: SenderEpoch,
}

/// Where a replica stands, for a Welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The newest listed point; `None` also where its content is in doubt and must be compared.
    pub newest: Option<Tip>,
    /// A change set that is staged, in part or whole.
    pub staged: Option<Staged>,
    /// Whether it is staged whole and durable: it may have been acknowledged.
    pub staged_whole: bool,
    /// Whether there is content to compare with, though nothing that a change set could name as its base.
    pub comparable: bool,
}

/// First content under construction, open.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) base: Base,
    pub(super) index: HashIndex,
}

/// A replica's folder, open for one caller at a time. Every method blocks.
#[derive(Debug)]
pub struct ReplicaStore {
    pub(super) shared: Arc<Shared>,
    pub(super) manifest: Manifest,
    pub(super) staging: Option<Staging>,
    /// A change set whose commit has begun; nothing else is taken until it is complete.
    pub(super) applying: Option<ChangeSet>,
    pub(super) filling: BTreeMap<DiskTarget, Filling>,
    /// Disks whose index was checked against their content, or kept with it, since this store was opened.
    pub(super) trusted: BTreeSet<DiskTarget>,
    /// Failovers and tests that have images here.
    pub(super) runs: Runs,
    /// What was written by failovers that gave way to another branch.
    pub(super) branches: Branches,
    pub(super) disks_at_once: usize,
    /// Whether content came from beside the sessions: those that were admitted before know nothing of it.
    pub(super) overtaken: bool,
    pub(super) proofs: Proofs,
    /// Why the newest content is in doubt, where this store found it so.
    pub(super) doubt: Option<String>,
    fault: Option<Refusal>,
    _lock: FolderLock,
}

impl ReplicaStore {
    /// Opens the replica of `vm` in `folder`, which is made where it is missing, and completes what a crash cut off: a
    /// commit that had begun, and the retention after it. What was only staged stays staged.
    ///
    /// A commit that cannot be completed (a full disk) does not keep the listed points from being read: see
    /// [`ReplicaStore::fault`].
    pub fn open(folder: &Path, vm: VmId) -> Result<Self, Refusal> {
        Self::open_wanted(folder, vm, Arc::new(Nothing))
    }

    /// As [`ReplicaStore::open`], where points that `wants` names stay listed.
    pub fn open_wanted(folder: &Path, vm: VmId, wants: Arc<dyn Wants>) -> Result<Self, Refusal> {
        make_folder(folder)?;
        let layout = Layout::new(folder);
        let lock = FolderLock::take(&layout)?;
        let manifest = load_manifest(&layout, vm)?;
        let proofs = Proofs::load(&layout);
        let mut store = Self {
            shared: Shared::new(layout, wants),
            manifest,
            staging: None,
            applying: None,
            filling: BTreeMap::new(),
            trusted: BTreeSet::new(),
            runs: Runs::new(),
            branches: Branches::new(),
            disks_at_once: 1,
            overtaken: false,
            proofs,
            doubt: None,
            fault: None,
            _lock: lock,
        };
        store.recover()?;
        Ok(store)
    }

    /// As [`ReplicaStore::open_wanted`], for a replica of which this node has acknowledged something: see
    /// [`check_acknowledged`].
    pub fn open_acknowledged(folder: &Path, vm: VmId, wants: Arc<dyn Wants>) -> Result<Self, Refusal> {
        check_acknowledged(folder)?;
        Self::open_wanted(folder, vm, wants)
    }

    fn recover(&mut self) -> Result<(), Refusal> {
        let layout = self.shared.layout.clone();
        for name in list(&layout)? {
            if name.ends_with(durable::TEMPORARY) {
                durable::remove(&layout.path(&name))?;
            }
        }
        // Before anything is built upon what somebody may have changed meanwhile.
        if let Err(refusal) = self.check_untouched() {
            self.fault = Some(refusal);
        }
        // Before anything is de-listed: a run may need what is too old for everything else.
        self.runs = run::find(&self.shared)?;
        self.branches = branch::find(&self.shared)?;
        let applying = layout.path(APPLYING);
        if applying.exists() {
            // It was complete and synced before it got this name: what cannot be read now is damage, not a crash.
            match ChangeSetReader::open(&applying).map(|reader| reader.change_set().cloned()) {
                Ok(Some(set)) => self.applying = Some(set),
                Ok(None) => self.fault = Some(manifest::bad(&applying, "does not say what it makes")),
                Err(refusal) => self.fault = Some(refusal),
            }
        }
        if self.applying.is_some()
            && let Err(refusal) = self.land()
        {
            self.fault = Some(refusal);
        }
        match Staging::recover(&layout, &self.manifest) {
            Ok(staging) => self.staging = staging,
            Err(refusal) => self.fault = self.fault.take().or(Some(refusal)),
        }
        if self.fault.is_none()
            && let Err(refusal) = self.note_stamps().and_then(|()| self.retain())
        {
            self.fault = Some(refusal);
        }
        Ok(())
    }

    /// Why nothing new can be taken just now, where something is wrong: cleared by a [`ReplicaStore::commit`] that
    /// succeeds.
    pub fn fault(&self) -> Option<&Refusal> {
        self.fault.as_ref()
    }

    pub(super) fn set_fault(&mut self, fault: Option<Refusal>) {
        self.fault = fault;
    }

    /// How many disks of one change set are written at a time; one where nothing else was said.
    pub fn set_disks_at_once(&mut self, count: usize) {
        self.disks_at_once = count;
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    pub(super) fn save(&self) -> Result<(), Refusal> {
        self.manifest.save(&self.layout().path(MANIFEST))
    }

    /// What the folder lists.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.layout().folder()
    }

    /// Listed points and those known to be on nodes that do not answer, oldest first.
    pub fn points(&self) -> Vec<Point> {
        let mut points = self.manifest.elsewhere.clone();
        points.extend(self.manifest.points.iter().map(|point| self.shown(point)));
        points.sort_by_key(|point| point.sequence);
        points
    }

    /// A listed point with what is known of it.
    fn shown(&self, point: &PointEntry) -> Point {
        let proof = self.proofs.of(point);
        let state = if self.is_damaged(point) { PointState::Damaged } else { PointState::Listed };
        Point { state, verified_at: proof.and_then(|proof| proof.verified_at), ..point.point() }
    }

    /// Where the replica stands.
    pub fn standing(&self) -> Standing {
        let newest = self.manifest.newest().filter(|_| !self.manifest.doubted).map(PointEntry::tip);
        let staged = self.staging.as_ref().map(Staging::staged);
        let applied = self.applying.as_ref().map(|applying| Staged { tip: applying.tip, extents: 0 });
        Standing {
            comparable: newest.is_none() && (self.manifest.doubted || self.has_filling()),
            staged_whole: self.applying.is_some() || self.staging.as_ref().is_some_and(Staging::is_whole),
            newest,
            staged: staged.or(applied),
        }
    }

    fn has_filling(&self) -> bool {
        self.manifest.filling.iter().any(|disk| self.layout().filling(&disk.target).exists())
    }

    /// Admits a session: refuses epochs below the highest seen, remembers higher ones durably, takes the disks of a
    /// replica that has no point yet, and notes which of the `known` points are not here.
    pub fn admit(&mut self, epochs: &Epochs, disks: &[DiskSpec], known: &[Point]) -> Result<Standing, Refusal> {
        tree::check_disks(disks)?;
        self.check_epochs(epochs)?;
        let before = self.manifest.clone();
        self.manifest.epoch = epochs.assignment;
        self.manifest.see(epochs.cluster, epochs.sender);
        let whole = self.applying.is_some() || self.staging.as_ref().is_some_and(Staging::is_whole);
        if self.manifest.points.is_empty() && !whole && self.manifest.filling != disks {
            self.drop_staged()?;
            self.take_disks(disks)?;
        }
        self.overtaken = false;
        self.note_elsewhere(known);
        if self.manifest != before
            && let Err(refusal) = self.save()
        {
            self.manifest = before;
            return Err(refusal);
        }
        Ok(self.standing())
    }

    /// Refuses what an older assignment or an older sender sends.
    pub(super) fn check_epochs(&self, epochs: &Epochs) -> Result<(), Refusal> {
        let stale = |code, what: &str, found: String, seen: String| {
            Err(Refusal::new(Class::Refused, code, format!("the {what} {found} is older than {seen}, seen here"))
                .remedy("ask the replica's cluster where the replica is received now"))
        };
        if epochs.assignment < self.manifest.epoch && !planted::is(Bug::OldAssignmentTaken) {
            let (found, seen) = (epochs.assignment.to_string(), self.manifest.epoch.to_string());
            return stale("stale_epoch", "assignment epoch", found, seen);
        }
        let seen = self.manifest.seen_of(&epochs.cluster);
        if epochs.sender < seen && !planted::is(Bug::OldSenderTaken) {
            return stale("stale_sender", "sender epoch", epochs.sender.to_string(), seen.to_string());
        }
        Ok(())
    }

    /// As `check_epochs`, for a session that was admitted: a newer one ends it.
    pub fn check_session(&self, epochs: &Epochs) -> Result<(), Refusal> {
        self.check_epochs(epochs)?;
        let sender = SenderSeen { cluster: epochs.cluster, epoch: epochs.sender };
        if !self.overtaken && epochs.assignment == self.manifest.epoch && self.manifest.senders.last() == Some(&sender)
        {
            return Ok(());
        }
        Err(Refusal::new(Class::Refused, "not_admitted", "the session was not admitted with these epochs"))
    }

    fn note_elsewhere(&mut self, known: &[Point]) {
        let newest = self.manifest.newest().map_or(0, |point| point.sequence);
        for point in known.iter().filter(|point| point.sequence > newest) {
            if !self.manifest.elsewhere.iter().any(|have| have.sequence == point.sequence) {
                let point = Point { copies: point.copies.clone(), state: PointState::Unreachable, ..*point };
                self.manifest.elsewhere.push(point);
            }
        }
        self.manifest.elsewhere.sort_by_key(|point| point.sequence);
        self.trim_elsewhere();
    }

    /// Keeps a point of another node in the list for as long as retention would have kept it here: until enough newer
    /// ones are known, wherever they are. Older ones that this node has do not count against it.
    pub(super) fn trim_elsewhere(&mut self) {
        let keep = usize::from(self.manifest.recovery_points) + 1;
        let here = self.manifest.points.iter().map(|point| point.sequence);
        let known: Vec<u64> = here.chain(self.manifest.elsewhere.iter().map(|point| point.sequence)).collect();
        let newer_than = |sequence: u64| known.iter().filter(|other| **other > sequence).count();
        self.manifest.elsewhere.retain(|point| newer_than(point.sequence) < keep);
    }

    /// Sets how many older points are kept beside the newest, and de-lists what is too many.
    pub fn set_recovery_points(&mut self, count: u8) -> Result<(), Refusal> {
        if count > RECOVERY_POINTS_MAX {
            return Err(Refusal::invalid("recovery_points", &count.to_string(), "keep 0 to 24 older points"));
        }
        if self.manifest.recovery_points != count {
            let before = std::mem::replace(&mut self.manifest.recovery_points, count);
            if let Err(refusal) = self.save() {
                self.manifest.recovery_points = before;
                return Err(refusal);
            }
        }
        if self.applying.is_some() {
            return Ok(());
        }
        self.check_untouched()?;
        self.retain()
    }

    /// Keeps a point from being de-listed, to read it: the newest, or the one with that sequence number.
    pub fn pin(&self, sequence: Option<u64>) -> Result<PinnedPoint, Refusal> {
        let entry = match sequence {
            Some(sequence) => self.manifest.point(sequence),
            None => self.manifest.newest(),
        };
        let Some(entry) = entry else {
            let name = sequence.map_or_else(|| "newest".to_owned(), |sequence| sequence.to_string());
            return Err(Refusal::not_found("point", &name).remedy("list the points with `landfall point list`"));
        };
        let pin = Pin::new(&self.shared, vec![entry.sequence], false);
        Ok(PinnedPoint::new(pin, self.manifest.vm, entry.clone()))
    }

    /// Removes the replica and all its points. Refused while anything reads it.
    pub fn destroy(self) -> Result<(), Refusal> {
        if self.shared.has_pins() {
            return Err(Refusal::new(Class::Refused, "point_in_use", "a point of the replica is being read")
                .remedy("wait for the export, copy or test that reads it, or stop it"));
        }
        let folder = self.layout().folder().to_owned();
        // The manifest goes first: from then on nothing here is listed.
        durable::remove(&self.layout().path(MANIFEST))?;
        durable::sync_folder(&folder)?;
        fs::remove_dir_all(&folder).map_err(|error| fault("remove", &folder, &error))?;
        durable::sync_folder(durable::folder_of(&folder))
    }

    /// Refuses what a reader that froze the replica would not have, a change set that began before it as well.
    pub(super) fn check_frozen(&self) -> Result<(), Refusal> {
        if self.shared.is_frozen() {
            return Err(Refusal::new(Class::Unreachable, "frozen", "the replica is being handed over to another node")
                .remedy("ask again where it is received"));
        }
        Ok(())
    }

    /// Refuses to take anything new: where a reader froze the replica, or it cannot hold another point.
    pub(super) fn check_open(&mut self) -> Result<(), Refusal> {
        let applying = self.layout().path(APPLYING);
        if self.applying.is_none() && applying.exists() {
            // It may have been acknowledged: nothing may take its place.
            return Err(self.fault.clone().unwrap_or_else(|| manifest::bad(&applying, "is in the way")));
        }
        self.check_frozen()?;
        if self.manifest.points.len() >= POINTS_MAX {
            return Err(Refusal::new(Class::Failed, "too_many_points", format!("{POINTS_MAX} points are pinned"))
                .remedy("end the exports, copies and tests that read old points"));
        }
        // A chain that cannot be followed takes no overlay: better said before anything is sent.
        self.check_depth().inspect_err(|refusal| self.suspect_files(refusal))
    }
}

/// Makes the folder of a replica, durably, where it is missing. The storage location that it lies in is never made: one
/// that is missing is not mounted.
pub fn make_folder(folder: &Path) -> Result<(), Refusal> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(fault("create", folder, &error)),
        Ok(()) => durable::sync_folder(durable::folder_of(folder)),
    }
}

/// Refuses a folder that holds nothing that can have been acknowledged, though something was: its file system is not
/// mounted, or it was removed, and an empty replica in its place would cost every point. Nothing is created.
pub fn check_acknowledged(folder: &Path) -> Result<(), Refusal> {
    let layout = Layout::new(folder);
    let listed = match Manifest::load(&layout.path(MANIFEST))? {
        Some(manifest) => !manifest.points.is_empty(),
        // Files of points without a manifest are another fault, which opening names.
        None => folder.is_dir() && list(&layout)?.iter().any(|name| is_point_name(name)),
    };
    if listed || LOGS.iter().any(|log| layout.path(log).exists()) {
        return Ok(());
    }
    let message = format!("the replica's folder {} holds no recovery point", quoted(&folder.to_string_lossy()));
    Err(Refusal::new(Class::Failed, "replica_missing", message).field("storage").remedy(
        "mount the file system of the storage location; where the files are lost, another node is filled from the \
         primary after `rehome_without_copy_after`, or replicate the VM anew (`landfall vm disable`, then `enable`, at \
         the primary)",
    ))
}

fn load_manifest(layout: &Layout, vm: VmId) -> Result<Manifest, Refusal> {
    let path = layout.path(MANIFEST);
    match Manifest::load(&path)? {
        Some(manifest) if manifest.vm == vm => Ok(manifest),
        Some(manifest) => Err(manifest::bad(&path, &format!("belongs to VM {}, not {vm}", manifest.vm))),
        // Points without a manifest are somebody's data: nothing here may take them for leftovers.
        None if list(layout)?.iter().any(|name| is_point_name(name)) => {
            Err(manifest::bad(&path, "is missing, though there are files of points beside it"))
        }
        None => Ok(Manifest::empty(vm)),
    }
}

/// The plain names of the files in a folder.
pub(super) fn list(layout: &Layout) -> Result<Vec<String>, Refusal> {
    let failed = |error: io::Error| fault("list", layout.folder(), &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(layout.folder()).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
        if names.len() > FILES_MAX {
            return Err(failed(io::Error::other(format!("it has more than {FILES_MAX} files"))));
        }
    }
    Ok(names)
}
