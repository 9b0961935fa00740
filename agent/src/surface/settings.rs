//! Replication settings: one set for the whole cluster, at one revision.

use std::collections::BTreeMap;

use landfall_proto::Refusal;
use landfall_proto::id::Revision;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::surface::{Utc, WaitSeconds};

/// The settings as a VM service gets them, and as a watch begins: every setting that has a value, as text.
pub use crate::vm_service::SettingsView;

/// `settings show`: every setting, defaults included. Also the answer of `settings set`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The revision.
    pub revision: Revision,
    /// A switch is true or false, a number a number, everything else text; null is not set, and has no default.
    pub settings: BTreeMap<String, Value>,
}

/// `settings set`: changes settings, all or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsSet {
    /// New values by key, as text; null returns a setting to its default. In JSON a switch or number may be one.
    #[serde(deserialize_with = "texts")]
    pub settings: BTreeMap<String, Option<String>>,
    /// The revision that the caller saw; refused where settings have changed since.
    #[serde(default)]
    pub expect: Option<Revision>,
    /// Wait until every live node's VM service has applied the revision.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Option<String>>, D::Error> {
    let text = |(key, value): (String, Value)| match value {
        Value::Null => Ok((key, None)),
        Value::String(text) => Ok((key, Some(text))),
        Value::Bool(flag) => Ok((key, Some(flag.to_string()))),
        Value::Number(number) => Ok((key, Some(number.to_string()))),
        other => {
            let remedy = "give text, a number, true, false, or null for the default";
            Err(D::Error::custom(Refusal::invalid(&key, &other.to_string(), remedy)))
        }
    };
    BTreeMap::<String, Value>::deserialize(from)?.into_iter().map(text).collect()
}

/// One setting that changed, as text; null where it had or has neither value nor default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    /// The setting.
    pub key: String,
    /// What it was.
    pub old: Option<String>,
    /// What it is.
    pub new: Option<String>,
}

/// One revision of `settings history`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsRevision {
    /// The revision.
    pub revision: Revision,
    /// The settings that it changed, with the values it gave them.
    pub settings: BTreeMap<String, Option<String>>,
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
/// `settings` event. Where its revision is too old or of another incarnation, or it reads too slowly, it gets `resync`
/// followed by `settings`, and goes on from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SettingsEvent {
    /// One setting changed.
    Change {
        /// The setting.
        key: String,
        /// What it was.
        old: Option<String>,
        /// What it is.
        new: Option<String>,
        /// The revision that changed it.
        revision: Revision,
        /// Whether more changes of that revision follow. A watcher that applies whole revisions acts on the one that
        /// says false, and one that comes back gives the last revision that it has had to that end.
        more: bool,
    },
    /// Every setting at one revision.
    Settings(SettingsView),
    /// What the watcher knows does not lead to what follows: forget it.
    Resync {
        /// The revision of the `settings` event that follows, or an earlier one.
        from: Revision,
    },
}

impl SettingsEvent {
    /// The changes of one revision as events.
    pub fn of_revision(revision: Revision, changes: Vec<SettingChange>) -> impl Iterator<Item = Self> {
        let count = changes.len();
        let event = move |(at, SettingChange { key, old, new }): (usize, SettingChange)| Self::Change {
            key,
            old,
            new,
            revision,
            more: at + 1 < count,
        };
        changes.into_iter().enumerate().map(event)
    }

    /// Its name: `change`, `settings` or `resync`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Change { .. } => "change",
            Self::Settings(_) => "settings",
            Self::Resync { .. } => "resync",
        }
    }

    /// The revision that a watcher has in full once it has this event; `None` in the middle of one.
    pub const fn completes(&self) -> Option<Revision> {
        match self {
            Self::Change { revision, more: false, .. } => Some(*revision),
            Self::Settings(view) => Some(view.revision),
            Self::Change { .. } | Self::Resync { .. } => None,
        }
    }
}
