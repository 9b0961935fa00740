//! What `vm disable` answers.

use landfall_proto::id::VmId;
use serde::{Deserialize, Serialize};

/// A VM that is not replicated any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDisabled {
    /// Its identity.
    pub uuid: VmId,
    /// Its name: data only.
    pub name: String,
    /// Why the replica's cluster could not be told, or keeps the replica though it was.
    pub replica_left: Option<String>,
    /// Whether that cluster is told by itself as soon as it answers; else it keeps the replica until the same command is given
    /// there.
    pub ends_by_itself: bool,
}
