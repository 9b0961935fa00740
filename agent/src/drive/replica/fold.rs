//! Making one overlay of several that nothing lists: what the change sets between two points leave behind.
//!
//! The new overlay shows what the topmost of them did. It is written under a temporary name, synced, and takes that one's
//! name, so that whatever stands on it goes on to; nothing that exists is ever written into, and a crash leaves the old
//! files or the new one. Which are folded when is `decide/points.rs`: each byte is written again a few times between two
//! points, however many change sets there are. What a pin may read is left alone until it is dropped.

use std::collections::BTreeSet;

use landfall_proto::{Class, Refusal};

use super::chain::{self, COPY_BYTES, Overlay, OwnClusters};
use super::layout::Layout;
use super::manifest::{POINTS_MAX, PointEntry};
use super::store::ReplicaStore;
use crate::decide::points;
use crate::drive::image::durable::{self, fault};
use crate::drive::image::source::{Layers, Readable};

impl ReplicaStore {
    /// Folds what lies between listed points, as far as it is due and no pin reads it.
    pub(super) fn fold(&mut self) -> Result<(), Refusal> {
        let listed: BTreeSet<String> = self.files_of(|_| true).collect();
        let head: BTreeSet<String> = match self.manifest.newest() {
            Some(newest) => newest.disks.iter().map(|disk| disk.file.clone()).collect(),
            None => return Ok(()),
        };
        let mut read = BTreeSet::new();
        for file in self.files_of(|point| self.shared.is_pinned(point.sequence)) {
            read.extend(chain::chain(self.layout(), &file)?);
        }
        for file in &listed {
            let names = chain::chain(self.layout(), file)?;
            let between =
                names.iter().skip(1).take_while(|name| !listed.contains(*name) && !read.contains(*name)).count();
            // A base is never folded: it is what the oldest point is settled into.
            let between = between.min(names.len().saturating_sub(2));
            if between == 0 {
                continue;
            }
            if head.contains(file) {
                let sizes = names[1..=between].iter().map(|name| self.size(name)).collect::<Result<Vec<_>, _>>()?;
                if let Some(count) = points::fold(&sizes) {
                    self.fold_layers(&names[1..=count], &names[1 + count])?;
                }
            } else if !read.contains(file) {
                self.fold_layers(&names[..=between], &names[1 + between])?;
            }
        }
        Ok(())
    }

    /// Refuses where nothing can be built upon the newest point: a chain that cannot be followed, or is too deep.
    pub(super) fn check_depth(&self) -> Result<(), Refusal> {
        for disk in self.manifest.newest().iter().flat_map(|point| &point.disks) {
            let depth = chain::chain(self.layout(), &disk.file)?.len();
            if depth >= POINTS_MAX {
                let message = format!("disk {} is {depth} overlays deep", disk.target);
                return Err(Refusal::new(Class::Failed, "too_many_points", message)
                    .remedy("see why older points are not merged: the replica's fault says it"));
            }
        }
        Ok(())
    }

    fn files_of(&self, which: impl Fn(&PointEntry) -> bool) -> impl Iterator<Item = String> {
        let points = self.manifest.points.iter().filter(|point| which(point));
        points.flat_map(|point| point.disks.iter().map(|disk| disk.file.clone())).collect::<Vec<_>>().into_iter()
    }

    fn size(&self, name: &str) -> Result<u64, Refusal> {
        let path = self.layout().path(name);
        Ok(std::fs::metadata(&path).map_err(|error| fault("look at", &path, &error))?.len())
    }

    /// Replaces `layers`, which follow each other with the topmost first, by one overlay over `below`.
    fn fold_layers(&self, layers: &[String], below: &str) -> Result<(), Refusal> {
        let Some(top) = layers.first() else { return Ok(()) };
        let layout = self.layout();
        let folded = write_folded(layout, layers, below, None)?.complete()?;
        let _names = self.shared.renaming();
        durable::rename(&folded, &layout.path(top))?;
        durable::sync_folder(layout.folder())
    }
}

/// Content that takes the place of what a layer has.
pub(super) struct Patch {
    /// Where in the disk: the start of a leaf.
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
}

impl Patch {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// Begins an overlay over `below` that shows what `layers` do, with `patch` in place of what it covers, which is not read
/// and need not be theirs: tables that are damaged may have lost it.
pub(super) fn write_folded(
    layout: &Layout,
    layers: &[String],
    below: &str,
    patch: Option<&Patch>,
) -> Result<Overlay, Refusal> {
    let view = Layers::open(&layout.path(&layers[0]))?;
    let own = layers.iter().map(|name| OwnClusters::open(&layout.path(name))).collect::<Result<Vec<_>, _>>()?;
    let overlay = Overlay::create(layout, &layers[0], below, view.bytes())?;
    let (mut at, mut buffer) = (0, vec![0; COPY_BYTES as usize]);
    while at < view.bytes() {
        if let Some(patch) = patch.filter(|patch| patch.offset == at) {
            overlay.write(at, &patch.data)?;
            at = patch.end();
            continue;
        }
        let stop = patch.map(|patch| patch.offset).filter(|start| *start > at);
        let (mut found, mut until) = (false, stop.unwrap_or(view.bytes()));
        for layer in &own {
            let (own, end) = layer.run_at(at)?;
            (found, until) = (found | own, until.min(end));
        }
        while found && at < until {
            let run = view.run_at(at, (until - at).min(COPY_BYTES))?;
            if run.hole {
                overlay.zero(at, run.length)?;
            } else {
                let data = &mut buffer[..run.length as usize];
                view.read_at(at, data)?;
                overlay.write(at, data)?;
            }
            at += run.length;
        }
        at = until.max(at);
    }
    Ok(overlay)
}
