//! Staging a change set: taken extent by extent into the redo log, verified against the root it is to make, durable.
//!
//! Nothing that is listed is touched here. Staging is whole once base and extents were found to give the end root and
//! log and folder are synced; what becomes of it then is the caller's word: [`ReplicaStore::commit`] or
//! [`ReplicaStore::drop_staged`].

use landfall_proto::Refusal;
use landfall_proto::message::data::{ChangeSet, Extent, Staged, Tip};
use landfall_proto::model::DiskSpec;
use landfall_proto::planted::{self, Bug};
use landfall_proto::refusal::Class;

use super::fill::Present;
use super::layout::{Layout, STAGED};
use super::manifest::Manifest;
use super::store::{Epochs, ReplicaStore};
use crate::drive::image::change_set::{self, ChangeSetWriter};
use crate::drive::image::durable;
use crate::drive::image::extent::{self, Order};
use crate::drive::image::tree;

/// How a change set began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Go on from this extent, which is [`ChangeSet::resume_at`].
    Staging(u64),
    /// It is staged whole already: nothing has to be sent.
    Whole,
    /// Its point is the newest listed one already: an answer got lost.
    Listed,
}

/// A change set under way.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) set: ChangeSet,
    writer: ChangeSetWriter,
    order: Order,
    whole: bool,
}

impl Staging {
    pub(super) fn staged(&self) -> Staged {
        Staged { tip: self.set.tip, extents: self.writer.counts().extents }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// What an earlier process left staged. A log that says nothing usable, or that is behind what is listed, is
    /// removed.
    pub(super) fn recover(layout: &Layout, manifest: &Manifest) -> Result<Option<Self>, Refusal> {
        let path = layout.path(STAGED);
        if !path.exists() {
            return Ok(None);
        }
        let newest = manifest.newest().map_or(0, |point| point.sequence);
        let found = change_set::inspect(&path).ok().and_then(|found| found.change_set);
        let Some(set) = found.filter(|set| set.tip.sequence > newest) else {
            durable::remove(&path)?;
            return Ok(None);
        };
        let (writer, found) = ChangeSetWriter::resume(&path, u64::MAX)?;
        Ok(Some(Self { set, writer, order: found.order, whole: found.complete }))
    }
}

/// Whether two change sets are one, sent in two sessions.
fn same(one: &ChangeSet, other: &ChangeSet) -> bool {
    ChangeSet { resume_at: 0, ..one.clone() } == ChangeSet { resume_at: 0, ..other.clone() }
}

fn refused(code: &str, message: String, remedy: &str) -> Refusal {
    Refusal::new(Class::Refused, code, message).remedy(remedy)
}

impl ReplicaStore {
    /// Begins a change set, or goes on with one that an earlier session left. A different one that is only staged in
    /// part is dropped; one that is staged whole must be committed or dropped first.
    pub fn begin(&mut self, epochs: &Epochs, set: &ChangeSet) -> Result<Begun, Refusal> {
        self.check_session(epochs)?;
        self.check_open()?;
        self.check_untouched()?;
        if self.applying.is_some() {
            self.land()?;
        }
        if self.manifest.newest().is_some_and(|point| point.tip() == set.tip) {
            return Ok(Begun::Listed);
        }
        self.check_set(set)?;
        let path = self.layout().path(STAGED);
        match self.staging.take() {
            Some(staging) if same(&staging.set, set) && staging.whole => {
                self.staging = Some(staging);
                return Ok(Begun::Whole);
            }
            Some(staging) if staging.whole => {
                let message = format!("point {} is staged and may be acknowledged", staging.set.tip.sequence);
                self.staging = Some(staging);
                return Err(refused("staged_pending", message, "let the holder complete or drop it first"));
            }
            Some(staging) if same(&staging.set, set) && set.resume_at <= staging.writer.counts().extents => {
                let mut writer = staging.writer;
                writer.flush()?;
                drop(writer);
                let (writer, found) = ChangeSetWriter::resume(&path, set.resume_at)?;
                self.staging = Some(Staging { set: set.clone(), writer, order: found.order, whole: false });
                return Ok(Begun::Staging(set.resume_at));
            }
            _ => {}
        }
        if set.resume_at != 0 {
            let message = format!("extent {} is not where staging has got to", set.resume_at);
            return Err(refused("bad_resume", message, "begin the change set anew, at extent 0"));
        }
        let writer = ChangeSetWriter::create(&path, Some(set))?;
        self.staging = Some(Staging { set: set.clone(), writer, order: Order::default(), whole: false });
        Ok(Begun::Staging(0))
    }

    /// Refuses a set that cannot be applied to what is here, whatever its extents are.
    fn check_set(&mut self, set: &ChangeSet) -> Result<(), Refusal> {
        let disks: Vec<DiskSpec> = set.disks.iter().map(|(disk, _)| disk.clone()).collect();
        tree::check_disks(&disks)?;
        if set.tip.root != tree::content_root_of(&set.disks) {
            let message = format!("point {} does not have the root of its disks", set.tip.sequence);
            return Err(refused("bad_root", message, "scan the disks again"));
        }
        let newest = self.standing().newest;
        if let Some(base) = set.base
            && Some(base) != newest
            && !planted::is(Bug::BaseNotCompared)
        {
            let show = |tip: Option<Tip>| tip.map_or("nothing".to_owned(), |tip| format!("point {}", tip.sequence));
            let message = format!("the change set is based on {}, here is {}", show(Some(base)), show(newest));
            return Err(refused("base_mismatch", message, "compare hashes, and send what differs"));
        }
        let listed = self.manifest.newest().map_or(0, |point| point.sequence);
        if set.tip.sequence <= listed {
            let message = format!("point {} is not behind point {listed}", set.tip.sequence);
            return Err(refused("stale_sequence", message, "number points upwards"));
        }
        for disk in &disks {
            let before = match self.present(&disk.target) {
                Some(Present::Point(entry)) => entry.bytes,
                Some(Present::Filling(spec)) => spec.bytes,
                None => continue,
            };
            if disk.bytes < before {
                let message = format!("disk {} shrank from {before} to {} bytes", disk.target, disk.bytes);
                let remedy =
                    "remove the replication of the VM and enable it again: points of a larger disk cannot be kept";
                return Err(refused("shrunk", message, remedy).field("disk.bytes"));
            }
        }
        self.begin_new_disks(&disks)
    }

    /// Begins first content for disks that the replica does not have yet.
    fn begin_new_disks(&mut self, disks: &[DiskSpec]) -> Result<(), Refusal> {
        let before = self.manifest.filling.clone();
        for disk in disks {
            match self.present(&disk.target) {
                None => self.manifest.filling.push(disk.clone()),
                Some(Present::Filling(have)) if have.bytes != disk.bytes => {
                    let message = format!("disk {} was announced with {} bytes", disk.target, have.bytes);
                    return Err(refused("resized", message, "open a new session with the disk's size"));
                }
                Some(_) => {}
            }
        }
        if self.manifest.filling != before {
            self.save()?;
        }
        Ok(())
    }

    fn staging_mut(&mut self) -> Result<&mut Staging, Refusal> {
        self.staging
            .as_mut()
            .ok_or_else(|| refused("nothing_staged", "no change set has begun".to_owned(), "begin one"))
    }

    /// Takes the next extent. It is durable only once [`ReplicaStore::finish`] has returned.
    pub fn append(&mut self, epochs: &Epochs, extent: &Extent) -> Result<(), Refusal> {
        self.check_session(epochs)?;
        self.check_frozen()?;
        let staging = self.staging_mut()?;
        let Some((disk, _)) = staging.set.disks.get(usize::from(extent.disk)) else {
            return extent::check(extent, &[]);
        };
        let mut sizes = vec![0; usize::from(extent.disk)];
        sizes.push(disk.bytes);
        extent::check(extent, &sizes)?;
        staging.order.check(extent)?;
        let appended = staging.writer.append(extent);
        if appended.is_err() {
            // Half a record may be in the file: what is whole is found again, or nothing is kept.
            self.staging = None;
            self.staging = Staging::recover(self.layout(), &self.manifest).ok().flatten();
        }
        appended
    }

    /// Completes staging: verifies that base and extents give the end root, and makes it durable. Repeating it is
    /// harmless. A set that does not give its root is dropped.
    pub fn finish(&mut self, epochs: &Epochs, extents: u64) -> Result<Staged, Refusal> {
        self.check_session(epochs)?;
        self.check_frozen()?;
        let staging = self.staging_mut()?;
        let staged = staging.staged();
        if staged.extents != extents {
            let message = format!("{} of {extents} extents are here", staged.extents);
            return Err(refused("extents_missing", message, "send the change set again"));
        }
        if staging.whole {
            return Ok(staged);
        }
        staging.writer.flush()?;
        let set = staging.set.clone();
        for disk in 0..set.disks.len() {
            self.verify_disk(&set, disk)?;
            self.sync_filling(&set.disks[disk].0)?;
        }
        let staging = self.staging_mut()?;
        if let Err(refusal) = staging.writer.seal(None) {
            // After a failed sync nobody knows what is on the disk: a later one would report success for lost pages.
            self.drop_staged()?;
            return Err(refusal);
        }
        staging.whole = true;
        Ok(staged)
    }

    /// Makes first content that was filled in durable; what a failed sync leaves is not kept.
    fn sync_filling(&mut self, spec: &DiskSpec) -> Result<(), Refusal> {
        if !matches!(self.present(&spec.target), Some(Present::Filling(_))) {
            return Ok(());
        }
        let synced = self.filling_of(spec)?.base.sync();
        if synced.is_err() {
            self.drop_staged()?;
            self.drop_filling(&spec.target)?;
        }
        synced
    }

    fn verify_disk(&mut self, set: &ChangeSet, disk: usize) -> Result<(), Refusal> {
        let (spec, wanted) = &set.disks[disk];
        if self.leaves_after(set, disk, STAGED)? == *wanted || planted::is(Bug::RootNotVerified) {
            return Ok(());
        }
        // The index may be what is wrong: once, it is made anew from what is really there.
        if let Some(Present::Point(entry)) = self.present(&spec.target)
            && !self.trusted.contains(&spec.target)
        {
            let root = self.rebuild_index(&entry)?;
            if root == entry.root && self.leaves_after(set, disk, STAGED)? == *wanted {
                return Ok(());
            }
        }
        self.drop_staged()?;
        let message = format!("disk {} of point {} does not get the root it should", spec.target, set.tip.sequence);
        Err(refused("root_mismatch", message, "compare hashes, and send what differs"))
    }

    /// Drops what is staged; no error where nothing is.
    pub fn drop_staged(&mut self) -> Result<(), Refusal> {
        self.staging = None;
        durable::remove(&self.layout().path(STAGED))
    }
}
