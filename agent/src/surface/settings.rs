//! Replication settings: one set for the whole cluster, at one revision.

use std::collections::BTreeMap;

use landfall_proto::id::Revision;
use serde::{Deserialize, Serialize};

use crate::surface::{Utc, WaitSeconds};

/// `settings show`: every setting, defaults included, in text form: `{revision, settings: {key: value}}`.
pub use crate::vm_service::SettingsView;

/// `settings set`: changes settings, all or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsSet {
    /// New values by key; null returns a setting to its default.
    pub settings: BTreeMap<String, Option<String>>,
    /// The revision that the caller saw; refused where settings have changed since.
    #[serde(default)]
    pub expect: Option<Revision>,
    /// Wait until every live node's VM service has applied the revision.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// One setting that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    /// The setting.
    pub key: String,
    /// What it was.
    pub old: String,
    /// What it is.
    pub new: String,
}

/// One revision of `settings history`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsRevision {
    /// The revision.
    pub revision: Revision,
    /// The settings that it changed, with the values it gave them.
    pub settings: BTreeMap<String, String>,
    /// The same with the values they had before.
    pub changes: Vec<SettingChange>,
    /// Who asked for it: a user and the node.
    pub who: String,
    /// When the owner proposed it.
    pub when: Utc,
}

impl SettingsRevision {
    /// A revision that made `changes`.
    pub fn new(revision: Revision, changes: Vec<SettingChange>, who: String, when: Utc) -> Self {
        let settings = changes.iter().map(|change| (change.key.clone(), change.new.clone())).collect();
        Self { revision, settings, changes, who, when }
    }
}

/// One event of `settings watch`.
///
/// A watcher that gives a revision gets every later change, in order, once. One that gives none begins with a
/// snapshot. Where its revision is too old, of another incarnation, or it reads too slowly, it gets `resync` followed by a
/// snapshot, and goes on from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SettingsEvent {
    /// One setting changed.
    Change {
        /// The setting.
        key: String,
        /// What it was.
        old: String,
        /// What it is.
        new: String,
        /// The revision that changed it.
        revision: Revision,
        /// Whether this is the last change of that revision. A watcher that applies whole revisions acts on it, and one
        /// that comes back gives the last revision that it has had to this end.
        last: bool,
    },
    /// Every setting at one revision.
    Snapshot(SettingsView),
    /// What the watcher knows does not lead to what follows: forget it.
    Resync {
        /// The revision of the snapshot that follows.
        from: Revision,
    },
}

impl SettingsEvent {
    /// The changes of one revision as events, the last one marked.
    pub fn of_revision(revision: Revision, changes: Vec<SettingChange>) -> impl Iterator<Item = Self> {
        let count = changes.len();
        let event = move |(at, SettingChange { key, old, new }): (usize, SettingChange)| Self::Change {
            key,
            old,
            new,
            revision,
            last: at + 1 == count,
        };
        changes.into_iter().enumerate().map(event)
    }

    /// Its name: `change`, `snapshot` or `resync`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Change { .. } => "change",
            Self::Snapshot(_) => "snapshot",
            Self::Resync { .. } => "resync",
        }
    }

    /// The revision that a watcher has in full once it has this event; `None` in the middle of one.
    pub const fn completes(&self) -> Option<Revision> {
        match self {
            Self::Change { revision, last: true, .. } => Some(*revision),
            Self::Snapshot(view) => Some(view.revision),
            Self::Change { .. } | Self::Resync { .. } => None,
        }
    }
}
