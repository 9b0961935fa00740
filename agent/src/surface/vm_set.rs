//! `vm set`.

use landfall_proto::model::{Bandwidth, Frequency};
use serde::{Deserialize, Serialize};

use super::recovery_points::RecoveryPoints;

/// `vm set`: changes how a VM is replicated while it is. What is not given stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSet {
    /// The change set interval: 30, 300 or 900.
    #[serde(default)]
    pub frequency_seconds: Option<Frequency>,
    /// Older points to keep; the replica's side drops those beyond it.
    #[serde(default)]
    pub recovery_points: Option<RecoveryPoints>,
    /// What its sender may take of the line, in Mbit/s, perhaps by a calendar; `unlimited` takes the limit away.
    #[serde(default)]
    pub limit: Option<Bandwidth>,
}
