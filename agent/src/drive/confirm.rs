//! Whether this node's knowledge of its assignments is fresh: it asks the owner, who asks a quorum.
//!
//! A holder that has not confirmed its state for two leases may have lost its role without hearing of it. It goes on
//! taking data, but says so in each answer, and nothing that it says then is counted as an acknowledgement.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::seam::{Clock, Time};
use tokio::time::Instant;

use crate::drive::members::control_target;
use crate::drive::node::Node;

/// How long the owner may take to answer.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(1);

/// When this node's state was last confirmed.
#[derive(Clone)]
pub struct Confirmed {
    clock: Arc<dyn Clock>,
    lease: Duration,
    at: Arc<Mutex<Option<Time>>>,
}

impl Confirmed {
    /// Nothing confirmed yet.
    pub fn new(clock: Arc<dyn Clock>, lease: Duration) -> Self {
        Self { clock, lease, at: Arc::default() }
    }

    /// Whether the state was confirmed within the last two leases.
    pub fn is_fresh(&self) -> bool {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| self.clock.now().since(at) < self.lease * 2)
    }

    /// Whether the state is confirmed, asking for it where it was not asked lately: a replica may have come here since.
    pub async fn ensure(&self, node: &Node) -> bool {
        if !self.is_fresh() {
            self.renew(node).await;
        }
        self.is_fresh()
    }

    async fn renew(&self, node: &Node) {
        if let Some(asked) = ask(node).await {
            let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
            *at = (*at).max(Some(asked));
        }
    }

    /// Confirms twice a lease, for as long as this node receives a replica.
    pub async fn run(self, node: Node) {
        let mut look = node.rhythm(self.lease / 2);
        loop {
            look.tick().await;
            let holds = node.state().replicas.values().any(|replica| replica.receiver() == node.me);
            if holds {
                self.renew(&node).await;
            }
        }
    }
}

/// Whether everything that was committed when this was called is applied here now.
pub async fn is_current(node: &Node) -> bool {
    ask(node).await.is_some()
}

/// Asks the owner; the time of asking, once everything committed by then is applied here.
async fn ask(node: &Node) -> Option<Time> {
    let asked = node.outside.clock.now();
    if node.owner.acting().is_some() {
        return Some(asked);
    }
    let leader = node.consensus.status().leader?;
    let target = control_target(&node.state(), leader)?;
    let answer = node.calls.call(&target, Alpn::Control, &ControlRequest::Confirm, CONFIRM_DEADLINE).await;
    let Ok(ControlAnswer::Confirmed { position, .. }) = answer else { return None };
    node.proposer.applied(position, Instant::now() + CONFIRM_DEADLINE).await.ok()?;
    Some(asked)
}
