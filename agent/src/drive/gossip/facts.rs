//! What a node says of itself in gossip: one small JSON text, so that nodes of different versions read each other.

use landfall_proto::id::{MemberId, Position, Revision, StorageName};
use serde::{Deserialize, Serialize};

use crate::decide::flapping::Quarantined;
use crate::decide::rollback::Loss;
use crate::decide::twins::Twin;

/// The longest text that is read: a node says a few hundred bytes, whoever says more is not understood.
pub(super) const FACTS_MAX_BYTES: usize = 16 * 1024;

/// Free room is told in steps of this size, so that ordinary writing does not gossip all day.
const ROOM_STEP_BYTES: u64 = 16 * 1024 * 1024;

/// One node's own words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Its VM service.
    pub vm_service: VmServiceFacts,
    /// Its storage locations.
    pub storage: Vec<StorageFacts>,
    /// The settings revision that its VM service has acknowledged.
    pub settings_revision: Revision,
    /// The position that it has applied.
    pub applied: Position,
    /// Replicas that it receives.
    pub replicas: u32,
    /// Its version of Landfall.
    pub version: String,
    /// How it stands with the CAP's own address.
    #[serde(default)]
    pub cap_address: CapAddressFacts,
    /// The members that it holds for lost, while it owns the CAP: only an owner asks the silent ones.
    #[serde(default)]
    pub lost: Vec<MemberId>,
    /// The keys of others that it hears in two places.
    #[serde(default)]
    pub twins: Vec<Twin>,
    /// What its log has lost.
    #[serde(default)]
    pub rolled_back: Option<Loss>,
    /// The members that it holds in quarantine, while it owns the CAP.
    #[serde(default)]
    pub quarantined: Vec<Quarantined>,
}

/// What a node says of the CAP's own address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CapAddressFacts {
    /// Whether it has it.
    pub held: bool,
    /// Why it cannot have it.
    pub fault: Option<String>,
    /// Who else has it.
    pub foreign: Option<String>,
    /// Why it is not announced.
    pub unannounced: Option<String>,
}

/// The VM service of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VmServiceFacts {
    /// `running`, `stopped`, `degraded` or `none`.
    pub state: String,
    /// Why it is not running.
    pub reason: Option<String>,
}

/// One storage location of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StorageFacts {
    /// Its name.
    pub name: StorageName,
    /// Bytes free, rounded down.
    pub free_bytes: u64,
    /// Why nothing can be stored there.
    pub fault: Option<String>,
}

impl StorageFacts {
    /// The fact for a location with `free_bytes` free.
    pub fn new(name: StorageName, free_bytes: u64, fault: Option<String>) -> Self {
        Self { name, free_bytes: free_bytes / ROOM_STEP_BYTES * ROOM_STEP_BYTES, fault }
    }
}

impl Facts {
    /// Reads another node's words; `None` where they make no sense, which is no error: gossip is a hint.
    pub fn read(text: &str) -> Option<Self> {
        (text.len() <= FACTS_MAX_BYTES).then(|| serde_json::from_str(text).ok()).flatten()
    }
}
