//! Hashes as lower-case hex text: what JSON shows of a content root or of a key.

use data_encoding::HEXLOWER_PERMISSIVE;
use landfall_proto::Refusal;
use landfall_proto::id::{Fingerprint, Root};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! hashes {
    ($($(#[$doc:meta])* $name:ident, $inner:ident, $field:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(hash: $inner) -> Self { Self(hash) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }

        impl TryFrom<String> for $name {
            type Error = Refusal;
            fn try_from(text: String) -> Result<Self, Refusal> {
                let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
                bytes.map(|bytes| Self($inner(bytes)))
                    .ok_or_else(|| Refusal::invalid($field, &text, "give 64 hex digits"))
            }
        }

        impl From<$name> for String {
            fn from(hash: $name) -> Self { hash.to_string() }
        }
    )*};
}

hashes! {
    /// The content root of a recovery point, as 64 hex digits.
    RootHex, Root, "root";
    /// The BLAKE3 fingerprint of a key, as 64 hex digits.
    KeyHex, Fingerprint, "key";
}
