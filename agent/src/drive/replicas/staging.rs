//! Replicas of which nothing could be staged here because of a disk: said of this node until something can be.
//!
//! It is the sender's next change set that shows whether the disk is well again. Where none comes (the primary is paused, or
//! gone) a file that is written and synced beside the replica's does.

use std::io::Write;
use std::path::Path;

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::model::Replica;

use super::{Replicas, lock};
use crate::drive::image::durable::{self, fault};
use crate::drive::send::capture::blocking;

/// What is written: as much as a change set of a quiet VM.
const PROBE_BYTES: usize = 1 << 20;

/// Its name, which nothing else has, and which opening a replica removes like all that is not complete.
const PROBE: &str = "room";

/// Times `node_down_after` without a try of the sender until this node
/// looks by itself: by then its owner has acted, where another node could go on.
const PATIENCE: u32 = 2;

impl Replicas {
    /// Takes in how the last try to stage something ended: this node goes on saying that it cannot until it could.
    pub fn note_staging(&self, vm: VmId, refusal: Option<&Refusal>) {
        let now = self.node.outside.clock.now();
        match refusal {
            Some(refusal) if durable::is_fault(refusal) => {
                lock(&self.unstaged).insert(vm, (now, refusal.clone()));
            }
            // Whatever else was wrong was not this node's disk.
            Some(_) => {}
            None => {
                lock(&self.unstaged).remove(&vm);
            }
        }
    }

    /// Looks whether something could be staged of a replica again, where nobody has tried for a while.
    pub(super) async fn look_for_room(&self, replica: &Replica) {
        let vm = replica.vm.id;
        let Some((tried, _)) = lock(&self.unstaged).get(&vm).cloned() else { return };
        let patience = self.node.state().resolved_settings().node_down_after * PATIENCE;
        if self.node.outside.clock.now().since(tried) < patience {
            return;
        }
        let Ok(folder) = self.folder(&replica.storage, vm) else { return };
        let looked = blocking(move || write_probe(&folder)).await;
        self.note_staging(vm, looked.as_ref().err());
    }
}

fn write_probe(folder: &Path) -> Result<(), Refusal> {
    let path = durable::temporary(&folder.join(PROBE));
    let mut file = durable::create(&path)?;
    let written = file.write_all(&vec![0xa5; PROBE_BYTES]).map_err(|error| fault("write", &path, &error));
    let synced = written.and_then(|()| durable::sync(&file, &path));
    let removed = durable::remove(&path);
    synced.and(removed)
}
