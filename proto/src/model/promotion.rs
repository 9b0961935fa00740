//! Failover as it is committed: which copy of a VM may run, and under which promotion.
//!
//! The right to run a VM is in at most one cluster's committed state. The primary's cluster gives it up with
//! [`FailoverStep::Release`], after which only the replica's cluster can take it ([`FailoverStep::Take`]) or decline it for
//! good ([`FailoverStep::Decline`]); what was declined can never be taken. An unplanned failover takes nothing: it makes
//! another branch of the VM.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Fqdn, MemberId, Position, Root, UnixMillis};
use crate::model::{Return, Right, Rival, Side};
use crate::refusal::Refusal;

/// One failover: random, so that two that were made apart are never taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PromotionId(pub u128);

impl fmt::Display for PromotionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for PromotionId {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let digits = (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text);
        let number = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        number.map(Self).ok_or_else(|| Refusal::invalid("promotion", text, "give 32 hex digits"))
    }
}

/// A recovery point by its number and content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointName {
    /// Its sequence number.
    pub sequence: u64,
    /// The content root over all disks.
    pub root: Root,
}

/// Why a replica became the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverKind {
    /// The primary handed over its right to run.
    Planned,
    /// The primary was not asked: a branch.
    Unplanned,
}

/// How far a promotion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionState {
    /// The VM may run at the holder, and may be taken back.
    Running,
    /// It is being taken back: the holder stops the VM and discards what it wrote.
    Withdrawing,
    /// It is final.
    Completed,
    /// The replication is to go the other way: the other cluster is asked to keep a replica.
    Reversing,
    /// Another branch of the VM is kept: the holder stops this one and keeps what it wrote under its name.
    Abandoning,
}

impl PromotionState {
    /// Whether the VM is not to run any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Withdrawing | Self::Abandoning)
    }
}

/// A replica that is failed over, in the replica's cluster. While it stands, the replica stays at its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Its identity.
    pub id: PromotionId,
    /// The promotion under which the primary ran; `None` for the VM as it was first enabled.
    pub parent: Option<PromotionId>,
    /// Planned or not.
    pub kind: FailoverKind,
    /// The content that it began with.
    pub point: PointName,
    /// The node that runs it.
    pub holder: MemberId,
    /// The primary's release that it took; `None` where nothing was released.
    pub order: Option<Position>,
    /// How far it is.
    pub state: PromotionState,
    /// When it began.
    pub started_at: UnixMillis,
    /// What is known to be lost by it.
    pub loss: Loss,
}

/// What a failover gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The age of the chosen point when the failover began, in milliseconds.
    pub millis: u64,
    /// Bytes of changes in newer points; what the primary never sent cannot be known.
    pub bytes: u64,
}

/// A test failover: a copy of the VM from a point, beside the replication that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRun {
    /// Its identity; the UUID of the VM that runs is made of it.
    pub id: PromotionId,
    /// The content that it began with.
    pub point: PointName,
    /// The node that runs it.
    pub node: MemberId,
    /// When it began.
    pub started_at: UnixMillis,
}

/// A planned failover in the primary's cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Its identity, and that of the promotion that it becomes.
    pub id: PromotionId,
    /// Where it was committed: orders the departures of a VM.
    pub order: Position,
    /// How far it is.
    pub state: DepartureState,
    /// When it began.
    pub started_at: UnixMillis,
}

/// How far a planned failover is, as the primary's cluster knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DepartureState {
    /// The VM is kept off and its last change set is sent. The right to run is still here.
    Preparing,
    /// The right to run is given up at this content; nobody here may start the VM.
    Released(PointName),
    /// As before, and an operator wants it back: the other side is asked to decline.
    Recalling(PointName),
    /// The other side has taken it.
    Departed(PointName),
}

impl DepartureState {
    /// The content at which the right to run was given up, if it was.
    pub fn released(&self) -> Option<PointName> {
        match self {
            Self::Preparing => None,
            Self::Released(point) | Self::Recalling(point) | Self::Departed(point) => Some(*point),
        }
    }
}

/// A step of a failover, each a command of one cluster's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailoverStep {
    /// R: a test begins.
    Test {
        /// The epoch that it was decided on.
        epoch: Epoch,
        /// Its identity.
        id: PromotionId,
        /// The content.
        point: PointName,
    },
    /// R: the test is over; its node stops and removes it.
    EndTest {
        /// Its identity.
        id: PromotionId,
    },
    /// R: the replica becomes the VM, without asking the primary.
    Promote {
        /// The epoch that it was decided on.
        epoch: Epoch,
        /// The new promotion.
        id: PromotionId,
        /// The content.
        point: PointName,
        /// What that gives up.
        loss: Loss,
    },
    /// R: the holder asks whether it may start the VM now.
    Start {
        /// The promotion.
        id: PromotionId,
    },
    /// R: the failover is final.
    Complete {
        /// The promotion.
        id: PromotionId,
    },
    /// R: the failover is to be taken back.
    Withdraw {
        /// The promotion.
        id: PromotionId,
    },
    /// R: the holder has stopped the VM and discarded its run.
    Withdrawn {
        /// The promotion.
        id: PromotionId,
    },
    /// P: a planned failover begins.
    Depart {
        /// Its identity.
        id: PromotionId,
    },
    /// P: the VM is off and its last change set acknowledged; from here on it may not run here.
    Release {
        /// The departure.
        id: PromotionId,
        /// The last acknowledged content.
        point: PointName,
    },
    /// P: an operator wants it back.
    Recall {
        /// The departure.
        id: PromotionId,
    },
    /// P: the other side has taken it.
    Departed {
        /// The departure.
        id: PromotionId,
    },
    /// P: it was not released yet, or the other side has declined: the right to run is here.
    Reinstate {
        /// The departure.
        id: PromotionId,
    },
    /// R: takes the right to run that the primary's cluster released.
    Take {
        /// The epoch that it was decided on.
        epoch: Epoch,
        /// The promotion.
        id: PromotionId,
        /// The departure's order.
        order: Position,
        /// The primary's cluster, as its certificate proved it.
        from: Fqdn,
        /// The content.
        point: PointName,
    },
    /// R: never takes it.
    Decline {
        /// The promotion.
        id: PromotionId,
        /// The departure's order.
        order: Position,
        /// The primary's cluster, as its certificate proved it.
        from: Fqdn,
    },
    /// R: the replication is to go the other way.
    Reverse {
        /// The promotion.
        id: PromotionId,
    },
    /// R: the other cluster keeps a replica now; the VM is this cluster's.
    Reversed {
        /// The promotion.
        id: PromotionId,
    },
    /// R: the replication is over for good; the VM is this cluster's own.
    Detach {
        /// The promotion.
        id: PromotionId,
    },
    /// P: its VM becomes a replica of the cluster that runs it.
    Return {
        /// What it comes back from.
        back: Return,
        /// The promotion's parent.
        parent: Option<PromotionId>,
        /// The cluster that runs it, as its certificate proved it.
        from: Fqdn,
    },
    /// P: the holder has made a point of the disks that the VM had here.
    Returned {
        /// The promotion that the VM runs under.
        id: PromotionId,
    },
    /// P: the replica's cluster runs a branch.
    Branch(Box<Rival>),
    /// P: an operator has decided which branch is kept.
    Resolve {
        /// The other branch.
        id: PromotionId,
        /// The one to keep.
        keep: Side,
    },
    /// P: the VM is off here for good, for the other branch.
    Yielded {
        /// The other branch.
        id: PromotionId,
    },
    /// P: the other branch is over.
    Merged {
        /// The other branch.
        id: PromotionId,
    },
    /// R: its branch is dropped.
    Abandon {
        /// The promotion.
        id: PromotionId,
        /// Whether the other cluster has decided so.
        decided_there: bool,
    },
    /// The other cluster of the VM has begun its next life and asks where the right to run is: nothing is taken any more
    /// that it released before.
    Account {
        /// Where its present life begins.
        before: Position,
        /// The cluster, as its certificate proved it.
        from: Fqdn,
        /// Whether an operator has decided there that it has the right: what was taken is a branch then.
        contested: bool,
    },
    /// This cluster has begun its next life, and the other one has answered where the right to run is.
    Learn {
        /// Its answer.
        right: Right,
    },
    /// This cluster has begun its next life, and an operator decides where the right to run is.
    Decide {
        /// The cluster that has it.
        keep: Side,
        /// What the other cluster has answered; `Unknown` where it has not.
        right: Right,
        /// What the VM begins with where this cluster takes a right that is released, and the epoch that was decided on.
        begin: Option<(Epoch, PointName)>,
    },
}

/// What became of a hand-over at the replica's cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOff {
    /// It has the right to run.
    Taken,
    /// It will never take this one.
    Declined,
    /// It has neither taken nor declined it.
    Open,
}
