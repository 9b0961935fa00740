//! Everything that can be asked of an agent, in one trait.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use landfall_proto::Refusal;
use landfall_proto::id::{Fqdn, NodeName, PrimaryPattern, Revision};

use super::authorization::{Authorization, AuthorizationRemoved};
use super::broker::{BrokerMove, BrokerMoved, BrokerStatus};
use super::ca::{ClusterRotateCa, ClusterRotation};
use super::cluster::{
    ClusterInit, ClusterJoin, ClusterLeave, ClusterLeft, ClusterRecover, ClusterRecovered, ClusterStatus,
};
use super::disabled::VmDisabled;
use super::doctor::DoctorReport;
use super::event::{Event, EventQuery};
use super::failover::{FailoverAnswer, FailoverRequest, FailoverStatus};
use super::network::{NetworkClear, NetworkMapAdd, NetworkMapRemove, NetworkMapRule, NetworkSet, NetworkStatus};
use super::node::{NodeDetail, NodeDrained, NodeRemoved, NodeStatus};
use super::peer::{PeerAccept, PeerInvite, PeerInvited, PeerRemoved, PeerStatus};
use super::point::{PointDiff, PointDifference, PointExport, PointExported, PointProof, PointStatus, PointVerify};
use super::seed::{SeedRequest, Seeded};
use super::settings::{Settings, SettingsEvent, SettingsRevision, SettingsSet};
use super::token::{TokenCreate, TokenCreated, TokenId, TokenRevoked, TokenStatus};
use super::vm::{VmDetail, VmEnable, VmLocation, VmMove, VmSelector, VmStatus};
use super::vm_service::{VmServiceApplied, VmServiceStatus};
use super::vm_set::VmSet;
use super::wait::WaitSeconds;

/// A stream of events. It ends when there will be no more; an error is its last item.
pub type Stream<T> = BoxStream<'static, Result<T, Refusal>>;

/// Who asks, as the kernel says: what `settings history` shows as who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user of the process that opened the connection.
    pub uid: u32,
    /// The process, where the kernel names it.
    pub pid: Option<i32>,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.uid {
            0 => f.write_str("root"),
            uid => write!(f, "uid {uid}"),
        }
    }
}

/// What an agent can do for those on its machine.
///
/// Any agent takes any of these, and finds the owner or the holder itself. A refusal means that nothing was changed, with
/// one exception that says so: [`super::wait::timed_out`]. The server runs each call to its end even when the caller
/// hangs up, so an implementation need not be safe to drop half-way; the two streams are dropped at any time.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Founds a cluster; refused where this agent belongs to one.
    async fn cluster_init(&self, request: ClusterInit) -> Result<ClusterStatus, Refusal>;
    /// Joins a cluster; refused where this agent belongs to one. Repeating it after a lost answer is safe.
    async fn cluster_join(&self, request: ClusterJoin) -> Result<ClusterStatus, Refusal>;
    /// The cluster as this agent sees it.
    async fn cluster_status(&self) -> Result<ClusterStatus, Refusal>;

    /// Takes this agent's node out of its cluster; its state is set aside, and the agent waits for init or join.
    async fn cluster_leave(&self, request: ClusterLeave) -> Result<ClusterLeft, Refusal>;
    /// Begins the cluster's next life with this agent's node alone, where its majority is gone for good.
    async fn cluster_recover(&self, request: ClusterRecover) -> Result<ClusterRecovered, Refusal>;

    /// Has a new CA take the present one's place, step by step.
    async fn cluster_rotate_ca(&self, request: ClusterRotateCa) -> Result<ClusterRotation, Refusal>;

    /// Makes a join token.
    async fn token_create(&self, request: TokenCreate) -> Result<TokenCreated, Refusal>;
    /// The tokens and codes that have not expired.
    async fn token_list(&self) -> Result<Vec<TokenStatus>, Refusal>;
    /// Makes a token or code worthless.
    async fn token_revoke(&self, id: TokenId) -> Result<TokenRevoked, Refusal>;

    /// Every member with what gossip says of it, by id.
    async fn node_list(&self) -> Result<Vec<NodeStatus>, Refusal>;
    /// One member.
    async fn node_show(&self, node: NodeName) -> Result<NodeDetail, Refusal>;
    /// Drains a node: it gets nothing new, and what it holds is moved away. With a wait the answer comes when that is done,
    /// and is a failure where something stays.
    async fn node_drain(&self, node: NodeName, wait: Option<WaitSeconds>) -> Result<NodeDrained, Refusal>;
    /// Ends a drain.
    async fn node_restore(&self, node: NodeName) -> Result<NodeDrained, Refusal>;
    /// Removes a member for good.
    async fn node_remove(&self, node: NodeName, wait: Option<WaitSeconds>) -> Result<NodeRemoved, Refusal>;

    /// Who answers primaries.
    async fn broker_status(&self) -> Result<BrokerStatus, Refusal>;
    /// Gives the CAP to another node, and says how long nobody acted.
    async fn broker_move(&self, request: BrokerMove) -> Result<BrokerMoved, Refusal>;

    /// Every setting.
    async fn settings_show(&self) -> Result<Settings, Refusal>;
    /// Changes settings, and answers them all at the new revision.
    async fn settings_set(&self, request: SettingsSet, caller: Caller) -> Result<Settings, Refusal>;
    /// The revisions that are remembered, oldest first.
    async fn settings_history(&self) -> Result<Vec<SettingsRevision>, Refusal>;
    /// What changes from `from` on; see [`SettingsEvent`] for how it begins. A slow reader is told to resync.
    async fn settings_watch(&self, from: Option<Revision>) -> Result<Stream<SettingsEvent>, Refusal>;

    /// The authorization table, by primary.
    async fn authorization_list(&self) -> Result<Vec<Authorization>, Refusal>;
    /// Adds an entry, or replaces the one with the same primary.
    async fn authorization_add(&self, entry: Authorization) -> Result<Authorization, Refusal>;
    /// Removes an entry and stops the replication of the VMs that lived under it.
    async fn authorization_remove(&self, primary: PrimaryPattern) -> Result<AuthorizationRemoved, Refusal>;

    /// Makes a pairing code.
    async fn peer_invite(&self, request: PeerInvite) -> Result<PeerInvited, Refusal>;
    /// Pairs with the cluster that made a code. Repeating it after a lost answer is safe.
    async fn peer_accept(&self, request: PeerAccept) -> Result<PeerStatus, Refusal>;
    /// The peers, by CAP.
    async fn peer_list(&self) -> Result<Vec<PeerStatus>, Refusal>;
    /// Forgets a peer and stops the replication with it.
    async fn peer_remove(&self, cap: Fqdn) -> Result<PeerRemoved, Refusal>;

    /// The VMs of this cluster, primaries and replicas, by name.
    async fn vm_list(&self) -> Result<Vec<VmStatus>, Refusal>;
    /// One VM.
    async fn vm_show(&self, vm: VmSelector) -> Result<VmDetail, Refusal>;
    /// Where the replica of a VM is received.
    async fn vm_locate(&self, vm: VmSelector) -> Result<VmLocation, Refusal>;
    /// Replicates a VM of this cluster.
    async fn vm_enable(&self, vm: VmSelector, request: VmEnable) -> Result<VmDetail, Refusal>;
    /// Ends the replication of a VM: at the primary's side on both, at the replica's on that one. Files stay.
    async fn vm_disable(&self, vm: VmSelector, wait: Option<WaitSeconds>) -> Result<VmDisabled, Refusal>;
    /// Changes how a VM is replicated.
    async fn vm_set(&self, vm: VmSelector, request: VmSet) -> Result<VmDetail, Refusal>;
    /// Hands the replica of a VM to another node.
    async fn vm_move(&self, vm: VmSelector, request: VmMove) -> Result<VmLocation, Refusal>;

    /// Pauses the replication of a VM at this side.
    async fn vm_pause(&self, vm: VmSelector) -> Result<VmDetail, Refusal>;
    /// Goes on with it; a first copy that was to begin later begins.
    async fn vm_resume(&self, vm: VmSelector) -> Result<VmDetail, Refusal>;
    /// Compares both sides of a VM before anything more is sent.
    async fn vm_resync(&self, vm: VmSelector) -> Result<VmDetail, Refusal>;
    /// Counts the statistics of a VM from zero.
    async fn vm_reset_statistics(&self, vm: VmSelector) -> Result<VmDetail, Refusal>;

    /// Writes the disks of a VM as files to be carried, or takes such files for its replica.
    async fn vm_seed(&self, vm: VmSelector, request: SeedRequest) -> Result<Seeded, Refusal>;

    /// The recovery points of a VM, oldest first.
    async fn point_list(&self, vm: VmSelector) -> Result<Vec<PointStatus>, Refusal>;
    /// Which bytes differ between two points.
    async fn point_diff(&self, vm: VmSelector, request: PointDiff) -> Result<PointDifference, Refusal>;
    /// Writes the disks of a point as raw images.
    async fn point_export(&self, vm: VmSelector, request: PointExport) -> Result<PointExported, Refusal>;
    /// Reads a point back and compares it with its hashes.
    async fn point_verify(&self, vm: VmSelector, request: PointVerify) -> Result<PointProof, Refusal>;

    /// A verb of failover: test, planned, unplanned, complete, cancel.
    async fn failover(&self, vm: VmSelector, request: FailoverRequest) -> Result<FailoverAnswer, Refusal>;
    /// How far the failover of a VM is.
    async fn failover_status(&self, vm: VmSelector) -> Result<FailoverStatus, Refusal>;

    /// What each adapter of a VM would have if this cluster brought it up now.
    async fn network_show(&self, vm: VmSelector) -> Result<NetworkStatus, Refusal>;
    /// Gives an adapter of a VM its failover addresses at this cluster.
    async fn network_set(&self, vm: VmSelector, request: NetworkSet) -> Result<NetworkStatus, Refusal>;
    /// Takes failover addresses away from an adapter.
    async fn network_clear(&self, vm: VmSelector, request: NetworkClear) -> Result<NetworkStatus, Refusal>;
    /// Which subnet here stands for which of a peer's, by peer.
    async fn network_map_list(&self) -> Result<Vec<NetworkMapRule>, Refusal>;
    /// Adds such a rule.
    async fn network_map_add(&self, request: NetworkMapAdd) -> Result<NetworkMapRule, Refusal>;
    /// Removes one.
    async fn network_map_remove(&self, request: NetworkMapRemove) -> Result<NetworkMapRule, Refusal>;

    /// Looks for faults of this node, its cluster and its peers, for so long at most.
    async fn doctor(&self, wait: Option<WaitSeconds>) -> Result<DoctorReport, Refusal>;

    /// Past events, oldest first, then new ones. A slow reader misses events, and sees it by their ids.
    async fn event_tail(&self, query: EventQuery) -> Result<Stream<Event>, Refusal>;

    /// A process of another user, who may ask for nothing, has opened the socket: it is told to the operator.
    fn stranger_refused(&self, stranger: Caller);

    /// The VM service has applied a revision.
    async fn vm_service_applied(&self, applied: VmServiceApplied) -> Result<(), Refusal>;
    /// The VM service says what runs here.
    async fn vm_service_status(&self, status: VmServiceStatus) -> Result<(), Refusal>;
}
