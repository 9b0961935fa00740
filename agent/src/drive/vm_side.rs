//! This node's VM service as the agent last heard of it.
//!
//! The service reports twice a second. A report is believed for [`STATUS_LIFETIME`]; after that the service counts as
//! stopped, whatever it said last, and nothing is concluded from the VMs that it listed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::id::{Revision, StorageName, VmId};
use landfall_proto::seam::{Clock, Time};
use landfall_proto::{Class, Refusal};
use tokio::sync::watch;

use crate::decide::sender::Here;
use crate::surface::vm_service::{Condition, VmServiceStatus};
use crate::vm_service::{StorageReport, VmReport, VmRole, VmService, VmState};

/// How long a report is believed.
pub const STATUS_LIFETIME: Duration = Duration::from_secs(5);

/// What the service last said.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    at: Option<Time>,
    degraded: Option<String>,
    vms: Vec<VmReport>,
    storage: Vec<StorageReport>,
    first_seen: BTreeMap<VmId, Time>,
    /// The revision that it has acknowledged.
    pub applied: Revision,
}

/// How the service stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It reports and can do all it should.
    Running,
    /// It reports that it cannot.
    Degraded(String),
    /// It does not report.
    Stopped(String),
    /// This node has none: a witness.
    Absent,
}

impl Standing {
    /// Why nothing can be placed here, where that is so.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Running => None,
            Self::Degraded(reason) => Some(format!("is degraded: {reason}")),
            Self::Stopped(reason) => Some(format!("is stopped: {reason}")),
            Self::Absent => Some("is not there".to_owned()),
        }
    }

    /// The word of `node list`, and the reason.
    pub fn words(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Running => ("running", None),
            Self::Degraded(reason) => ("degraded", Some(reason.clone())),
            Self::Stopped(reason) => ("stopped", Some(reason.clone())),
            Self::Absent => ("none", None),
        }
    }
}

/// The VM service of this node.
#[derive(Clone)]
pub struct VmSide {
    service: Option<Arc<dyn VmService>>,
    clock: Arc<dyn Clock>,
    reported: watch::Sender<Arc<Reported>>,
}

impl VmSide {
    /// A node's VM service that has not reported yet; `None` on a witness.
    pub fn new(service: Option<Arc<dyn VmService>>, clock: Arc<dyn Clock>) -> Self {
        Self { service, clock, reported: watch::Sender::new(Arc::default()) }
    }

    /// The service, to be called; refused on a witness.
    pub fn service(&self) -> Result<&Arc<dyn VmService>, Refusal> {
        self.service.as_ref().ok_or_else(|| {
            Refusal::new(Class::Refused, "no_vm_service", "this node is a witness: it hosts no VM")
                .remedy("give the command at a node that hosts VMs")
        })
    }

    /// Takes in a report.
    pub fn report(&self, status: VmServiceStatus) {
        let now = self.clock.now();
        self.reported.send_modify(|reported| {
            let first_seen = status
                .vms
                .iter()
                .map(|vm| (vm.vm.id, reported.first_seen.get(&vm.vm.id).copied().unwrap_or(now)))
                .collect();
            *reported = Arc::new(Reported {
                at: Some(now),
                degraded: (status.state == Condition::Degraded)
                    .then(|| status.reason.unwrap_or_else(|| "it gave no reason".to_owned())),
                vms: status.vms,
                storage: status.storage,
                first_seen,
                applied: reported.applied,
            });
        });
    }

    /// Takes in that the service has applied the settings at `revision`.
    pub fn applied(&self, revision: Revision) {
        self.reported.send_modify(|reported| {
            if reported.applied < revision {
                Arc::make_mut(reported).applied = revision;
            }
        });
    }

    /// What it reports, as it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Reported>> {
        self.reported.subscribe()
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        if self.service.is_none() {
            return Standing::Absent;
        }
        let reported = self.reported.borrow();
        match reported.at {
            None => Standing::Stopped("it has not reported to this agent yet".to_owned()),
            Some(at) => {
                let silent = self.clock.now().since(at);
                match &reported.degraded {
                    _ if silent >= STATUS_LIFETIME => {
                        Standing::Stopped(format!("no report for {} s", silent.as_secs()))
                    }
                    Some(reason) => Standing::Degraded(reason.clone()),
                    None => Standing::Running,
                }
            }
        }
    }

    /// The VMs here, or `None` where the service does not report and so nothing is known.
    pub fn vms(&self) -> Option<Vec<VmReport>> {
        self.fresh().map(|reported| reported.vms.clone())
    }

    /// One VM, where it is here; `None` also where nothing is known.
    pub fn vm(&self, vm: VmId) -> Option<VmReport> {
        self.fresh()?.vms.iter().find(|report| report.vm.id == vm).cloned()
    }

    /// The VM as the choice of senders sees it, if it is here; `None` outside where nothing is known.
    pub fn here(&self, vm: VmId) -> Option<Option<Here>> {
        let reported = self.fresh()?;
        let found = reported.vms.iter().find(|report| report.vm.id == vm && report.role == VmRole::Primary);
        Some(found.map(|report| Here {
            since: reported.first_seen.get(&vm).copied().unwrap_or_default(),
            running: report.state == VmState::Running,
        }))
    }

    /// The storage locations, with their room as last reported.
    pub fn storage(&self) -> Vec<StorageReport> {
        self.reported.borrow().storage.clone()
    }

    /// The storage locations in which nothing can be stored just now, and why; none while the service does not report.
    pub fn storage_faults(&self) -> Vec<(StorageName, String)> {
        let reported = self.fresh();
        let storage = reported.iter().flat_map(|reported| &reported.storage);
        storage.filter_map(|location| Some((location.name.clone(), location.fault.clone()?))).collect()
    }

    fn fresh(&self) -> Option<Arc<Reported>> {
        let reported = Arc::clone(&self.reported.borrow());
        let at = reported.at?;
        (self.clock.now().since(at) < STATUS_LIFETIME).then_some(reported)
    }
}
