//! How values become bytes, on the wire and in the log. The only module that names the codec's crate.
//!
//! Decoding is from a slice, with a limit on what a length may claim, and must consume every byte.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes that decoding one value may ask for: one data frame.
const DECODE_LIMIT: usize = 1 << 20;

/// Why a value could not be turned into bytes or back.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value cannot be written.
    #[error("cannot be encoded: {0}")]
    Encode(String),
    /// The bytes are not such a value.
    #[error("cannot be decoded: {0}")]
    Decode(String),
    /// The value ended before its bytes did.
    #[error("{0} bytes are left over")]
    Trailing(usize),
}

/// Returns the bytes of `value`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|error| CodecError::Encode(error.to_string()))
}

/// Returns the value that `bytes`, all of them, stand for.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<DECODE_LIMIT>();
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|error| CodecError::Decode(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        rest => Err(CodecError::Trailing(rest)),
    }
}
