//! That the others do not take this node for a member any more, as it learns from being refused.

use landfall_proto::calls::CallError;
use landfall_proto::close::Close;
use landfall_proto::endpoint::DialError;
use landfall_proto::id::NodeName;
use tokio::sync::watch;

use crate::drive::events::{Events, Happening};

/// What to do about it.
const REMEDY: &str = "to come back: `landfall cluster leave --force` here, then `landfall cluster join` with a token of a \
                      member; what only this node has stays on its disks";

/// Why this node takes no part in its cluster, where that is so.
#[derive(Clone, Debug, Default)]
pub struct Exclusion(watch::Sender<Option<String>>);

impl Exclusion {
    /// The sentence for people.
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// A leader was heard: this node is a member.
    pub fn lift(&self) {
        self.0.send_if_modified(|reason| reason.take().is_some());
    }

    /// What calling the voter `other` ended with.
    pub fn note(&self, node: &NodeName, other: &NodeName, error: &CallError, events: &Events) {
        let (CallError::Closed { close: Close::Removed, reason }
        | CallError::Dial(DialError::Refused { close: Close::Removed, reason, .. })) = error
        else {
            return;
        };
        let told = format!("{other} does not take {node} for a member any more ({reason}); {REMEDY}");
        let new = self.0.send_if_modified(|present| {
            let new = present.is_none();
            if new {
                *present = Some(told.clone());
            }
            new
        });
        if new {
            events.record(Happening::critical("excluded", told).node(node));
        }
    }
}
