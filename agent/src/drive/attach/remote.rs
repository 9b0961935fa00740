//! A VM service in another process, as the agent sees it.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::model::PromotionId;

use super::http::Socket;
use super::wire;
use crate::vm_service::{FreezeId, Frozen, Registration, SettingsView, StorageReport, Thawed, VmReport, VmService};

/// How long answers from memory may take.
const LOOK_WAIT: Duration = Duration::from_secs(2);
/// How long a durable write may take.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// How long a VM may take to start or to end: the service's own limits, with room.
const RUN_WAIT: Duration = Duration::from_secs(30);
/// How long a freeze may take: it first syncs what the VM has written.
const FREEZE_WAIT: Duration = Duration::from_secs(60);

const NOTHING: Option<&()> = None;

/// A client of [`serve`](super::serve). Where nobody answers in time, the refusal's code is `vm_service_unreachable`.
#[derive(Clone, Debug)]
pub struct Remote {
    socket: Socket,
}

impl Remote {
    /// The VM service that listens at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: Socket::new(socket.into(), "vm_service_unreachable", "VM service") }
    }
}

fn vm_route(route: &str, vm: VmId) -> String {
    route.replace("{vm}", &vm.to_string())
}

#[async_trait]
impl VmService for Remote {
    async fn probe(&self) -> Result<(), Refusal> {
        self.socket.call(Method::POST, wire::PROBE, NOTHING, LOOK_WAIT).await
    }

    async fn list(&self) -> Result<Vec<VmReport>, Refusal> {
        let list: wire::VmList = self.socket.call(Method::GET, wire::VMS, NOTHING, LOOK_WAIT).await?;
        Ok(list.vms)
    }

    async fn apply_settings(&self, settings: &SettingsView) -> Result<(), Refusal> {
        self.socket.call(Method::PUT, wire::SETTINGS, Some(settings), WRITE_WAIT).await
    }

    async fn register(&self, registration: &Registration) -> Result<(), Refusal> {
        self.socket.call(Method::PUT, wire::VMS, Some(registration), WRITE_WAIT).await
    }

    async fn unregister(&self, vm: VmId) -> Result<(), Refusal> {
        self.socket.call(Method::DELETE, &vm_route(wire::VM, vm), NOTHING, WRITE_WAIT).await
    }

    async fn start(&self, vm: VmId) -> Result<(), Refusal> {
        self.socket.call(Method::POST, &vm_route(wire::START, vm), NOTHING, RUN_WAIT).await
    }

    async fn stop(&self, vm: VmId) -> Result<(), Refusal> {
        self.socket.call(Method::POST, &vm_route(wire::STOP, vm), NOTHING, RUN_WAIT).await
    }

    async fn lock(&self, vm: VmId, locked: bool) -> Result<(), Refusal> {
        let method = if locked { Method::PUT } else { Method::DELETE };
        self.socket.call(method, &vm_route(wire::LOCK, vm), NOTHING, WRITE_WAIT).await
    }

    async fn adopt(&self, vm: VmId) -> Result<(), Refusal> {
        self.socket.call(Method::POST, &vm_route(wire::ADOPT, vm), NOTHING, WRITE_WAIT).await
    }

    async fn retire(&self, vm: VmId, id: PromotionId) -> Result<(), Refusal> {
        self.socket.call(Method::PUT, &vm_route(wire::RETIRE, vm), Some(&id.to_string()), WRITE_WAIT).await
    }

    async fn freeze(&self, vm: VmId, hold: Duration) -> Result<Frozen, Refusal> {
        let body = wire::FreezeBody { hold_ms: u64::try_from(hold.as_millis()).unwrap_or(u64::MAX) };
        self.socket.call(Method::POST, &vm_route(wire::FREEZE, vm), Some(&body), FREEZE_WAIT).await
    }

    async fn thaw(&self, freeze: FreezeId) -> Result<Thawed, Refusal> {
        let route = wire::THAW.replace("{freeze}", &freeze.0.to_string());
        self.socket.call(Method::POST, &route, NOTHING, WRITE_WAIT).await
    }

    async fn storage(&self) -> Result<Vec<StorageReport>, Refusal> {
        let list: wire::StorageList = self.socket.call(Method::GET, wire::STORAGE, NOTHING, LOOK_WAIT).await?;
        Ok(list.storage)
    }
}
