//! Recovery points, as agents tell each other of them.

use serde::{Deserialize, Serialize};

use crate::id::{NodeName, Root, UnixMillis};

/// A recovery point as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its sequence number: what orders points.
    pub sequence: u64,
    /// The sender's wall clock at the instant; display only.
    pub taken_at: UnixMillis,
    /// What the instant was.
    pub consistency: Consistency,
    /// Bytes of changed content that made it.
    pub bytes: u64,
    /// The content root over all disks.
    pub root: Root,
    /// Nodes that have it.
    pub copies: Vec<NodeName>,
    /// Whether it can be restored now.
    pub state: PointState,
    /// Whether it stays listed, as long as retention keeps it, once there is a newer one. One that does not is the head:
    /// what changed in it becomes part of the next point.
    pub stays: bool,
    /// When it was last read back and found to be what it should, by the reading node's wall clock.
    pub verified_at: Option<UnixMillis>,
}

/// What kind of instant a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// As after a power cut: all disks at one instant of a running VM.
    Crash,
    /// The VM was off.
    Off,
}

/// Whether a point can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointState {
    /// Complete on this node.
    Listed,
    /// Acknowledged while its holder could not confirm with a quorum.
    Unconfirmed,
    /// Known to be on nodes that do not answer.
    Unreachable,
    /// Read back and found not to be what it should: it cannot be failed over to.
    Damaged,
}

/// How far the reading of a point is, and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofFigures {
    /// The point.
    pub point: u64,
    /// Its root.
    pub root: Root,
    /// The sizes of its disks together.
    pub bytes: u64,
    /// How much of that was read.
    pub read_bytes: u64,
    /// When it was found whole.
    pub verified_at: Option<UnixMillis>,
    /// What was found damaged, and is.
    pub damage: Option<String>,
    /// What was found damaged and repaired, out of which copies.
    pub repaired: Option<String>,
}
