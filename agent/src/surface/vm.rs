//! Virtual machines and their replication.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use landfall_proto::id::{DiskTarget, Epoch, Fqdn, NodeName, SenderEpoch, StorageName, TrustGroup, VmId};
use landfall_proto::message::control::{Compared, Consistency, Point, Statistics};
use landfall_proto::model::{Adapter, Bandwidth, Frequency};
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use serde::{Deserialize, Serialize};

use crate::surface::failure::ErrorBody;
pub use crate::surface::recovery_points::RecoveryPoints;
use crate::surface::{Utc, WaitSeconds};
pub use crate::vm_service::{VmRole, VmState};

/// How a request names a VM: by UUID, or by its name where no other VM has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSelector(String);

/// The most bytes of a selector: a name has at most 100 characters of four bytes.
const SELECTOR_MAX: usize = 400;

impl FromStr for VmSelector {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() || text.len() > SELECTOR_MAX {
            return Err(Refusal::invalid("vm", text, "give the VM's UUID or name"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<VmId> for VmSelector {
    fn from(vm: VmId) -> Self {
        Self(vm.to_string())
    }
}

impl fmt::Display for VmSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl VmSelector {
    /// The VM meant, out of all `(id, name)`. A UUID is tried first, so that a VM whose name is another one's UUID
    /// cannot hide it. Refused where several VMs have the name: the refusal lists their UUIDs.
    pub fn resolve<'a>(&self, vms: impl IntoIterator<Item = (VmId, &'a str)>) -> Result<VmId, Refusal> {
        let id = self.0.parse::<VmId>().ok();
        let mut named = Vec::new();
        for (vm, name) in vms {
            if Some(vm) == id {
                return Ok(vm);
            }
            if name == self.0 {
                named.push(vm);
            }
        }
        named.sort_unstable();
        named.dedup();
        match named.as_slice() {
            [] => Err(Refusal::not_found("vm", &self.0).remedy("`landfall vm list` shows those that are here")),
            [only] => Ok(*only),
            several => Err(self.ambiguous(several)),
        }
    }

    fn ambiguous(&self, several: &[VmId]) -> Refusal {
        /// A message stays readable; whoever has more namesakes than this finds them in `vm list`.
        const LISTED: usize = 16;
        let mut uuids = several.iter().take(LISTED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if several.len() > LISTED {
            uuids.push_str(", ...");
        }
        let message = format!("{} VMs are called {}: {uuids}", several.len(), quoted(&self.0));
        Refusal::new(Class::Usage, "ambiguous_name", message).field("vm").remedy("name the VM by its UUID")
    }
}

/// A VM by both its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedVm {
    /// Its identity.
    pub uuid: VmId,
    /// Its name: data only.
    pub name: String,
}

/// How a VM's replication stands (Hyper-V's ReplicationState).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicationState {
    /// Not replicated.
    Disabled,
    /// Enabled; the first copy has not begun.
    ReadyForInitialReplication,
    /// The first complete point is being made.
    InitialReplication,
    /// Points follow one another.
    Replicating,
    /// The replica is being handed to another node; points go on.
    Moving,
    /// No node with the acknowledged points is left: a new one is being filled.
    Seeding,
    /// The two sides' contents are being compared.
    Resynchronizing,
    /// They must be compared, and that waits for its window.
    WaitingToResynchronize,
    /// Paused by an operator.
    Suspended,
    /// Stopped: its authorization or its peer is gone.
    Stopped,
    /// It fails and is retried; the reasons say why.
    Error,
    /// At the primary: a planned failover has begun, and the VM is kept from being started.
    PreparedForFailover,
    /// At the replica: it runs here, and can still be taken back.
    FailedOverWaitingCompletion,
    /// At the replica: it runs here for good.
    FailedOver,
}

/// How well a VM or a peer is (Hyper-V's ReplicationHealth).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not replicated.
    NotApplicable,
    /// All is well.
    Normal,
    /// Somebody should look soon.
    Warning,
    /// Somebody should look now.
    Critical,
}

/// Why health is not normal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthDetail {
    /// The reason, one word that stays the same.
    pub code: String,
    /// How bad it is by itself.
    pub severity: Health,
    /// A sentence.
    pub message: String,
    /// What to try first, at this cluster unless the sentence names the other one.
    pub command: String,
}

/// A row of `vm list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its identity.
    pub uuid: VmId,
    /// Its name: data only.
    pub name: String,
    /// Its part in this cluster.
    pub role: VmRole,
    /// How its replication stands.
    pub state: ReplicationState,
    /// How well it is.
    pub health: Health,
    /// Why it is not normal, a sentence each.
    pub health_reasons: Vec<String>,
    /// The same reasons for scripts, in the same order.
    pub health_details: Vec<HealthDetail>,
    /// What the other side is addressed by: at the primary the replica's CAP or FQDN, at the replica the primary's.
    pub connection_point: Option<Fqdn>,
    /// The node on which it runs, or that sends it.
    pub primary_host: Option<String>,
    /// The CAP of the cluster that keeps the replica.
    pub replica_cluster: Option<Fqdn>,
    /// The node that receives the replica.
    pub replica_host: Option<String>,
    /// The nodes that have every acknowledged byte.
    pub in_sync: Vec<NodeName>,
    /// The replica's assignment.
    pub epoch: Option<Epoch>,
    /// What kind of instant the newest point is.
    pub consistency: Option<Consistency>,
    /// The instant of the newest acknowledged point, by the sender's clock.
    pub last_point_at: Option<Utc>,
    /// How long ago that was.
    pub lag_seconds: Option<u64>,
    /// How much of the VM's time would be lost if it were recovered now from what can be reached.
    pub recoverable_rpo_seconds: Option<u64>,
    /// At the primary: bytes of disk content sent since replication was enabled, before compression; zeroes count for
    /// none. At the replica: bytes of content received since its node's agent started.
    pub sent_bytes: u64,
    /// Bytes of all frames for them, both ways: content, hashes, questions and answers. QUIC adds about 3 %.
    pub wire_bytes: u64,
}

/// `vm show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDetail {
    /// What `vm list` shows.
    #[serde(flatten)]
    pub status: VmStatus,
    /// Whether its process runs, where that is known.
    pub vm_state: Option<VmState>,
    /// The change set interval.
    pub frequency_seconds: Option<Frequency>,
    /// The interval really used, where the node's file shortens it for a test.
    pub testing_interval_ms: Option<u64>,
    /// Older points kept beside the newest.
    pub recovery_points: Option<u8>,
    /// Where the replica is stored.
    pub storage: Option<StorageName>,
    /// The trust group the replica was created under.
    pub trust_group: Option<TrustGroup>,
    /// The sender's epoch, in the primary's cluster.
    pub sender_epoch: Option<SenderEpoch>,
    /// Its disks.
    pub disks: Vec<DiskStatus>,
    /// Its adapters.
    pub adapters: Vec<Adapter>,
    /// What the sender is doing, one word.
    pub activity: Option<String>,
    /// How the last instant was frozen.
    pub freeze: Option<String>,
    /// For how long the VM stood still for it, in microseconds.
    pub frozen_micros: Option<u64>,
    /// Where the last changes came from.
    pub source: Option<String>,
    /// Cycles that were late.
    pub missed_cycles: Option<u64>,
    /// The last failure, while it lasts.
    pub fault: Option<ErrorBody>,
    /// The node that the replica is being handed to.
    pub moving_to: Option<NodeName>,
    /// On how many nodes the replica is to be; `in_sync` says on which it is.
    pub copies_wanted: Option<usize>,
    /// The node that copies the replica, to be one of them.
    pub copying_to: Option<NodeName>,
    /// The newest point that was sent, or is on its way.
    pub sent_point: Option<PointMark>,
    /// The newest point that was acknowledged: it is on the disk of every node of the in-sync set.
    pub durable_point: Option<PointMark>,
    /// The newest point that was acknowledged by a holder that was sure to be the holder, its content proven against its
    /// root before.
    pub verified_point: Option<PointMark>,
    /// Bytes of the change set that is captured and not acknowledged yet.
    pub pending_bytes: Option<u64>,
    /// How far the other site's clock is ahead, in milliseconds, where the sender has asked.
    pub clock_skew_ms: Option<i64>,
    /// What the sender has counted in this monitoring window.
    pub statistics: Option<ReplicationStatistics>,
    /// Since when it is paused at this side.
    pub paused_since: Option<Utc>,
    /// When its first copy begins, where it was not to begin at once.
    pub starts_at: Option<Utc>,
    /// What its sender may take of the line, in Mbit/s, where it has a limit of its own.
    pub bandwidth_limit: Option<Bandwidth>,
    /// Kilobits a second that its sender may take now, by its own limit and its node's part of the cluster's.
    pub limited_to_kbit: Option<u64>,
    /// Its disks that are not replicated, as its primary's cluster knows.
    pub excluded_disks: Vec<DiskTarget>,
    /// The last comparison of both sides by the present sender, and why.
    pub compared: Option<Comparison>,
    /// Nodes that claim to run it while another has not released it.
    pub rivals: Vec<NodeName>,
    /// Why each other node was not taken when the replica was last placed, as far as it is still known.
    pub passed_over: Vec<PassedOver>,
}

/// A point by its number and instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointMark {
    /// Its sequence number.
    pub point: u64,
    /// The instant, by the sender's clock.
    pub taken_at: Utc,
}

impl From<&Point> for PointMark {
    fn from(point: &Point) -> Self {
        Self { point: point.sequence, taken_at: point.taken_at.into() }
    }
}

/// What was counted in a monitoring window (Hyper-V's replication statistics). The first copy is no cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationStatistics {
    /// Since when, by the sender's clock: the window's start, or when counting began within it.
    pub since: Utc,
    /// When the window ends, and everything is counted from zero.
    pub until: Utc,
    /// Change sets that were acknowledged.
    pub cycles: u64,
    /// Intervals in which none could begin, because the one before took longer.
    pub missed: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Bytes of disk content sent.
    pub sent_bytes: u64,
    /// The most of them for one change set.
    pub sent_bytes_max: u64,
    /// On average; null where there was none.
    pub sent_bytes_average: Option<u64>,
    /// The longest time from when a change set was due until it was acknowledged.
    pub latency_max_ms: u64,
    /// On average; null where there was none.
    pub latency_average_ms: Option<u64>,
}

impl From<Statistics> for ReplicationStatistics {
    fn from(counted: Statistics) -> Self {
        Self {
            since: counted.since.into(),
            until: counted.until.into(),
            cycles: counted.cycles,
            missed: counted.missed,
            failures: counted.failures,
            sent_bytes: counted.bytes,
            sent_bytes_max: counted.bytes_max,
            sent_bytes_average: counted.bytes.checked_div(counted.cycles),
            latency_max_ms: counted.latency_max_ms,
            latency_average_ms: counted.latency_ms.checked_div(counted.cycles),
        }
    }
}

/// A comparison of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Why: `asked`, `new_sender`, `sent_elsewhere`, `unfinished`, `doubted`, `reshaped`, `new_home`,
    /// `index_lost` or `diverged`.
    pub code: String,
    /// Why, a sentence.
    pub message: String,
    /// When it began, by the sender's clock.
    pub at: Utc,
}

impl From<Compared> for Comparison {
    fn from(compared: Compared) -> Self {
        Self { code: compared.code, message: compared.message, at: compared.at.into() }
    }
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its place in the VM.
    pub target: DiskTarget,
    /// Its size as the guest sees it.
    pub bytes: u64,
}

/// A node that a placement did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The node.
    pub node: NodeName,
    /// Why.
    pub reason: String,
}

/// `vm locate`: where the replica is received. Also the answer of `vm move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmLocation {
    /// The VM.
    pub uuid: VmId,
    /// The node.
    pub node: NodeName,
    /// Its data address.
    pub address: SocketAddr,
    /// The assignment: of two answers the one with the higher epoch is true.
    pub epoch: Epoch,
}

/// `vm enable`: replicates a VM of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmEnable {
    /// The CAP or FQDN to replicate to: a name, never an address.
    #[serde(deserialize_with = "deserialize_target")]
    pub to: Fqdn,
    /// The change set interval: 30, 300 or 900; Hyper-V's default of 300 where none is given.
    #[serde(default = "five_minutes")]
    pub frequency_seconds: Frequency,
    /// Older points to keep.
    #[serde(default)]
    pub recovery_points: RecoveryPoints,
    /// When the first copy begins, at most seven days ahead; at once where none is given.
    #[serde(default)]
    pub start_at: Option<Utc>,
    /// What its sender may take of the line, in Mbit/s, perhaps by a calendar.
    #[serde(default)]
    pub limit: Option<Bandwidth>,
    /// Disks that are not replicated, by target: they are in no form at the replica. None where none are given.
    #[serde(default)]
    pub exclude: Vec<DiskTarget>,
    /// Wait until the first complete point is acknowledged.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// The name to replicate to. An IPv4 address would pass for a name by its letters, but no certificate names one
/// (as in Hyper-V: names only, never addresses).
pub fn replication_target(text: &str) -> Result<Fqdn, Refusal> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        let remedy = "give the CAP's name, such as r-broker-cap.contoso.com: certificates prove names, not addresses";
        return Err(Refusal::invalid("to", text, remedy));
    }
    text.parse::<Fqdn>().map_err(|refusal| refusal.field("to"))
}

fn deserialize_target<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Fqdn, D::Error> {
    let text = String::deserialize(from)?;
    replication_target(&text).map_err(serde::de::Error::custom)
}

const fn five_minutes() -> Frequency {
    Frequency::FiveMinutes
}

/// `vm move`: hands the replica of a VM to another node of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmMove {
    /// The node.
    pub to: NodeName,
    /// Wait until that node holds the replica; the answer is then where it is, else where it still is.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}
