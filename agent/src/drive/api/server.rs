//! Accepts connections, bounds them, and ends them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::answer::Refused;
use super::limits::{ACCEPT_PAUSE, CONNECTIONS_MAX, GRACE, HEAD_MAX, HEAD_TIMEOUT, TURNED_AWAY_MAX};
use super::routes;
use super::socket::LocalSocket;
use crate::surface::{Caller, Operations};

/// Answers on `socket` until `shutdown` is done. Then nothing new is accepted, event streams end, and requests under way
/// get a few seconds; the socket file is gone when this returns.
pub async fn serve(socket: LocalSocket, operations: Arc<dyn Operations>, shutdown: impl Future<Output = ()> + Send) {
    let (end, ending) = watch::channel(false);
    let router = routes::router(Arc::clone(&operations), ending.clone());
    let doors = Doors::default();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = socket.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                complained = false;
                let (Some(door), Ok(peer)) = (doors.open(), stream.peer_cred()) else { continue };
                let caller = Caller { uid: peer.uid(), pid: peer.pid() };
                if is_allowed(&caller) {
                    connections.spawn(connection(stream, door, caller, router.clone(), ending.clone()));
                } else {
                    operations.stranger_refused(caller);
                }
            }
            Err(error) => {
                // Once for all failures in a row.
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(socket = %socket.path().display(), err = %error, "local connection not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    end.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        connections.shutdown().await;
    }
}

/// Who may come in.
#[derive(Debug)]
struct Doors {
    served: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            served: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
        }
    }
}

/// One connection's place.
#[derive(Debug)]
enum Door {
    /// Its requests are answered.
    Served(#[expect(dead_code, reason = "held for the connection's life")] OwnedSemaphorePermit),
    /// Its first request is told that there are too many.
    TurnedAway(#[expect(dead_code, reason = "held for the connection's life")] OwnedSemaphorePermit),
}

impl Doors {
    /// A place for one more connection, if there is one.
    fn open(&self) -> Option<Door> {
        let served = Arc::clone(&self.served).try_acquire_owned().map(Door::Served);
        served.or_else(|_| Arc::clone(&self.turned_away).try_acquire_owned().map(Door::TurnedAway)).ok()
    }
}

/// Whether a caller may ask: root, and this agent's own user. The file's mode says the same; this holds where somebody
/// changed it.
fn is_allowed(caller: &Caller) -> bool {
    caller.uid == 0 || caller.uid == rustix::process::geteuid().as_raw()
}

/// Serves one connection of `caller`.
async fn connection(stream: UnixStream, door: Door, caller: Caller, router: Router, mut ending: watch::Receiver<bool>) {
    let served = matches!(door, Door::Served(_));
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller);
        let answer = served.then(|| routes.call(request));
        async move {
            Ok::<Response, Infallible>(match answer {
                Some(answer) => answer.await?,
                None => turned_away(),
            })
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { let _ = ending.wait_for(|ending| *ending).await; } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A caller that hangs up or talks no HTTP: its own affair.
        tracing::debug!(err = %error, "local connection ended");
    }
    drop(door);
}

fn turned_away() -> Response {
    let mut response = Refused::busy(&format!("{CONNECTIONS_MAX} local connections, the most")).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
