//! Seeds: a VM's disks as files, carried to its replica instead of being sent.

use std::path::PathBuf;

use landfall_proto::id::{NodeName, VmId};
use serde::{Deserialize, Serialize};

use crate::surface::point::ExportedFile;
use crate::surface::{Utc, WaitSeconds};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedAction {
    /// Writes one, at the primary's cluster.
    Export,
    /// Takes one for the replica, at the replica's cluster.
    Import,
}

/// `vm seed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedRequest {
    /// Which way.
    pub action: SeedAction,
    /// The folder, absolute, on the node that has the VM or receives its replica. An export makes it, and overwrites
    /// nothing.
    pub dir: PathBuf,
    /// Give up after this long; without it it takes as long as it takes.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// The answer to `vm seed`: every byte is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeded {
    /// The VM.
    pub uuid: VmId,
    /// What was done.
    pub action: SeedAction,
    /// The node that did it, where the folder is.
    pub node: NodeName,
    /// The instant of the disks, by the clock of the node that wrote them.
    pub taken_at: Utc,
    /// The images, in the order of the VM's disks.
    pub files: Vec<ExportedFile>,
}
