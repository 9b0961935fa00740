//! What consensus refuses or cannot do.

use landfall_proto::id::MemberId;
use landfall_proto::{Class, Refusal};
use openraft::EmptyNode;
use openraft::error::{ChangeMembershipError, ClientWriteError, Fatal, RaftError};

use crate::limits;

/// Why something was not proposed, confirmed or changed. Except for [`ProposeError::Stopped`] nothing was written; a
/// call that was cut short may still take effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<MemberId>,
    },
    /// No majority answered.
    #[error("no majority of the voters answers")]
    NoQuorum,
    /// The proposal is larger than an entry may be.
    #[error("the request has {size} bytes, more than {}", limits::PROPOSAL_BYTES)]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// Too many proposals wait already, or a change of voters is under way.
    #[error("too much is under way: {0}")]
    Busy(&'static str),
    /// A change of voters that makes no sense.
    #[error("{0}")]
    Membership(String),
    /// Consensus has stopped on this node.
    #[error("consensus has stopped on this node: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// The error as it is shown.
    pub fn refusal(&self) -> Refusal {
        let (class, code) = match self {
            Self::NotLeader { .. } => (Class::Unreachable, "not_leader"),
            Self::NoQuorum => (Class::Unreachable, "no_quorum"),
            Self::TooLarge { .. } => (Class::Usage, "too_large"),
            Self::Busy(_) => (Class::Failed, "busy"),
            Self::Membership(_) => (Class::Failed, "membership"),
            Self::Stopped(_) => (Class::Failed, "stopped"),
        };
        Refusal::new(class, code, self.to_string())
    }
}

/// Why a call of another member got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// Votes are held: a lease may still be alive.
    #[error("votes are held")]
    VotesHeld,
    /// The bytes are no such call.
    #[error("the call cannot be read: {0}")]
    Malformed(String),
    /// Consensus has stopped on this node.
    #[error("consensus has stopped on this node: {0}")]
    Stopped(String),
}

/// Why consensus did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The clocks contradict one another.
    #[error("the consensus clocks cannot be used: {0}")]
    Timing(String),
    /// What is stored cannot be read.
    #[error("{0}")]
    Store(String),
}

pub(super) fn stopped(error: &Fatal<u64>) -> ProposeError {
    ProposeError::Stopped(error.to_string())
}

pub(super) fn serve_fault(error: &RaftError<u64>) -> ServeError {
    ServeError::Stopped(error.to_string())
}

pub(super) fn write_error(error: RaftError<u64, ClientWriteError<u64, EmptyNode>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader { leader: forward.leader_id.map(MemberId::from_number) }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))) => {
            ProposeError::Busy("the members are being changed")
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ProposeError::Membership(error.to_string())
        }
        RaftError::Fatal(error) => stopped(&error),
    }
}
