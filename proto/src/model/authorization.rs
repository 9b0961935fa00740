//! Who may replicate into this cluster, and who may join or pair with it.

use serde::{Deserialize, Serialize};

use crate::id::{Fingerprint, PrimaryPattern, StorageName, TrustGroup, UnixMillis};

/// One row of the authorization table (Hyper-V: VMReplicationAuthorizationEntry). The pattern is its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationEntry {
    /// The primary server, or the CAP of a primary cluster.
    pub primary: PrimaryPattern,
    /// Where replicas created under this entry are stored.
    pub storage: StorageName,
    /// Replicas created under this entry accept data from entries with the same trust group.
    pub trust_group: TrustGroup,
}

/// What a ticket admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TicketKind {
    /// A node may join this cluster.
    Join {
        /// As a witness.
        witness: bool,
        /// In place of the member of this name, which is removed.
        replaces: Option<crate::id::NodeName>,
    },
    /// Another cluster may pair with this one.
    Pair,
}

/// A join token or a pairing code as the cluster remembers it. Its secret proves possession and is never sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The public part.
    pub id: u64,
    /// The secret that the HMAC over the TLS exporter is keyed with.
    pub secret: [u8; 32],
    /// What it admits.
    pub kind: TicketKind,
    /// Past this time it admits nothing.
    pub expires_at: UnixMillis,
    /// The key that used it: that key alone may ask again, until the ticket expires.
    pub used_by: Option<Fingerprint>,
}
