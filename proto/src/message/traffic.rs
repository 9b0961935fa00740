//! Bytes that replication takes.

use serde::{Deserialize, Serialize};

/// What was sent of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes of disk content, before compression; zeroes count for none.
    pub sent_bytes: u64,
    /// Bytes of all frames of its sessions, both ways: content, hashes, questions and answers. What QUIC adds to them is
    /// not counted: about 3 %.
    pub wire_bytes: u64,
}

impl Traffic {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            wire_bytes: self.wire_bytes.saturating_add(other.wire_bytes),
        }
    }

    /// What of it came after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            wire_bytes: self.wire_bytes.saturating_sub(before.wire_bytes),
        }
    }
}
