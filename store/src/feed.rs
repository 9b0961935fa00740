//! The settings change feed: every change once, in order, without a gap, or a word that the watcher must read anew.
//!
//! A watcher pulls out of the committed state's history at its own pace, so a slow one holds up nobody and takes no
//! memory. When the history no longer reaches back to where it stands it is told to resync, and from which revision.
//! The history is part of the state: a node that restarts, or that caught up by a snapshot, serves the same feed.

use std::collections::VecDeque;
use std::sync::Arc;

use landfall_proto::id::Revision;
use landfall_proto::planted::{self, Bug};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::state::State;

/// One setting changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChanged {
    /// Which.
    pub key: String,
    /// The value in effect before, `None` where there was none.
    pub old: Option<String>,
    /// The value in effect since.
    pub new: Option<String>,
    /// The revision; settings that changed together have the same.
    pub revision: Revision,
}

/// What a watcher is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A change.
    Changed(SettingChanged),
    /// Changes were missed: read all settings, then watch from here. The watcher goes on from there by itself.
    Resync {
        /// The revision at which the settings stand.
        from: Revision,
    },
}

/// The end of the feed: the agent stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Ended;

/// Where watchers of settings begin.
#[derive(Clone, Debug)]
pub struct SettingsFeed {
    state: watch::Receiver<Arc<State>>,
}

impl SettingsFeed {
    /// The feed of the state that `state` shows.
    pub fn new(state: watch::Receiver<Arc<State>>) -> Self {
        Self { state }
    }

    /// A watcher of every change after revision `from`.
    pub fn watch(&self, from: Revision) -> Watcher {
        let mut state = self.state.clone();
        state.mark_changed();
        Watcher { state, stands: from, ready: VecDeque::new() }
    }
}

/// One reader of the feed.
#[derive(Debug)]
pub struct Watcher {
    state: watch::Receiver<Arc<State>>,
    /// Everything up to here was told, or waits in `ready`.
    stands: Revision,
    /// The rest of one revision: at most as many as there are settings.
    ready: VecDeque<SettingChanged>,
}

impl Watcher {
    /// The next notice, as soon as there is one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Notice, Ended> {
        loop {
            if let Some(changed) = self.ready.pop_front() {
                return Ok(Notice::Changed(changed));
            }
            let state = self.state.borrow_and_update().clone();
            if let Some(notice) = self.advance(&state) {
                return Ok(notice);
            }
            if self.ready.is_empty() {
                self.state.changed().await.map_err(|_| Ended)?;
            }
        }
    }

    /// The changes of the revision told last that are still to be told: a reader that takes revisions whole takes these
    /// at once.
    pub fn rest(&mut self) -> impl Iterator<Item = SettingChanged> + '_ {
        self.ready.drain(..)
    }

    /// Takes over the next revision of `state`, or finds that it cannot.
    fn advance(&mut self, state: &State) -> Option<Notice> {
        let settings = &state.settings;
        let another_life = self.stands.0.incarnation() != state.incarnation && self.stands != Revision::default();
        if (self.stands < settings.floor || another_life) && !planted::is(Bug::FeedHidesGap) {
            self.stands = settings.revision;
            return Some(Notice::Resync { from: settings.revision });
        }
        let next = settings.history.partition_point(|change| change.revision <= self.stands);
        let skipped = if planted::is(Bug::FeedSkipsChanges) { settings.history.len().saturating_sub(1) } else { 0 };
        let change = settings.history.get(next.max(skipped))?;
        self.stands = change.revision;
        let revision = change.revision;
        self.ready.extend(change.changes.iter().map(|(key, (old, new))| SettingChanged {
            key: key.clone(),
            old: old.clone(),
            new: new.clone(),
            revision,
        }));
        None
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
