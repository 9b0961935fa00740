//! Several values in one run of bytes: each with its length in front, so that no single value has to be larger than
//! what the codec takes. Snapshots and consensus calls are written so.

use landfall_proto::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a row's length.
const LENGTH: usize = 4;

/// Why bytes are not the rows that they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    /// The bytes end within a row, or where one is expected.
    #[error("it ends too early")]
    Short,
    /// Rows are left over.
    #[error("it has more rows than it should")]
    Trailing,
    /// One row is too long for its length field.
    #[error("a row of {0} bytes is too long")]
    Long(usize),
    /// One row is not what it should be.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
}

/// Rows being written.
#[derive(Default)]
pub(crate) struct RowWriter {
    bytes: Vec<u8>,
}

impl RowWriter {
    /// Appends a value.
    pub(crate) fn push<T: Serialize>(&mut self, value: &T) -> Result<(), RowError> {
        self.push_raw(&codec::encode(value)?)
    }

    /// Appends bytes as they are.
    pub(crate) fn push_raw(&mut self, row: &[u8]) -> Result<(), RowError> {
        let length = u32::try_from(row.len()).map_err(|_| RowError::Long(row.len()))?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(row);
        Ok(())
    }

    /// The bytes so far.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Rows being read.
pub(crate) struct RowReader<'a> {
    rest: &'a [u8],
}

impl<'a> RowReader<'a> {
    /// Reads `bytes` from their beginning.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether every row was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next row as it is.
    pub(crate) fn next_raw(&mut self) -> Result<&'a [u8], RowError> {
        let (length, rest) = self.rest.split_first_chunk::<LENGTH>().ok_or(RowError::Short)?;
        let (row, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(RowError::Short)?;
        self.rest = rest;
        Ok(row)
    }

    /// The next row as a value.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<T, RowError> {
        Ok(codec::decode(self.next_raw()?)?)
    }

    /// Nothing, provided that every row was read.
    pub(crate) fn end(self) -> Result<(), RowError> {
        if self.rest.is_empty() { Ok(()) } else { Err(RowError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_every_cut_is_an_error() {
        let mut writer = RowWriter::default();
        writer.push(&7u64).unwrap();
        writer.push_raw(b"raw").unwrap();
        let bytes = writer.finish();
        let mut reader = RowReader::new(&bytes);
        assert_eq!(reader.next::<u64>().unwrap(), 7);
        assert_eq!(reader.next_raw().unwrap(), b"raw");
        reader.end().unwrap();
        for cut in 0..bytes.len() {
            let mut reader = RowReader::new(&bytes[..cut]);
            let read = reader.next::<u64>().and_then(|_| reader.next_raw().map(<[u8]>::to_vec));
            assert!(read.is_err(), "cut at {cut}");
        }
    }
}
