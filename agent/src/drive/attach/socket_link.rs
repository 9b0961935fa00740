//! The agent's local API, as a VM service sees it.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use landfall_proto::Refusal;
use landfall_proto::id::Revision;
use serde_json::Value;
use tokio::time::timeout;

use super::http::{Connection, Socket};
use super::link::{AgentLink, Feed};
use super::sse::Parser;
use super::wire::{self, Applied, FeedEvent, Status};

/// How long the agent may take for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How long a stream of events may be silent: the agent sends a comment every [`wire::KEEP_ALIVE`]. Two may be late.
const SILENCE_MAX: Duration = Duration::from_secs(3 * wire::KEEP_ALIVE.as_secs());

const NOTHING: Option<&()> = None;

/// An agent in another process, reached through the socket of its local API.
#[derive(Clone, Debug)]
pub struct SocketLink {
    socket: Socket,
}

impl SocketLink {
    /// The agent whose local API listens at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: Socket::new(socket.into(), "agent_unreachable", "agent") }
    }
}

#[async_trait]
impl AgentLink for SocketLink {
    async fn watch(&self, from: Option<Revision>) -> Result<Feed, Refusal> {
        let route = match from {
            Some(revision) => format!("{}?from={}", wire::SETTINGS_WATCH, revision.number()),
            None => wire::SETTINGS_WATCH.to_owned(),
        };
        let opened = timeout(ANSWER_WAIT, self.socket.open(Method::GET, &route, NOTHING)).await;
        let (response, connection) = opened.map_err(|_| self.socket.silent("no answer in time"))??;
        let body = Box::pin(response.into_body());
        let reading = Reading {
            socket: self.socket.clone(),
            body,
            _connection: connection,
            parser: Parser::default(),
            ready: Vec::new(),
        };
        Ok(Box::pin(stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|event| (event, reading)))
        })))
    }

    async fn applied(&self, revision: Revision) -> Result<(), Refusal> {
        let body = Applied { revision };
        self.socket.call::<Value>(Method::PUT, wire::APPLIED, Some(&body), ANSWER_WAIT).await.map(|_| ())
    }

    async fn report(&self, status: &Status) -> Result<(), Refusal> {
        self.socket.call::<Value>(Method::PUT, wire::STATUS, Some(status), ANSWER_WAIT).await.map(|_| ())
    }
}

/// A stream of events under way.
struct Reading {
    socket: Socket,
    body: Pin<Box<Incoming>>,
    _connection: Connection,
    parser: Parser,
    /// Events that have come, the next one last.
    ready: Vec<FeedEvent>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<FeedEvent>, Refusal> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Ok(Some(event));
            }
            let frame = timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = match frame.map_err(|_| self.socket.silent("no event and no sign of life"))? {
                None => return Ok(None),
                Some(frame) => frame.map_err(|error| self.socket.silent(&error.to_string()))?,
            };
            let bytes: Bytes = frame.into_data().unwrap_or_default();
            for event in self.parser.push(&bytes).map_err(|error| self.socket.silent(&error.to_string()))? {
                let decoded = FeedEvent::decode(&event.name, &event.data);
                let decoded =
                    decoded.map_err(|error| self.socket.silent(&format!("an event of no meaning: {error}")))?;
                self.ready.extend(decoded);
            }
            self.ready.reverse();
        }
    }
}
