//! Passing change sets on within a cluster: from the holder of a replica to another node that has a copy, on
//! `landfall-data/1`.
//!
//! The holder opens a stream with [`PassHello`] in a [`Hello`](super::data::Hello); the other node answers with one
//! [`PassAnswer`], and then with one for each [`PassRequest::End`] and [`PassRequest::Apply`]. Anything else is answered
//! only when it fails, which ends the stream. A node applies what it has staged on the holder's word alone: that every
//! node of the in-sync set has staged it.

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Fingerprint, SenderEpoch, VmId};
use crate::message::data::{ChangeSet, Extent, Tip};
use crate::refusal::Refusal;

/// What the holder says of itself and of its copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassHello {
    /// The VM.
    pub vm: VmId,
    /// The assignment at which the opener holds the replica.
    pub epoch: Epoch,
    /// The primary cluster that sends, by its CA.
    pub cluster: Fingerprint,
    /// The sender's own epoch in that cluster.
    pub sender: SenderEpoch,
    /// The newest point that the holder lists.
    pub newest: Tip,
    /// What the holder has staged whole and not listed yet: it may have been acknowledged. Whatever else the other node
    /// has staged is no point of the replica, and is dropped there.
    pub staged: Option<Tip>,
}

/// A frame from the holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PassRequest {
    /// A change set begins.
    Begin(ChangeSet),
    /// One extent of it, in order of disk and offset.
    Extent(Extent),
    /// It is complete: stage, verify, make durable, say so.
    End {
        /// How many extents it had.
        extents: u64,
    },
    /// Every node of the in-sync set has staged it: apply and list it.
    Apply(Tip),
}

/// An answer to the holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PassAnswer {
    /// To the hello: what this node lists as its newest point, and has staged whole.
    Stands {
        /// The newest listed point.
        newest: Option<Tip>,
        /// What is staged whole and durable.
        staged: Option<Tip>,
    },
    /// To End: it is staged whole and durable.
    Staged(Tip),
    /// To Apply: it is listed.
    Applied(Tip),
    /// Refused or failed; the stream ends.
    Refused(Refusal),
}
