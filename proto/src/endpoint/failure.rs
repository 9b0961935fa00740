//! Why there is no connection, in the forms that callers tell apart.

use std::net::SocketAddr;

use quinn::ConnectionError;
use thiserror::Error;

use crate::close::Close;
use crate::refusal::{Class, Refusal};
use crate::trust::Distrust;

/// Why a node could not be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DialError {
    /// This agent's own endpoint is not working; [`crate::endpoint::Endpoint::restart`] is due.
    #[error("this agent's network endpoint is being restarted")]
    Lost,
    /// Nothing answered.
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    /// What answered is not what was called.
    #[error("{address} is not trusted: {distrust}")]
    Untrusted {
        /// The address.
        address: SocketAddr,
        /// Why.
        distrust: Distrust,
    },
    /// The other side closed it, and says why.
    #[error("{address} refuses: {close}: {reason}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// The code.
        close: Close,
        /// The sentence.
        reason: String,
    },
    /// The handshake failed.
    #[error("the connection to {address} failed: {error}")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// What QUIC or TLS says.
        error: String,
    },
    /// This node may not dial that protocol at all.
    #[error(transparent)]
    Unable(#[from] Refusal),
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        let (class, code) = match &error {
            DialError::Lost | DialError::Silent(_) | DialError::Failed { .. } => (Class::Unreachable, "unreachable"),
            DialError::Untrusted { .. } => (Class::Refused, "untrusted"),
            DialError::Refused { close, .. } if close.is_passing() => (Class::Unreachable, "unreachable"),
            DialError::Refused { .. } => (Class::Refused, "not_admitted"),
            DialError::Unable(refusal) => return refusal.clone(),
        };
        Self::new(class, code, error.to_string())
    }
}

/// Why there are no more connections to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Gone {
    /// The endpoint's task has ended: call [`crate::endpoint::Endpoint::restart`].
    #[error("the network endpoint's task is gone")]
    Lost,
    /// [`crate::endpoint::Endpoint::shut_down`] was called.
    #[error("the network endpoint is shut down")]
    ShutDown,
}

/// Somebody who was turned away: in the handshake, or from an open connection by a change of the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// From where it came.
    pub remote: SocketAddr,
    /// The name in its certificate, where a CA that counts vouches for that.
    pub who: Option<String>,
    /// Why.
    pub why: String,
}

/// Why there is no connection from outside.
#[derive(Debug)]
pub(crate) enum Unwelcome {
    /// The other end did not go on.
    Gone(String),
    /// This end refused: whom, by its certificate, and why.
    Refused(Option<String>, String),
}

impl From<ConnectionError> for Unwelcome {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(_) | ConnectionError::VersionMismatch => {
                Self::Refused(None, error.to_string())
            }
            other => Self::Gone(other.to_string()),
        }
    }
}
