//! What cannot stage on a node.

use serde::{Deserialize, Serialize};

use crate::id::{StorageName, VmId};

/// Faults of one kind in one answer: with [`FAULT_TEXT_MAX`] bytes each, both kinds fit a control frame of 64 KiB. The
/// others come once these are mended, or their replicas are elsewhere.
pub const FAULTS_MAX: usize = 100;

/// Bytes of one fault's reason.
pub const FAULT_TEXT_MAX: usize = 200;

/// What cannot stage on a node: a storage location with everything in it, or one replica alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagingFaults {
    /// Storage locations, and why nothing can be stored there.
    pub storage: Vec<(StorageName, String)>,
    /// Replicas that the node receives, and why these take nothing new.
    pub replicas: Vec<(VmId, String)>,
}

impl StagingFaults {
    /// Says these faults, as many and as long as one answer may hold.
    pub fn new(
        storage: impl IntoIterator<Item = (StorageName, String)>,
        replicas: impl IntoIterator<Item = (VmId, String)>,
    ) -> Self {
        Self {
            storage: storage.into_iter().take(FAULTS_MAX).map(|(name, why)| (name, shortened(why))).collect(),
            replicas: replicas.into_iter().take(FAULTS_MAX).map(|(vm, why)| (vm, shortened(why))).collect(),
        }
    }
}

fn shortened(mut text: String) -> String {
    let end = (0..=FAULT_TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}
