//! Which request is which operation.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post, put};
use landfall_proto::id::Revision;
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use super::answer::{Refused, json};
use super::ask::{Ask, Named, Parameters, Report};
use super::feed::{self, Feed};
use super::limits::{FEEDS_MAX, REQUESTS_MAX};
use crate::surface::authorization::Authorization;
use crate::surface::broker::BrokerMove;
use crate::surface::ca::ClusterRotateCa;
use crate::surface::cluster::{ClusterInit, ClusterJoin, ClusterLeave, ClusterRecover};
use crate::surface::event::EventQuery;
use crate::surface::failover::FailoverRequest;
use crate::surface::network::{NetworkClear, NetworkMapAdd, NetworkMapRemove, NetworkSet};
use crate::surface::peer::{PeerAccept, PeerInvite};
use crate::surface::point::{PointDiff, PointExport, PointVerify};
use crate::surface::seed::SeedRequest;
use crate::surface::settings::SettingsSet;
use crate::surface::token::TokenCreate;
use crate::surface::vm::{VmEnable, VmMove};
use crate::surface::vm_service::{VmServiceApplied, VmServiceStatus};
use crate::surface::vm_set::VmSet;
use crate::surface::{Caller, Operations, Stream, WaitSeconds};

/// What every route shares.
#[derive(Clone)]
struct Api {
    operations: Arc<dyn Operations>,
    requests: Arc<Semaphore>,
    feeds: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
}

type Answer = Result<Response, Refused>;

impl Api {
    /// Runs one operation to its end in a task of its own, whether or not the caller still listens.
    async fn run<T, F>(self, operation: impl FnOnce(Arc<dyn Operations>) -> F) -> Answer
    where
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
        T: Serialize + Send + 'static,
    {
        let slot = Arc::clone(&self.requests).try_acquire_owned();
        let slot = slot.map_err(|_| Refused::busy(&format!("{REQUESTS_MAX} requests at once, the most")))?;
        let work = operation(self.operations);
        let task = tokio::spawn(async move {
            let answer = work.await;
            drop(slot);
            answer
        });
        match task.await {
            Ok(answer) => Ok(json(StatusCode::OK, &answer?)),
            Err(error) => {
                tracing::error!(err = %error, "local request broke off");
                let message = "the agent failed inside; its log says where, and what was asked may have been done";
                Err(Refusal::new(Class::Failed, "internal", message).into())
            }
        }
    }

    /// Opens an event stream.
    async fn feed<T, F>(self, operation: impl FnOnce(Arc<dyn Operations>) -> F) -> Answer
    where
        F: Future<Output = Result<Stream<T>, Refusal>>,
        T: Feed + Send + 'static,
    {
        let slot = Arc::clone(&self.feeds).try_acquire_owned();
        let slot = slot.map_err(|_| Refused::busy(&format!("{FEEDS_MAX} event streams, the most")))?;
        let events = operation(self.operations).await?;
        Ok(feed::response(events, self.ending, slot))
    }
}

/// Every route of the local API.
pub(super) fn router(operations: Arc<dyn Operations>, ending: watch::Receiver<bool>) -> Router {
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let feeds = Arc::new(Semaphore::new(FEEDS_MAX));
    Router::new()
        .route("/v1/cluster", get(cluster_status).post(cluster_init))
        .route("/v1/cluster/join", post(cluster_join))
        .route("/v1/cluster/leave", post(cluster_leave))
        .route("/v1/cluster/recover", post(cluster_recover))
        .route("/v1/cluster/rotate-ca", post(cluster_rotate_ca))
        .route("/v1/tokens", get(token_list).post(token_create))
        .route("/v1/tokens/{id}", axum::routing::delete(token_revoke))
        .route("/v1/nodes", get(node_list))
        .route("/v1/nodes/{node}", get(node_show).delete(node_remove))
        .route("/v1/nodes/{node}/drain", post(node_drain))
        .route("/v1/nodes/{node}/restore", post(node_restore))
        .route("/v1/broker", get(broker_status))
        .route("/v1/broker/move", post(broker_move))
        .route("/v1/settings", get(settings_show).patch(settings_set))
        .route("/v1/settings/history", get(settings_history))
        .route("/v1/settings/watch", get(settings_watch))
        .route("/v1/authorizations", get(authorization_list).post(authorization_add))
        .route("/v1/authorizations/{primary}", axum::routing::delete(authorization_remove))
        .route("/v1/peers", get(peer_list).post(peer_accept))
        .route("/v1/peers/invite", post(peer_invite))
        .route("/v1/peers/{cap}", axum::routing::delete(peer_remove))
        .route("/v1/vms", get(vm_list))
        .route("/v1/vms/{vm}", get(vm_show))
        .route("/v1/vms/{vm}/location", get(vm_locate))
        .route("/v1/vms/{vm}/replication", put(vm_enable).patch(vm_set).delete(vm_disable))
        .route("/v1/vms/{vm}/move", post(vm_move))
        .route("/v1/vms/{vm}/pause", post(vm_pause))
        .route("/v1/vms/{vm}/resume", post(vm_resume))
        .route("/v1/vms/{vm}/resync", post(vm_resync))
        .route("/v1/vms/{vm}/statistics", axum::routing::delete(vm_reset_statistics))
        .route("/v1/vms/{vm}/seed", post(vm_seed))
        .route("/v1/vms/{vm}/points", get(point_list))
        .route("/v1/vms/{vm}/points/diff", post(point_diff))
        .route("/v1/vms/{vm}/points/export", post(point_export))
        .route("/v1/vms/{vm}/points/verify", post(point_verify))
        .route("/v1/vms/{vm}/failover", get(failover_status).post(failover))
        .route("/v1/vms/{vm}/network", get(network_show).put(network_set))
        .route("/v1/vms/{vm}/network/clear", post(network_clear))
        .route("/v1/network/map", get(network_map_list).post(network_map_add))
        .route("/v1/network/map/remove", post(network_map_remove))
        .route("/v1/doctor", get(doctor))
        .route("/v1/events", get(event_tail))
        .route("/v1/vm-service/applied", put(vm_service_applied))
        .route("/v1/vm-service/status", put(vm_service_status))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Api { operations, requests, feeds, ending })
}

async fn no_such_route(uri: Uri) -> Refused {
    let refusal = Refusal::new(Class::NotFound, "no_such_route", format!("there is no route {}", quoted(uri.path())));
    refusal.remedy("docs/api.md lists the routes; they begin with /v1/").into()
}

async fn wrong_method(method: Method, uri: Uri) -> Refused {
    let message = format!("{} does not take {method}", quoted(uri.path()));
    let refusal =
        Refusal::new(Class::Usage, "wrong_method", message).remedy("docs/api.md lists the methods of a route");
    Refused::under(StatusCode::METHOD_NOT_ALLOWED, refusal)
}

/// The only parameter that a removal takes.
fn wait_only(uri: &Uri) -> Result<Option<WaitSeconds>, Refusal> {
    let mut parameters = Parameters::of(uri)?;
    let wait = parameters.number("wait_seconds")?.map(WaitSeconds::try_from).transpose()?;
    parameters.end("this route takes wait_seconds")?;
    Ok(wait)
}

/// Operations that take nothing.
macro_rules! plain {
    ($($operation:ident;)*) => {$(
        async fn $operation(State(api): State<Api>) -> Answer {
            api.run(|operations| async move { operations.$operation().await }).await
        }
    )*};
}

/// Operations that take a body.
macro_rules! asked {
    ($($operation:ident($body:ident<$shape:ty>);)*) => {$(
        async fn $operation(State(api): State<Api>, $body(request): $body<$shape>) -> Answer {
            api.run(|operations| async move { operations.$operation(request).await }).await
        }
    )*};
}

/// Operations that take a name in the path.
macro_rules! named {
    ($($operation:ident;)*) => {$(
        async fn $operation(State(api): State<Api>, Named(name): Named) -> Answer {
            let name = name.parse()?;
            api.run(|operations| async move { operations.$operation(name).await }).await
        }
    )*};
}

/// Operations that take a name in the path and a body.
macro_rules! named_and_asked {
    ($($operation:ident($shape:ty);)*) => {$(
        async fn $operation(State(api): State<Api>, Named(name): Named, Ask(request): Ask<$shape>) -> Answer {
            let name = name.parse()?;
            api.run(|operations| async move { operations.$operation(name, request).await }).await
        }
    )*};
}

/// Operations that take a name in the path and perhaps a wait.
macro_rules! named_and_awaited {
    ($($operation:ident;)*) => {$(
        async fn $operation(State(api): State<Api>, Named(name): Named, uri: Uri) -> Answer {
            let (name, wait) = (name.parse()?, wait_only(&uri)?);
            api.run(|operations| async move { operations.$operation(name, wait).await }).await
        }
    )*};
}

plain! {
    cluster_status; token_list; node_list; broker_status; settings_show; settings_history; authorization_list; peer_list;
    vm_list; network_map_list;
}

asked! {
    cluster_init(Ask<ClusterInit>);
    cluster_join(Ask<ClusterJoin>);
    cluster_leave(Ask<ClusterLeave>);
    cluster_recover(Ask<ClusterRecover>);
    cluster_rotate_ca(Ask<ClusterRotateCa>);
    broker_move(Ask<BrokerMove>);
    token_create(Ask<TokenCreate>);
    authorization_add(Ask<Authorization>);
    peer_invite(Ask<PeerInvite>);
    peer_accept(Ask<PeerAccept>);
    network_map_add(Ask<NetworkMapAdd>);
    network_map_remove(Ask<NetworkMapRemove>);
    vm_service_applied(Ask<VmServiceApplied>);
    vm_service_status(Report<VmServiceStatus>);
}

named! {
    token_revoke; node_show; node_restore; authorization_remove; peer_remove; vm_show; vm_locate; vm_pause; vm_resume; vm_resync;
    vm_reset_statistics; point_list; failover_status; network_show;
}

named_and_asked! {
    vm_enable(VmEnable); vm_set(VmSet); vm_move(VmMove); vm_seed(SeedRequest); point_export(PointExport);
    point_diff(PointDiff); point_verify(PointVerify); failover(FailoverRequest); network_set(NetworkSet);
    network_clear(NetworkClear);
}

named_and_awaited! { node_drain; node_remove; vm_disable; }

async fn settings_set(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Ask(request): Ask<SettingsSet>,
) -> Answer {
    api.run(|operations| async move { operations.settings_set(request, caller).await }).await
}

async fn doctor(State(api): State<Api>, uri: Uri) -> Answer {
    let wait = wait_only(&uri)?;
    api.run(|operations| async move { operations.doctor(wait).await }).await
}

async fn settings_watch(State(api): State<Api>, uri: Uri) -> Answer {
    let mut parameters = Parameters::of(&uri)?;
    let from = parameters.number("from")?.map(Revision::from_number);
    parameters.end("this route takes from")?;
    api.feed(|operations| async move { operations.settings_watch(from).await }).await
}

async fn event_tail(State(api): State<Api>, uri: Uri) -> Answer {
    let mut parameters = Parameters::of(&uri)?;
    // A number that is too large for the query is also too large for the journal, which says so.
    let recent = parameters.number("recent")?.map(|recent| u32::try_from(recent).unwrap_or(u32::MAX));
    let follow = parameters.flag("follow")?.unwrap_or(true);
    parameters.end("this route takes recent and follow")?;
    let query = EventQuery::new(recent, follow)?;
    api.feed(|operations| async move { operations.event_tail(query).await }).await
}
