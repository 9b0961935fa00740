//! Join tokens, and what is remembered of them and of pairing codes.

use std::fmt;
use std::str::FromStr;

use landfall_proto::Refusal;
use landfall_proto::id::NodeName;
use serde::{Deserialize, Serialize};

use crate::surface::Utc;
use crate::surface::hex::KeyHex;

/// For how long a token or code is good where nothing else is asked: an hour.
pub const TTL_DEFAULT_SECONDS: u64 = 3600;

/// The longest life of a token or code: a week. It is a secret on paper or in a chat window, and should not outlive that.
pub const TTL_MAX_SECONDS: u64 = 7 * 24 * 3600;

/// The life in seconds that was asked for, checked; the default where none was.
pub fn ttl(seconds: Option<u64>) -> Result<u64, Refusal> {
    match seconds.unwrap_or(TTL_DEFAULT_SECONDS) {
        seconds @ 1..=TTL_MAX_SECONDS => Ok(seconds),
        other => Err(Refusal::invalid("ttl_seconds", &other.to_string(), "use from 1 second to 7 days (604800)")),
    }
}

/// The public part of a token or code: 16 hex digits, since not every JSON reader has 64-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
            .ok_or_else(|| Refusal::invalid("id", text, "give the 16 hex digits that `landfall token list` shows"))
    }
}

impl TryFrom<String> for TokenId {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

/// `token create`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Whether it admits a witness.
    #[serde(default)]
    pub witness: bool,
    /// For how long it is good; [`TTL_DEFAULT_SECONDS`] where none is given.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// The member that the joining node replaces, under the same name; that member is removed.
    #[serde(default)]
    pub replaces: Option<NodeName>,
}

/// The answer of `token create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The token, for `cluster join`. It is a secret, and cannot be shown again.
    pub token: String,
    /// Past this time it admits nobody.
    pub expires_at: Utc,
    /// What `token list` and `token revoke` call it.
    pub id: TokenId,
}

/// What a token or code admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// A node, into this cluster.
    Join,
    /// A witness, into this cluster.
    JoinWitness,
    /// Another cluster, as a peer.
    Pair,
}

/// A row of `token list`: tokens and codes that have not expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its public part.
    pub id: TokenId,
    /// What it admits.
    pub kind: TokenKind,
    /// The member that the joining node replaces.
    pub replaces: Option<NodeName>,
    /// Past this time it admits nobody.
    pub expires_at: Utc,
    /// The key that used it: only that one may come again.
    pub used_by: Option<KeyHex>,
}

/// The answer of `token revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// The token or code that admits nobody any more.
    pub id: TokenId,
}
