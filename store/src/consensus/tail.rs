//! The end of the log in memory: what was appended lately, and from which entry on it is not durable yet.
//!
//! A leader's own sync and those of its followers run at the same time: what it appends can be read, and so replicated,
//! before it is on its disk. For openraft the leader's copy counts at once. It must not count for anybody else, so
//! nothing is applied here, and no follower hears that it is committed, before it is durable here too: an entry that only
//! followers have is none that this node has acknowledged, whatever becomes of it after a power cut.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use landfall_proto::planted::{self, Bug};
use tokio::sync::watch;

use super::types::LogEntry;
use crate::limits;

/// How far the log is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Durable {
    /// The first entry that is not.
    pending: Option<u64>,
    /// Why an append failed: from then on nothing more becomes durable.
    failed: Option<String>,
}

/// The newest entries and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Tail {
    held: Mutex<Held>,
    durable: watch::Sender<Durable>,
}

#[derive(Debug, Default)]
struct Held {
    /// Entries without a gap, each with its length in bytes.
    entries: BTreeMap<u64, (LogEntry, usize)>,
    bytes: usize,
    /// The first entry of each append under way, in order.
    under_way: VecDeque<u64>,
}

impl Tail {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in entries that are being appended, and their lengths.
    pub(super) fn push(&self, entries: impl IntoIterator<Item = (LogEntry, usize)>) {
        let mut held = self.held();
        for (entry, length) in entries {
            let index = entry.log_id.index;
            held.cut(index);
            if held.entries.last_key_value().is_some_and(|(last, _)| last + 1 != index) {
                held.cut(0);
            }
            held.bytes += length;
            held.entries.insert(index, (entry, length));
        }
        held.forget_durable();
    }

    /// Notes that the append of the entries from `first` on is under way; appends end in the order in which they began.
    pub(super) fn begin(&self, first: u64) {
        if planted::is(Bug::OwnCopyNotSynced) {
            return;
        }
        let mut held = self.held();
        held.under_way.push_back(first);
        let pending = held.under_way.front().copied();
        self.durable.send_modify(|durable| durable.pending = pending);
    }

    /// The oldest append under way has ended.
    pub(super) fn end(&self, result: Result<(), String>) {
        let mut held = self.held();
        if let Err(why) = result {
            self.durable.send_modify(|durable| durable.failed = Some(why));
            return;
        }
        held.under_way.pop_front();
        let pending = held.under_way.front().copied();
        held.forget_durable();
        self.durable.send_modify(|durable| durable.pending = pending);
    }

    /// The entries from `from` on are gone from the log.
    pub(super) fn cut(&self, from: u64) {
        self.held().cut(from);
    }

    /// The entries up to `upto` are gone from the log.
    pub(super) fn purge(&self, upto: u64) {
        let mut held = self.held();
        while let Some(first) = held.entries.first_key_value().map(|(first, _)| *first).filter(|first| *first <= upto) {
            held.drop_one(first);
        }
    }

    /// Whether entry `index` is durable here.
    pub(super) fn is_durable(&self, index: u64) -> bool {
        let durable = self.durable.borrow();
        durable.failed.is_none() && durable.pending.is_none_or(|pending| index < pending)
    }

    /// Waits until every entry up to `index` is durable here; the error is why that will never be.
    pub(super) async fn durable(&self, index: u64) -> Result<(), String> {
        let mut durable = self.durable.subscribe();
        let reached = durable
            .wait_for(|durable| durable.failed.is_some() || durable.pending.is_none_or(|pending| index < pending));
        match reached.await {
            Ok(durable) => durable.failed.clone().map_or(Ok(()), Err),
            Err(_) => Err("the log is closed".to_owned()),
        }
    }

    /// The index of the first entry that is held.
    pub(super) fn first(&self) -> Option<u64> {
        self.held().entries.first_key_value().map(|(first, _)| *first)
    }

    /// The entries of `start..end` that are held, in order, with their lengths, until `take` says that it is enough.
    pub(super) fn read(&self, start: u64, end: u64, mut take: impl FnMut(&LogEntry, usize) -> bool) {
        let held = self.held();
        for (entry, length) in held.entries.range(start..end.max(start)).map(|(_, entry)| entry) {
            if !take(entry, *length) {
                break;
            }
        }
    }
}

impl Held {
    fn drop_one(&mut self, index: u64) {
        if let Some((_, length)) = self.entries.remove(&index) {
            self.bytes -= length;
        }
    }

    fn cut(&mut self, from: u64) {
        for (_, (_, length)) in self.entries.split_off(&from) {
            self.bytes -= length;
        }
    }

    /// Keeps within the bounds what the store can give back.
    fn forget_durable(&mut self) {
        while self.entries.len() > limits::TAIL_ENTRIES || self.bytes > limits::TAIL_BYTES {
            let Some(first) = self.entries.first_key_value().map(|(first, _)| *first) else { return };
            if self.under_way.front().is_some_and(|pending| first >= *pending) {
                return;
            }
            self.drop_one(first);
        }
    }
}
