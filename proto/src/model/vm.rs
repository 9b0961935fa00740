//! A virtual machine as both clusters describe it.

use serde::{Deserialize, Serialize};

use crate::id::{DiskTarget, VmId, VmName};
use crate::model::Addresses;

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
    /// What the guest has there, as the VM's file says; empty where it does not.
    #[serde(default)]
    pub network: Addresses,
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
    /// What its VM service runs for it, where that is known: what a failover starts.
    #[serde(default)]
    pub launch: Launch,
}

impl VmSpec {
    /// The VM without these disks, in what is said of its images too.
    #[must_use]
    pub fn without(mut self, excluded: &[DiskTarget]) -> Self {
        self.disks.retain(|disk| !excluded.contains(&disk.target));
        self.launch.images.retain(|image| !excluded.contains(&image.target));
        self
    }
}

/// What runs a VM: the command of its primary's VM service, which a failover starts over the replica's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The program and its arguments; empty where nothing is known.
    pub command: Vec<String>,
    /// The images that it uses, ordered by target.
    pub images: Vec<LaunchImage>,
}

/// A disk's image as a command names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchImage {
    /// The disk.
    pub target: DiskTarget,
    /// Its path, word for word as in the VM's file: replaced in the command by the path of the failover's image.
    pub path: String,
    /// Whether the command expects the disk byte for byte; else qcow2.
    pub raw: bool,
}

impl Launch {
    /// The most bytes of a command and its paths that travel with a VM: a description stays within its frame.
    pub const BYTES_MAX: usize = 8 << 10;
    /// The most parts of a command that travels.
    pub const PARTS_MAX: usize = 256;

    /// Whether it is small enough to travel.
    pub fn fits(&self) -> bool {
        let bytes = self.command.iter().map(String::len).sum::<usize>()
            + self.images.iter().map(|image| image.path.len()).sum::<usize>();
        self.command.len() <= Self::PARTS_MAX && bytes <= Self::BYTES_MAX
    }
}
