//! The JSON bodies and routes between an agent and its VM service, in one place for both sides.
//!
//! Two sockets: the agent's local API, at which a VM service attaches (settings down, status up), and the VM service's
//! own socket, which has one route for each method of [`VmService`](crate::vm_service::VmService).

use std::time::Duration;

use landfall_proto::id::Revision;
use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

use crate::vm_service::{SettingsView, StorageReport, VmReport};

/// The agent: server-sent events of the settings; `?from=REV` continues after a revision, without it the whole view
/// comes first.
pub const SETTINGS_WATCH: &str = "/v1/settings/watch";
/// The agent: [`Applied`] is PUT here.
pub const APPLIED: &str = "/v1/vm-service/applied";
/// The agent: [`Status`] is PUT here.
pub const STATUS: &str = "/v1/vm-service/status";

/// The VM service: POST, no body either way.
pub const PROBE: &str = "/v1/probe";
/// The VM service: GET gives [`VmList`], PUT takes a [`Registration`](crate::vm_service::Registration).
pub const VMS: &str = "/v1/vms";
/// The VM service: DELETE unregisters a replica.
pub const VM: &str = "/v1/vms/{vm}";
/// The VM service: POST.
pub const START: &str = "/v1/vms/{vm}/start";
/// The VM service: POST.
pub const STOP: &str = "/v1/vms/{vm}/stop";
/// The VM service: PUT keeps the VM from being started, DELETE gives it free.
pub const LOCK: &str = "/v1/vms/{vm}/lock";
/// The VM service: POST.
pub const ADOPT: &str = "/v1/vms/{vm}/adopt";
/// The VM service: PUT of a [`PromotionId`](landfall_proto::model::PromotionId).
pub const RETIRE: &str = "/v1/vms/{vm}/retire";
/// The VM service: POST of [`FreezeBody`] gives [`Frozen`](crate::vm_service::Frozen).
pub const FREEZE: &str = "/v1/vms/{vm}/freeze";
/// The VM service: POST gives [`Thawed`](crate::vm_service::Thawed).
pub const THAW: &str = "/v1/freezes/{freeze}/thaw";
/// The VM service: PUT of [`SettingsView`].
pub const SETTINGS: &str = "/v1/settings";
/// The VM service: GET gives [`StorageList`].
pub const STORAGE: &str = "/v1/storage";

/// The largest body either side takes: 4,096 VMs of a few hundred bytes, with room.
pub const BODY_MAX: usize = 8 << 20;
/// The longest line of an event: the whole view of the settings.
pub const EVENT_MAX: usize = 1 << 20;
/// How often an agent sends a comment on a quiet stream of events, so that a dead one is noticed.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often a VM service reports its status.
pub const STATUS_EVERY: Duration = Duration::from_millis(500);
/// How long a status counts; past it the VM service is `stopped`.
pub const STATUS_TTL: Duration = Duration::from_secs(5);

/// `event: settings`: the whole view, its data a [`SettingsView`].
pub const EVENT_SETTINGS: &str = "settings";
/// `event: change`: one setting changed, its data a [`Change`].
pub const EVENT_CHANGE: &str = "change";
/// `event: resync`: changes were lost or belong to another life of the cluster, its data a [`Resync`].
pub const EVENT_RESYNC: &str = "resync";

/// One setting changed at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The setting.
    pub key: String,
    /// Its value before.
    pub old: Option<String>,
    /// Its value from now on.
    pub new: Option<String>,
    /// The revision that this belongs to.
    pub revision: Revision,
    /// Whether more changes of the same revision follow: it is complete with the one that says `false`.
    #[serde(default)]
    pub more: bool,
}

/// Where the feed goes on: a `settings` event of that revision or a later one follows on the same stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// The revision.
    pub from: Revision,
}

/// What the stream of settings carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// The whole view.
    Settings(SettingsView),
    /// One change.
    Change(Change),
    /// What came before no longer counts.
    Resync(Resync),
}

impl FeedEvent {
    /// The event's name and its data, as server-sent events carry them.
    pub fn encode(&self) -> Result<(&'static str, String), serde_json::Error> {
        Ok(match self {
            Self::Settings(view) => (EVENT_SETTINGS, serde_json::to_string(view)?),
            Self::Change(change) => (EVENT_CHANGE, serde_json::to_string(change)?),
            Self::Resync(resync) => (EVENT_RESYNC, serde_json::to_string(resync)?),
        })
    }

    /// The event of this name and data; `None` for a name of a later version.
    pub fn decode(name: &str, data: &str) -> Result<Option<Self>, serde_json::Error> {
        Ok(Some(match name {
            EVENT_SETTINGS => Self::Settings(serde_json::from_str(data)?),
            EVENT_CHANGE => Self::Change(serde_json::from_str(data)?),
            EVENT_RESYNC => Self::Resync(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}

pub use crate::surface::vm_service::{Condition as Health, VmServiceApplied as Applied, VmServiceStatus as Status};

/// Every VM of a VM service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmList {
    /// The VMs.
    pub vms: Vec<VmReport>,
}

/// Every storage location of a VM service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageList {
    /// The locations.
    pub storage: Vec<StorageReport>,
}

/// For how long an instant is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeBody {
    /// Milliseconds.
    pub hold_ms: u64,
}

/// A failure, as every surface shows it. The HTTP status carries the class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The failure.
    pub error: ErrorDetail,
}

/// The parts of a [`Refusal`] that its JSON form shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The stable word.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// The field at fault.
    pub field: Option<String>,
    /// What to do instead.
    pub remedy: Option<String>,
}

impl From<Refusal> for ErrorBody {
    fn from(refusal: Refusal) -> Self {
        let Refusal { class: _, code, message, field, remedy } = refusal;
        Self { error: ErrorDetail { code, message, field, remedy } }
    }
}

impl ErrorBody {
    /// The refusal that this body, sent with HTTP `status`, stands for.
    pub fn refusal(self, status: u16) -> Refusal {
        let ErrorDetail { code, message, field, remedy } = self.error;
        Refusal { class: class_of(status), code, message, field, remedy }
    }
}

/// The HTTP status of a refusal's class. [`class_of`] is its inverse.
pub const fn status_of(class: Class) -> u16 {
    match class {
        Class::Failed => 500,
        Class::Usage => 400,
        Class::Refused => 409,
        Class::NotFound => 404,
        Class::Unreachable => 503,
    }
}

/// The class of an HTTP status; one that [`status_of`] never gives is a failure.
pub const fn class_of(status: u16) -> Class {
    match status {
        400 | 405 | 413 | 415 | 422 => Class::Usage,
        409 => Class::Refused,
        404 => Class::NotFound,
        502..=504 => Class::Unreachable,
        _ => Class::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_its_json_form() {
        for class in [Class::Failed, Class::Usage, Class::Refused, Class::NotFound, Class::Unreachable] {
            let refusal = Refusal::new(class, "vm_frozen", "the VM is frozen").field("vm").remedy("thaw it");
            let json = serde_json::to_string(&ErrorBody::from(refusal.clone())).unwrap();
            let body: ErrorBody = serde_json::from_str(&json).unwrap();
            assert_eq!(body.refusal(status_of(class)), refusal);
        }
    }

    #[test]
    fn events_of_a_later_version_are_passed_over() {
        assert_eq!(FeedEvent::decode("weather", "{}").unwrap(), None);
        let change = FeedEvent::decode("change", r#"{"key":"a","old":null,"new":"1","revision":7}"#).unwrap().unwrap();
        let FeedEvent::Change(change) = change else { panic!("{change:?}") };
        assert!(!change.more && change.revision == Revision::from_number(7));
    }
}
