//! Why an agent closes a connection: a code for the other agent, a sentence for its log.

use std::fmt;

use quinn::VarInt;

use crate::limits::REASON_MAX;

/// The code of an application close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Close {
    /// The agent stops, or no longer needs the connection.
    Done,
    /// This caller may not use this protocol.
    NotAllowed,
    /// The certificate is good, but its member is not, or no longer, on the member list.
    Removed,
    /// A newer connection of the same identity takes its place.
    Replaced,
    /// A bound is reached; try again later.
    Busy,
    /// The other side broke the protocol.
    Protocol,
}

impl Close {
    const ALL: [Self; 6] = [Self::Done, Self::NotAllowed, Self::Removed, Self::Replaced, Self::Busy, Self::Protocol];

    /// The code on the wire.
    pub const fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Done => 0,
            Self::NotAllowed => 1,
            Self::Removed => 2,
            Self::Replaced => 3,
            Self::Busy => 4,
            Self::Protocol => 5,
        })
    }

    /// What the other side's close says, if it closed with one of these codes.
    pub fn of(error: &quinn::ConnectionError) -> Option<(Self, String)> {
        let quinn::ConnectionError::ApplicationClosed(close) = error else { return None };
        let code = Self::ALL.into_iter().find(|code| code.code() == close.error_code)?;
        Some((code, String::from_utf8_lossy(&close.reason[..close.reason.len().min(REASON_MAX)]).into_owned()))
    }

    /// Whether dialling again at once can help.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Done | Self::Replaced | Self::Busy)
    }

    /// Closes `connection` for `reason`, which is cut to a packet's length.
    pub fn apply(self, connection: &quinn::Connection, reason: &str) {
        let reason = reason.as_bytes();
        connection.close(self.code(), &reason[..reason.len().min(REASON_MAX)]);
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "the other agent is done",
            Self::NotAllowed => "not allowed on this protocol",
            Self::Removed => "not on the member list",
            Self::Replaced => "replaced by a newer connection",
            Self::Busy => "the other agent is at a bound",
            Self::Protocol => "the protocol was broken",
        })
    }
}
