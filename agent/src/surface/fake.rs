//! An agent that does nothing but remember what it was asked, for tests of what carries requests to a real one.

use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;
use landfall_proto::Refusal;
use landfall_proto::id::{Fqdn, NodeName, PrimaryPattern, Revision};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::authorization::*;
use super::broker::*;
use super::ca::*;
use super::cluster::*;
use super::disabled::*;
use super::doctor::*;
use super::event::*;
use super::failover::*;
use super::network::*;
use super::node::*;
use super::peer::*;
use super::point::*;
use super::seed::*;
use super::settings::*;
use super::token::*;
use super::vm::*;
use super::vm_service::*;
use super::vm_set::VmSet;
use super::{Caller, Operations, Stream, WaitSeconds, samples};

/// What it was asked, in order: the operation and its arguments.
#[derive(Debug)]
pub struct Fake {
    pub calls: Mutex<Vec<(&'static str, Value)>>,
    /// What every operation answers from now on.
    pub refusal: Mutex<Option<Refusal>>,
    /// What the next settings watch gives before it ends, or goes on without an end.
    pub feed: Mutex<Option<mpsc::Receiver<Result<SettingsEvent, Refusal>>>>,
    /// `vm_move` takes one permit before it is done.
    pub gate: Semaphore,
    /// One permit for each `vm_move` that is done.
    pub moved: Semaphore,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            refusal: Mutex::default(),
            feed: Mutex::default(),
            gate: Semaphore::new(1000),
            moved: Semaphore::new(0),
        }
    }
}

impl Fake {
    fn called<T>(&self, operation: &'static str, arguments: impl Serialize, answer: T) -> Result<T, Refusal> {
        self.calls.lock().unwrap().push((operation, serde_json::to_value(arguments).unwrap()));
        self.refusal.lock().unwrap().clone().map_or(Ok(answer), Err)
    }

    /// The calls since this was last asked.
    pub fn take(&self) -> Vec<(&'static str, Value)> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

#[async_trait]
impl Operations for Fake {
    async fn cluster_init(&self, request: ClusterInit) -> Result<ClusterStatus, Refusal> {
        self.called("cluster_init", request, samples::cluster_status())
    }
    async fn cluster_join(&self, request: ClusterJoin) -> Result<ClusterStatus, Refusal> {
        self.called("cluster_join", request, samples::cluster_status())
    }
    async fn cluster_status(&self) -> Result<ClusterStatus, Refusal> {
        self.called("cluster_status", (), samples::cluster_status())
    }
    async fn cluster_leave(&self, request: ClusterLeave) -> Result<ClusterLeft, Refusal> {
        self.called("cluster_leave", request, samples::cluster_left())
    }
    async fn cluster_rotate_ca(&self, request: ClusterRotateCa) -> Result<ClusterRotation, Refusal> {
        self.called("cluster_rotate_ca", request, samples::cluster_rotation())
    }
    async fn cluster_recover(&self, request: ClusterRecover) -> Result<ClusterRecovered, Refusal> {
        self.called("cluster_recover", request, samples::cluster_recovered())
    }
    async fn token_create(&self, request: TokenCreate) -> Result<TokenCreated, Refusal> {
        self.called("token_create", request, samples::token_created())
    }
    async fn token_list(&self) -> Result<Vec<TokenStatus>, Refusal> {
        self.called("token_list", (), vec![samples::token_status()])
    }
    async fn token_revoke(&self, id: TokenId) -> Result<TokenRevoked, Refusal> {
        self.called("token_revoke", id, TokenRevoked { id })
    }
    async fn node_list(&self) -> Result<Vec<NodeStatus>, Refusal> {
        self.called("node_list", (), vec![samples::node_status()])
    }
    async fn node_show(&self, node: NodeName) -> Result<NodeDetail, Refusal> {
        self.called("node_show", node, samples::node_detail())
    }
    async fn node_remove(&self, node: NodeName, wait: Option<WaitSeconds>) -> Result<NodeRemoved, Refusal> {
        let removed = NodeRemoved { node: node.clone(), id: samples::node_status().id };
        self.called("node_remove", (node, wait), removed)
    }
    async fn node_drain(&self, node: NodeName, wait: Option<WaitSeconds>) -> Result<NodeDrained, Refusal> {
        self.called("node_drain", (node, wait), samples::node_drained())
    }
    async fn node_restore(&self, node: NodeName) -> Result<NodeDrained, Refusal> {
        self.called("node_restore", node, samples::node_drained())
    }
    async fn broker_status(&self) -> Result<BrokerStatus, Refusal> {
        self.called("broker_status", (), samples::broker_status())
    }
    async fn broker_move(&self, request: BrokerMove) -> Result<BrokerMoved, Refusal> {
        self.called("broker_move", request, samples::broker_moved())
    }
    async fn settings_show(&self) -> Result<Settings, Refusal> {
        self.called("settings_show", (), samples::settings())
    }
    async fn settings_set(&self, request: SettingsSet, caller: Caller) -> Result<Settings, Refusal> {
        self.called("settings_set", json!([request, caller.uid, caller.pid]), samples::settings())
    }
    async fn settings_history(&self) -> Result<Vec<SettingsRevision>, Refusal> {
        self.called("settings_history", (), vec![samples::settings_revision()])
    }
    async fn settings_watch(&self, from: Option<Revision>) -> Result<Stream<SettingsEvent>, Refusal> {
        self.called("settings_watch", from, ())?;
        let Some(feed) = self.feed.lock().unwrap().take() else { return Ok(stream::pending().boxed()) };
        Ok(stream::unfold(feed, |mut feed| async { feed.recv().await.map(|event| (event, feed)) }).boxed())
    }
    async fn authorization_list(&self) -> Result<Vec<Authorization>, Refusal> {
        self.called("authorization_list", (), vec![samples::authorization()])
    }
    async fn authorization_add(&self, entry: Authorization) -> Result<Authorization, Refusal> {
        self.called("authorization_add", entry.clone(), entry)
    }
    async fn authorization_remove(&self, primary: PrimaryPattern) -> Result<AuthorizationRemoved, Refusal> {
        let removed = AuthorizationRemoved { primary: primary.clone(), stopped: vec![samples::named_vm()] };
        self.called("authorization_remove", primary, removed)
    }
    async fn peer_invite(&self, request: PeerInvite) -> Result<PeerInvited, Refusal> {
        let invited = PeerInvited { code: "lfp1.secret".to_owned(), expires_at: samples::at() };
        self.called("peer_invite", request, invited)
    }
    async fn peer_accept(&self, request: PeerAccept) -> Result<PeerStatus, Refusal> {
        self.called("peer_accept", request, samples::peer_status())
    }
    async fn peer_list(&self) -> Result<Vec<PeerStatus>, Refusal> {
        self.called("peer_list", (), vec![samples::peer_status()])
    }
    async fn peer_remove(&self, cap: Fqdn) -> Result<PeerRemoved, Refusal> {
        self.called("peer_remove", cap.clone(), PeerRemoved { cap, stopped: vec![] })
    }
    async fn vm_list(&self) -> Result<Vec<VmStatus>, Refusal> {
        self.called("vm_list", (), vec![samples::vm_status()])
    }
    async fn vm_show(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        assert_ne!(vm.to_string(), "panic", "a fault inside the agent");
        self.called("vm_show", vm.to_string(), samples::vm_detail())
    }
    async fn vm_locate(&self, vm: VmSelector) -> Result<VmLocation, Refusal> {
        self.called("vm_locate", vm.to_string(), samples::location())
    }
    async fn vm_enable(&self, vm: VmSelector, request: VmEnable) -> Result<VmDetail, Refusal> {
        self.called("vm_enable", (vm.to_string(), request), samples::vm_detail())
    }
    async fn vm_disable(&self, vm: VmSelector, wait: Option<WaitSeconds>) -> Result<VmDisabled, Refusal> {
        self.called("vm_disable", (vm.to_string(), wait), samples::disabled())
    }
    async fn vm_set(&self, vm: VmSelector, request: VmSet) -> Result<VmDetail, Refusal> {
        self.called("vm_set", (vm.to_string(), request), samples::vm_detail())
    }
    async fn vm_move(&self, vm: VmSelector, request: VmMove) -> Result<VmLocation, Refusal> {
        let answer = self.called("vm_move", (vm.to_string(), request), samples::location());
        self.gate.acquire().await.unwrap().forget();
        self.moved.add_permits(1);
        answer
    }
    async fn vm_pause(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        self.called("vm_pause", vm.to_string(), samples::vm_detail())
    }
    async fn vm_resume(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        self.called("vm_resume", vm.to_string(), samples::vm_detail())
    }
    async fn vm_resync(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        self.called("vm_resync", vm.to_string(), samples::vm_detail())
    }
    async fn vm_reset_statistics(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        self.called("vm_reset_statistics", vm.to_string(), samples::vm_detail())
    }
    async fn vm_seed(&self, vm: VmSelector, request: SeedRequest) -> Result<Seeded, Refusal> {
        self.called("vm_seed", (vm.to_string(), request), samples::seeded())
    }
    async fn point_list(&self, vm: VmSelector) -> Result<Vec<PointStatus>, Refusal> {
        self.called("point_list", vm.to_string(), vec![samples::point()])
    }
    async fn point_export(&self, vm: VmSelector, request: PointExport) -> Result<PointExported, Refusal> {
        self.called("point_export", (vm.to_string(), request), samples::exported())
    }
    async fn point_diff(&self, vm: VmSelector, request: PointDiff) -> Result<PointDifference, Refusal> {
        self.called("point_diff", (vm.to_string(), request), samples::difference())
    }

    async fn point_verify(&self, vm: VmSelector, request: PointVerify) -> Result<PointProof, Refusal> {
        self.called("point_verify", (vm.to_string(), request), samples::proof())
    }
    async fn failover(&self, vm: VmSelector, request: FailoverRequest) -> Result<FailoverAnswer, Refusal> {
        let answer = match request.dry_run {
            true => FailoverAnswer::Plan(Box::new(samples::failover_plan())),
            false => FailoverAnswer::Status(Box::new(samples::failover_status())),
        };
        self.called("failover", (vm.to_string(), request), answer)
    }
    async fn failover_status(&self, vm: VmSelector) -> Result<FailoverStatus, Refusal> {
        self.called("failover_status", vm.to_string(), samples::failover_status())
    }
    async fn network_show(&self, vm: VmSelector) -> Result<NetworkStatus, Refusal> {
        self.called("network_show", vm.to_string(), samples::network_status())
    }
    async fn network_set(&self, vm: VmSelector, request: NetworkSet) -> Result<NetworkStatus, Refusal> {
        self.called("network_set", (vm.to_string(), request), samples::network_status())
    }
    async fn network_clear(&self, vm: VmSelector, request: NetworkClear) -> Result<NetworkStatus, Refusal> {
        self.called("network_clear", (vm.to_string(), request), samples::network_status())
    }
    async fn network_map_list(&self) -> Result<Vec<NetworkMapRule>, Refusal> {
        self.called("network_map_list", (), vec![samples::network_rule()])
    }
    async fn network_map_add(&self, request: NetworkMapAdd) -> Result<NetworkMapRule, Refusal> {
        self.called("network_map_add", request, samples::network_rule())
    }
    async fn network_map_remove(&self, request: NetworkMapRemove) -> Result<NetworkMapRule, Refusal> {
        self.called("network_map_remove", request, samples::network_rule())
    }
    async fn doctor(&self, wait: Option<WaitSeconds>) -> Result<DoctorReport, Refusal> {
        self.called("doctor", wait, samples::doctor_report())
    }
    async fn event_tail(&self, query: EventQuery) -> Result<Stream<Event>, Refusal> {
        self.called("event_tail", (query.recent, query.follow), ())?;
        let recent = stream::iter([Ok(samples::event())]);
        Ok(if query.follow { recent.chain(stream::pending()).boxed() } else { recent.boxed() })
    }
    fn stranger_refused(&self, stranger: Caller) {
        self.calls.lock().unwrap().push(("stranger_refused", json!(stranger.uid)));
    }
    async fn vm_service_applied(&self, applied: VmServiceApplied) -> Result<(), Refusal> {
        self.called("vm_service_applied", applied, ())
    }
    async fn vm_service_status(&self, status: VmServiceStatus) -> Result<(), Refusal> {
        self.called("vm_service_status", status, ())
    }
}
