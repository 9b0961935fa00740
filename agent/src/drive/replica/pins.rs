//! Who holds a replica: the process that has it open, the readers' pins on points, and the lock between opening a chain
//! and renaming in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use landfall_proto::Refusal;
use landfall_proto::planted::{self, Bug};
use landfall_proto::refusal::{Class, quoted};
use rustix::fs::{FlockOperation, flock};

use super::layout::{LOCK, Layout};
use crate::drive::image::durable::fault;

/// The lock of the one process that has a replica open; the kernel ends it with the process.
#[derive(Debug)]
pub(super) struct FolderLock(File);

impl FolderLock {
    pub(super) fn take(layout: &Layout) -> Result<Self, Refusal> {
        let path = layout.path(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| fault("open", &path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let shown = quoted(&layout.folder().to_string_lossy());
                Err(Refusal::new(Class::Failed, "replica_in_use", format!("the replica in {shown} is open elsewhere"))
                    .field("path")
                    .remedy("close it there: stop the other agent of this node"))
            }
            Err(error) => Err(fault("lock", &path, &error.into())),
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Said explicitly: a child that is just being forked has a copy of the file until it executes its program, and
        // closing ours would leave the lock to it. Nothing can be done where it fails; the kernel ends it later.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// What somebody may come to read, who has not begun to: a failover is committed before its point is pinned, and a crash
/// in between must not let the point go.
pub trait Wants: std::fmt::Debug + Send + Sync {
    /// Whether the point `sequence` has to stay listed.
    fn wants(&self, sequence: u64) -> bool;
}

/// Nobody wants anything.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Wants for Nothing {
    fn wants(&self, _sequence: u64) -> bool {
        false
    }
}

/// What a store and its readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) layout: Layout,
    wants: Arc<dyn Wants>,
    held: Mutex<Held>,
    names: RwLock<()>,
}

#[derive(Debug, Default)]
struct Held {
    /// How many readers each point has.
    pins: BTreeMap<u64, u32>,
    /// How many readers want nothing new to come.
    freezes: u32,
    /// How often that was ended over their heads: an earlier wish counts no more.
    thaws: u64,
}

impl Shared {
    pub(super) fn new(layout: Layout, wants: Arc<dyn Wants>) -> Arc<Self> {
        Arc::new(Self { layout, wants, held: Mutex::default(), names: RwLock::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // The counts are changed in single steps: a panic elsewhere leaves them true.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the names of chains as they are while one is opened.
    pub(super) fn opening(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no chain is being opened, and keeps others from it while names change.
    pub(super) fn renaming(&self) -> RwLockWriteGuard<'_, ()> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a point stays listed and its files as they are: somebody reads it, or will.
    pub(super) fn is_pinned(&self, sequence: u64) -> bool {
        let read = self.held().pins.contains_key(&sequence) && !planted::is(Bug::PinIgnored);
        read || (self.wants.wants(sequence) && !planted::is(Bug::WantedPointGoes))
    }

    pub(super) fn has_pins(&self) -> bool {
        !self.held().pins.is_empty()
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.held().freezes > 0
    }

    /// Lets new points come again, whoever wanted none.
    pub(super) fn thaw(&self) {
        let mut held = self.held();
        (held.freezes, held.thaws) = (0, held.thaws + 1);
    }
}

/// Keeps points from being de-listed, and with `freeze` new ones from coming, until it is dropped.
#[derive(Debug)]
pub(super) struct Pin {
    shared: Arc<Shared>,
    sequences: Vec<u64>,
    /// Nothing new comes, as long as so many thaws there have been.
    freeze: Option<u64>,
}

impl Pin {
    pub(super) fn new(shared: &Arc<Shared>, sequences: Vec<u64>, freeze: bool) -> Self {
        let mut held = shared.held();
        for sequence in &sequences {
            *held.pins.entry(*sequence).or_default() += 1;
        }
        held.freezes += u32::from(freeze);
        let freeze = freeze.then_some(held.thaws);
        drop(held);
        Self { shared: Arc::clone(shared), sequences, freeze }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether nothing new has come since this was made, and nothing comes.
    pub(super) fn still_freezes(&self) -> bool {
        self.freeze == Some(self.shared.held().thaws)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.shared.held();
        for sequence in &self.sequences {
            if let Some(count) = held.pins.get_mut(sequence) {
                *count -= 1;
                if *count == 0 {
                    held.pins.remove(sequence);
                }
            }
        }
        if self.freeze == Some(held.thaws) {
            held.freezes = held.freezes.saturating_sub(1);
        }
    }
}
