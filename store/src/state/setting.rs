//! The settings, their revision, and the changes that led to it.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use landfall_proto::id::{Revision, UnixMillis};
use landfall_proto::model::{Answer, Outcome};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

use super::{Entry, State};
use crate::limits;
use crate::settings::{self, Values};

/// One revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsChange {
    /// Its number.
    pub revision: Revision,
    /// When, by the clock of the node that took it.
    pub at: UnixMillis,
    /// Who asked.
    pub by: String,
    /// What changed: the values in effect before and after, `None` where there was none.
    pub changes: BTreeMap<String, (Option<String>, Option<String>)>,
}

/// The settings as they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsState {
    /// What differs from the defaults.
    pub values: Values,
    /// The entry that last changed them.
    pub revision: Revision,
    /// The latest changes, oldest first.
    pub history: VecDeque<SettingsChange>,
    /// Every change after this revision is in the history.
    pub floor: Revision,
}

impl State {
    pub(super) fn set(
        &mut self,
        entry: Entry,
        changes: &BTreeMap<String, Option<String>>,
        expect: Option<Revision>,
        by: &str,
    ) -> Answer {
        let present = &self.settings;
        if expect.is_some_and(|expected| expected != present.revision) && !planted::is(Bug::ExpectedRevisionIgnored) {
            let seen = expect.unwrap_or_default();
            let message = format!("the settings stand at revision {}, not at {seen}", present.revision);
            return Err(Refusal::new(Class::Refused, "revision_conflict", message)
                .field("expect")
                .remedy("look at `landfall settings show` and decide again"));
        }
        let values = settings::change(&present.values, changes)?;
        let differs = |key: &String| {
            let old = settings::effective(&present.values, key);
            let new = settings::effective(&values, key);
            (old != new).then(|| (key.clone(), (old, new)))
        };
        let changed: BTreeMap<_, _> = changes.keys().filter_map(differs).collect();
        if changed.is_empty() {
            return Ok(Outcome::Set(present.revision));
        }
        let revision = Revision(entry.position);
        let by = by.chars().take(limits::ASKER).collect();
        self.settings.values = values;
        self.settings.revision = revision;
        self.settings.history.push_back(SettingsChange { revision, at: entry.at, by, changes: changed });
        while self.settings.history.len() > limits::SETTINGS_HISTORY {
            if let Some(dropped) = self.settings.history.pop_front() {
                self.settings.floor = dropped.revision;
            }
        }
        self.settle_stops();
        Ok(Outcome::Set(revision))
    }
}
