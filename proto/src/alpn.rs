//! The six protocols, each with its version in its name: an agent of another version is told at once.

use std::fmt;

use crate::limits::{CONTROL_FRAME_MAX, DATA_FRAME_MAX, RAFT_FRAME_MAX};

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alpn {
    /// `landfall-gossip/1`
    Gossip,
    /// `landfall-raft/1`
    Raft,
    /// `landfall-control/1`
    Control,
    /// `landfall-broker/1`
    Broker,
    /// `landfall-data/1`
    Data,
    /// `landfall-join/1`
    Join,
}

impl Alpn {
    /// Every protocol.
    pub const ALL: [Self; 6] = [Self::Gossip, Self::Raft, Self::Control, Self::Broker, Self::Data, Self::Join];

    /// What the control endpoint speaks.
    pub const CONTROL_ENDPOINT: &[Self] = &[Self::Gossip, Self::Raft, Self::Control, Self::Broker, Self::Join];

    /// What the data endpoint speaks.
    pub const DATA_ENDPOINT: &[Self] = &[Self::Data];

    /// The protocol's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gossip => "landfall-gossip/1",
            Self::Raft => "landfall-raft/1",
            Self::Control => "landfall-control/1",
            Self::Broker => "landfall-broker/1",
            Self::Data => "landfall-data/1",
            Self::Join => "landfall-join/1",
        }
    }

    /// The protocol of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.name().as_bytes() == name)
    }

    /// The longest frame on this protocol's streams.
    pub const fn frame_max(self) -> usize {
        match self {
            Self::Raft => RAFT_FRAME_MAX,
            Self::Data => DATA_FRAME_MAX,
            Self::Gossip | Self::Control | Self::Broker | Self::Join => CONTROL_FRAME_MAX,
        }
    }

    /// How this end of a new connection knows the protocol; `None` where the handshake agreed on none of ours.
    pub(crate) fn of(connection: &quinn::Connection) -> Option<Self> {
        let data = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
        Self::from_name(data.protocol.as_deref()?)
    }
}

impl fmt::Display for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
