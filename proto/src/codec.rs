//! Bytes of messages and of stored values: a format version, then bincode. The only file that names bincode.
//!
//! bincode alone trusts its input: it allocates what a length claims and ignores what follows. So
//! [`decode`] takes a slice of bounded size, bounds what lengths may claim by a multiple of it, and refuses bytes that
//! are left over. No type that is decoded may be recursive or have zero-sized elements.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::planted::{self, Bug};

/// The version in front of every encoded value. A change of any encoded type that old bytes do not survive raises it.
pub const FORMAT: u8 = 1;

/// The largest value that is encoded or decoded. Frames are far smaller; snapshots of the committed state come near.
pub const VALUE_MAX: usize = 64 * 1024 * 1024;

/// Why a value could not be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// There are no bytes at all.
    #[error("the message is empty")]
    Empty,
    /// Written by another version of the format.
    #[error("the message has format {0}, this agent reads format {FORMAT}: the versions of the agents differ too much")]
    UnknownFormat(u8),
    /// Larger than [`VALUE_MAX`].
    #[error("a value of {0} bytes is larger than {VALUE_MAX}")]
    TooLarge(usize),
    /// Bytes follow the value.
    #[error("{0} bytes are left over after the message")]
    LeftOver(usize),
    /// Not what the type needs.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// The type cannot be encoded.
    #[error("the value cannot be encoded: {0}")]
    Unencodable(String),
}

/// Encodes `value` behind the format version.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(128);
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Appends what [`encode`] gives to `bytes`, so that a stream of frames needs one buffer.
pub fn encode_into<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = bytes.len();
    bytes.push(FORMAT);
    let written = bincode::serde::encode_into_std_write(value, bytes, bincode::config::standard())
        .map_err(|error| CodecError::Unencodable(error.to_string()));
    match written {
        Ok(_) if bytes.len() - start <= VALUE_MAX => Ok(()),
        Ok(_) => {
            let size = bytes.len() - start;
            bytes.truncate(start);
            Err(CodecError::TooLarge(size))
        }
        Err(error) => {
            bytes.truncate(start);
            Err(error)
        }
    }
}

/// Decodes what [`encode`] gave; every byte must be used.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let Some((&format, body)) = bytes.split_first() else { return Err(CodecError::Empty) };
    if format != FORMAT {
        return Err(CodecError::UnknownFormat(format));
    }
    // What lengths may claim in all, as a multiple of what is there: an integer claims up to 16 bytes for the one that
    // it takes on the wire. The limit is a constant of the type, hence the steps.
    match bytes.len() {
        0..=0x1000 => decode_within::<T, 0x1_0000>(body),
        0x1001..=0x1_0000 => decode_within::<T, 0x10_0000>(body),
        0x1_0001..=0x10_0000 => decode_within::<T, 0x100_0000>(body),
        0x10_0001..=VALUE_MAX => decode_within::<T, { 16 * VALUE_MAX }>(body),
        size => Err(CodecError::TooLarge(size)),
    }
}

fn decode_within<T: DeserializeOwned, const LIMIT: usize>(body: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(body, config)
        .map_err(|error| CodecError::Malformed(crate::refusal::quoted(&error.to_string())))?;
    match body.len() - used {
        0 => Ok(value),
        _ if planted::is(Bug::LeftOverBytesTaken) => Ok(value),
        left => Err(CodecError::LeftOver(left)),
    }
}

/// For `#[serde(with = "crate::codec::bytes")]`: a byte vector in one piece. The encoding is that of any sequence; byte
/// by byte, a data frame would take ten times as long.
pub mod bytes {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    /// Encodes `bytes`.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Decodes what [`serialize`] gave.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(Bytes)
    }

    struct Bytes;

    impl<'de> Visitor<'de> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = sequence.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_claims_more_than_the_message_holds_is_refused_without_allocating_it() {
        // Format, then a string that claims 2^40 bytes.
        let mut bytes = vec![FORMAT, 253];
        bytes.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(decode::<String>(&bytes), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn bytes_in_one_piece_are_encoded_as_any_sequence() {
        #[derive(Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Piece(#[serde(with = "bytes")] Vec<u8>);
        let content: Vec<u8> = (0..=255).collect();
        let encoded = encode(&Piece(content.clone())).unwrap();
        assert_eq!(encoded, encode(&content).unwrap());
        assert_eq!(decode::<Piece>(&encoded).unwrap(), Piece(content));
    }

    #[test]
    fn another_format_and_left_over_bytes_are_named() {
        let mut bytes = encode(&7_u32).unwrap();
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes), Err(CodecError::LeftOver(1)));
        bytes[0] = 9;
        assert_eq!(decode::<u32>(&bytes), Err(CodecError::UnknownFormat(9)));
        assert_eq!(decode::<u32>(&[]), Err(CodecError::Empty));
    }
}
