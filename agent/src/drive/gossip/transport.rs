//! chitchat over this agent's QUIC connections.
//!
//! chitchat sends from inside its own loop, so sending never waits: a message goes to the peer's bounded queue, and a
//! task of that peer dials and writes. What arrives comes only from members, under the address that the member list gives
//! them, whatever the packet's source was, and goes through the [`sieve`](super::sieve) first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Calls;
use landfall_proto::endpoint::Target;
use landfall_proto::model::Member;
use landfall_proto::seam::Clock;
use quinn::Connection;
use tokio::sync::{Mutex, mpsc, watch};

use super::sieve::{Sieve, Unfit};

/// Messages that wait for one peer: a second of gossip. More means that the peer does not answer; the next round tells
/// it everything anew.
const LINK_QUEUE: usize = 16;

/// Messages that wait for the gossip loop: a full round of the largest cluster. One that was sifted holds some tens of bytes
/// for each member, and one node's facts.
const INBOX_QUEUE: usize = 256;

/// The largest message: chitchat's own bound.
const MESSAGE_MAX: usize = 65_507;

/// Where gossip goes: the members, by address. Whoever is not in it is sent nothing.
#[derive(Clone)]
pub struct GossipLinks {
    calls: Calls,
    targets: watch::Receiver<Arc<BTreeMap<SocketAddr, Target>>>,
}

impl GossipLinks {
    /// Links over `calls` to the members that `targets` names at any time.
    pub fn new(calls: Calls, targets: watch::Receiver<Arc<BTreeMap<SocketAddr, Target>>>) -> Self {
        Self { calls, targets }
    }

    /// The members' addresses now.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.targets.borrow().keys().copied().collect()
    }
}

/// Where gossip arrives: handed to the accept loop (which feeds it) and to gossip (which reads it).
#[derive(Clone)]
pub struct GossipInbox {
    sender: mpsc::Sender<(SocketAddr, ChitchatMessage)>,
    receiver: Arc<Mutex<mpsc::Receiver<(SocketAddr, ChitchatMessage)>>>,
    sieve: Arc<std::sync::Mutex<Sieve>>,
    clock: Arc<dyn Clock>,
}

impl GossipInbox {
    /// An empty one. Nothing is taken before gossip begins.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (sender, receiver) = mpsc::channel(INBOX_QUEUE);
        Self { sender, receiver: Arc::new(Mutex::new(receiver)), sieve: Arc::default(), clock }
    }

    /// Reads gossip of `from`, as the member list has it, until the connection ends. What does not count is told to
    /// `unfit`.
    pub async fn feed(&self, from: &Member, connection: &Connection, unfit: impl Fn(Unfit)) {
        loop {
            let bytes = tokio::select! {
                datagram = connection.read_datagram() => match datagram {
                    Ok(bytes) => bytes,
                    Err(_) => return,
                },
                stream = connection.accept_uni() => match stream {
                    Ok(mut stream) => match stream.read_to_end(MESSAGE_MAX).await {
                        Ok(bytes) => Bytes::from(bytes),
                        Err(error) => {
                            tracing::debug!(from = %from.node, %error, "gossip message dropped");
                            unfit(Unfit::Malformed);
                            continue;
                        }
                    },
                    Err(_) => return,
                },
            };
            let sifted = self.sieve().sift(from.id, from.control, &bytes, self.clock.now());
            match sifted.map(|sifted| sifted.map(|bytes| ChitchatMessage::deserialize(&mut &bytes[..]))) {
                // A full inbox drops the message: the loop is behind, and the next round repeats everything.
                Ok(Some(Ok(message))) => drop(self.sender.try_send((from.control, message))),
                Ok(None) => {}
                Ok(Some(Err(error))) => tracing::warn!(from = %from.node, %error, "a sifted message is not understood"),
                Err(why) => unfit(why),
            }
        }
    }

    /// The sieve that everything passes.
    pub(super) fn sieve(&self) -> MutexGuard<'_, Sieve> {
        self.sieve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the sieve's times are read from.
    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

/// chitchat's view of all this.
pub(super) struct QuicTransport {
    links: GossipLinks,
    inbox: GossipInbox,
}

impl QuicTransport {
    pub(super) fn new(links: GossipLinks, inbox: GossipInbox) -> Self {
        Self { links, inbox }
    }
}

#[async_trait]
impl Transport for QuicTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(QuicSocket { links: self.links.clone(), inbox: self.inbox.clone(), queues: BTreeMap::new() }))
    }
}

struct QuicSocket {
    links: GossipLinks,
    inbox: GossipInbox,
    /// What waits for each peer, with whom its task dials: a replaced node has its predecessor's address and another key.
    queues: BTreeMap<SocketAddr, (Target, mpsc::Sender<Bytes>)>,
}

#[async_trait]
impl Socket for QuicSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let Some(target) = self.links.targets.borrow().get(&to).cloned() else {
            self.queues.remove(&to);
            return Ok(());
        };
        let mut bytes = Vec::with_capacity(message.serialized_len());
        message.serialize(&mut bytes);
        if self.queues.get(&to).is_some_and(|(known, _)| *known != target) {
            // Ends its task, too.
            self.queues.remove(&to);
        }
        let calls = &self.links.calls;
        let (_, queue) = self.queues.entry(to).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(LINK_QUEUE);
            tokio::spawn(carry(calls.clone(), target.clone(), receiver));
            (target, sender)
        });
        // A full queue drops the message for the same reason as a full inbox.
        drop(queue.try_send(Bytes::from(bytes)));
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        let mut receiver = self.inbox.receiver.lock().await;
        receiver.recv().await.ok_or_else(|| anyhow::anyhow!("the agent has stopped"))
    }
}

/// Carries one peer's messages: as a datagram where one fits, else as a stream of its own.
async fn carry(calls: Calls, target: Target, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = queue.recv().await {
        let link = match calls.link(&target, Alpn::Gossip).await {
            Ok(link) => link,
            Err(error) => {
                tracing::debug!(to = %target.address, %error, "no gossip connection");
                continue;
            }
        };
        let connection = link.connection();
        if connection.max_datagram_size().is_some_and(|most| bytes.len() <= most) {
            drop(connection.send_datagram(bytes));
        } else if let Ok(mut stream) = connection.open_uni().await {
            drop(stream.write_all(&bytes).await);
            drop(stream.finish());
        }
    }
}
