//! Server-sent events: one JSON line an event, until either side ends.

use std::convert::Infallible;

use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use landfall_proto::Refusal;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::limits::KEEP_ALIVE;
use crate::surface::event::Event;
use crate::surface::settings::SettingsEvent;
use crate::surface::{Failure, Stream};

/// An event that can be sent: its name, and its identity where a reader can come back with it.
pub(super) trait Feed: Serialize {
    /// The event's name.
    fn name(&self) -> &'static str;
    /// What the reader has once it has this event: a revision, an event's number.
    fn mark(&self) -> Option<u64>;
}

impl Feed for SettingsEvent {
    fn name(&self) -> &'static str {
        Self::name(self)
    }
    fn mark(&self) -> Option<u64> {
        self.completes().map(|revision| revision.number())
    }
}

impl Feed for Event {
    fn name(&self) -> &'static str {
        "event"
    }
    fn mark(&self) -> Option<u64> {
        Some(self.id)
    }
}

/// Sends `events` until they end or the server does. An error is sent as `event: error` and is the last.
///
/// hyper asks for the next event only once the last one has left, so that a slow reader holds no more than one here; what
/// waits for it is bounded by whoever made the stream.
pub(super) fn response<T: Feed + Send + 'static>(
    events: Stream<T>,
    mut ending: watch::Receiver<bool>,
    slot: OwnedSemaphorePermit,
) -> Response {
    let ended = async move {
        // An error means that the server is gone altogether: the same to a reader.
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let events = stream::unfold(Some((events, slot)), |state| async move {
        let (mut events, slot) = state?;
        match events.next().await? {
            Ok(event) => Some((frame(&event), Some((events, slot)))),
            Err(refusal) => Some((failure(refusal), None)),
        }
    });
    let frames = events.take_until(Box::pin(ended)).map(Ok::<_, Infallible>);
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn frame<T: Feed>(event: &T) -> Frame {
    // JSON text has no line breaks of its own, the one thing that a data line cannot hold.
    let frame = Frame::default().event(event.name()).data(serde_json::to_string(event).unwrap_or_default());
    match event.mark() {
        Some(mark) => frame.id(mark.to_string()),
        None => frame,
    }
}

fn failure(refusal: Refusal) -> Frame {
    Frame::default().event("error").data(serde_json::to_string(&Failure::from(refusal)).unwrap_or_default())
}
