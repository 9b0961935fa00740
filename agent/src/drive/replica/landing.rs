//! Applying a staged change set and listing its point.
//!
//! The order is: the log gets the name that says "being applied"; each changed disk gets its overlay (or first base),
//! complete before it has its name, several disks at once; the folder is synced; the manifest lists the point; the index is brought up to it;
//! the log is removed; retention follows. Cut off anywhere, [`ReplicaStore::open`] goes through the same steps again:
//! each finds out by itself whether it was done.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root};
use landfall_proto::message::control::Point;
use landfall_proto::message::data::{ChangeSet, Extent};
use landfall_proto::model::DiskSpec;
use landfall_proto::refusal::Class;

use super::base::Base;
use super::chain::Overlay;
use super::fill::{Present, patch};
use super::layout::{APPLYING, Layout, STAGED, leaves_name, point_name};
use super::manifest::{DiskEntry, PointEntry};
use super::store::{Filling, ReplicaStore};
use crate::drive::image::change_set::{self, ChangeSetReader};
use crate::drive::image::durable;
use crate::drive::image::index::HashIndex;
use crate::drive::image::tree::LEAF_BYTES;

impl ReplicaStore {
    /// Applies and lists what is staged whole, then keeps retention. [`ChangeSet::stays`] says whether its point stays
    /// listed once there is a newer one, or is just the head, whose changes become part of the next point: the holder
    /// decides it before the first extent and passes it on, so that all copies list the same. Once a commit has begun it
    /// is completed as it began, by this call, a later one, or [`ReplicaStore::open`]; the listed points are whole
    /// whatever fails.
    pub fn commit(&mut self) -> Result<Point, Refusal> {
        if self.applying.is_none() {
            self.check_untouched()?;
            if self.manifest.doubted && self.staging.as_ref().is_some_and(|staging| staging.set.base.is_some()) {
                self.drop_staged()?;
                let message = "the content that the change set is based on was changed by somebody else";
                return Err(Refusal::new(Class::Refused, "base_mismatch", message)
                    .remedy("compare hashes, and send what differs"));
            }
            let Some(staging) = self.staging.take_if(|staging| staging.is_whole()) else {
                return Err(Refusal::new(Class::Refused, "nothing_staged", "no change set is staged whole")
                    .remedy("stage one and finish it"));
            };
            let layout = self.layout().clone();
            if let Err(refusal) = durable::rename(&layout.path(STAGED), &layout.path(APPLYING)) {
                self.staging = Some(staging);
                return Err(refusal);
            }
            self.applying = Some(staging.set);
            durable::sync_folder(layout.folder())?;
        }
        let landed = self.land();
        self.set_fault(landed.as_ref().err().cloned());
        let point = landed.inspect_err(|refusal| self.suspect_files(refusal))?;
        if let Err(refusal) = self.note_stamps().and_then(|()| self.retain()) {
            // The point is listed: that older ones are merged late is a fault to show, not a failed commit.
            self.set_fault(Some(refusal));
        }
        Ok(point)
    }

    /// Completes the commit that has begun.
    pub(super) fn land(&mut self) -> Result<Point, Refusal> {
        let Some(set) = self.applying.clone() else {
            return Err(Refusal::new(Class::Refused, "nothing_staged", "no commit has begun"));
        };
        if self.manifest.newest().is_none_or(|point| point.sequence < set.tip.sequence) {
            self.list_point(&set)?;
        }
        for (disk, _) in set.disks.iter().enumerate() {
            self.advance_index(&set, disk)?;
        }
        let layout = self.layout().clone();
        durable::remove(&layout.path(APPLYING))?;
        durable::sync_folder(layout.folder())?;
        self.applying = None;
        match self.manifest.newest() {
            Some(point) => Ok(point.point()),
            None => Err(Refusal::not_found("point", &set.tip.sequence.to_string())),
        }
    }

    fn list_point(&mut self, set: &ChangeSet) -> Result<(), Refusal> {
        let disks = self.land_disks(set)?;
        durable::sync_folder(self.layout().folder())?;
        let changed = match self.manifest.points.is_empty() {
            // The first content came before its change set, which may be empty.
            true => self.base_bytes(&disks)?,
            false => change_set::counts(&self.layout().path(APPLYING))?.bytes,
        };
        let entry = PointEntry {
            sequence: set.tip.sequence,
            root: set.tip.root,
            taken_at: set.taken_at,
            consistency: set.consistency,
            bytes: changed,
            stays: set.stays,
            disks,
        };
        let before = self.manifest.clone();
        self.manifest.points.push(entry);
        self.unlist_heads();
        self.manifest.filling.clear();
        self.manifest.doubted = false;
        self.manifest.elsewhere.retain(|point| point.sequence != set.tip.sequence);
        self.trim_elsewhere();
        self.save().inspect_err(|_| self.manifest = before)
    }

    fn base_bytes(&self, disks: &[DiskEntry]) -> Result<u64, Refusal> {
        let base = |disk: &DiskEntry| Base::open(&self.layout().path(&disk.file), disk.bytes)?.stored_bytes();
        disks.iter().map(base).sum()
    }

    /// Gives each disk the file that shows it at the new point, as many at once as [`ReplicaStore::set_disks_at_once`]
    /// allows.
    fn land_disks(&mut self, set: &ChangeSet) -> Result<Vec<DiskEntry>, Refusal> {
        let prepared = (0..set.disks.len()).map(|disk| self.prepare_disk(set, disk)).collect::<Result<Vec<_>, _>>()?;
        let (layout, filling) = (self.layout(), &self.filling);
        let log = layout.path(APPLYING);
        at_once(self.disks_at_once, &prepared, |landing| landing.write(layout, &log, filling))?;
        Ok(prepared.into_iter().map(|landing| landing.entry).collect())
    }

    /// Says what a disk's file will be and makes its leaves; the file itself is written by [`Landing::write`].
    fn prepare_disk(&mut self, set: &ChangeSet, disk: usize) -> Result<Landing, Refusal> {
        let (spec, root) = &set.disks[disk];
        let present = self.present(&spec.target);
        if let Some(Present::Point(entry)) = &present
            && entry.bytes == spec.bytes
            && entry.root == *root
            && !self.manifest.doubted
        {
            return Ok(Landing { disk, entry: entry.clone(), onto: Onto::Nothing });
        }
        let file = point_name(&spec.target, set.tip.sequence);
        let leaves = self.landed_leaves(set, disk)?;
        // A file has its name only once it is complete.
        let onto = match present {
            _ if self.layout().path(&file).exists() => Onto::Nothing,
            Some(Present::Point(entry)) => Onto::Overlay { backing: entry.file },
            _ => {
                self.filling_of(spec)?;
                Onto::Base
            }
        };
        let entry = DiskEntry { target: spec.target.clone(), bytes: spec.bytes, root: *root, file, leaves };
        Ok(Landing { disk, entry, onto })
    }

    fn landed_leaves(&mut self, set: &ChangeSet, disk: usize) -> Result<String, Refusal> {
        let (spec, root) = &set.disks[disk];
        let name = leaves_name(&spec.target, set.tip.sequence);
        let describes = |index: &HashIndex| index.root() == Some(*root) && index.node_bytes() == LEAF_BYTES;
        if HashIndex::open(&self.layout().path(&name))?.is_some_and(|index| describes(&index)) {
            return Ok(name);
        }
        if let Some(Present::Point(entry)) = self.present(&spec.target)
            && entry.root == *root
            && entry.bytes == spec.bytes
        {
            return Ok(entry.leaves);
        }
        if self.leaves_after(set, disk, APPLYING)? == *root {
            return Ok(name);
        }
        let message = format!("disk {} cannot be brought to point {}", spec.target, set.tip.sequence);
        Err(Refusal::new(Class::Failed, "damaged", message).remedy("fetch the replica from another copy"))
    }

    /// Brings the index of a disk to the new point. One that cannot be known to be right is removed: it is made anew
    /// when it is needed.
    fn advance_index(&mut self, set: &ChangeSet, disk: usize) -> Result<(), Refusal> {
        let (spec, root) = &set.disks[disk];
        let path = self.layout().index(&spec.target);
        let filled = self.filling.remove(&spec.target).is_some();
        let Some(mut index) = HashIndex::open_writable(&path)? else { return Ok(()) };
        if index.root() == Some(*root) && index.disk_bytes() == spec.bytes {
            return Ok(());
        }
        let before = self.root_before(set, spec);
        let known = filled || self.trusted.contains(&spec.target) || (before.is_some() && index.root() == before);
        if !known {
            return durable::remove(&path);
        }
        if index.disk_bytes() != spec.bytes {
            index.grow(spec.bytes)?;
        }
        let patched = each_extent(&self.layout().path(APPLYING), disk, |extent| patch(&mut index, spec.bytes, extent))
            .and_then(|()| index.set_root(Some(*root)))
            .and_then(|()| index.sync());
        if patched.is_err() {
            self.trusted.remove(&spec.target);
        }
        patched
    }

    /// The root that a disk had at the point before the one that `set` made.
    fn root_before(&self, set: &ChangeSet, spec: &DiskSpec) -> Option<Root> {
        let before = self.manifest.points.iter().rev().find(|point| point.sequence < set.tip.sequence)?;
        before.disk(&spec.target).map(|entry| entry.root)
    }
}

/// One disk of a change set on its way into its file.
struct Landing {
    /// Its number in the change set.
    disk: usize,
    /// How the manifest will list it.
    entry: DiskEntry,
    onto: Onto,
}

/// What the changes of a disk are written onto.
enum Onto {
    /// Its file is there: it did not change, or it was complete before a crash.
    Nothing,
    /// A new overlay over this file.
    Overlay {
        /// The file of the point before.
        backing: String,
    },
    /// Its first content, which becomes the base of its chain.
    Base,
}

impl Landing {
    /// Writes the file: complete and synced before it has its name. The folder is for the caller to sync.
    fn write(&self, layout: &Layout, log: &Path, filling: &BTreeMap<DiskTarget, Filling>) -> Result<(), Refusal> {
        let DiskEntry { target, bytes, file, .. } = &self.entry;
        match &self.onto {
            Onto::Nothing => Ok(()),
            Onto::Overlay { backing } => {
                let overlay = Overlay::create(layout, file, backing, *bytes)?;
                each_extent(log, self.disk, |extent| overlay.apply(extent))?;
                overlay.finish()
            }
            Onto::Base => {
                let Some(Filling { base, .. }) = filling.get(target) else {
                    return Err(Refusal::not_found("disk", target.as_str()));
                };
                each_extent(log, self.disk, |extent| base.apply(extent))?;
                base.sync()?;
                let path = layout.filling(target);
                durable::set_read_only(&path, true)?;
                durable::rename(&path, &layout.path(file))
            }
        }
    }
}

/// Does `work` for each of `items`, at most `limit` of them at a time: one at a time on this thread itself. Nothing new
/// is begun after a failure, and the first one in the order of `items` is returned.
fn at_once<T: Sync>(limit: usize, items: &[T], work: impl Fn(&T) -> Result<(), Refusal> + Sync) -> Result<(), Refusal> {
    let workers = limit.min(items.len());
    if workers <= 1 {
        return items.iter().try_for_each(work);
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let failures = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while failures().is_empty() {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    if let Err(refusal) = work(item) {
                        failures().insert(at, refusal);
                    }
                }
            });
        }
    });
    match failures().pop_first() {
        Some((_, refusal)) => Err(refusal),
        None => Ok(()),
    }
}

/// Calls `each` with the extents of one disk, in order.
fn each_extent(log: &Path, disk: usize, mut each: impl FnMut(&Extent) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let (mut reader, number) = (ChangeSetReader::open_sealed(log)?, disk as u16);
    let mut next = reader.first_of(number)?;
    while let Some(extent) = next.filter(|extent| extent.disk == number) {
        each(&extent)?;
        next = reader.next_extent()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn as_many_at_once_as_the_limit_and_no_more() {
        for limit in [0, 1, 3, 9] {
            let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let together = limit.clamp(1, 6);
            at_once(limit, &[0; 6], |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Whoever comes first waits for the others that may come: fewer at once would wait for ever.
                let begun = Instant::now();
                while most.load(Ordering::SeqCst) < together {
                    assert!(begun.elapsed() < Duration::from_secs(30), "{together} were never at it together");
                    std::thread::yield_now();
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
            assert_eq!(most.load(Ordering::SeqCst), together);
        }
    }

    #[test]
    fn the_first_failure_is_told_and_nothing_is_begun_after_it() {
        for limit in [1, 4] {
            let begun = AtomicUsize::new(0);
            let items: Vec<u64> = (0..1_000).collect();
            let refusal = at_once(limit, &items, |item| {
                begun.fetch_add(1, Ordering::SeqCst);
                if *item < 2 { Ok(()) } else { Err(Refusal::not_found("disk", &item.to_string())) }
            })
            .unwrap_err();
            assert!(refusal.message.contains('2'), "{refusal}");
            assert!(begun.load(Ordering::SeqCst) <= 2 + limit, "{begun:?}");
        }
    }
}
