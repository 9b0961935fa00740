//! HTTP requests over a unix socket, each with a deadline and a bounded answer, over connections that are kept.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use landfall_proto::{Class, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::wire::{BODY_MAX, ErrorBody};

/// Connections that are kept while nothing is asked: the regular report, and what comes between two of them.
const KEPT_MAX: usize = 2;

/// Who listens at the other end, and how its silence is told. Clones share the connections that are kept.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    /// The socket.
    pub path: PathBuf,
    /// The code of a refusal where nobody answers.
    pub code: &'static str,
    /// Its name in messages.
    pub who: &'static str,
    kept: Arc<Mutex<Vec<Open>>>,
}

/// A connection, closed when dropped.
#[derive(Debug)]
pub(super) struct Connection(AbortHandle);

/// A connection that a request can go out on.
#[derive(Debug)]
struct Open {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: Connection,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Socket {
    /// What listens at `path`: `code` and `who` tell of its silence.
    pub(super) fn new(path: PathBuf, code: &'static str, who: &'static str) -> Self {
        Self { path, code, who, kept: Arc::default() }
    }

    /// Sends a request and returns the whole answer, decoded.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: Option<&(impl Serialize + Sync)>,
        deadline: Duration,
    ) -> Result<T, Refusal> {
        let bytes = timeout(deadline, self.exchange(method, route, body))
            .await
            .map_err(|_| self.silent(&format!("no answer within {} ms", deadline.as_millis())))??;
        serde_json::from_slice(&bytes).map_err(|error| self.silent(&format!("an answer that cannot be read: {error}")))
    }

    async fn exchange(
        &self,
        method: Method,
        route: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Bytes, Refusal> {
        let request = self.request(method.clone(), route, body)?;
        let (response, open) = match self.take_kept().await {
            Some(mut open) => match open.sender.try_send_request(request).await {
                Ok(response) => (response, open),
                // The other end has closed it. What was not sent, or may be sent twice, goes out on a new one.
                Err(mut error) => match error.take_message() {
                    Some(request) => self.send_anew(request).await?,
                    None if method != Method::POST => self.send_anew(self.request(method, route, body)?).await?,
                    None => return Err(self.silent(&error.into_error().to_string())),
                },
            },
            None => self.send_anew(request).await?,
        };
        let response = self.succeeded(response).await?;
        let whole = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let bytes = whole.map_err(|error| self.silent(&error.to_string()))?.to_bytes();
        self.keep(open);
        Ok(bytes)
    }

    /// Sends a request on a connection of its own and returns the answer as soon as its head is there; a refusal is read
    /// to its end.
    pub(super) async fn open(
        &self,
        method: Method,
        route: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<(Response<Incoming>, Connection), Refusal> {
        let request = self.request(method, route, body)?;
        let (response, open) = self.send_anew(request).await?;
        Ok((self.succeeded(response).await?, open.connection))
    }

    fn request(
        &self,
        method: Method,
        route: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Request<Full<Bytes>>, Refusal> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.silent(&error.to_string()))?,
            None => Vec::new(),
        };
        Request::builder()
            .method(method)
            .uri(route)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.silent(&error.to_string()))
    }

    async fn send_anew(&self, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Open), Refusal> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.silent(&error.to_string()))?;
        let (mut sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.silent(&error.to_string()))?;
        let connection = Connection(tokio::spawn(driver).abort_handle());
        let response = sender.send_request(request).await.map_err(|error| self.silent(&error.to_string()))?;
        Ok((response, Open { sender, connection }))
    }

    /// The answer, unless it is a refusal.
    async fn succeeded(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Refusal> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| self.silent(&error.to_string()))?.to_bytes();
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(body.refusal(status.as_u16())),
            Err(_) => Err(self.silent(&format!("an answer of status {status}"))),
        }
    }

    /// A kept connection that can take a request now.
    async fn take_kept(&self) -> Option<Open> {
        loop {
            let mut open = self.kept().pop()?;
            if open.sender.ready().await.is_ok() {
                return Some(open);
            }
        }
    }

    fn keep(&self, open: Open) {
        let mut kept = self.kept();
        if kept.len() < KEPT_MAX && !open.sender.is_closed() {
            kept.push(open);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Open>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody answers there, or nobody who is understood.
    pub(super) fn silent(&self, why: &str) -> Refusal {
        let message = format!("the {} at {} gave {why}", self.who, self.path.display());
        Refusal::new(Class::Unreachable, self.code, message)
            .remedy(format!("check that the {} of this node runs", self.who))
    }
}
