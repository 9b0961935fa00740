//! What a VM service tells its agent.

use landfall_proto::id::Revision;
use serde::{Deserialize, Serialize};

use crate::vm_service::{StorageReport, VmReport};

/// `PUT /v1/vm-service/applied`: the VM service has this revision durably, and acts by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmServiceApplied {
    /// The revision.
    pub revision: Revision,
}

/// What a VM service says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It works.
    Running,
    /// It works in part.
    Degraded,
}

/// `PUT /v1/vm-service/status`: what runs here. It is good for [`STATUS_EXPIRES_SECONDS`]; send it every second or two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmServiceStatus {
    /// How it is.
    pub state: Condition,
    /// What does not work, where something does not.
    #[serde(default)]
    pub reason: Option<String>,
    /// Every VM that is here, replicas included.
    pub vms: Vec<VmReport>,
    /// The storage locations for replicas.
    pub storage: Vec<StorageReport>,
    /// Its process.
    pub pid: u32,
}

/// After this long without a new status the agent holds the VM service for stopped.
pub const STATUS_EXPIRES_SECONDS: u64 = 5;
