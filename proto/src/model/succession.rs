//! The CAs of a cluster, as they followed each other.

use serde::{Deserialize, Serialize};

use crate::id::Position;
use crate::planted::{self, Bug};

/// A CA that follows another one of the same cluster, by that one's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// The certificate of the CA that follows, DER.
    pub ca: Vec<u8>,
    /// The certificate, DER, in which the CA before it says so: see [`crate::succession`].
    pub warrant: Vec<u8>,
}

/// The CAs of a cluster: which count, and by whose word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaLine {
    /// The oldest one that is kept, DER; it may be retired.
    pub first: Vec<u8>,
    /// Those that followed it, oldest first; [`crate::succession::CHAIN_MAX`] at most.
    pub after: Vec<Succession>,
    /// Whether the last one is still taking the place of the one before it, so that both count. Else the last one alone does.
    pub rotating: bool,
    /// The entry of the cluster's own log that last changed this.
    pub changed: Position,
}

impl CaLine {
    /// The line of a cluster that has had one CA.
    pub const fn of(ca: Vec<u8>) -> Self {
        Self { first: ca, after: Vec::new(), rotating: false, changed: Position::new(0, 0) }
    }

    /// Every CA that is kept, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        std::iter::once(self.first.as_slice()).chain(self.after.iter().map(|step| step.ca.as_slice()))
    }

    /// The newest one: it issues.
    pub fn newest(&self) -> &[u8] {
        self.after.last().map_or(&self.first, |step| &step.ca)
    }

    /// The one that counted before the rotation that is under way; else the newest.
    pub fn present(&self) -> &[u8] {
        let skipped = usize::from(self.rotating);
        self.all().rev().nth(skipped).unwrap_or(&self.first)
    }

    /// The one that takes the present one's place, while it does.
    pub fn next(&self) -> Option<&Succession> {
        self.after.last().filter(|_| self.rotating)
    }

    /// Those that count, oldest first.
    pub fn trusted(&self) -> Vec<Vec<u8>> {
        let both = self.rotating || planted::is(Bug::RetiredCaCounts);
        let mut trusted: Vec<Vec<u8>> = self.all().rev().take(1 + usize::from(both)).map(<[u8]>::to_vec).collect();
        trusted.reverse();
        trusted
    }
}
