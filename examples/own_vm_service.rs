//! A VM service of one's own, attached to an embedded agent: what a hypervisor's integration begins with.
//!
//! ```sh
//! cargo run --example own_vm_service
//! ```
//!
//! It has one VM that never runs, whose disk is a file, and applies settings by printing them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use landfall_agent::config::NodeConfig;
use landfall_agent::drive::attach::Link;
use landfall_agent::surface::Operations;
use landfall_agent::vm_service::{
    FreezeId, FreezeMethod, Frozen, Image, ImageFormat, Registration, SettingsView, StorageReport, Thawed, VmReport,
    VmRole, VmService, VmState,
};
use landfall_agent::{Agent, Seams};
use landfall_proto::id::VmId;
use landfall_proto::message::control::Consistency;
use landfall_proto::model::{DiskSpec, VmSpec};
use landfall_proto::{Class, Refusal};

const DISK_BYTES: u64 = 1 << 20;

struct OneVm {
    disk: PathBuf,
    storage: PathBuf,
}

impl OneVm {
    fn report(&self) -> Result<VmReport, Refusal> {
        let target: landfall_proto::id::DiskTarget = "vda".parse()?;
        Ok(VmReport {
            vm: VmSpec {
                id: "6f1c2a52-0b0f-4c6e-9f2e-3a51d0a1c0ff".parse()?,
                name: "Example_VM".parse()?,
                disks: vec![DiskSpec { target: target.clone(), bytes: DISK_BYTES }],
                adapters: Vec::new(),
                launch: Default::default(),
            },
            role: VmRole::Primary,
            state: VmState::Stopped,
            run: 1,
            stopped_only: false,
            images: vec![Image { target, path: self.disk.clone(), format: ImageFormat::Raw, bytes: DISK_BYTES }],
            fault: None,
        })
    }
}

fn not_here() -> Refusal {
    Refusal::new(Class::Refused, "not_supported", "this VM service has one VM, which never runs")
}

#[async_trait]
impl VmService for OneVm {
    async fn probe(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<VmReport>, Refusal> {
        Ok(vec![self.report()?])
    }

    async fn apply_settings(&self, settings: &SettingsView) -> Result<(), Refusal> {
        println!("settings at revision {} are in force here", settings.revision);
        Ok(())
    }

    async fn register(&self, _: &Registration) -> Result<(), Refusal> {
        Err(not_here())
    }

    async fn unregister(&self, _: VmId) -> Result<(), Refusal> {
        Ok(())
    }

    async fn start(&self, _: VmId) -> Result<(), Refusal> {
        Err(not_here())
    }

    async fn stop(&self, _: VmId) -> Result<(), Refusal> {
        Ok(())
    }

    async fn freeze(&self, _: VmId, _: Duration) -> Result<Frozen, Refusal> {
        // The VM is off, so every moment is one instant.
        let report = self.report()?;
        let (freeze, method, consistency) = (FreezeId(1), FreezeMethod::Off, Consistency::Off);
        Ok(Frozen { freeze, method, consistency, images: report.images, run: report.run })
    }

    async fn thaw(&self, _: FreezeId) -> Result<Thawed, Refusal> {
        Ok(Thawed { held: true, stood_still_micros: 0 })
    }

    async fn storage(&self) -> Result<Vec<StorageReport>, Refusal> {
        let (name, path) = ("default".parse()?, self.storage.clone());
        Ok(vec![StorageReport { name, path, free_bytes: 0, fault: None }])
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("landfall-own-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let disk = folder.join("disk.raw");
    std::fs::write(&disk, vec![0; usize::try_from(DISK_BYTES)?])?;
    let text = format!(
        "node = \"e1\"\ndata_dir = \"{0}/data\"\nlisten = \"127.0.0.1:{1}\"\ndata_listen = \"127.0.0.1:{2}\"\n\
         socket = \"{0}/sock\"\n\
         [vm_service]\nkind = \"directory\"\npath = \"{0}/vms\"\n[[storage]]\nname = \"default\"\npath = \"{0}/replicas\"\n",
        folder.display(),
        free_port()?,
        free_port()?
    );
    let config = NodeConfig::parse(Path::new("own.toml"), &text)?;
    let service: Arc<dyn VmService> = Arc::new(OneVm { disk, storage: folder.join("replicas") });
    let agent = Agent::start(config, Seams::machine(), Some(Arc::clone(&service))).await?;
    let link = Link::new(service, Arc::new(agent.clone()));
    let attached = tokio::spawn(async move { link.run().await });
    agent.found("Example".parse()?, "broker.example.org".parse()?, None).await?;
    while agent.vm_list().await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for vm in agent.vm_list().await? {
        println!("{} is {:?} on {:?}", vm.name, vm.state, vm.primary_host);
    }
    attached.abort();
    agent.stop().await;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A UDP port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}
