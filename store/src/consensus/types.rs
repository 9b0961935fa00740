//! openraft's types as this cluster uses them. A member is addressed by its id alone: where it answers is committed
//! state, and the wire looks it up.

use std::io::Cursor;

use landfall_proto::id::Position;
use landfall_proto::model::{Answer, Proposal};
use serde::{Deserialize, Serialize};

use super::runtime::NodeRuntime;

/// What applying an entry gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The entry's place in the cluster's history.
    pub position: Position,
    /// The answer of its command.
    pub answer: Answer,
}

openraft::declare_raft_types!(
    /// The cluster's consensus.
    pub Types:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = openraft::EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = NodeRuntime,
);

pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type LogEntry = openraft::Entry<Types>;
pub(super) type Membership = openraft::StoredMembership<u64, openraft::EmptyNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::EmptyNode>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type StorageIOError = openraft::StorageIOError<u64>;
pub(super) type Raft = openraft::Raft<Types>;
