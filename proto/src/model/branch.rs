//! What comes after a failover: the way home, and two branches of one VM.

use serde::{Deserialize, Serialize};

use crate::id::{Fqdn, UnixMillis};
use crate::model::{PointName, PromotionId};

/// A VM that ran in this cluster and is a replica here now: its holder is the node that has its disks, and takes them in
/// before it receives anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// The promotion that its primary runs under.
    pub id: PromotionId,
    /// The content with which that began.
    pub point: PointName,
    /// Whether the disks here are a branch of their own, which is kept: nothing was handed over.
    pub branch: bool,
}

/// One side of a relationship, as its own cluster calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// This cluster's.
    Here,
    /// The other cluster's.
    There,
}

/// A branch of a VM of this cluster, which the replica's cluster runs without having been given the right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rival {
    /// Its promotion.
    pub id: PromotionId,
    /// The promotion that it branched from, under which the VM runs here; `None` for the VM as it was first enabled.
    pub parent: Option<PromotionId>,
    /// The cluster that runs it.
    pub from: Fqdn,
    /// The content with which it began.
    pub point: PointName,
    /// When this cluster learnt of it.
    pub since: UnixMillis,
    /// Which branch is to be kept, once somebody has decided.
    pub keep: Option<Side>,
    /// Whether the VM is off here for good, and the right to run it given up.
    pub yielded: bool,
}
