//! `doctor`: what is wrong with this node, its cluster and its peers, and what to do about it.

use landfall_proto::id::NodeName;
use serde::{Deserialize, Serialize};

use crate::surface::Utc;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing is wrong.
    Ok,
    /// Somebody should look soon: it works, and will not for long, or not after the next loss.
    Warning,
    /// Somebody should look now: something does not work.
    Critical,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is, one word that stays the same.
    pub code: String,
    /// The node, cluster or VM that it is about.
    pub about: String,
    /// A sentence.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// The node that looked: reachability is as seen from it.
    pub node: NodeName,
    /// When it looked.
    pub at: Utc,
    /// The worst finding's.
    pub level: Level,
    /// How many things were looked at.
    pub checks: u32,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
}
