//! The log and the vote on the key-value store. Nothing is answered before it is durable.
//!
//! How far the log is committed is only a hint for a faster start, so it stands with the entries that are written anyway
//! instead of costing a sync of its own; after a restart the leader tells.
//!
//! A leader reports its appends done at once and syncs them while they are on their way to the followers; [`Tail`] keeps
//! them from being applied, or told to be committed, before they are durable here. So a leader may lose, with the power,
//! entries that followers have, and so may one whose data folder was put back from a copy. It must not go on in its old term
//! then, in which it would give their places to others: a vote for itself is read back as a candidate's, and the next term
//! begins with an election. Only a node that is alone in its cluster goes on at once. Changes of the members are synced
//! first, so that a node's own log says whether it is alone.

#![allow(clippy::result_large_err, reason = "openraft fixes the error type, and an error ends the node")]

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::poll;
use landfall_proto::codec;
use landfall_proto::id::{MemberId, UnixMillis};
use landfall_proto::planted::{self, Bug};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tail::Tail;
use super::types::{LogEntry, LogId, Membership, StorageError, StorageIOError, Types, Vote};
use crate::kv::{Batch, Kv};
use crate::limits;

const ENTRY: &[u8] = b"log/";
/// The key after every entry's.
const ENTRY_END: &[u8] = b"log0";
const VOTE: &[u8] = b"raft/vote";
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

/// An entry as it is stored: with how far the log was known to be committed when it was appended.
type Stored = (LogEntry, Option<LogId>);

/// The log of one node.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    kv: Arc<dyn Kv>,
    me: MemberId,
    tail: Arc<Tail>,
    /// Whether this node leads, by the vote that was saved last.
    leads: bool,
    /// Whether this node may go on leading in the term in which it stopped.
    resumes: bool,
    /// How far the log is known to be committed.
    committed: Option<LogId>,
}

impl LogStore {
    pub(super) fn new(kv: Arc<dyn Kv>, me: MemberId, tail: Arc<Tail>) -> Self {
        Self { kv, me, tail, leads: false, resumes: false, committed: None }
    }

    /// Finds out, once after a start, whether this node may go on leading in the term in which it stopped; `members` are
    /// those of the snapshot.
    pub(super) fn look_back(&mut self, members: &Membership) -> Result<bool, StorageError> {
        self.resumes = self.is_alone(members)?;
        // What is appended before a leader has said how much counts is stored with what was known before.
        self.committed = self.last()?.and_then(|(_, committed)| committed);
        Ok(self.resumes)
    }

    /// The term of the vote on disk; 0 where there is none.
    pub(super) fn vote_term(&self) -> Result<u64, StorageError> {
        let vote: Option<Vote> = read(&*self.kv, VOTE)?;
        Ok(vote.map_or(0, |vote| vote.leader_id().get_term()))
    }

    /// Whether nobody else follows this log, by the last change of the members in it.
    fn is_alone(&self, members: &Membership) -> Result<bool, StorageError> {
        let entries = self.entries(0, u64::MAX, usize::MAX)?;
        let last = entries.iter().rev().find_map(|entry| match &entry.payload {
            EntryPayload::Membership(members) => Some(members.nodes().count()),
            _ => None,
        });
        Ok(last.unwrap_or_else(|| members.nodes().count()) == 1)
    }

    fn last(&self) -> Result<Option<Stored>, StorageError> {
        let last = self.kv.last(ENTRY, ENTRY_END).map_err(read_fault)?;
        last.map(|(_, bytes)| codec::decode(&bytes).map_err(read_fault)).transpose()
    }

    /// When the newest command of the log was proposed, by its proposer's clock.
    pub(super) fn last_time(&self) -> Result<Option<UnixMillis>, StorageError> {
        let last = self.last_index()?.unwrap_or_default();
        let entries = self.entries(last.saturating_sub(READ_TOGETHER as u64), u64::MAX, usize::MAX)?;
        let time = |entry: &LogEntry| match &entry.payload {
            EntryPayload::Normal(proposal) => Some(proposal.at),
            _ => None,
        };
        Ok(entries.iter().rev().find_map(time))
    }

    fn last_index(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.last()?.map(|(entry, _)| entry.log_id.index))
    }

    async fn commit(&self, batch: Batch) -> Result<(), StorageError> {
        self.kv.commit(batch).await.map_err(write_fault)
    }

    /// Hands `batch`, which appends the entries from `first` on, to the store and does not wait for its sync.
    async fn commit_behind(&self, first: u64, batch: Batch) -> Result<(), StorageError> {
        let (kv, tail) = (self.kv.clone(), self.tail.clone());
        tail.begin(first);
        let mut committing = Box::pin(async move { kv.commit(batch).await });
        // Its place in the order of all writes is taken by the first poll.
        match poll!(pin!(&mut committing)) {
            Poll::Ready(result) => {
                tail.end(result.clone().map_err(|error| error.to_string()));
                result.map_err(write_fault)
            }
            Poll::Pending => {
                tokio::spawn(async move { tail.end(committing.await.map_err(|error| error.to_string())) });
                Ok(())
            }
        }
    }

    /// Whether this node leads by `vote`.
    fn is_leaders(&self, vote: &Vote) -> bool {
        vote.is_committed() && vote.leader_id().voted_for() == Some(self.me.number())
    }

    /// Waits until everything that was appended is durable.
    async fn settled(&self) -> Result<(), StorageError> {
        let settled = self.tail.durable(u64::MAX).await;
        settled.map_err(|why| StorageIOError::write_logs(AnyError::error(why)).into())
    }

    /// Entries of `start..end`, in order, until they are more than `bytes` together; at least one if there is one.
    fn entries(&self, start: u64, end: u64, bytes: usize) -> Result<Vec<LogEntry>, StorageError> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut size = 0;
        let mut next = start;
        // What the tail holds need not be in the store yet.
        let held = self.tail.first().unwrap_or(u64::MAX).min(end);
        while next < held {
            let pairs = self.kv.scan(&entry_key(next), &entry_key(held), READ_TOGETHER).map_err(read_fault)?;
            for (_, value) in &pairs {
                size += value.len();
                if size > bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(codec::decode::<Stored>(value).map_err(read_fault)?.0);
            }
            match entries.last() {
                Some(last) if pairs.len() == READ_TOGETHER => next = last.log_id.index + 1,
                _ => break,
            }
        }
        self.tail.read(start.max(held), end, |entry, length| {
            size += length;
            let fits = size <= bytes || entries.is_empty();
            if fits {
                entries.push(entry.clone());
            }
            fits
        });
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
        let last = self.last()?.map(|(entry, _)| entry.log_id).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        Self::new(self.kv.clone(), self.me, self.tail.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        put(&mut batch, VOTE, vote)?;
        if !planted::is(Bug::VoteNotStored) {
            self.commit(batch).await?;
        }
        self.leads = self.is_leaders(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote: Option<Vote> = read(&*self.kv, VOTE)?;
        let vote = vote.map(|mut vote| {
            let resumes = self.resumes || planted::is(Bug::LeadsOnAfterLoss);
            vote.committed &= resumes || vote.leader_id().voted_for() != Some(self.me.number());
            vote
        });
        self.leads = vote.as_ref().is_some_and(|vote| self.is_leaders(vote));
        Ok(vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.last()?.and_then(|(_, committed)| committed))
    }

    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut batch, mut held) = (Batch::new(), Vec::new());
        for entry in entries {
            let stored: Stored = (entry, self.committed);
            let bytes = codec::encode(&stored).map_err(write_fault)?;
            let (entry, length) = (stored.0, bytes.len());
            batch.put(entry_key(entry.log_id.index), bytes);
            held.push((entry, length));
        }
        let members = held.iter().any(|(entry, _)| matches!(entry.payload, EntryPayload::Membership(_)));
        match held.first().map(|(entry, _)| entry.log_id.index) {
            Some(first) if (self.leads || planted::is(Bug::EntryNotSynced)) && !members => {
                self.tail.push(held);
                self.commit_behind(first, batch).await?;
            }
            _ => {
                self.commit(batch).await?;
                self.tail.push(held);
            }
        }
        flushed.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        self.settled().await?;
        let mut batch = Batch::new();
        let last = self.last_index()?.map_or(from.index, |last| last + 1);
        for index in from.index..last {
            batch.delete(entry_key(index));
        }
        self.tail.cut(from.index);
        self.commit(batch).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        put(&mut batch, PURGED, &upto)?;
        let last = self.last_index()?.unwrap_or_default();
        for index in self.first_index()?.unwrap_or(upto.index)..=upto.index.min(last) {
            batch.delete(entry_key(index));
        }
        self.tail.purge(upto.index);
        self.commit(batch).await
    }
}
