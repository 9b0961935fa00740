//! Requests to other agents over kept connections.
//!
//! One connection per (target, protocol), dialled once however many callers wait. A request may reach the other side
//! twice, where the connection it was sent on turns out to be dead: every request is idempotent, or carries a
//! [`crate::id::RequestId`], or names the term or epoch that it holds for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::alpn::Alpn;
use crate::close::Close;
use crate::endpoint::{DialError, Endpoint, Link, Role, Target};
use crate::frame::{self, FrameError};
use crate::limits::{POOL_MAX, SILENT_AFTER};
use crate::refusal::{Class, Refusal};
use crate::transport::lock;
use crate::trust::Caller;

/// Why a call gave no answer.
#[derive(Clone, Debug, Error)]
pub enum CallError {
    /// There was no connection: nothing was sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The other side closed the connection and says why. The request may have been carried out.
    #[error("{close}: {reason}")]
    Closed {
        /// The code.
        close: Close,
        /// The sentence.
        reason: String,
    },
    /// The connection died. The request may have been carried out.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// Nothing at all came back on the connection. The request may have been carried out.
    #[error("the connection fell silent")]
    Silent,
    /// No answer in time. The request may have been carried out.
    #[error("no answer within {:.1} s", .0.as_secs_f32())]
    Late(Duration),
    /// Request or answer is not what the protocol allows.
    #[error("{0}")]
    Protocol(String),
    /// Too many connections are kept already: nothing was sent.
    #[error("{POOL_MAX} connections are open already")]
    Full,
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match error {
            CallError::Dial(error) => error.into(),
            CallError::Closed { close, .. } if !close.is_passing() => Self::new(Class::Refused, "not_admitted", text),
            CallError::Closed { .. } | CallError::Lost(_) | CallError::Silent | CallError::Late(_) => {
                Self::new(Class::Unreachable, "unreachable", text)
            }
            CallError::Protocol(_) => Self::new(Class::Failed, "protocol", text)
                .remedy("the agents' versions may differ too much: upgrade the older one"),
            CallError::Full => Self::new(Class::Failed, "too_many_connections", text),
        }
    }
}

/// A stream of its own, and the connection that it must not outlive.
#[derive(Debug)]
pub struct Session {
    /// The sending half.
    pub send: SendStream,
    /// The receiving half.
    pub receive: RecvStream,
    /// The connection.
    pub link: Link,
}

/// Calls to other agents. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Calls(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    control: Endpoint,
    data: Endpoint,
    slots: Mutex<BTreeMap<Key, Slot>>,
}

type Key = (Target, Alpn);
type Dialled = Option<Result<Link, DialError>>;

#[derive(Debug)]
enum Slot {
    Dialling(watch::Receiver<Dialled>),
    Open(Link),
}

impl Calls {
    /// Calls through an agent's two endpoints.
    pub fn new(control: Endpoint, data: Endpoint) -> Self {
        Self(Arc::new(Pool { control, data, slots: Mutex::default() }))
    }

    /// The endpoint that calls of `alpn` go through.
    pub fn endpoint(&self, alpn: Alpn) -> &Endpoint {
        match Role::of(alpn) {
            Role::Control => &self.0.control,
            Role::Data => &self.0.data,
        }
    }

    /// Sends one request and returns its answer, within `deadline` in all. A kept connection that turns out to be dead,
    /// or on which nothing comes back any more, is replaced once.
    pub async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: &Target,
        alpn: Alpn,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let max = alpn.frame_max();
        let frame = frame::encode(request, max).map_err(|error| CallError::Protocol(error.to_string()))?;
        let end = Instant::now() + deadline;
        let attempts = async {
            let (link, kept) = self.link_or_dial(to, alpn).await?;
            let answer = tokio::select! {
                answer = exchange(&link, &frame, max) => answer,
                () = fell_silent(&link), if kept => Err(CallError::Silent),
            };
            match answer {
                Err(error) if kept && is_worth_another(&link, &error) => {
                    self.forget(to, alpn, &link);
                    let (link, _) = self.link_or_dial(to, alpn).await?;
                    exchange(&link, &frame, max).await
                }
                answer => answer,
            }
        };
        let bytes = timeout_at(end, attempts).await.unwrap_or(Err(CallError::Late(deadline)))?;
        crate::codec::decode(&bytes).map_err(|error| CallError::Protocol(error.to_string()))
    }

    /// Opens a stream of its own to `to`, for a protocol with more than one request on a stream.
    pub async fn open(&self, to: &Target, alpn: Alpn, deadline: Duration) -> Result<Session, CallError> {
        let end = Instant::now() + deadline;
        let attempts = async {
            let (link, kept) = self.link_or_dial(to, alpn).await?;
            match link.connection().open_bi().await {
                Ok((send, receive)) => Ok(Session { send, receive, link }),
                Err(error) => {
                    let error = lost(&link, &error.to_string());
                    if !kept || !is_worth_another(&link, &error) {
                        return Err(error);
                    }
                    self.forget(to, alpn, &link);
                    let (link, _) = self.link_or_dial(to, alpn).await?;
                    match link.connection().open_bi().await {
                        Ok((send, receive)) => Ok(Session { send, receive, link }),
                        Err(error) => Err(lost(&link, &error.to_string())),
                    }
                }
            }
        };
        timeout_at(end, attempts).await.unwrap_or(Err(CallError::Late(deadline)))
    }

    /// The kept connection to `to`, dialled where there is none. Bounded by the handshake's time only.
    pub async fn link(&self, to: &Target, alpn: Alpn) -> Result<Link, CallError> {
        Ok(self.link_or_dial(to, alpn).await?.0)
    }

    /// The kept connection to `to`, if one is open: never waits, never dials.
    pub fn open_link(&self, to: &Target, alpn: Alpn) -> Option<Link> {
        match lock(&self.0.slots).get(&(to.clone(), alpn)) {
            Some(Slot::Open(link)) if !link.is_closed() => Some(link.clone()),
            _ => None,
        }
    }

    /// Begins to dial `to` if no connection is kept or under way, and does not wait.
    pub fn warm(&self, to: &Target, alpn: Alpn) {
        let _ = self.slot(to, alpn);
    }

    /// Closes the kept connections whose other end `of` picks.
    pub fn drop_where(&self, of: impl Fn(&Caller) -> bool) {
        let mut dropped = Vec::new();
        lock(&self.0.slots).retain(|_, slot| match slot {
            Slot::Open(link) if of(&link.caller()) => {
                dropped.push(link.clone());
                false
            }
            Slot::Open(_) | Slot::Dialling(_) => true,
        });
        for link in dropped {
            link.close(Close::Done, "no longer needed");
        }
    }

    /// The link, and whether it was kept from before.
    async fn link_or_dial(&self, to: &Target, alpn: Alpn) -> Result<(Link, bool), CallError> {
        match self.slot(to, alpn)? {
            Slot::Open(link) => Ok((link, true)),
            Slot::Dialling(mut result) => {
                let dialled = result.wait_for(Option::is_some).await.map(|dialled| dialled.clone());
                match dialled {
                    Ok(Some(Ok(link))) => Ok((link, false)),
                    Ok(Some(Err(error))) => Err(error.into()),
                    Ok(None) | Err(_) => Err(DialError::Lost.into()),
                }
            }
        }
    }

    /// What there is for `to`; starts to dial where there is nothing alive. Never waits.
    fn slot(&self, to: &Target, alpn: Alpn) -> Result<Slot, CallError> {
        let key = (to.clone(), alpn);
        let mut slots = lock(&self.0.slots);
        match slots.get(&key) {
            Some(Slot::Open(link)) if !link.is_closed() => return Ok(Slot::Open(link.clone())),
            Some(Slot::Dialling(result)) if result.borrow().is_none() && result.has_changed().is_ok() => {
                return Ok(Slot::Dialling(result.clone()));
            }
            _ => {}
        }
        if slots.len() >= POOL_MAX {
            slots.retain(|_, slot| matches!(slot, Slot::Open(link) if !link.is_closed()));
            if slots.len() >= POOL_MAX {
                return Err(CallError::Full);
            }
        }
        let (sender, result) = watch::channel(None);
        let stale = slots.insert(key, Slot::Dialling(result.clone()));
        drop(slots);
        drop(stale);
        self.start_dialling(to.clone(), alpn, sender);
        Ok(Slot::Dialling(result))
    }

    /// Dials in a task of its own, so that a caller that gives up does not take the others' connection along.
    fn start_dialling(&self, to: Target, alpn: Alpn, result: watch::Sender<Dialled>) {
        let endpoint = self.endpoint(alpn).clone();
        let pool = Arc::downgrade(&self.0);
        let runtime = endpoint.outside().net.runtime();
        runtime.spawn(Box::pin(async move {
            let dialled = endpoint.dial(&to, alpn).await;
            if let Some(pool) = pool.upgrade() {
                let mut slots = lock(&pool.slots);
                let key = (to, alpn);
                let mine =
                    matches!(slots.get(&key), Some(Slot::Dialling(now)) if now.same_channel(&result.subscribe()));
                if mine {
                    match &dialled {
                        Ok(link) => drop(slots.insert(key, Slot::Open(link.clone()))),
                        Err(_) => drop(slots.remove(&key)),
                    }
                }
            }
            result.send_replace(Some(dialled));
        }));
    }

    fn forget(&self, to: &Target, alpn: Alpn, link: &Link) {
        let key = (to.clone(), alpn);
        let mut slots = lock(&self.0.slots);
        let removed = match slots.get(&key) {
            Some(Slot::Open(kept)) if kept.is(link) => slots.remove(&key),
            _ => None,
        };
        drop(slots);
        drop(removed);
    }
}

/// One request and its answer on a fresh stream.
async fn exchange(link: &Link, frame: &[u8], max: usize) -> Result<Vec<u8>, CallError> {
    let (mut send, mut receive) = link.connection().open_bi().await.map_err(|error| lost(link, &error.to_string()))?;
    send.write_all(frame).await.map_err(|error| lost(link, &error.to_string()))?;
    let _ = send.finish();
    let mut answer = Vec::new();
    match frame::read(&mut receive, &mut answer, max).await {
        Ok(()) => {
            frame::take_end(&mut receive);
            Ok(answer)
        }
        Err(FrameError::Ended | FrameError::Cut | FrameError::Io(_)) if link.is_closed() => {
            Err(lost(link, "it ended before the answer"))
        }
        Err(error) => Err(CallError::Protocol(format!("{} gave no answer: {error}", link.remote()))),
    }
}

fn lost(link: &Link, what: &str) -> CallError {
    match link.connection().close_reason().as_ref().and_then(Close::of) {
        Some((close, reason)) => CallError::Closed { close, reason },
        None => CallError::Lost(what.to_owned()),
    }
}

/// Done once nothing at all has come on a connection for [`SILENT_AFTER`]: whoever lives says at least that the request
/// has arrived. An address that has moved to another node looks like this, since that one knows nothing of the connection.
async fn fell_silent(link: &Link) {
    let received = || link.connection().stats().udp_rx.datagrams;
    let mut before = received();
    loop {
        sleep(SILENT_AFTER).await;
        match received() {
            now if now == before => return,
            now => before = now,
        }
    }
}

/// Whether a new connection may do better: the old one is dead, and not because this node is unwanted.
fn is_worth_another(link: &Link, error: &CallError) -> bool {
    match error {
        CallError::Silent => true,
        CallError::Closed { close, .. } => link.is_closed() && close.is_passing(),
        CallError::Lost(_) => link.is_closed(),
        CallError::Dial(_) | CallError::Late(_) | CallError::Protocol(_) | CallError::Full => false,
    }
}
