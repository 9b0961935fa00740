//! Two processes, or two tasks that only know each other's sockets.

mod away;
mod remote;
mod settings;

use std::sync::Mutex;

use async_trait::async_trait;
use landfall_proto::Refusal;
use landfall_proto::id::VmId;

use crate::vm_service::{FreezeId, Frozen, Registration, SettingsView, StorageReport, Thawed, VmReport, VmService};

/// A VM service that notes what it is asked and answers what it is told to.
#[derive(Default)]
struct Scripted {
    /// Every call, in order.
    calls: Mutex<Vec<String>>,
    /// What every call answers, if not well.
    refusal: Mutex<Option<Refusal>>,
    /// What it lists.
    vms: Vec<VmReport>,
    storage: Vec<StorageReport>,
    frozen: Option<Frozen>,
}

impl Scripted {
    fn note(&self, call: String) -> Result<(), Refusal> {
        self.calls.lock().unwrap().push(call);
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl VmService for Scripted {
    async fn probe(&self) -> Result<(), Refusal> {
        self.note("probe".to_owned())
    }
    async fn list(&self) -> Result<Vec<VmReport>, Refusal> {
        self.note("list".to_owned()).map(|()| self.vms.clone())
    }
    async fn apply_settings(&self, settings: &SettingsView) -> Result<(), Refusal> {
        self.note(format!("apply {} {:?}", settings.revision, settings.settings))
    }
    async fn register(&self, registration: &Registration) -> Result<(), Refusal> {
        self.note(format!("register {registration:?}"))
    }
    async fn unregister(&self, vm: VmId) -> Result<(), Refusal> {
        self.note(format!("unregister {vm}"))
    }
    async fn start(&self, vm: VmId) -> Result<(), Refusal> {
        self.note(format!("start {vm}"))
    }
    async fn stop(&self, vm: VmId) -> Result<(), Refusal> {
        self.note(format!("stop {vm}"))
    }
    async fn lock(&self, vm: VmId, locked: bool) -> Result<(), Refusal> {
        self.note(format!("lock {vm} {locked}"))
    }
    async fn freeze(&self, vm: VmId, hold: std::time::Duration) -> Result<Frozen, Refusal> {
        self.note(format!("freeze {vm} {}", hold.as_millis()))?;
        Ok(self.frozen.clone().unwrap())
    }
    async fn thaw(&self, freeze: FreezeId) -> Result<Thawed, Refusal> {
        self.note(format!("thaw {}", freeze.0)).map(|()| Thawed { held: true, stood_still_micros: 250 })
    }
    async fn storage(&self) -> Result<Vec<StorageReport>, Refusal> {
        self.note("storage".to_owned()).map(|()| self.storage.clone())
    }
}
