//! What an agent does for those on its machine: [`Operations`], carried out on the running agent.

mod adjusting;
mod cap_address;
mod census;
mod clusters;
mod discarding;
mod doctor;
mod draining;
mod failover;
mod failover_status;
mod leaving;
pub(crate) mod network;
mod pausing;
mod planned;
mod points;
mod policy;
mod proofs;
mod recovering;
mod relationships;
mod resolving;
mod rights;
mod rotating;
mod seeds;
mod steering;
mod vms;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use landfall_proto::Refusal;
use landfall_proto::alpn::Alpn;
use landfall_proto::id::{Fqdn, NodeName, PrimaryPattern, Revision};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout};

use crate::Agent;
use crate::drive::control::Control;
use crate::drive::membership::Membership;
use crate::surface::authorization::{Authorization, AuthorizationRemoved};
use crate::surface::broker::{BrokerMove, BrokerMoved, BrokerStatus};
use crate::surface::ca::{ClusterRotateCa, ClusterRotation};
use crate::surface::cluster::{
    ClusterInit, ClusterJoin, ClusterLeave, ClusterLeft, ClusterRecover, ClusterRecovered, ClusterStatus,
};
use crate::surface::disabled::VmDisabled;
use crate::surface::doctor::DoctorReport;
use crate::surface::event::{Event, EventQuery};
use crate::surface::failover::{FailoverAnswer, FailoverRequest, FailoverStatus};
use crate::surface::network::{
    NetworkClear, NetworkMapAdd, NetworkMapRemove, NetworkMapRule, NetworkSet, NetworkStatus,
};
use crate::surface::node::{NodeDetail, NodeDrained, NodeRemoved, NodeStatus};
use crate::surface::operations::{Caller, Operations, Stream};
use crate::surface::peer::{PeerAccept, PeerInvite, PeerInvited, PeerRemoved, PeerStatus};
use crate::surface::point::{
    PointDiff, PointDifference, PointExport, PointExported, PointProof, PointStatus, PointVerify,
};
use crate::surface::seed::{SeedRequest, Seeded};
use crate::surface::settings::{Settings, SettingsEvent, SettingsRevision, SettingsSet};
use crate::surface::token::{TokenCreate, TokenCreated, TokenId, TokenRevoked, TokenStatus};
use crate::surface::vm::{VmDetail, VmEnable, VmLocation, VmMove, VmSelector, VmStatus};
use crate::surface::vm_service::{VmServiceApplied, VmServiceStatus};
use crate::surface::vm_set::VmSet;
use crate::surface::wait::WaitSeconds;

/// How long `cluster init` and `cluster join` wait until the node sees itself as a member under an owner.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(15);
/// How often it looks again meanwhile.
const LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);

impl Agent {
    fn control(&self) -> Result<Control, Refusal> {
        Ok(self.member()?.control.clone())
    }

    /// The status once an owner is known and gossip has heard a majority, or as it is when that takes too long.
    async fn settled(&self, membership: &Membership) -> Result<ClusterStatus, Refusal> {
        let node = &membership.control.node;
        let deadline = Instant::now() + SETTLE;
        let mut states = node.consensus.watch_state();
        let known = states.wait_for(|state| state.claim.is_some() && state.members.contains(&node.me));
        drop(timeout(SETTLE, known).await);
        let mut status = node.consensus.watch_status();
        drop(tokio::time::timeout_at(deadline, status.wait_for(|status| status.leader.is_some())).await);
        loop {
            let seen = clusters::status(node)?;
            if (seen.quorate && seen.owner.is_some()) || Instant::now() >= deadline {
                return Ok(seen);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

#[async_trait]
impl Operations for Agent {
    async fn cluster_init(&self, request: ClusterInit) -> Result<ClusterStatus, Refusal> {
        let ClusterInit { name, cap, cap_address, cap_interface } = request;
        let address = match (cap_address.is_empty(), cap_interface) {
            (true, None) => None,
            (false, Some(interface)) => Some((cap_address, interface)),
            (true, Some(interface)) => {
                let remedy = "give cap_address as well, or neither";
                return Err(Refusal::invalid("cap_interface", interface.as_str(), remedy));
            }
            (false, None) => {
                let given: Vec<String> = cap_address.iter().map(ToString::to_string).collect();
                return Err(Refusal::invalid("cap_address", &given.join(","), "give cap_interface as well"));
            }
        };
        self.found(name, cap, address).await?;
        self.settled(self.member()?.as_ref()).await
    }

    async fn cluster_join(&self, request: ClusterJoin) -> Result<ClusterStatus, Refusal> {
        self.join(&request.token).await?;
        self.settled(self.member()?.as_ref()).await
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Refusal> {
        clusters::status(&self.control()?.node)
    }

    async fn cluster_rotate_ca(&self, request: ClusterRotateCa) -> Result<ClusterRotation, Refusal> {
        rotating::rotate(&self.control()?, request).await
    }

    async fn cluster_recover(&self, request: ClusterRecover) -> Result<ClusterRecovered, Refusal> {
        recovering::recover(self, request).await
    }

    async fn cluster_leave(&self, request: ClusterLeave) -> Result<ClusterLeft, Refusal> {
        Box::pin(leaving::leave(self, request)).await
    }

    async fn token_create(&self, request: TokenCreate) -> Result<TokenCreated, Refusal> {
        clusters::token_create(&self.control()?, request).await
    }

    async fn token_list(&self) -> Result<Vec<TokenStatus>, Refusal> {
        Ok(clusters::token_list(&self.control()?.node))
    }

    async fn token_revoke(&self, id: TokenId) -> Result<TokenRevoked, Refusal> {
        clusters::token_revoke(&self.control()?.node, id).await
    }

    async fn node_list(&self) -> Result<Vec<NodeStatus>, Refusal> {
        Ok(clusters::list(&self.control()?.node))
    }

    async fn node_show(&self, node: NodeName) -> Result<NodeDetail, Refusal> {
        clusters::show(&self.control()?.node, &node)
    }

    async fn node_remove(&self, node: NodeName, _wait: Option<WaitSeconds>) -> Result<NodeRemoved, Refusal> {
        clusters::remove(&self.control()?.node, &node).await
    }

    async fn node_drain(&self, node: NodeName, wait: Option<WaitSeconds>) -> Result<NodeDrained, Refusal> {
        draining::drain(&self.control()?.node, &node, wait).await
    }

    async fn node_restore(&self, node: NodeName) -> Result<NodeDrained, Refusal> {
        draining::restore(&self.control()?.node, &node).await
    }

    async fn broker_status(&self) -> Result<BrokerStatus, Refusal> {
        clusters::broker(&self.control()?.node)
    }

    async fn broker_move(&self, request: BrokerMove) -> Result<BrokerMoved, Refusal> {
        steering::broker_move(&self.control()?.node, request).await
    }

    async fn settings_show(&self) -> Result<Settings, Refusal> {
        Ok(policy::settings_show(&self.control()?.node))
    }

    async fn settings_set(&self, request: SettingsSet, caller: Caller) -> Result<Settings, Refusal> {
        policy::settings_set(&self.control()?.node, request, caller).await
    }

    async fn settings_history(&self) -> Result<Vec<SettingsRevision>, Refusal> {
        Ok(policy::settings_history(&self.control()?.node))
    }

    async fn settings_watch(&self, from: Option<Revision>) -> Result<Stream<SettingsEvent>, Refusal> {
        Ok(policy::settings_watch(&self.control()?.node, from))
    }

    async fn authorization_list(&self) -> Result<Vec<Authorization>, Refusal> {
        Ok(policy::authorization_list(&self.control()?.node))
    }

    async fn authorization_add(&self, entry: Authorization) -> Result<Authorization, Refusal> {
        policy::authorization_add(&self.control()?.node, entry).await
    }

    async fn authorization_remove(&self, primary: PrimaryPattern) -> Result<AuthorizationRemoved, Refusal> {
        policy::authorization_remove(&self.control()?.node, primary).await
    }

    async fn peer_invite(&self, request: PeerInvite) -> Result<PeerInvited, Refusal> {
        policy::peer_invite(&self.control()?.node, request).await
    }

    async fn peer_accept(&self, request: PeerAccept) -> Result<PeerStatus, Refusal> {
        let node = self.control()?.node;
        let endpoint = node.calls.endpoint(Alpn::Join).clone();
        policy::peer_accept(&node, &endpoint, request).await
    }

    async fn peer_list(&self) -> Result<Vec<PeerStatus>, Refusal> {
        Ok(policy::peer_list(&self.control()?.node))
    }

    async fn peer_remove(&self, cap: Fqdn) -> Result<PeerRemoved, Refusal> {
        policy::peer_remove(&self.control()?.node, cap).await
    }

    async fn vm_list(&self) -> Result<Vec<VmStatus>, Refusal> {
        Ok(vms::list(&self.control()?).await)
    }

    async fn vm_show(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        vms::show(&self.control()?, &vm).await
    }

    async fn vm_locate(&self, vm: VmSelector) -> Result<VmLocation, Refusal> {
        relationships::locate(&self.control()?, &vm).await
    }

    async fn vm_enable(&self, vm: VmSelector, request: VmEnable) -> Result<VmDetail, Refusal> {
        relationships::enable(&self.control()?, &vm, request).await
    }

    async fn vm_disable(&self, vm: VmSelector, _wait: Option<WaitSeconds>) -> Result<VmDisabled, Refusal> {
        relationships::disable(&self.control()?, &vm).await
    }

    async fn vm_move(&self, vm: VmSelector, request: VmMove) -> Result<VmLocation, Refusal> {
        relationships::hand_over(&self.control()?, &vm, request).await
    }

    async fn vm_pause(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        pausing::pause(&self.control()?, &vm).await
    }

    async fn vm_resume(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        pausing::resume(&self.control()?, &vm).await
    }

    async fn vm_set(&self, vm: VmSelector, request: VmSet) -> Result<VmDetail, Refusal> {
        adjusting::set(&self.control()?, &vm, request).await
    }

    async fn vm_resync(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        pausing::resync(&self.control()?, &vm).await
    }

    async fn vm_reset_statistics(&self, vm: VmSelector) -> Result<VmDetail, Refusal> {
        pausing::reset_statistics(&self.control()?, &vm).await
    }

    async fn vm_seed(&self, vm: VmSelector, request: SeedRequest) -> Result<Seeded, Refusal> {
        seeds::seed(&self.control()?, &vm, request).await
    }

    async fn point_list(&self, vm: VmSelector) -> Result<Vec<PointStatus>, Refusal> {
        points::list(&self.control()?, &vm).await
    }

    async fn point_export(&self, vm: VmSelector, request: PointExport) -> Result<PointExported, Refusal> {
        points::export(&self.control()?, &vm, request).await
    }

    async fn point_diff(&self, vm: VmSelector, request: PointDiff) -> Result<PointDifference, Refusal> {
        points::diff(&self.control()?, &vm, request).await
    }

    async fn point_verify(&self, vm: VmSelector, request: PointVerify) -> Result<PointProof, Refusal> {
        proofs::verify(&self.control()?, &vm, request).await
    }

    async fn failover(&self, vm: VmSelector, request: FailoverRequest) -> Result<FailoverAnswer, Refusal> {
        failover::verb(&self.control()?, &vm, request).await
    }

    async fn failover_status(&self, vm: VmSelector) -> Result<FailoverStatus, Refusal> {
        failover_status::status(&self.control()?, &vm).await
    }

    async fn network_show(&self, vm: VmSelector) -> Result<NetworkStatus, Refusal> {
        network::show(&self.control()?.node, &vm).await
    }

    async fn network_set(&self, vm: VmSelector, request: NetworkSet) -> Result<NetworkStatus, Refusal> {
        network::set(&self.control()?.node, &vm, request).await
    }

    async fn network_clear(&self, vm: VmSelector, request: NetworkClear) -> Result<NetworkStatus, Refusal> {
        network::clear(&self.control()?.node, &vm, request).await
    }

    async fn network_map_list(&self) -> Result<Vec<NetworkMapRule>, Refusal> {
        Ok(network::map_list(&self.control()?.node))
    }

    async fn network_map_add(&self, request: NetworkMapAdd) -> Result<NetworkMapRule, Refusal> {
        network::map_add(&self.control()?.node, request).await
    }

    async fn network_map_remove(&self, request: NetworkMapRemove) -> Result<NetworkMapRule, Refusal> {
        network::map_remove(&self.control()?.node, request).await
    }

    async fn doctor(&self, wait: Option<WaitSeconds>) -> Result<DoctorReport, Refusal> {
        doctor::examine(&self.control()?, wait).await
    }

    async fn event_tail(&self, query: EventQuery) -> Result<Stream<Event>, Refusal> {
        let (recent, following) = self.events().follow(query.recent as usize);
        let past = stream::iter(recent.into_iter().map(Ok));
        if !query.follow {
            return Ok(past.boxed());
        }
        let to_come = stream::unfold(following, |mut following| async move {
            loop {
                match following.recv().await {
                    Ok(event) => return Some((Ok(event), following)),
                    // The reader sees the gap by the events' numbers.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Ok(past.chain(to_come).boxed())
    }

    fn stranger_refused(&self, stranger: Caller) {
        self.events().refuse("local_refused", &stranger.to_string(), "only root and the agent's own user may ask it");
    }
    async fn vm_service_applied(&self, applied: VmServiceApplied) -> Result<(), Refusal> {
        self.vms().applied(applied.revision);
        Ok(())
    }

    async fn vm_service_status(&self, status: VmServiceStatus) -> Result<(), Refusal> {
        self.vms().report(status);
        Ok(())
    }
}

/// The agent's operations, to be served.
pub fn of(agent: &Agent) -> Arc<dyn Operations> {
    Arc::new(agent.clone())
}
