//! What runs VMs on a node, seen from the agent.
//!
//! The VM service is a process apart from the agent and outlives it. [`VmService`] is what one must be able to do; the
//! `directory` service implements it over folders and child processes, and a program that embeds an agent may bring its
//! own. The agent never starts, stops or reads a VM in any other way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use landfall_proto::id::{DiskTarget, Epoch, Fqdn, Revision, StorageName, VmId};
use landfall_proto::message::control::Consistency;
use landfall_proto::model::{PromotionId, VmSpec};
use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

/// A VM service. Every call is bounded in time by its caller; a refusal means that nothing was changed.
#[async_trait]
pub trait VmService: Send + Sync + 'static {
    /// Whether VMs can be run, read and registered here; the refusal says why not.
    async fn probe(&self) -> Result<(), Refusal>;

    /// Every VM that is here, replicas included.
    async fn list(&self) -> Result<Vec<VmReport>, Refusal>;

    /// Takes over the replication settings at `revision`, durably.
    async fn apply_settings(&self, settings: &SettingsView) -> Result<(), Refusal>;

    /// Registers the replica of a VM: present, with its adapters, not startable. Repeating it updates it.
    async fn register(&self, registration: &Registration) -> Result<(), Refusal>;

    /// Forgets a replica that was registered here; its files stay. No error where there is none.
    async fn unregister(&self, vm: VmId) -> Result<(), Refusal>;

    /// Starts a VM; refused for a replica, and for one that is locked.
    async fn start(&self, vm: VmId) -> Result<(), Refusal>;

    /// Keeps a VM from being started here, whoever asks and wherever its files come from, or gives it free again. It is
    /// durable, and taken for VMs that are not here, too. One that runs is not stopped by it.
    ///
    /// What hands the right to run a VM to another cluster stands on this: a service without it takes part in no planned
    /// failover.
    async fn lock(&self, vm: VmId, locked: bool) -> Result<(), Refusal> {
        let _ = (vm, locked);
        Err(not_supported("keep a VM from being started", "VmService::lock"))
    }

    /// Makes a VM that a failover runs here one of this node's own, whether it runs or not: its images and its command stay,
    /// and from now on it is started by being found, like any. Repeating it is harmless.
    async fn adopt(&self, vm: VmId) -> Result<(), Refusal> {
        let _ = vm;
        Err(not_supported("make a failed-over VM its own", "VmService::adopt"))
    }

    /// Forgets a VM of this node that is off, because it runs elsewhere since the promotion `id`. Its images stay, and its
    /// description under another name. Repeating it is harmless.
    async fn retire(&self, vm: VmId, id: PromotionId) -> Result<(), Refusal> {
        let _ = (vm, id);
        Err(not_supported("set a VM aside", "VmService::retire"))
    }

    /// Stops a VM.
    async fn stop(&self, vm: VmId) -> Result<(), Refusal>;

    /// Brings all disks of a VM to one instant, readable until [`VmService::thaw`] or for `hold`, whichever is first.
    ///
    /// A running VM stands still only as long as the method needs: while copies are made ([`FreezeMethod::Cloned`]) or
    /// until it is thawed ([`FreezeMethod::Stopped`]). Past `hold` the service thaws by itself, so that a dead agent
    /// never stops a VM for good.
    async fn freeze(&self, vm: VmId, hold: Duration) -> Result<Frozen, Refusal>;

    /// Ends a freeze. What was read is one instant only if [`Thawed::held`].
    async fn thaw(&self, freeze: FreezeId) -> Result<Thawed, Refusal>;

    /// The storage locations for replicas, with their room.
    async fn storage(&self) -> Result<Vec<StorageReport>, Refusal>;
}

fn not_supported(what: &str, call: &str) -> Refusal {
    Refusal::new(Class::Refused, "not_supported", format!("this VM service cannot {what}"))
        .remedy(format!("use a VM service that implements {call}"))
}

/// The replication settings at one revision, as a VM service gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsView {
    /// The revision.
    pub revision: Revision,
    /// Every setting, defaults included, in the text form of `settings show`.
    pub settings: BTreeMap<String, String>,
}

/// A replica to be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The VM.
    pub vm: VmSpec,
    /// Whose replica it is.
    pub primary: Fqdn,
    /// The assignment under which this node holds it.
    pub epoch: Epoch,
    /// The folder of its disks on this node.
    pub folder: PathBuf,
    /// What makes it startable: a failover. `None` for a replica that only receives.
    #[serde(default)]
    pub run: Option<Run>,
}

/// What a failover starts. Nothing of it is started by being found: only [`VmService::start`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Whether it is a test: a VM of its own beside the replica, whose adapters are not to be connected.
    pub test: bool,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its images, which it alone writes, ordered by target.
    pub images: Vec<RunImage>,
    /// A cloud-init NoCloud image that tells the guest its addresses, absolute: to be attached as a disk of its own,
    /// read-only. `None` where the guest keeps what it has.
    #[serde(default)]
    pub seed: Option<PathBuf>,
}

/// One disk of a [`Run`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunImage {
    /// The disk.
    pub target: DiskTarget,
    /// Its file, absolute.
    pub path: PathBuf,
}

/// Which part a VM plays on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmRole {
    /// It may run here.
    Primary,
    /// It is a copy: not startable.
    Replica,
    /// It is the VM of a test failover.
    Test,
    /// It is a replica that is failed over.
    FailedOver,
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Its process runs (a short freeze included).
    Running,
    /// It has no process.
    Stopped,
}

/// A VM as the service finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmReport {
    /// What it is.
    pub vm: VmSpec,
    /// Its part.
    pub role: VmRole,
    /// Whether it runs.
    pub state: VmState,
    /// A number that changes whenever the VM may have run or this service was not watching: while it stays the same
    /// and the state is stopped, nobody that this service knows has written the disks.
    pub run: u64,
    /// Whether images may be read only while the VM is stopped, because somebody else may be writing them.
    pub stopped_only: bool,
    /// Its images, in the order of the VM's disks.
    pub images: Vec<Image>,
    /// Why it cannot be replicated, where it cannot (a missing or truncated image).
    pub fault: Option<Refusal>,
}

/// The code of [`VmReport::fault`] of a VM whose images have not been looked at yet: a matter of a moment.
pub const NOT_MEASURED: &str = "not_measured";

/// One disk's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The disk.
    pub target: DiskTarget,
    /// The file, absolute.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// The size that the guest sees, in bytes.
    pub bytes: u64,
}

/// How an image's file holds the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// A freeze under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FreezeId(pub u64);

/// How an instant is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreezeMethod {
    /// The images were copied by reference (FICLONE); the VM runs again.
    Cloned,
    /// The VM stands still until thawed.
    Stopped,
    /// The VM was off and is kept off.
    Off,
}

/// One instant of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// For [`VmService::thaw`].
    pub freeze: FreezeId,
    /// How it is held.
    pub method: FreezeMethod,
    /// What kind of point it makes.
    pub consistency: Consistency,
    /// What to read, in the order of the VM's disks: the images, or their clones.
    pub images: Vec<Image>,
    /// [`VmReport::run`] at the instant.
    pub run: u64,
}

/// How a freeze ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thawed {
    /// Whether the instant held until now; false where the time was up first, or the VM was changed meanwhile.
    pub held: bool,
    /// For how long the VM stood still, in microseconds.
    pub stood_still_micros: u64,
}

/// Room at a storage location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageReport {
    /// Its name in the node's file.
    pub name: StorageName,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes free for a process without privileges.
    pub free_bytes: u64,
    /// Why nothing can be stored there just now.
    pub fault: Option<String>,
}
