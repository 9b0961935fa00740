//! Any [`VmService`] as HTTP/JSON over a unix socket that only its own user can open.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as Segment, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::serve::Listener;
use landfall_proto::id::VmId;
use landfall_proto::model::PromotionId;
use landfall_proto::{Class, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::wire::{self, ErrorBody, FreezeBody, StorageList, VmList};
use crate::vm_service::{FreezeId, VmService};

/// The most connections at a time: an agent, a demo and a few curious people. More wait.
const CONNECTIONS_MAX: usize = 64;

type Service = State<Arc<dyn VmService>>;

/// Listens at `socket`, open to this user alone. A socket that is there already is replaced: the caller owns the place.
pub fn listen(socket: &Path) -> Result<UnixListener, Refusal> {
    let failed = |error: io::Error| {
        Refusal::new(Class::Failed, "cannot_listen", format!("{}: {error}", socket.display()))
            .field("socket")
            .remedy("make its folder writable, and its path shorter than 108 bytes")
    };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers for `service` until `stop`.
pub async fn serve(
    service: Arc<dyn VmService>,
    listener: UnixListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Refusal> {
    let gate = Gate { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let served = axum::serve(gate, router(service)).with_graceful_shutdown(stop).await;
    served.map_err(|error| Refusal::new(Class::Failed, "cannot_listen", format!("the VM service's socket: {error}")))
}

fn router(service: Arc<dyn VmService>) -> Router {
    Router::new()
        .route(wire::PROBE, post(probe))
        .route(wire::VMS, get(list).put(register))
        .route(wire::VM, delete(unregister))
        .route(wire::START, post(start))
        .route(wire::STOP, post(stop))
        .route(wire::LOCK, put(lock).delete(unlock))
        .route(wire::ADOPT, post(adopt))
        .route(wire::RETIRE, put(retire))
        .route(wire::FREEZE, post(freeze))
        .route(wire::THAW, post(thaw))
        .route(wire::SETTINGS, put(apply_settings))
        .route(wire::STORAGE, get(storage))
        .fallback(|| async { Answer::<()>(Err(Refusal::not_found("route", "of this path"))) })
        .layer(DefaultBodyLimit::max(wire::BODY_MAX))
        .with_state(service)
}

/// A result as JSON; a refusal's class is the status.
struct Answer<T>(Result<T, Refusal>);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let (status, body) = match self.0 {
            Ok(value) => (StatusCode::OK, serde_json::to_vec(&value)),
            Err(refusal) => {
                let status = StatusCode::from_u16(wire::status_of(refusal.class));
                (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), serde_json::to_vec(&ErrorBody::from(refusal)))
            }
        };
        match body {
            Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        Refusal::new(Class::Usage, "invalid_body", format!("the body is not what this route takes: {error}"))
            .field("body")
            .remedy("send the JSON that the agent of the same version sends")
    })
}

async fn probe(State(service): Service) -> Answer<()> {
    Answer(service.probe().await)
}

async fn list(State(service): Service) -> Answer<VmList> {
    Answer(service.list().await.map(|vms| VmList { vms }))
}

async fn register(State(service): Service, bytes: Bytes) -> Answer<()> {
    match body(&bytes) {
        Ok(registration) => Answer(service.register(&registration).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn unregister(State(service): Service, Segment(vm): Segment<String>) -> Answer<()> {
    match vm.parse::<VmId>() {
        Ok(vm) => Answer(service.unregister(vm).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn start(State(service): Service, Segment(vm): Segment<String>) -> Answer<()> {
    match vm.parse() {
        Ok(vm) => Answer(service.start(vm).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn stop(State(service): Service, Segment(vm): Segment<String>) -> Answer<()> {
    match vm.parse() {
        Ok(vm) => Answer(service.stop(vm).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn lock(State(service): Service, Segment(vm): Segment<String>) -> Answer<()> {
    match vm.parse() {
        Ok(vm) => Answer(service.lock(vm, true).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn unlock(State(service): Service, Segment(vm): Segment<String>) -> Answer<()> {
    match vm.parse() {
        Ok(vm) => Answer(service.lock(vm, false).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn adopt(State(service): Service, Segment(vm): Segment<String>) -> Answer<()> {
    match vm.parse() {
        Ok(vm) => Answer(service.adopt(vm).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn retire(State(service): Service, Segment(vm): Segment<String>, bytes: Bytes) -> Answer<()> {
    let wanted = vm.parse().and_then(|vm| Ok((vm, body::<String>(&bytes)?.parse::<PromotionId>()?)));
    match wanted {
        Ok((vm, id)) => Answer(service.retire(vm, id).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn freeze(State(service): Service, Segment(vm): Segment<String>, bytes: Bytes) -> impl IntoResponse {
    let wanted = vm.parse().and_then(|vm| Ok((vm, body::<FreezeBody>(&bytes)?)));
    match wanted {
        Ok((vm, body)) => Answer(service.freeze(vm, Duration::from_millis(body.hold_ms)).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn thaw(State(service): Service, Segment(freeze): Segment<String>) -> impl IntoResponse {
    match freeze.parse() {
        Ok(number) => Answer(service.thaw(FreezeId(number)).await),
        Err(_) => Answer(Err(Refusal::invalid("freeze", &freeze, "give the number that freeze returned"))),
    }
}

async fn apply_settings(State(service): Service, bytes: Bytes) -> Answer<()> {
    match body(&bytes) {
        Ok(settings) => Answer(service.apply_settings(&settings).await),
        Err(refusal) => Answer(Err(refusal)),
    }
}

async fn storage(State(service): Service) -> Answer<StorageList> {
    Answer(service.storage().await.map(|storage| StorageList { storage }))
}

/// A listener that lets in only as many as there are permits.
struct Gate {
    listener: UnixListener,
    permits: Arc<Semaphore>,
}

/// A connection and its permit.
struct Admitted {
    stream: UnixStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Listener for Gate {
    type Io = Admitted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed, so there always is a permit in the end.
        let permit = self.permits.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Admitted { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
