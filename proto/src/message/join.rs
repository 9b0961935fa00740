//! `landfall-join/1`: a node that no certificate vouches for yet proves that it holds a ticket's secret.
//!
//! The asker's TLS certificate is self-signed; the server's chains to the CA whose fingerprint the token names. The
//! proof is an HMAC over the TLS exporter, so it is worth nothing on any other connection, and the secret is never sent.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::{Fingerprint, MemberId, NodeName, UnixMillis};
use crate::message::ca::CaKey;
use crate::model::{CaLine, Found, MemberList, Peer};
use crate::refusal::Refusal;

/// A request of a node or cluster that is not trusted yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The ticket's public part.
    pub ticket: u64,
    /// HMAC-SHA256, keyed with the ticket's secret, over the TLS exporter of this connection.
    pub proof: [u8; 32],
    /// What is asked.
    pub ask: Ask,
}

/// What the asker wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// To become a member.
    Member {
        /// Its name.
        node: NodeName,
        /// The name for its certificate, where its file gives one; else its name in the CAP's domain.
        fqdn: Option<crate::id::Fqdn>,
        /// Its SubjectPublicKeyInfo, DER, which the certificate is issued for.
        public_key: Vec<u8>,
        /// Its control address.
        control: SocketAddr,
        /// Its data address.
        data: SocketAddr,
        /// Whether its file says that it is a witness.
        witness: bool,
    },
    /// To pair two clusters.
    Pair {
        /// The asking cluster.
        peer: Box<Peer>,
    },
}

/// The answer to a [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// Admitted.
    Member(Box<Welcome>),
    /// Paired: the answering cluster.
    Paired(Box<Peer>),
    /// This agent cannot issue certificates or commit; ask one of these.
    Elsewhere(Vec<SocketAddr>),
    /// Refused; nothing was changed.
    Refused(Refusal),
}

/// What a new member needs to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its id.
    pub member: MemberId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// What `cluster init` recorded: first CA, CAP, clocks.
    pub found: Found,
    /// The members, itself included.
    pub members: MemberList,
    /// The cluster's CAs.
    pub line: CaLine,
    /// The keys of those that count, oldest first, for a node that may issue (not for a witness).
    pub ca_keys: Vec<CaKey>,
}

/// What a join token or a pairing code says, in text `landfall-join-...` or `landfall-pair-...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The ticket's public part.
    pub ticket: u64,
    /// The secret.
    pub secret: [u8; 32],
    /// BLAKE3 of the CA certificate's DER: what the server must chain to.
    pub ca: Fingerprint,
    /// The cluster's CAP.
    pub cap: crate::id::Fqdn,
    /// Agents to ask, at most [`INVITATION_AGENTS`].
    pub agents: Vec<SocketAddr>,
    /// Past this time it admits nothing.
    pub expires_at: UnixMillis,
}

/// Agents named in an invitation, the CAP's own addresses included: enough that one is up, few enough that the text fits
/// three terminal lines.
pub const INVITATION_AGENTS: usize = 5;
