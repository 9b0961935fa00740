//! What happened: the agent's own journal of things that an operator would want to know.

use std::collections::BTreeMap;

use landfall_proto::Refusal;
use landfall_proto::id::{NodeName, VmId};
use serde::{Deserialize, Serialize};

use crate::surface::Utc;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look soon.
    Warning,
    /// Somebody should look now.
    Critical,
}

/// One event of `event tail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in the life of the agent that tells it; a gap means that the reader was too slow for what is between.
    pub id: u64,
    /// When.
    pub at: Utc,
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for scripts, such as `owner_changed`.
    pub kind: String,
    /// The node it is about.
    pub node: Option<NodeName>,
    /// The VM it is about.
    pub vm: Option<VmId>,
    /// One sentence for people.
    pub message: String,
    /// Facts, for scripts.
    pub fields: BTreeMap<String, String>,
}

/// What `event tail` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// How many past events to begin with.
    pub recent: u32,
    /// Whether to go on with new ones; without it the stream ends.
    pub follow: bool,
}

/// How many past events an agent keeps at least, and the most that may be asked for.
pub const RECENT_MAX: u32 = 1000;

/// How many past events `event tail` begins with where nothing is asked.
pub const RECENT_DEFAULT: u32 = 20;

impl EventQuery {
    /// The query, checked.
    pub fn new(recent: Option<u32>, follow: bool) -> Result<Self, Refusal> {
        match recent.unwrap_or(RECENT_DEFAULT) {
            recent @ 0..=RECENT_MAX => Ok(Self { recent, follow }),
            other => Err(Refusal::invalid("recent", &other.to_string(), "use from 0 to 1000 events")),
        }
    }
}
