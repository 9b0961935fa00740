//! Accepting connections and streams, and handing each to whoever speaks its protocol.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::close::Close;
use landfall_proto::endpoint::{Endpoint, Gone, Link};
use landfall_proto::frame::{self, FrameError};
use landfall_proto::limits::CONTROL_STREAMS;
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest};
use landfall_proto::message::control::ControlRequest;
use landfall_proto::message::join::JoinRequest;
use landfall_proto::trust::Caller;
use landfall_proto::verb::Verb;
use quinn::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::drive::control::Control;
use crate::drive::enrolment::Papers;
use crate::drive::gossip::{GossipInbox, Unfit};
use crate::drive::raft_wire::RaftFrame;
use crate::drive::receive::Receiver;
use crate::drive::{admission, broker, join, peers, raft_wire};

/// How long a peer may take to send the request of a stream that it has opened.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// The pause before an endpoint whose task died is started again: it must not spin on a socket that cannot be bound.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

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

/// Accepts the connections of one endpoint until the task is dropped. An endpoint whose socket failed is started
/// again: consensus and the CAP do not depend on it.
pub async fn accept(endpoint: Endpoint, services: Services) {
    loop {
        match endpoint.accept().await {
            Ok(link) => {
                let services = services.clone();
                // On the heap: a session's state is too large to be moved about.
                tokio::spawn(Box::pin(serve(link, services)));
            }
            Err(Gone::ShutDown) => return,
            Err(Gone::Lost) => {
                tracing::error!("the endpoint's task is gone: starting it again");
                sleep(RESTART_PAUSE).await;
                if let Err(refusal) = endpoint.restart() {
                    tracing::error!(%refusal, "the endpoint does not start");
                }
            }
        }
    }
}

async fn serve(link: Link, services: Services) {
    if !is_known(&link, &services).await {
        return;
    }
    tracing::debug!(caller = ?link.caller().key(), alpn = ?link.alpn(), from = %link.remote(), "connection");
    match link.alpn() {
        Alpn::Gossip => {
            if let Caller::Member { member } = link.caller().as_ref() {
                let unfit = |why: Unfit| {
                    services.control.node.events.refuse("gossip_refused", member.node.as_str(), why.why());
                };
                services.gossip.feed(member, link.connection(), unfit).await;
            }
        }
        Alpn::Data => services.receiver.serve(link).await,
        Alpn::Raft | Alpn::Control | Alpn::Broker | Alpn::Join => streams(link, services).await,
    }
}

/// Whether the lists know the caller. One whose certificate is good but newer than the list makes this node ask that
/// cluster at once, so that a node that has just joined works without waiting. A member of this cluster that this node
/// has not heard of yet may speak consensus, through which it will hear.
async fn is_known(link: &Link, services: &Services) -> bool {
    let node = &services.control.node;
    let caller = link.caller();
    let Caller::Unlisted { cap, key, fqdn, .. } = caller.as_ref() else { return true };
    if link.alpn() == Alpn::Raft || peers::vouches(node, cap, key).await {
        return true;
    }
    let why = format!("{fqdn} is not on the member list of {cap}");
    node.events.refuse("peer_refused", fqdn.as_str(), &why);
    link.close(Close::Removed, &why);
    false
}

async fn streams(link: Link, services: Services) {
    let slots = Arc::new(Semaphore::new(CONTROL_STREAMS as usize));
    while let Ok((send, receive)) = link.connection().accept_bi().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (services, link) = (services.clone(), link.clone());
        tokio::spawn(async move {
            if let Err(error) = one(&link, &services, send, receive).await {
                tracing::debug!(alpn = ?link.alpn(), from = %link.remote(), %error, "request dropped");
                if matches!(error, FrameError::TooLong { .. } | FrameError::Codec(_) | FrameError::Late(_)) {
                    let node = &services.control.node;
                    node.events.refuse("request_refused", &who(&link), &error.to_string());
                }
                if matches!(error, FrameError::TooLong { .. } | FrameError::Codec(_)) {
                    link.close(Close::Protocol, &error.to_string());
                }
            }
            drop(slot);
        });
    }
}

/// How the other end is named to people: strangers by their address, for keys cost nothing to make.
fn who(link: &Link) -> String {
    let caller = link.caller();
    match caller.as_ref() {
        Caller::Stranger { .. } => link.remote().ip().to_string(),
        caller => admission::who(caller),
    }
}

/// Reads one request and answers it. Who asks is looked up now: the lists may have changed since the connection began.
async fn one(link: &Link, services: &Services, send: SendStream, receive: RecvStream) -> Result<(), FrameError> {
    let node = &services.control.node;
    let caller = link.caller();
    let stream = Stream { alpn: link.alpn(), send, receive };
    match link.alpn() {
        Alpn::Raft => {
            if admission::admit(node, &caller, Verb::Consensus, None).is_err() {
                return Ok(());
            }
            stream.answer(async |call: RaftFrame| raft_wire::serve(node, &caller, call).await).await
        }
        Alpn::Control => {
            stream.answer(async |request: ControlRequest| Some(services.control.answer(&caller, request).await)).await
        }
        Alpn::Broker => match caller.cap() {
            Some(primary) => {
                let ask = async |request: BrokerRequest| {
                    Some(match admission::admit(node, &caller, Verb::of_broker(&request), None) {
                        Ok(()) => broker::answer(node, primary, request).await,
                        Err(refusal) => BrokerAnswer::Refused(refusal),
                    })
                };
                stream.answer(ask).await
            }
            None => Ok(()),
        },
        Alpn::Join => {
            stream
                .answer(async |request: JoinRequest| {
                    Some(join::answer(node, &services.papers, link.connection(), request).await)
                })
                .await
        }
        Alpn::Gossip | Alpn::Data => Ok(()),
    }
}

struct Stream {
    alpn: Alpn,
    send: SendStream,
    receive: RecvStream,
}

impl Stream {
    async fn answer<Q: DeserializeOwned, A: Serialize>(
        mut self,
        work: impl AsyncFnOnce(Q) -> Option<A>,
    ) -> Result<(), FrameError> {
        let most = self.alpn.frame_max();
        let request = timeout(REQUEST_DEADLINE, frame::receive(&mut self.receive, most));
        let request = request.await.unwrap_or(Err(FrameError::Late(REQUEST_DEADLINE)))?;
        frame::take_end(&mut self.receive);
        if let Some(answer) = work(request).await {
            frame::send(&mut self.send, &answer, most).await?;
        }
        drop(self.send.finish());
        Ok(())
    }
}
