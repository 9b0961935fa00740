//! The state machine: the committed state in memory, and its snapshots on the key-value store.
//!
//! A snapshot is one atomic batch with the log id that it contains, cut into small values. After a restart the state is
//! the last snapshot; openraft applies the log above it again. Readers see a whole state by one pointer, changed once
//! for each batch of entries.

#![allow(clippy::result_large_err, reason = "openraft fixes the error type, and an error ends the node")]

use std::io::Cursor;
use std::sync::Arc;

use landfall_proto::Refusal;
use landfall_proto::id::Position;
use landfall_proto::model::Outcome;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::log_store::{put, read};
use super::tail::Tail;
use super::types::{Applied, LogEntry, LogId, Membership, SnapshotMeta, StorageError, StorageIOError, Types};
use crate::kv::{Batch, Kv};
use crate::limits;
use crate::state::State;

const META: &[u8] = b"snapshot/meta";
const PART: &[u8] = b"snapshot/part/";
/// The key after every part's.
const PART_END: &[u8] = b"snapshot/part0";

fn fault(why: impl std::fmt::Display) -> StorageError {
    StorageIOError::read_snapshot(None, AnyError::error(why.to_string())).into()
}

fn write_fault(why: impl std::fmt::Display) -> StorageError {
    StorageIOError::write_snapshot(None, AnyError::error(why.to_string())).into()
}

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    meta: SnapshotMeta,
    bytes: u64,
}

/// The snapshot on disk. One at a time is written: an older one never replaces a newer one.
#[derive(Debug)]
pub(super) struct SnapshotStore {
    kv: Arc<dyn Kv>,
    writing: Mutex<()>,
}

impl SnapshotStore {
    fn load(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StorageError> {
        let Some(stored) = read::<Stored>(&*self.kv, META)? else { return Ok(None) };
        let parts = self.kv.scan(PART, PART_END, usize::MAX).map_err(fault)?;
        let bytes: Vec<u8> = parts.into_iter().flat_map(|(_, part)| part).collect();
        if bytes.len() as u64 != stored.bytes {
            return Err(fault(format!("{} bytes where {} were written", bytes.len(), stored.bytes)));
        }
        Ok(Some((stored.meta, bytes)))
    }

    /// Writes a snapshot, unless the one on disk contains more.
    async fn save(&self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), StorageError> {
        let _writing = self.writing.lock().await;
        if read::<Stored>(&*self.kv, META)?.is_some_and(|stored| stored.meta.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let mut batch = Batch::new();
        for (key, _) in self.kv.scan(PART, PART_END, usize::MAX).map_err(fault)? {
            batch.delete(key);
        }
        put(&mut batch, META, &Stored { meta: meta.clone(), bytes: bytes.len() as u64 })?;
        for (number, part) in (0u32..).zip(bytes.chunks(limits::SNAPSHOT_VALUE)) {
            batch.put([PART, &number.to_be_bytes()].concat(), part);
        }
        self.kv.commit(batch).await.map_err(write_fault)
    }
}

/// The state machine of one node.
#[derive(Debug)]
pub(super) struct Machine {
    snapshots: Arc<SnapshotStore>,
    tail: Arc<Tail>,
    state: watch::Sender<Arc<State>>,
    applied: Option<LogId>,
    membership: Membership,
}

impl Machine {
    /// The state machine as of the last snapshot on `kv`.
    pub(super) fn open(kv: Arc<dyn Kv>, tail: Arc<Tail>) -> Result<Self, StorageError> {
        let snapshots = Arc::new(SnapshotStore { kv, writing: Mutex::new(()) });
        let (meta, state) = match snapshots.load()? {
            Some((meta, bytes)) => (meta, State::from_archive(&bytes).map_err(fault)?),
            None => (SnapshotMeta::default(), State::default()),
        };
        Ok(Self {
            snapshots,
            tail,
            state: watch::channel(Arc::new(state)).0,
            applied: meta.last_log_id,
            membership: meta.last_membership,
        })
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// The members as of the last entry that this contains.
    pub(super) fn members(&self) -> &Membership {
        &self.membership
    }

    /// The index of the first entry that this does not contain.
    pub(super) fn next_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index + 1)
    }

    /// Changes state and voters outside the log, where no consensus runs on it, as if by an entry `at`. Nothing changes
    /// where `change` refuses.
    pub(super) fn rewrite(
        &mut self,
        at: LogId,
        members: openraft::Membership<u64, openraft::EmptyNode>,
        change: impl FnOnce(&mut State) -> Result<(), Refusal>,
    ) -> Result<Arc<State>, Refusal> {
        let mut state = State::clone(&self.state.borrow());
        change(&mut state)?;
        self.applied = Some(at);
        self.membership = Membership::new(Some(at), members);
        self.state.send_replace(Arc::new(state));
        Ok(self.state.borrow().clone())
    }

    /// Applies one entry to `state`.
    fn apply_one(&mut self, state: &mut State, entry: LogEntry) -> Applied {
        let position = Position::new(state.incarnation, entry.log_id.index);
        self.applied = Some(entry.log_id);
        let answer = match entry.payload {
            EntryPayload::Normal(proposal) => state.apply(position, &proposal),
            EntryPayload::Blank => {
                state.pass(position);
                Ok(Outcome::Done)
            }
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(self.applied, membership);
                state.pass(position);
                Ok(Outcome::Done)
            }
        };
        Applied { position, answer }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        if let Some(last) = entries.last().map(|entry| entry.log_id) {
            // A leader's own copy counts once it is synced.
            self.tail.durable(last.index).await.map_err(|why| StorageIOError::apply(last, AnyError::error(why)))?;
        }
        let mut state = State::clone(&self.state.borrow());
        let answers = entries.into_iter().map(|entry| self.apply_one(&mut state, entry)).collect();
        self.state.send_replace(Arc::new(state));
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            snapshots: self.snapshots.clone(),
            state: self.state.borrow().clone(),
            applied: self.applied,
            membership: self.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let state = State::from_archive(&bytes).map_err(fault)?;
        self.snapshots.save(meta, &bytes).await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.state.send_replace(Arc::new(state));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let loaded = self.snapshots.load()?;
        Ok(loaded.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

/// Writes one snapshot while entries go on being applied.
#[derive(Debug)]
pub(super) struct Builder {
    snapshots: Arc<SnapshotStore>,
    state: Arc<State>,
    applied: Option<LogId>,
    membership: Membership,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let bytes = self.state.archive().map_err(write_fault)?;
        if bytes.len() as u64 > limits::SNAPSHOT_BYTES {
            return Err(write_fault(format!("the state has {} bytes, too many for a snapshot", bytes.len())));
        }
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.applied.map_or("empty".to_owned(), |id| format!("{}-{}", id.leader_id, id.index)),
        };
        self.snapshots.save(&meta, &bytes).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}
