//! What the nodes tell one another about themselves, all the time: a hint, never a reason.
//!
//! Gossip makes the owner look; only a commit moves anything (R7). It runs chitchat over this agent's own QUIC
//! connections, so that only members take part, each of which is believed about itself alone ([`sieve`]), and offers one
//! thing: the [`View`], who is live and what each says.

mod facts;
mod greeting;
mod own;
pub mod sieve;
mod transport;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig, spawn_chitchat,
};
use landfall_proto::id::{Fqdn, MemberId, UnixMillis};
use landfall_proto::model::Member;
use landfall_proto::{Class, Refusal};
use tokio::sync::watch;

pub use facts::{CapAddressFacts, Facts, StorageFacts, VmServiceFacts};
pub use greeting::Greeting;
pub use own::own_words;
pub use sieve::Unfit;
pub use transport::{GossipInbox, GossipLinks};

/// Time between two rounds. With the same value as the detector's prior a silent node is suspected after about two
/// seconds, from when `node_down_after` counts. Rounds are most of what an idle agent does: twice as many find a death one
/// second earlier, and take twice the processor time for it (docs/benchmark.md, idle).
pub const GOSSIP_INTERVAL: Duration = Duration::from_millis(500);

/// How improbable a silence must be. Eight is chitchat's default; with the interval above it means about two seconds.
const PHI: f64 = 8.0;

/// The longest pause between heartbeats that the detector takes for normal.
const HEARTBEAT_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a dead generation is remembered, and a deleted key. A node restarted often must not fill the digest.
const GRACE: Duration = Duration::from_secs(15 * 60);

/// Where a node's facts stand in its gossip state.
const FACTS_KEY: &str = "facts";

/// What one member looks like from here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Whether its heartbeats arrive.
    pub live: bool,
    /// What it last said of itself.
    pub facts: Option<Facts>,
}

/// All members that were ever heard of, by id.
pub type View = BTreeMap<MemberId, Seen>;

/// A running gossip: publishes this node's facts and keeps the view.
pub struct Gossip {
    handle: ChitchatHandle,
    inbox: GossipInbox,
    view: watch::Sender<Arc<View>>,
}

impl Gossip {
    /// Joins the gossip of `cluster` as `me`; `started` tells this life of the agent from earlier ones.
    pub async fn start(
        cluster: &Fqdn,
        me: MemberId,
        address: SocketAddr,
        started: UnixMillis,
        links: GossipLinks,
        inbox: GossipInbox,
    ) -> Result<Self, Refusal> {
        let own = ChitchatId::new(me.number().to_string(), started.0, address);
        inbox.sieve().begin(own.clone(), cluster.to_string());
        let config = ChitchatConfig {
            chitchat_id: own,
            cluster_id: cluster.to_string(),
            gossip_interval: GOSSIP_INTERVAL,
            listen_addr: address,
            seed_nodes: links.addresses().iter().map(ToString::to_string).collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                initial_interval: GOSSIP_INTERVAL,
                max_interval: HEARTBEAT_PAUSE_MAX,
                dead_node_grace_period: GRACE,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let transport = transport::QuicTransport::new(links, inbox.clone());
        let handle = spawn_chitchat(config, Vec::new(), &transport)
            .await
            .map_err(|error| Refusal::new(Class::Failed, "gossip", format!("gossip did not start: {error}")))?;
        Ok(Self { handle, inbox, view: watch::Sender::new(Arc::default()) })
    }

    /// What is seen now, and each time it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Tells the others about this node. Nothing is sent where nothing changed.
    pub async fn publish(&self, facts: &Facts) {
        let Ok(text) = serde_json::to_string(facts) else { return };
        self.handle.with_chitchat(|state| state.self_node_state().set(FACTS_KEY, &text)).await;
    }

    /// Asks `address` for a round at once: a node that has just become known.
    pub fn greet(&self, address: SocketAddr) {
        if let Err(error) = self.handle.gossip(address) {
            tracing::debug!(%address, %error, "gossip loop is gone");
        }
    }

    /// Greets those of `members` that are due for it.
    pub fn keep_in_touch<'a>(&self, greeting: &mut Greeting, members: impl Iterator<Item = &'a Member>) {
        let now = self.inbox.clock().now();
        let due = {
            let sieve = self.inbox.sieve();
            greeting.due(members.map(|member| (member.control, sieve.silent_for(member.id, now))), now)
        };
        due.into_iter().for_each(|address| self.greet(address));
    }

    /// Brings the view up to date with chitchat's state; ids that are no members are left out.
    pub async fn refresh(&self, members: &BTreeSet<MemberId>) {
        let lives: BTreeMap<MemberId, ChitchatId> = {
            let mut sieve = self.inbox.sieve();
            sieve.retain(members);
            members.iter().filter_map(|member| Some((*member, sieve.life(*member)?.clone()))).collect()
        };
        let fresh = self.handle.with_chitchat(|state| view_of(state, &lives)).await;
        self.view.send_if_modified(|view| {
            let changed = **view != fresh;
            if changed {
                *view = Arc::new(fresh.clone());
            }
            changed
        });
    }

    /// Whether the gossip loop has ended by itself, which it does only when its transport breaks.
    pub async fn ended(&self) {
        if let Err(error) = self.handle.termination_watcher().await {
            tracing::warn!(%error, "gossip ended");
        }
    }

    /// Stops taking part.
    pub fn stop(&self) {
        self.handle.abort();
    }
}

/// Whether chitchat can read `bytes`: what the sieve leaves must be a message for it.
pub fn is_understood(bytes: &[u8]) -> bool {
    ChitchatMessage::deserialize(&mut &bytes[..]).is_ok()
}

/// What each member says of itself in the life in which it was heard last, and whether it is heard.
fn view_of(state: &chitchat::Chitchat, lives: &BTreeMap<MemberId, ChitchatId>) -> View {
    let live: BTreeSet<&ChitchatId> = state.live_nodes().collect();
    let own = state.self_chitchat_id();
    let me = own.node_id.parse().ok().map(MemberId::from_number);
    let seen = |id: &ChitchatId| Seen {
        live: live.contains(id),
        facts: state.node_state(id).and_then(|node| node.get(FACTS_KEY)).and_then(Facts::read),
    };
    let others = lives.iter().map(|(member, id)| (*member, id));
    others.chain(me.map(|me| (me, own))).map(|(member, id)| (member, seen(id))).collect()
}
