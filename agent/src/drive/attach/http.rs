//! One HTTP request over a unix socket, with a deadline and a bounded answer.

use std::path::PathBuf;
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

/// Who listens at the other end, and how its silence is told.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    /// The socket.
    pub path: PathBuf,
    /// The code of a refusal where nobody answers.
    pub code: &'static str,
    /// Its name in messages.
    pub who: &'static str,
}

/// A connection, closed when dropped.
pub(super) struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Socket {
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
        let (response, _connection) = self.open(method, route, body).await?;
        let whole = Limited::new(response.into_body(), BODY_MAX).collect().await;
        Ok(whole.map_err(|error| self.silent(&error.to_string()))?.to_bytes())
    }

    /// Sends a request and returns the answer as soon as its head is there; a refusal is read to its end.
    pub(super) async fn open(
        &self,
        method: Method,
        route: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<(Response<Incoming>, Connection), Refusal> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.silent(&error.to_string()))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.silent(&error.to_string()))?;
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.silent(&error.to_string()))?;
        let (mut sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.silent(&error.to_string()))?;
        let connection = Connection(tokio::spawn(driver).abort_handle());
        let response = sender.send_request(request).await.map_err(|error| self.silent(&error.to_string()))?;
        let status = response.status();
        if status.is_success() {
            return Ok((response, connection));
        }
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| self.silent(&error.to_string()))?.to_bytes();
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(body.refusal(status.as_u16())),
            Err(_) => Err(self.silent(&format!("an answer of status {status}"))),
        }
    }

    /// Nobody answers there, or nobody who is understood.
    pub(super) fn silent(&self, why: &str) -> Refusal {
        let message = format!("the {} at {} gave {why}", self.who, self.path.display());
        Refusal::new(Class::Unreachable, self.code, message)
            .remedy(format!("check that the {} of this node runs", self.who))
    }
}
