//! Asks an agent over its unix socket: one connection a request.

use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::drive::api::KEEP_ALIVE;
use crate::surface::Failure;

/// For how long a request without a wait may take: an agent without a quorum says so well before.
const QUICK: Duration = Duration::from_secs(30);

/// What is added to a wait, so that the agent's own answer comes first.
const MARGIN: Duration = Duration::from_secs(10);

/// Bytes of an answer: 8,000 VMs at 4 KiB each.
const ANSWER_MAX: usize = 32 * 1024 * 1024;

/// Bytes of one event: every setting, or a sentence with its facts.
const EVENT_MAX: usize = 1024 * 1024;

/// Keep-alives that may be missed before an event stream is given up.
const SILENCE: Duration = Duration::from_secs(3 * KEEP_ALIVE.as_secs());

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// As long as any request without a wait may take.
    Quick,
    /// As long as the agent was asked to wait, and a little more.
    Waiting(Duration),
    /// Until the agent answers or dies.
    Endless,
}

/// Asks the agent at one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent at `socket`; nothing is opened yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Sends a request and returns its answer; a refusal of the agent comes back as it was.
    pub async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        patience: Patience,
    ) -> Result<Answer, Refusal> {
        let asked = async {
            let (response, _connection) = self.open(method, path, body).await?;
            let failed = !response.status().is_success();
            let answer = Answer { bytes: self.collect(response).await? };
            if failed { Err(answer.refusal()) } else { Ok(answer) }
        };
        let limit = match patience {
            Patience::Quick => QUICK,
            Patience::Waiting(wait) => wait + MARGIN,
            Patience::Endless => return asked.await,
        };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(self.silent(limit)))
    }

    /// Opens an event stream.
    pub async fn feed(&self, path: &str) -> Result<Feed, Refusal> {
        let opened = tokio::time::timeout(QUICK, self.open(Method::GET, path, None::<&()>)).await;
        let (response, connection) = opened.unwrap_or_else(|_| Err(self.silent(QUICK)))?;
        if !response.status().is_success() {
            return Err(Answer { bytes: self.collect(response).await? }.refusal());
        }
        Ok(Feed { body: response.into_body(), buffer: Vec::new(), client: self.clone(), _connection: connection })
    }

    async fn open<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<(Response<Incoming>, Connection), Refusal> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.nobody(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let connection = Connection(tokio::spawn(async move {
            // Its end is seen where the answer is read.
            let _ = connection.await;
        }));
        let body = match body.map(serde_json::to_vec) {
            None => Bytes::new(),
            Some(Ok(text)) => text.into(),
            Some(Err(error)) => return Err(Refusal::new(Class::Failed, "no_request", error.to_string())),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "landfall")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Refusal::new(Class::Usage, "no_request", error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        Ok((response, connection))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, Refusal> {
        let collected = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        collected.map(|body| body.to_bytes()).map_err(|error| {
            if error.is::<LengthLimitError>() {
                let message = format!("the agent's answer is longer than {ANSWER_MAX} bytes");
                return Refusal::new(Class::Failed, "answer_too_large", message);
            }
            self.broken(error.as_ref())
        })
    }

    fn nobody(&self, error: &std::io::Error) -> Refusal {
        let socket = quoted(&self.socket.display().to_string());
        let refusal = match error.kind() {
            ErrorKind::PermissionDenied => {
                let message = format!("this user may not open the agent's socket {socket}");
                unreachable(message).remedy("run it as root, or as the agent's own user")
            }
            _ => unreachable(format!("no agent answers at {socket}: {error}")).remedy(
                "start one with `landfall agent --config FILE`, or name its socket with --socket or LANDFALL_SOCKET",
            ),
        };
        refusal.field("socket")
    }

    fn broken(&self, error: &dyn std::error::Error) -> Refusal {
        let socket = quoted(&self.socket.display().to_string());
        unreachable(format!("the agent at {socket} broke off: {error}"))
            .remedy("see whether it still runs; what was asked may have been done")
    }

    fn silent(&self, limit: Duration) -> Refusal {
        let socket = quoted(&self.socket.display().to_string());
        unreachable(format!("the agent at {socket} has not answered for {} s", limit.as_secs()))
            .remedy("see whether it still runs; what was asked may have been done")
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn unreachable(message: String) -> Refusal {
    Refusal::new(Class::Unreachable, "unreachable", message)
}

/// The task that drives a connection; it ends with whoever reads from it.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an agent answered.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: Bytes,
}

impl Answer {
    /// The answer as JSON, one line.
    pub fn line(&self) -> Vec<u8> {
        let mut line = self.bytes.trim_ascii().to_vec();
        line.push(b'\n');
        line
    }

    /// The answer as a shape.
    pub fn shape<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.bytes).map_err(|error| misunderstood(&error))
    }

    fn refusal(&self) -> Refusal {
        self.shape::<Failure>().map_or_else(|refusal| refusal, Refusal::from)
    }
}

fn misunderstood(error: &serde_json::Error) -> Refusal {
    Refusal::new(Class::Failed, "answer_not_understood", format!("the answer is not what was expected: {error}"))
        .remedy("use the command line of the agent's own version, or read the answer with -o json")
}

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its name.
    pub event: String,
    /// Its JSON, one line.
    pub data: String,
    /// What the reader has with it, to come back with; none where it has nothing whole yet.
    pub id: Option<String>,
}

impl Message {
    /// The event as a shape.
    pub fn shape<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_str(&self.data).map_err(|error| misunderstood(&error))
    }
}

/// An event stream.
#[derive(Debug)]
pub struct Feed {
    body: Incoming,
    buffer: Vec<u8>,
    client: Client,
    _connection: Connection,
}

impl Feed {
    /// The next event; `None` once the agent has ended the stream. A silence that no living agent keeps is an error.
    pub async fn next(&mut self) -> Result<Option<Message>, Refusal> {
        loop {
            if let Some(message) = take_message(&mut self.buffer) {
                match message.event.as_str() {
                    "error" => return Err(message.shape::<Failure>().map_or_else(|refusal| refusal, Refusal::from)),
                    _ => return Ok(Some(message)),
                }
            }
            if self.buffer.len() > EVENT_MAX {
                let message = format!("an event is longer than {EVENT_MAX} bytes");
                return Err(Refusal::new(Class::Failed, "answer_too_large", message));
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            match frame.map_err(|_| self.client.silent(SILENCE))? {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(|error| self.client.broken(&error))?;
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
                }
            }
        }
    }
}

/// Takes the first whole event out of `buffer`, and comments before it.
fn take_message(buffer: &mut Vec<u8>) -> Option<Message> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")? + 2;
        let block: Vec<u8> = buffer.drain(..end).collect();
        let block = String::from_utf8_lossy(&block);
        let mut message = Message::default();
        for line in block.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => value.clone_into(&mut message.event),
                "data" => message.data.push_str(value),
                "id" => message.id = Some(value.to_owned()),
                // A comment (an empty name) or something newer.
                _ => {}
            }
        }
        if !message.data.is_empty() {
            return Some(message);
        }
    }
}

/// A route with names in it: each segment percent-encoded.
pub fn route(segments: &[&str]) -> String {
    let mut path = "/v1".to_owned();
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_route() {
        assert_eq!(route(&["vms", "a/b c?#%\u{e9}", "points"]), "/v1/vms/a%2Fb%20c%3F%23%25%C3%A9/points");
    }

    #[test]
    fn events_are_taken_whole_and_comments_dropped() {
        let mut buffer = b":\n\n: hello\n\nevent: change\nid: 7\ndata: {\"a\"".to_vec();
        assert_eq!(take_message(&mut buffer), None);
        buffer.extend_from_slice(b":1}\n\nevent: x\ndata:2\n\n");
        let first = take_message(&mut buffer).unwrap();
        assert_eq!(
            (first.event.as_str(), first.data.as_str(), first.id.as_deref()),
            ("change", "{\"a\":1}", Some("7"))
        );
        assert_eq!(take_message(&mut buffer).unwrap().data, "2");
        assert!(buffer.is_empty());
    }
}
