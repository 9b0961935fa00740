//! The log and the vote on the key-value store. Nothing is answered before it is durable.
//!
//! How far the log is committed is only a hint for a faster start, so it rides along with the next write instead of
//! costing a sync of its own; after a restart the leader tells.

#![allow(clippy::result_large_err, reason = "openraft fixes the error type, and an error ends the node")]

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use landfall_proto::codec;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::types::{LogEntry, LogId, StorageError, StorageIOError, Types, Vote};
use crate::kv::{Batch, Kv};
use crate::limits;

const ENTRY: &[u8] = b"log/";
/// The key after every entry's.
const ENTRY_END: &[u8] = b"log0";
const VOTE: &[u8] = b"raft/vote";
const COMMITTED: &[u8] = b"raft/committed";
const PURGED: &[u8] = b"raft/purged";

/// Entries read from the store in one go.
const READ_TOGETHER: usize = 64;

fn entry_key(index: u64) -> Vec<u8> {
    [ENTRY, &index.to_be_bytes()].concat()
}

fn read_fault(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn write_fault(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

/// The value of `key`, decoded.
pub(super) fn read<T: DeserializeOwned>(kv: &dyn Kv, key: &[u8]) -> Result<Option<T>, StorageError> {
    let Some(bytes) = kv.get(key).map_err(read_fault)? else { return Ok(None) };
    codec::decode(&bytes).map(Some).map_err(read_fault)
}

/// Adds `key` = `value` to `batch`.
pub(super) fn put<T: Serialize>(batch: &mut Batch, key: &[u8], value: &T) -> Result<(), StorageError> {
    batch.put(key, codec::encode(value).map_err(write_fault)?);
    Ok(())
}

/// The log of one node.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    kv: Arc<dyn Kv>,
    /// To be written with whatever is written next.
    committed: Option<LogId>,
}

impl LogStore {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv, committed: None }
    }

    fn last(&self) -> Result<Option<LogEntry>, StorageError> {
        let last = self.kv.last(ENTRY, ENTRY_END).map_err(read_fault)?;
        last.map(|(_, bytes)| codec::decode(&bytes).map_err(read_fault)).transpose()
    }

    async fn commit(&mut self, mut batch: Batch) -> Result<(), StorageError> {
        if let Some(committed) = self.committed.take() {
            put(&mut batch, COMMITTED, &committed)?;
        }
        self.kv.commit(batch).await.map_err(write_fault)
    }

    /// Entries of `start..end`, in order, until they are more than `bytes` together; at least one if there is one.
    fn entries(&self, start: u64, end: u64, bytes: usize) -> Result<Vec<LogEntry>, StorageError> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut size = 0;
        let mut next = start;
        while next < end {
            let pairs = self.kv.scan(&entry_key(next), &entry_key(end), READ_TOGETHER).map_err(read_fault)?;
            for (_, value) in &pairs {
                size += value.len();
                if size > bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(codec::decode(value).map_err(read_fault)?);
            }
            match entries.last() {
                Some(last) if pairs.len() == READ_TOGETHER => next = last.log_id.index + 1,
                _ => break,
            }
        }
        Ok(entries)
    }

    /// The index of the first entry.
    fn first_index(&self) -> Result<Option<u64>, StorageError> {
        let first = self.kv.scan(ENTRY, ENTRY_END, 1).map_err(read_fault)?;
        let index = first.first().and_then(|(key, _)| key.strip_prefix(ENTRY)?.try_into().ok());
        Ok(index.map(u64::from_be_bytes))
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX)
    }

    /// Fewer entries where more would not fit one frame.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, StorageError> {
        self.entries(start, end.min(start.saturating_add(limits::APPEND_ENTRIES)), limits::APPEND_BYTES)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let purged = read(&*self.kv, PURGED)?;
        let last = self.last()?.map(|entry| entry.log_id).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        Self::new(self.kv.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        put(&mut batch, VOTE, vote)?;
        self.commit(batch).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        read(&*self.kv, VOTE)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        read(&*self.kv, COMMITTED)
    }

    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        for entry in entries {
            put(&mut batch, &entry_key(entry.log_id.index), &entry)?;
        }
        self.commit(batch).await?;
        flushed.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        let last = self.last()?.map_or(from.index, |entry| entry.log_id.index + 1);
        for index in from.index..last {
            batch.delete(entry_key(index));
        }
        self.commit(batch).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        put(&mut batch, PURGED, &upto)?;
        let last = self.last()?.map_or(0, |entry| entry.log_id.index);
        for index in self.first_index()?.unwrap_or(upto.index)..=upto.index.min(last) {
            batch.delete(entry_key(index));
        }
        self.commit(batch).await
    }
}
