//! Parts of a point's content, asked of another node that has a copy of the replica, on `landfall-data/1`: to repair what
//! is damaged.
//!
//! A member of the in-sync set opens a stream with [`Hello::Leaves`](super::data::Hello) and sends [`LeafRequest`] frames,
//! each answered by one [`LeafAnswer`]. What it gets it believes by the hash that it has of it, and not otherwise.

use serde::{Deserialize, Serialize};

use crate::id::DiskTarget;
use crate::message::data::Tip;
use crate::refusal::Refusal;

/// Bytes that are asked for at once, at most: one leaf of a point's hash tree.
pub const LEAF_MAX: u32 = 64 << 10;

/// What a disk shows at a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRequest {
    /// The point.
    pub point: Tip,
    /// The disk.
    pub disk: DiskTarget,
    /// Byte offset.
    pub offset: u64,
    /// Bytes, at most [`LEAF_MAX`].
    pub length: u32,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeafAnswer {
    /// The bytes.
    Leaf(#[serde(with = "crate::codec::bytes")] Vec<u8>),
    /// Refused or failed: the point is not listed here, or cannot be read. The stream goes on.
    Refused(Refusal),
}
