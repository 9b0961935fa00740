//! Standing for election: when, and asked of the others before.
//!
//! openraft 0.9 has a node stand whenever it has heard no leader for long enough, and whoever stands takes a new term,
//! which ends the lead of the present leader wherever it is heard of. So a voter that was cut off would come back with a
//! term of its own and leave the cluster without an owner for a moment. Here a node stands only while a majority of the
//! voters, itself included, hears no leader and hears this node. That is for calm, not for safety: of two nodes that stand
//! at once the votes choose one, as ever.
//!
//! openraft's own timers are off: it looks at them every one and a half heartbeats, and draws once in its life how long it
//! waits, so that two nodes which begin to wait together would stand in step for ever, each for itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use landfall_proto::alpn::Alpn;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_store::consensus::Consensus;
use tokio::time::sleep;

use crate::decide::standing::{self, Hearing, Wait};
use crate::drive::members::control_target;
use crate::drive::node::Node;

/// How often a node that hears no leader asks the others, in one lease. Elections begin half a lease after the lease is
/// over, so that several rounds fit in between.
const ROUNDS_PER_LEASE: u32 = 8;

/// Whether something keeps this node from standing for election by itself.
#[derive(Clone)]
pub struct Standing {
    bars: Arc<AtomicUsize>,
}

/// Keeps this node from standing for election until it is dropped.
pub struct Bar(Arc<AtomicUsize>);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Standing {
    /// A node that stands when [`stand_when_due`] has it do so.
    pub fn new(consensus: &Consensus) -> Self {
        consensus.set_elections(false);
        Self { bars: Arc::default() }
    }

    /// Has this node not stand for as long as the answer is kept.
    pub fn bar(&self) -> Bar {
        self.bars.fetch_add(1, Ordering::SeqCst);
        Bar(Arc::clone(&self.bars))
    }

    fn is_barred(&self) -> bool {
        self.bars.load(Ordering::SeqCst) != 0
    }
}

/// Whether this node owns the CAP or has heard a leader within a lease.
pub fn hears(node: &Node) -> bool {
    if node.consensus.status().is_leader {
        return node.owner.acting().is_some();
    }
    let heard = node.consensus.heard_leader();
    heard.is_some_and(|at| node.outside.clock.now().since(at) < node.owner.lease)
}

/// Has this node stand for election whenever it is due to, until the task is dropped.
pub async fn stand_when_due(node: Node) {
    let (lease, clock) = (node.owner.lease, &node.outside.clock);
    let mut grew = (None, clock.now());
    // Every voter refuses its vote for a lease after its start, and so do those that were started with this one.
    let votes_from = clock.now().after(lease);
    let mut wait = None;
    loop {
        let status = node.consensus.status();
        let now = clock.now();
        if grew.0 != status.last_log {
            grew = (status.last_log, now);
        }
        let hears = hears(&node);
        if hears {
            node.exclusion.lift();
        }
        let mut hearing = Hearing {
            me: node.me,
            voters: status.voters.clone(),
            witness: node.config.witness,
            unfit: node.cap_address.as_ref().is_some_and(|keeper| keeper.standing().fault.is_some()),
            hears: status.is_leader || hears,
            still: now.since(grew.1),
            answers: BTreeMap::new(),
        };
        let quiet_from = node.consensus.heard_leader().map_or(now, |heard| heard.after(lease)).max(votes_from);
        let vote = (status.vote_term, node.consensus.is_behind());
        let next = || Wait::next(wait, quiet_from, vote, now, lease, node.outside.random.u64());
        wait = (!hearing.hears).then(next);
        let due = match standing::is_due(&hearing, lease) {
            Some(due) => due,
            None => ask(&node, &mut hearing, lease).await,
        };
        let remaining = wait.map(|wait| wait.stands_at.since(clock.now())).unwrap_or_default();
        // Who votes alone need not wait for others to be first.
        let now_or_never = remaining.is_zero() || status.voters.len() == 1;
        let stands = due && now_or_never && node.gate.is_open() && !node.owner.standing.is_barred();
        if stands {
            node.consensus.stand().await.unwrap_or_else(|error| tracing::warn!(%error, "this node cannot stand"));
        }
        let round = lease / ROUNDS_PER_LEASE;
        // After a try, the shortest wait until the next one.
        sleep(match remaining {
            _ if stands => lease / 2,
            Duration::ZERO => round,
            remaining => remaining.min(round),
        })
        .await;
    }
}

/// Asks the other voters until their answers decide, or all have answered or had their time.
async fn ask(node: &Node, hearing: &mut Hearing, lease: Duration) -> bool {
    let state = node.state();
    let others = hearing.voters.iter().copied().filter(|voter| *voter != node.me);
    let mut asked: FuturesUnordered<_> = others
        .filter_map(|voter| Some((voter, control_target(&state, voter)?)))
        .map(|(voter, target)| async move {
            let call = node.calls.call(&target, Alpn::Control, &ControlRequest::Hears, lease / 4);
            (voter, call.await)
        })
        .collect();
    while let Some((voter, answer)) = asked.next().await {
        match answer {
            Ok(ControlAnswer::Hears(hears)) => drop(hearing.answers.insert(voter, hears)),
            Ok(_) => {}
            Err(error) => {
                if let Some(other) = state.members.get(&voter) {
                    node.exclusion.note(&node.name, &other.node, &error, &node.events);
                }
            }
        }
        if let Some(due) = standing::is_due(hearing, lease) {
            return due;
        }
    }
    false
}
