//! A VM service that runs nothing: it takes registrations, in memory that outlives the agent, and has room for replicas.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use landfall_agent::config::StorageConfig;
use landfall_agent::vm_service::{
    FreezeId, Frozen, Registration, SettingsView, StorageReport, Thawed, VmReport, VmRole, VmService, VmState,
};
use landfall_proto::id::VmId;
use landfall_proto::model::VmSpec;
use landfall_proto::{Class, Refusal};

/// What the storage location is called.
pub const STORAGE: &str = "default";

/// A node's VM service.
#[derive(Debug)]
pub struct SimVms {
    folder: PathBuf,
    registered: Mutex<BTreeMap<VmId, VmSpec>>,
}

impl SimVms {
    /// One without VMs, whose replicas lie in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, registered: Mutex::default() }
    }

    /// The location of its replicas, for the node's file.
    pub fn storage(&self) -> StorageConfig {
        StorageConfig { name: STORAGE.parse().unwrap(), path: self.folder.clone() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<VmId, VmSpec>) -> T) -> T {
        work(&mut self.registered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn runs_nothing() -> Refusal {
    Refusal::new(Class::Refused, "not_supported", "this VM service runs nothing")
}

#[async_trait]
impl VmService for SimVms {
    async fn probe(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<VmReport>, Refusal> {
        let report = |vm: &VmSpec| VmReport {
            vm: vm.clone(),
            role: VmRole::Replica,
            state: VmState::Stopped,
            run: 0,
            stopped_only: false,
            images: Vec::new(),
            fault: None,
        };
        Ok(self.with(|registered| registered.values().map(report).collect()))
    }

    async fn apply_settings(&self, _: &SettingsView) -> Result<(), Refusal> {
        Ok(())
    }

    async fn register(&self, registration: &Registration) -> Result<(), Refusal> {
        let vm = registration.vm.clone();
        self.with(|registered| drop(registered.insert(vm.id, vm)));
        Ok(())
    }

    async fn unregister(&self, vm: VmId) -> Result<(), Refusal> {
        self.with(|registered| drop(registered.remove(&vm)));
        Ok(())
    }

    async fn start(&self, _: VmId) -> Result<(), Refusal> {
        Err(runs_nothing())
    }

    async fn stop(&self, _: VmId) -> Result<(), Refusal> {
        Err(runs_nothing())
    }

    async fn freeze(&self, _: VmId, _: Duration) -> Result<Frozen, Refusal> {
        Err(runs_nothing())
    }

    async fn thaw(&self, _: FreezeId) -> Result<Thawed, Refusal> {
        Err(runs_nothing())
    }

    async fn storage(&self) -> Result<Vec<StorageReport>, Refusal> {
        let StorageConfig { name, path } = self.storage();
        Ok(vec![StorageReport { name, path, free_bytes: 1 << 40, fault: None }])
    }
}
