//! Why a VM is not well: each reason with its code for scripts, a sentence and the one command that is tried first.

use landfall_proto::id::{UnixMillis, VmId};
use landfall_proto::model::Stop;

use crate::surface::Utc;
use crate::surface::vm::{Health, HealthDetail, ReplicationState};

/// How it stands, how well it is, and why it is not better: the worst reason first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it stands.
    pub state: ReplicationState,
    /// How well it is.
    pub health: Health,
    /// Why.
    pub details: Vec<HealthDetail>,
}

impl Verdict {
    /// Why, a sentence each.
    pub fn reasons(&self) -> Vec<String> {
        self.details.iter().map(|detail| detail.message.clone()).collect()
    }
}

/// The reasons found so far of one VM.
pub(super) struct Reasons {
    vm: VmId,
    details: Vec<HealthDetail>,
}

impl Reasons {
    /// None so far.
    pub(super) fn of(vm: VmId) -> Self {
        Self { vm, details: Vec::new() }
    }

    /// Somebody should look now.
    pub(super) fn critical(&mut self, code: &str, message: impl Into<String>, command: impl Into<String>) {
        self.add(Health::Critical, code, message.into(), command.into());
    }

    /// Somebody should look soon.
    pub(super) fn warning(&mut self, code: &str, message: impl Into<String>, command: impl Into<String>) {
        self.add(Health::Warning, code, message.into(), command.into());
    }

    fn add(&mut self, severity: Health, code: &str, message: String, command: String) {
        self.details.push(HealthDetail { code: code.to_owned(), severity, message, command });
    }

    /// `landfall vm VERB` of this VM.
    pub(super) fn vm(&self, verb: &str) -> String {
        format!("landfall vm {verb} {}", self.vm)
    }

    /// Its relationship is stopped.
    pub(super) fn stopped(&mut self, stop: &Stop, authorize: String) {
        match stop {
            Stop::AuthorizationRemoved => {
                let message = "the authorization entry that it lived under was removed";
                self.critical("authorization_removed", message, authorize);
            }
            Stop::PeerRemoved => {
                self.critical("peer_removed", "the other cluster is no longer paired", "landfall peer invite");
            }
        }
    }

    /// Two clocks differ; `ahead_ms` is how far `whose` is ahead of this site's.
    pub(super) fn skewed(&mut self, whose: &str, ahead_ms: i64) {
        let (seconds, word) = (ahead_ms.unsigned_abs() / 1000, if ahead_ms < 0 { "behind" } else { "ahead of" });
        let message = format!("{whose} clock is {seconds} s {word} this site's: times and ages of points mislead");
        self.warning("clock_skew", message, "timedatectl status");
    }

    /// No point is complete; `starts_at` is when the first copy begins, where that is still to come.
    pub(super) fn incomplete(&mut self, starts_at: Option<UnixMillis>) {
        match starts_at {
            Some(at) => {
                let command = self.vm("resume");
                self.warning("initial_copy_scheduled", format!("the first copy begins at {}", Utc::from(at)), command);
            }
            None => {
                let command = self.vm("show");
                self.warning("initial_copy_incomplete", "the initial copy is not complete", command);
            }
        }
    }

    /// The verdict where it stands as `state`.
    pub(super) fn verdict(mut self, state: ReplicationState) -> Verdict {
        // Stable: of the same severity the first found stays first.
        self.details.sort_by_key(|detail| std::cmp::Reverse(detail.severity));
        let health = self.details.first().map_or(Health::Normal, |worst| worst.severity);
        Verdict { state, health, details: self.details }
    }
}
