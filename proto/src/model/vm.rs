//! A virtual machine as both clusters describe it.

use serde::{Deserialize, Serialize};

use crate::id::{DiskTarget, VmId, VmName};

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Its place in the VM.
    pub target: DiskTarget,
    /// Its size as the guest sees it, in bytes.
    pub bytes: u64,
}

/// How an adapter is emulated: failover addresses need a synthetic one (Hyper-V page, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// Paravirtual.
    Synthetic,
    /// Emulated hardware.
    Legacy,
}

/// One network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// Its name, unique in the VM.
    pub name: String,
    /// How it is emulated.
    pub kind: AdapterKind,
    /// Its hardware address, `52:54:00:aa:bb:01`.
    pub mac: String,
}

/// What the replica's cluster must know to register a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Its identity.
    pub id: VmId,
    /// Its name: data only.
    pub name: VmName,
    /// Its disks, ordered by target.
    pub disks: Vec<DiskSpec>,
    /// Its adapters.
    pub adapters: Vec<Adapter>,
}
