//! Owning the CAP: the claim, the lease, and giving it up.
//!
//! The consensus leader commits a claim whose position is the term, and from then on holds the lease of
//! [`crate::decide::lease`]. Being leader is no authority: everything that acts for the CAP asks [`Owner::acting`], which
//! reads the clock. A witness that wins an election only lets a data node catch up and then stands back.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::id::{MemberId, Term, UnixMillis};
use landfall_proto::model::{Command, Outcome, Proposal};
use landfall_proto::seam::{Clock, Time};
use landfall_store::consensus::Consensus;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::decide::lease;

/// How often the owner proves with a small commit that its own disk still takes writes: the lease proves the network
/// only.
const DISK_PROBE_INTERVAL: Duration = Duration::from_secs(3);

/// Leases without a new entry after which a witness may stand: an entry that only it and the dead leader hold would
/// otherwise leave nobody electable. An owner that lives adds one every [`DISK_PROBE_INTERVAL`], two in that time; that it
/// is the leader in this node's books proves nothing, since those keep a dead leader's name.
const WITNESS_STANDS_AFTER: u32 = 3;

/// The right to act for the CAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The term.
    pub term: Term,
    /// The lease, as last renewed.
    pub ends_at: Time,
    /// When the CAP was claimed, for people.
    pub since: UnixMillis,
}

/// This agent's hold on the CAP.
#[derive(Clone)]
pub struct Owner {
    me: MemberId,
    witness: bool,
    lease: Duration,
    consensus: Consensus,
    clock: Arc<dyn Clock>,
    tenure: watch::Sender<Option<Tenure>>,
}

impl Owner {
    /// An agent that does not own the CAP yet; [`Owner::run`] changes that.
    pub fn new(me: MemberId, witness: bool, lease: Duration, consensus: Consensus, clock: Arc<dyn Clock>) -> Self {
        Self { me, witness, lease, consensus, clock, tenure: watch::Sender::new(None) }
    }

    /// The term under which this agent may act right now; `None` where its lease is over or was never held.
    pub fn acting(&self) -> Option<Term> {
        let now = self.clock.now();
        self.tenure.borrow().filter(|tenure| now < tenure.ends_at).map(|tenure| tenure.term)
    }

    /// The tenure as it changes. Who acts still asks [`Owner::acting`].
    pub fn watch(&self) -> watch::Receiver<Option<Tenure>> {
        self.tenure.subscribe()
    }

    /// Claims and holds the CAP whenever this agent leads, until the task is dropped.
    pub async fn run(self) {
        self.consensus.set_elections(!self.witness);
        let mut status = self.consensus.watch_status();
        let mut grew = (None, self.clock.now());
        loop {
            let (leads, last_log) = {
                let status = status.borrow_and_update();
                (status.is_leader, status.last_log)
            };
            if !leads {
                if self.witness {
                    if grew.0 != last_log {
                        grew = (last_log, self.clock.now());
                    }
                    let still = self.clock.now().since(grew.1);
                    self.consensus.set_elections(still >= self.lease * WITNESS_STANDS_AFTER);
                }
                if let Ok(Err(_)) = timeout(self.lease / 2, status.changed()).await {
                    return;
                }
                continue;
            }
            if self.witness {
                self.hand_over().await;
                grew.1 = self.clock.now();
            } else if let Some((term, since)) = self.claim().await {
                self.hold(term, since).await;
                self.tenure.send_replace(None);
            }
        }
    }

    /// Commits the claim; `None` where this agent no longer leads.
    async fn claim(&self) -> Option<(Term, UnixMillis)> {
        let t0 = self.clock.now();
        self.consensus.hold_votes_until(lease::vote_hold(t0, self.lease));
        let at = self.clock.wall();
        let proposal = Proposal { request: None, at, term: None, command: Command::Claim(self.me) };
        match timeout(self.lease * 2, self.consensus.propose(proposal)).await {
            Ok(Ok(applied)) => match applied.answer {
                Ok(Outcome::Claimed(term)) => {
                    tracing::info!(%term, "claimed the CAP");
                    Some((term, at))
                }
                Ok(other) => {
                    tracing::error!(?other, "a claim gave an answer of another kind");
                    None
                }
                // A cluster that is just being founded, or a member just removed: not ours to claim.
                Err(refusal) => {
                    tracing::debug!(%refusal, "claim refused");
                    sleep(lease::renewal_interval(self.lease)).await;
                    None
                }
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "claim not committed");
                sleep(lease::renewal_interval(self.lease)).await;
                None
            }
            Err(_) => None,
        }
    }

    /// Renews the lease until it cannot be renewed.
    async fn hold(&self, term: Term, since: UnixMillis) {
        let mut probed = self.clock.now();
        loop {
            let t0 = self.clock.now();
            self.consensus.hold_votes_until(lease::vote_hold(t0, self.lease));
            match timeout(self.lease, self.consensus.linearizable()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::info!(%term, %error, "no longer leads");
                    return;
                }
                Err(_) => {
                    tracing::warn!(%term, "no quorum answered for a whole lease");
                    return;
                }
            }
            if self.consensus.state().claim.map(|claim| claim.term) != Some(term) {
                tracing::info!(%term, "a newer claim was applied");
                return;
            }
            let ends_at = lease::ends_at(t0, self.lease);
            self.tenure.send_replace(Some(Tenure { term, ends_at, since }));
            if self.clock.now().since(probed) >= DISK_PROBE_INTERVAL {
                probed = self.clock.now();
                if !self.disk_answers(term).await {
                    return;
                }
            }
            let spent = self.clock.now().since(t0);
            sleep(lease::renewal_interval(self.lease).saturating_sub(spent)).await;
        }
    }

    /// Whether a small commit applies within two leases. If not, this agent stops its heartbeats, so that another with
    /// a working disk is elected; its own come back when a write has gone through.
    async fn disk_answers(&self, term: Term) -> bool {
        let probe = Proposal { request: None, at: self.clock.wall(), term: Some(term), command: Command::Probe };
        let pending = self.consensus.propose(probe);
        tokio::pin!(pending);
        let mut renew = tokio::time::interval(lease::renewal_interval(self.lease));
        let started = self.clock.now();
        while self.clock.now().since(started) < self.lease * 2 {
            tokio::select! {
                result = &mut pending => return result.is_ok(),
                _ = renew.tick() => {
                    let t0 = self.clock.now();
                    self.consensus.hold_votes_until(lease::vote_hold(t0, self.lease));
                    if let Ok(Ok(_)) = timeout(self.lease, self.consensus.linearizable()).await {
                        let ends_at = lease::ends_at(t0, self.lease);
                        self.tenure.send_modify(|tenure| {
                            if let Some(tenure) = tenure {
                                tenure.ends_at = ends_at;
                            }
                        });
                    }
                }
            }
        }
        tracing::error!(%term, "a small commit has not applied for two leases: this disk hangs, stepping down");
        self.tenure.send_replace(None);
        self.consensus.set_heartbeats(false);
        self.consensus.set_elections(false);
        let _ = pending.await;
        self.consensus.set_heartbeats(true);
        self.consensus.set_elections(!self.witness);
        false
    }

    /// A witness that leads waits until a data node has the whole log, then goes silent until that node leads.
    async fn hand_over(&self) {
        let mut status = self.consensus.watch_status();
        loop {
            let (leads, caught_up) = {
                let status = status.borrow_and_update();
                let state = self.consensus.state();
                let caught_up = status.followers.iter().any(|(member, progress)| {
                    progress.lag == 0 && state.members.get(member).is_some_and(|member| !member.witness)
                });
                (status.is_leader, caught_up)
            };
            if !leads {
                break;
            }
            if caught_up {
                tracing::info!("a witness does not own the CAP: standing back for a node that has caught up");
                self.consensus.set_heartbeats(false);
                self.consensus.set_elections(false);
                while status.borrow_and_update().is_leader {
                    if status.changed().await.is_err() {
                        return;
                    }
                }
                break;
            }
            if status.changed().await.is_err() {
                return;
            }
        }
        self.consensus.set_heartbeats(true);
        self.consensus.set_elections(false);
    }
}
