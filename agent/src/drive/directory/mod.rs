//! The `directory` VM service: a VM is a folder with a `vm.toml`, its process a child of this service.
//!
//! It starts, stops and freezes VMs, registers replicas, probes storage, and remembers over its own death what it needs:
//! a VM goes on when the service is killed, and is adopted when it is back. Folders that come and go are VMs that come
//! and go, which is how they migrate. It restarts nothing by itself, starts no replica, and reads no disk's content.
//!
//! What is its own lies in `<path>/.landfall`: the lock that says which node the path belongs to, the ledger of VMs, the
//! settings it has applied, its socket.

mod adapter_file;
mod disk_image;
mod durable;
mod foreign;
mod freeze;
mod group;
mod instant;
mod launch;
mod ledger;
mod location;
mod owner;
mod process;
mod reflink;
mod scan;
mod settings;
mod vm;
mod vm_core;
mod vm_file;

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use landfall_proto::id::{NodeName, StorageName, VmId};
use landfall_proto::model::PromotionId;
use landfall_proto::seam::{Clock, Time};
use landfall_proto::{Class, Refusal};
use tokio::task::{AbortHandle, spawn_blocking};

pub use launch::{Launcher, launch};
pub use reflink::{Ficlone, Reflink};
pub use settings::{applied_settings, settings_file};

use self::freeze::{Freezes, Mark};
use self::ledger::Ledger;
use self::location::Location;
use self::owner::Claim;
use self::vm::Vm;
use crate::config::StorageConfig;
use crate::vm_service::{
    FreezeId, Frozen, Registration, SettingsView, StorageReport, Thawed, VmReport, VmRole, VmService, VmState,
};

/// The longest that an instant can be asked for: a full comparison of a large disk, read at 1 GiB/s.
pub const HOLD_MAX: Duration = Duration::from_secs(3600);
/// How often the folders are looked at.
pub const SCAN_EVERY: Duration = Duration::from_secs(1);
/// A scan that takes longer than this is told as a fault of the service.
const SCAN_SLOW: Duration = Duration::from_secs(10);

/// Where the VM service of the VM path `path` listens.
pub fn service_socket(path: &Path) -> PathBuf {
    path.join(owner::PRIVATE).join("vm-service.sock")
}

/// What a `directory` service is made of.
pub struct Options {
    /// The node it serves.
    pub node: NodeName,
    /// The folder of its VMs; created where it is missing.
    pub path: PathBuf,
    /// The storage locations for replicas.
    pub storage: Vec<StorageConfig>,
    /// How often the folders are looked at ([`SCAN_EVERY`]).
    pub scan_every: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How copies by reference are made ([`Ficlone`]).
    pub reflink: Arc<dyn Reflink>,
    /// How this program is run as a launcher.
    pub launcher: Launcher,
}

/// The `directory` service. Dropping it lets every frozen VM go on; VMs that run go on running.
pub struct Directory {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

struct Inner {
    options: Options,
    ledger: Ledger,
    freezes: Freezes,
    catalog: Mutex<BTreeMap<PathBuf, Arc<Vm>>>,
    writers: Mutex<foreign::Holders>,
    /// How many scans there were; held while one runs.
    scans: tokio::sync::Mutex<u64>,
    scanned: Mutex<(Time, Option<Refusal>)>,
    own: Arc<Location>,
    locations: Vec<Arc<Location>>,
    _claim: Claim,
}

impl Directory {
    /// Takes over `options.path`: adopts the VMs that run, ends those whose folders are gone, and begins to watch.
    ///
    /// Refused where the path belongs to another node or another service has it.
    pub async fn open(options: Options) -> Result<Self, Refusal> {
        let inner = blocking(move || Inner::open(options)).await?;
        let inner = Arc::new(inner);
        inner.scan().await?;
        inner.probe_locations().await;
        let scanning = tokio::spawn(scan_forever(inner.clone())).abort_handle();
        let probing = tokio::spawn(probe_forever(inner.clone())).abort_handle();
        Ok(Self { inner, tasks: vec![scanning, probing] })
    }

    fn find(&self, vm: VmId) -> Result<Arc<Vm>, Refusal> {
        let mut same = self.inner.vms().into_iter().filter(|found| found.shown().vm.id == vm);
        let first = same.next().ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
        match same.next() {
            // The one that runs, if one does: it can be stopped; everything else names both folders.
            Some(second) => {
                Ok([first.clone(), second].into_iter().find(|vm| vm.shown().state == VmState::Running).unwrap_or(first))
            }
            None => Ok(first),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.inner.freezes.end_all(&*self.inner.options.clock);
    }
}

impl Inner {
    fn open(options: Options) -> Result<Self, Refusal> {
        let private = options.path.join(owner::PRIVATE);
        for folder in [&options.path, &private] {
            durable::create_folder(folder).map_err(|error| unreadable(&folder.display().to_string(), &error))?;
        }
        let claim = Claim::take(&options.path, &options.node)?;
        let boot = process::boot().map_err(|error| unreadable("/proc/sys/kernel/random/boot_id", &error))?;
        let ledger = Ledger::open(&options.path, &boot, options.clock.wall())?;
        let name: StorageName = "vms".parse()?;
        let own = Location::new(StorageConfig { name, path: options.path.clone() });
        let locations = options.storage.iter().cloned().map(Location::new).collect();
        let scanned = Mutex::new((options.clock.now(), None));
        Ok(Self {
            options,
            ledger,
            freezes: Freezes::default(),
            catalog: Mutex::default(),
            writers: Mutex::default(),
            scans: tokio::sync::Mutex::default(),
            scanned,
            own,
            locations,
            _claim: claim,
        })
    }

    async fn probe_locations(&self) {
        let probes = self.locations.iter().chain([&self.own]).map(|location| {
            let (location, clock) = (location.clone(), self.options.clock.clone());
            location.probe(clock)
        });
        futures_util::future::join_all(probes).await;
    }

    /// The folder in which the replica of `vm` is registered.
    fn replica_folder(&self, vm: VmId) -> PathBuf {
        self.options.path.join(vm.to_string())
    }

    /// Writes the registration; whether it is shown already.
    ///
    /// That this node keeps the replica is committed, and the agent registers it anew after a power cut, when both begin
    /// again: so its file is synced, for it must be whole, and its folder is not. What runs is not left to that.
    fn register(&self, registration: &Registration) -> Result<bool, Refusal> {
        let id = registration.vm.id;
        if let Some(primary) =
            self.vms().iter().map(|vm| vm.shown()).find(|vm| vm.vm.id == id && vm.role == VmRole::Primary)
        {
            let message = format!("VM {id} ({}) is here as a primary", primary.vm.name);
            return Err(Refusal::new(Class::Refused, "vm_exists", message)
                .field("vm")
                .remedy("place the replica on another node, or remove that VM's folder"));
        }
        let text = vm_file::replica(registration)?;
        let folder = self.replica_folder(id);
        let failed = |error: std::io::Error| unreadable(&folder.display().to_string(), &error);
        let file = folder.join(vm_file::VM_FILE);
        if registration.run.is_some() {
            durable::create_folder(&folder).map_err(failed)?;
            durable::replace(&file, text.as_bytes()).map_err(failed)?;
            return Ok(false);
        }
        durable::make_folder(&folder).map_err(failed)?;
        durable::replace_whole(&file, text.as_bytes()).map_err(failed)?;
        Ok(self.take_in_replica(&folder))
    }

    /// Writes the file of a failed-over VM as that of one of this node's own.
    fn adopt(&self, id: VmId) -> Result<(), Refusal> {
        let found = self.vms().into_iter().find(|vm| vm.shown().vm.id == id);
        let found = found.ok_or_else(|| Refusal::not_found("vm", &id.to_string()))?;
        let core = locked(&found.core);
        match core.file.role {
            VmRole::Primary => Ok(()),
            VmRole::FailedOver => {
                let text = vm_file::own(id, &core.file)?;
                durable::replace(&core.folder.join(vm_file::VM_FILE), text.as_bytes())
                    .map_err(|error| unreadable(&core.folder.display().to_string(), &error))
            }
            VmRole::Replica | VmRole::Test => {
                Err(Refusal::new(Class::Refused, "not_failed_over", format!("VM {id} is not failed over here"))
                    .field("vm"))
            }
        }
    }

    /// Gives the file of a VM that is off another name: the folder is no VM then, and stays.
    fn set_aside(&self, id: VmId, promotion: PromotionId) -> Result<(), Refusal> {
        let own = |vm: &Arc<Vm>| {
            let shown = vm.shown();
            shown.vm.id == id && shown.role == VmRole::Primary
        };
        let Some(vm) = self.vms().into_iter().find(own) else { return Ok(()) };
        let core = locked(&vm.core);
        if core.group.is_some() {
            return Err(Refusal::new(Class::Refused, "vm_runs", format!("VM {id} runs here"))
                .field("vm")
                .remedy("stop it"));
        }
        let failed = |error: std::io::Error| unreadable(&core.folder.display().to_string(), &error);
        let file = core.folder.join(vm_file::VM_FILE);
        let aside = core.folder.join(format!("{}.{promotion}", vm_file::VM_FILE));
        match std::fs::rename(&file, &aside) {
            // It was done before, and the next look shows it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && aside.exists() => {}
            renamed => renamed.map_err(failed)?,
        }
        durable::sync_folder(&core.folder).map_err(failed)
    }

    fn unregister(&self, vm: VmId) -> Result<(), Refusal> {
        let replicas = self.vms();
        let replicas = replicas.iter().filter(|found| {
            let shown = found.shown();
            shown.vm.id == vm && shown.role != VmRole::Primary
        });
        for replica in replicas {
            let folder = locked(&replica.core).folder.clone();
            let failed = |error: std::io::Error| unreadable(&folder.display().to_string(), &error);
            match std::fs::remove_file(folder.join(vm_file::VM_FILE)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => durable::sync_folder(&folder).map_err(failed)?,
            }
            if replica.shown().role != VmRole::Replica {
                for log in launch::LOGS {
                    _ = std::fs::remove_file(folder.join(log));
                    _ = std::fs::remove_file(folder.join(log).with_extension("log.1"));
                }
            }
            // Anything else in the folder is not ours, and keeps it.
            _ = std::fs::remove_dir(&folder);
        }
        Ok(())
    }
}

async fn scan_forever(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.options.scan_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = inner.scan().await;
        if let Err(refusal) = &result {
            tracing::error!(err = %refusal, "the VM folders cannot be read");
        }
        *locked(&inner.scanned) = (inner.options.clock.now(), result.err());
    }
}

async fn probe_forever(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(location::PROBE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        inner.probe_locations().await;
    }
}

#[async_trait]
impl VmService for Directory {
    async fn probe(&self) -> Result<(), Refusal> {
        let now = self.inner.options.clock.now();
        let fault = self.inner.own.report(&*self.inner.options.clock).fault;
        let (at, refusal) = locked(&self.inner.scanned).clone();
        let silent = now.since(at);
        let slow = (silent > SCAN_SLOW + self.inner.options.scan_every)
            .then(|| format!("the VM folders were last seen {} s ago", silent.as_secs()));
        match fault.or(slow) {
            Some(why) => Err(Refusal::new(Class::Failed, "vm_path_unusable", why)
                .field("vm_service.path")
                .remedy("look at the disk under the VM path")),
            None => refusal.map_or(Ok(()), Err),
        }
    }

    async fn list(&self) -> Result<Vec<VmReport>, Refusal> {
        Ok(self.inner.vms().iter().map(|vm| vm.shown()).collect())
    }

    async fn apply_settings(&self, settings: &SettingsView) -> Result<(), Refusal> {
        let (inner, settings) = (self.inner.clone(), settings.clone());
        blocking(move || settings::apply(&inner.options.path, &settings)).await
    }

    async fn register(&self, registration: &Registration) -> Result<(), Refusal> {
        let (inner, registration) = (self.inner.clone(), registration.clone());
        // A scan that has read the folders before would take the new one for gone.
        let scans = self.inner.scans.lock().await;
        let shown = blocking(move || inner.register(&registration)).await?;
        drop(scans);
        if shown { Ok(()) } else { self.inner.scan().await }
    }

    async fn unregister(&self, vm: VmId) -> Result<(), Refusal> {
        let inner = self.inner.clone();
        blocking(move || inner.unregister(vm)).await?;
        self.inner.scan().await
    }

    async fn adopt(&self, vm: VmId) -> Result<(), Refusal> {
        let inner = self.inner.clone();
        blocking(move || inner.adopt(vm)).await?;
        self.inner.scan().await
    }

    async fn retire(&self, vm: VmId, id: PromotionId) -> Result<(), Refusal> {
        let inner = self.inner.clone();
        blocking(move || inner.set_aside(vm, id)).await?;
        self.inner.scan().await
    }

    async fn start(&self, vm: VmId) -> Result<(), Refusal> {
        let (inner, vm) = (self.inner.clone(), self.find(vm)?);
        blocking(move || vm.start(&inner)).await
    }

    async fn stop(&self, vm: VmId) -> Result<(), Refusal> {
        let (inner, vm) = (self.inner.clone(), self.find(vm)?);
        blocking(move || vm.stop(&inner)).await
    }

    async fn lock(&self, vm: VmId, lock: bool) -> Result<(), Refusal> {
        let inner = self.inner.clone();
        blocking(move || inner.ledger.lock(vm, lock)).await
    }

    async fn freeze(&self, vm: VmId, hold: Duration) -> Result<Frozen, Refusal> {
        if hold.is_zero() || hold > HOLD_MAX {
            let remedy = format!("use 1 to {} milliseconds", HOLD_MAX.as_millis());
            return Err(Refusal::invalid("hold_ms", &hold.as_millis().to_string(), &remedy));
        }
        let (inner, vm) = (self.inner.clone(), self.find(vm)?);
        let id = FreezeId(inner.ledger.number()?);
        let mark = Mark::of(&inner.options.path, vm.shown().vm.id);
        let freeze = inner.freezes.open(id, &vm, inner.options.clock.now().after(hold), mark)?;
        let (late, late_inner) = (freeze.clone(), inner.clone());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(hold).await;
            tracing::warn!(freeze = late.id.0, "a freeze was not thawed in time and ends by itself");
            late.end(&*late_inner.options.clock);
        });
        freeze.timed_by(timer.abort_handle());
        blocking(move || {
            let frozen = instant::take(&inner, &freeze);
            if frozen.is_err() {
                inner.freezes.drop_failed(&freeze, &*inner.options.clock);
            }
            frozen
        })
        .await
    }

    async fn thaw(&self, freeze: FreezeId) -> Result<Thawed, Refusal> {
        let inner = self.inner.clone();
        blocking(move || Ok(inner.freezes.thaw(freeze, &*inner.options.clock))).await
    }

    async fn storage(&self) -> Result<Vec<StorageReport>, Refusal> {
        Ok(self.inner.locations.iter().map(|location| location.report(&*self.inner.options.clock)).collect())
    }
}

/// Runs what waits for disks or processes where it holds up nothing else. It runs to its end even where nobody waits.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Refusal::new(Class::Failed, "internal", format!("the VM service failed inside: {error}"))
            .remedy("see the log of the VM service"))
    })
}

/// The lock's content, also after a panic of another holder: every change under these locks is complete or repeatable.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unreadable(what: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(Class::Failed, "vm_path_unusable", format!("{what}: {error}"))
        .field("vm_service.path")
        .remedy("make it readable and writable for the VM service")
}
