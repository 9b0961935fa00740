//! What is said of CAs: between the issuers of a cluster, and between clusters.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Fingerprint;
use crate::model::{CaLine, MemberList};

/// A private key of a CA, PKCS #8. It is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CaKey(pub Vec<u8>);

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey(<secret>)")
    }
}

/// What a cluster tells another one of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Its members, as the teller has applied them.
    pub list: MemberList,
    /// Its CAs.
    pub line: CaLine,
    /// The newest CA of the other cluster that this one has committed.
    pub follows: Fingerprint,
}
