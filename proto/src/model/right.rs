//! The right to run a VM after `cluster recover`: what a cluster that began its next life does not know of itself, and
//! what the other one has committed.

use serde::{Deserialize, Serialize};

use crate::id::{Position, UnixMillis};
use crate::model::{PointName, PromotionId, Side};

/// That a cluster does not know whether it has the right to run a VM: what it committed last may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownRight {
    /// Since when, by the clock of the node that recovered.
    pub since: UnixMillis,
    /// Whether the node that ran it here is among those that were given up: it may run there still.
    pub lost_run: bool,
    /// Which cluster has it by an operator's word, until the other one has answered.
    pub decided: Option<Side>,
}

/// What a cluster has committed about a VM that it shares with the one that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// The VM is its own, and it has not given the right to run up.
    Kept,
    /// The VM is its own, and it has given the right up.
    Released {
        /// The departure.
        id: PromotionId,
        /// Its order.
        order: Position,
        /// The content at which it was given up.
        point: PointName,
    },
    /// It keeps a replica, has not taken the right, and takes none any more that was given up before the asker's present
    /// life.
    NotTaken,
    /// It keeps a replica and has taken the right.
    Taken {
        /// The promotion, and the departure that it took.
        id: PromotionId,
        /// The departure's order.
        order: Position,
        /// The content with which it began.
        point: PointName,
    },
    /// It runs a branch, without having been given the right.
    Branch {
        /// The promotion.
        id: PromotionId,
        /// The one that it branched from.
        parent: Option<PromotionId>,
        /// The content with which it began.
        point: PointName,
    },
    /// It does not know either, or does not know the VM.
    Unknown,
}
