//! What the store below consensus must promise: small, ordered, and durable when it says so.
//!
//! Reads see every commit that was accepted, durable or not; nobody is told of a commit before it is durable. Nothing
//! of the engine behind it shows.
//!
//! Keys that begin with `!` belong to the store itself, `log/`, `raft/` and `snapshot/` to consensus; others are free.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::watch;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// One change of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key, if it is there.
    Delete(Vec<u8>),
}

/// Changes that take effect all together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: set `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put(key.into(), value.into()));
    }

    /// Adds: remove `key`.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete(key.into()));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, in order; a later one of the same key wins.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A write or sync failed, now or earlier: what is on disk is no longer known, so nothing more is accepted.
    #[error("the store has failed and takes nothing more: {0}")]
    Poisoned(String),
    /// Reading failed.
    #[error("the store cannot be read: {0}")]
    Read(String),
    /// The store was closed, or lost power, while the call waited.
    #[error("the store is closed")]
    Closed,
}

/// Whether the store still takes writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It does.
    #[default]
    Good,
    /// It does not, and why; this never changes back.
    Poisoned(String),
}

/// An ordered map of bytes to bytes with atomic, durable commits.
#[async_trait]
pub trait Kv: Send + Sync + fmt::Debug {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// The first `bound` pairs with `from <= key < to`, in order.
    fn scan(&self, from: &[u8], to: &[u8], bound: usize) -> Result<Vec<Pair>, KvError>;

    /// The last pair with `from <= key < to`.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, KvError>;

    /// Applies `batch`; when this returns `Ok` it survives a power cut. Batches take effect in the order of the calls'
    /// first poll. After an error the store accepts nothing more.
    async fn commit(&self, batch: Batch) -> Result<(), KvError>;

    /// Tells when the store fails.
    fn health(&self) -> watch::Receiver<Health>;
}
