//! Accepting connections and streams, and handing each to whoever speaks its protocol.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::endpoint::{Accepted, Alpn, Endpoint};
use landfall_proto::message::broker::BrokerRequest;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::message::join::JoinRequest;
use landfall_proto::trust::Caller;
use landfall_proto::{Class, Refusal, frame, limits};
use landfall_store::consensus::Rpc;
use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::drive::control::Control;
use crate::drive::enrolment::Papers;
use crate::drive::gossip::GossipInbox;
use crate::drive::receive::Receiver;
use crate::drive::{broker, join, peers};

/// How long a peer may take to send the request of a stream it has opened.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Requests of one connection that are worked on at once: as many as streams are allowed.
const STREAMS_AT_ONCE: usize = limits::CONTROL_STREAMS as usize;

/// Everything that connections are handed to.
#[derive(Clone)]
pub struct Services {
    /// Control, and through it the node.
    pub control: Control,
    /// Where gossip goes.
    pub gossip: GossipInbox,
    /// Where replicas land.
    pub receiver: Receiver,
    /// The CA, where this node may issue.
    pub papers: Papers,
}

/// One consensus message on the wire: openraft's own encoding inside this project's frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RaftFrame {
    /// Which call it is.
    pub rpc: Rpc,
    /// The call, or the answer.
    pub payload: Vec<u8>,
}

/// Accepts connections of one endpoint until it is closed.
pub async fn accept(endpoint: Endpoint, services: Services) {
    while let Some(accepted) = endpoint.accept().await {
        let services = services.clone();
        tokio::spawn(async move { serve(accepted, services).await });
    }
}

async fn serve(accepted: Accepted, services: Services) {
    let Accepted { caller, alpn, connection } = accepted;
    let Some(caller) = known(caller, &connection, &services).await else { return };
    tracing::debug!(%caller, ?alpn, from = %connection.remote_address(), "connection");
    match alpn {
        Alpn::Gossip => {
            if let Caller::Member { member } = &caller {
                services.gossip.feed(member.control, connection).await;
            }
        }
        Alpn::Data => services.receiver.serve(caller, connection).await,
        Alpn::Raft | Alpn::Control | Alpn::Broker | Alpn::Join => streams(alpn, caller, connection, services).await,
    }
}

/// A caller that the lists know. One whose certificate is good but whose key is on no list makes this node ask that
/// cluster at once, so that a node that has just joined works without waiting.
async fn known(caller: Caller, connection: &Connection, services: &Services) -> Option<Caller> {
    let Caller::Unlisted { cap, key, .. } = &caller else { return Some(caller) };
    let node = &services.control.node;
    if peers::vouches(node, cap, key).await
        && let Some(listed) = node.trust.classify_again(&caller)
    {
        return Some(listed);
    }
    let refusal = Refusal::new(Class::Refused, "unlisted_key", format!("{caller} is not on the member list of its cluster"))
        .remedy("if it has just joined, its cluster's agents must be reachable; if it was removed, it stays out");
    landfall_proto::endpoint::close(connection, &refusal);
    None
}

async fn streams(alpn: Alpn, caller: Caller, connection: Connection, services: Services) {
    let slots = Arc::new(Semaphore::new(STREAMS_AT_ONCE));
    let caller = Arc::new(caller);
    while let Ok((send, recv)) = connection.accept_bi().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (caller, services, connection) = (Arc::clone(&caller), services.clone(), connection.clone());
        tokio::spawn(async move {
            if let Err(error) = one(alpn, &caller, &connection, &services, send, recv).await {
                tracing::debug!(%caller, ?alpn, %error, "request dropped");
            }
            drop(slot);
        });
    }
}

/// Reads one request, answers it.
async fn one(
    alpn: Alpn,
    caller: &Caller,
    connection: &Connection,
    services: &Services,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), frame::FrameError> {
    let node = &services.control.node;
    match alpn {
        Alpn::Raft => {
            let call: RaftFrame = read(&mut recv, limits::DATA_FRAME_MAX).await?;
            let answer = node.consensus.serve(call.rpc, call.payload).await;
            match answer {
                Ok(payload) => {
                    frame::write(&mut send, &RaftFrame { rpc: call.rpc, payload }, limits::DATA_FRAME_MAX).await?;
                }
                Err(error) => {
                    tracing::debug!(%error, "consensus call not served");
                    return Ok(());
                }
            }
        }
        Alpn::Control => {
            let request: ControlRequest = read(&mut recv, limits::CONTROL_FRAME_MAX).await?;
            let answer: ControlAnswer = services.control.answer(caller, request).await;
            frame::write(&mut send, &answer, limits::CONTROL_FRAME_MAX).await?;
        }
        Alpn::Broker => {
            let request: BrokerRequest = read(&mut recv, limits::CONTROL_FRAME_MAX).await?;
            let Some(primary) = caller.cap() else { return Ok(()) };
            let answer = broker::answer(node, primary, request).await;
            frame::write(&mut send, &answer, limits::CONTROL_FRAME_MAX).await?;
        }
        Alpn::Join => {
            let request: JoinRequest = read(&mut recv, limits::CONTROL_FRAME_MAX).await?;
            let authority = match node.state().found.as_ref() {
                Some(found) => services.papers.authority(found, &node.outside).await.unwrap_or_else(|refusal| {
                    tracing::error!(%refusal, "the CA's key cannot be read: this node issues nothing");
                    None
                }),
                None => None,
            };
            let answer = join::answer(node, authority.as_ref(), connection, request).await;
            frame::write(&mut send, &answer, limits::CONTROL_FRAME_MAX).await?;
        }
        Alpn::Gossip | Alpn::Data => {}
    }
    drop(send.finish());
    Ok(())
}

async fn read<T: serde::de::DeserializeOwned>(recv: &mut RecvStream, most: usize) -> Result<T, frame::FrameError> {
    match timeout(REQUEST_DEADLINE, frame::read(recv, most)).await {
        Ok(read) => read,
        Err(_) => Err(frame::FrameError::Slow),
    }
}
