//! Owning the CAP: the claim, the lease, and giving it up.
//!
//! The consensus leader commits a claim whose position is the term, and from then on holds the lease of
//! [`crate::decide::lease`]. Being leader is no authority: everything that acts for the CAP asks [`Owner::acting`], which
//! reads the clock. A witness that wins an election only lets a data node catch up and then stands back.
//!
//! An owner stops acting in one way only, `Owner::step_down`, whatever the reason: what it holds as the owner is given
//! back there ([`GiveBack`]), before anybody else may own the CAP.

mod hand_over;
mod standing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use landfall_proto::id::{MemberId, Term, UnixMillis};
use landfall_proto::model::{Command, Outcome, Proposal};
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::{Clock, Time};
use landfall_proto::{Class, Refusal};
use landfall_store::consensus::{Consensus, ProposeError, Yielding};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub use self::hand_over::{HandedOver, give, heirs, order};
use self::hand_over::{Order, Orders};
use self::standing::Standing;
pub use self::standing::{hears, stand_when_due};
use crate::decide::lease;

/// How often the owner proves with a small commit that its own disk still takes writes: the lease proves the network
/// only. The commit says how far everybody's log is, for [`crate::decide::rollback`].
const DISK_PROBE_INTERVAL: Duration = Duration::from_secs(3);

/// How long one thing may take to be given back: an address is dropped by one message to the kernel.
const GIVE_BACK_DEADLINE: Duration = Duration::from_millis(500);

/// The pause before a majority that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The right to act for the CAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The term.
    pub term: Term,
    /// The lease, as last renewed.
    pub ends_at: Time,
    /// When the CAP was claimed, for people.
    pub since: UnixMillis,
    /// Whether nobody has anything of the CAP still: the owner before gave it up in good order, after it had owned it for
    /// longer than a lease, or there was none. Where not, the one before may have died and what it held may not be free yet.
    pub vacant: bool,
}

/// Something that an owner holds besides its lease: the CAP's address, for one.
#[async_trait]
pub trait GiveBack: Send + Sync {
    /// Gives it back, as the owner of `term` that acts no more. Called whenever this agent stops acting, before anybody
    /// else is helped to own the CAP. An error says that it may still be held here: the CAP is not handed over then.
    async fn give_back(&self, term: Term) -> Result<(), Refusal>;
}

/// This agent's hold on the CAP.
#[derive(Clone)]
pub struct Owner {
    me: MemberId,
    witness: bool,
    lease: Duration,
    consensus: Consensus,
    clock: Arc<dyn Clock>,
    standing: Standing,
    tenure: watch::Sender<Option<Tenure>>,
    held: Arc<Mutex<Vec<Arc<dyn GiveBack>>>>,
    orders: Arc<Orders>,
}

/// How a tenure ended.
enum Ended<'a> {
    /// By itself: another leads, no majority answers, or the disk hangs.
    Lost,
    /// To be given to another node.
    HandOver(Order, Yielding<'a>),
}

impl Owner {
    /// An agent that does not own the CAP yet; [`Owner::run`] changes that.
    pub fn new(me: MemberId, witness: bool, lease: Duration, consensus: Consensus, clock: Arc<dyn Clock>) -> Self {
        let standing = Standing::new(&consensus);
        let (tenure, held, orders) = (watch::Sender::new(None), Arc::default(), Arc::default());
        Self { me, witness, lease, consensus, clock, standing, tenure, held, orders }
    }

    /// The term under which this agent may act right now; `None` where its lease is over or was never held.
    pub fn acting(&self) -> Option<Term> {
        let now = self.clock.now();
        self.tenure
            .borrow()
            .filter(|tenure| now < tenure.ends_at || planted::is(Bug::LeaseNotChecked))
            .map(|tenure| tenure.term)
    }

    /// For how long a leader counts on its majority.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The tenure as it changes. Who acts still asks [`Owner::acting`].
    pub fn watch(&self) -> watch::Receiver<Option<Tenure>> {
        self.tenure.subscribe()
    }

    /// Has `held` be given back whenever this agent stops acting as the owner, in the order in which it was told.
    pub fn gives_back(&self, held: Arc<dyn GiveBack>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
    }

    /// Claims and holds the CAP whenever this agent leads, until the task is dropped.
    pub async fn run(self) {
        let mut status = self.consensus.watch_status();
        let mut heard = None;
        loop {
            if !status.borrow_and_update().is_leader {
                heard = None;
                if let Ok(Err(_)) = timeout(self.lease / 2, status.changed()).await {
                    return;
                }
                continue;
            }
            if self.witness {
                self.let_a_node_lead().await;
                continue;
            }
            // It was elected a moment ago, or has just lost its lease.
            let since = *heard.get_or_insert_with(|| self.clock.now());
            let Some(tenure) = self.claim(since).await else {
                self.step_aside_where_deaf(&mut heard).await;
                continue;
            };
            let ended = self.hold(tenure, &mut heard).await;
            let stopped = self.clock.now();
            let given_back = self.step_down(tenure.term).await;
            match ended {
                Ended::HandOver(order, yielding) => {
                    self.yield_to(tenure.term, (order, yielding), stopped, given_back).await;
                }
                Ended::Lost => hand_over::lost(&self.orders),
            }
        }
    }

    /// Stops acting: the one way in which a tenure ends. An error says what may still be held here.
    async fn step_down(&self, term: Term) -> Result<(), Refusal> {
        self.tenure.send_replace(None);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.retain(|_| !planted::is(Bug::NothingGivenBack));
        let mut result = Ok(());
        for held in held {
            let given = timeout(GIVE_BACK_DEADLINE, held.give_back(term)).await.unwrap_or_else(|_| {
                let message = format!("what the owner holds was not given back within {GIVE_BACK_DEADLINE:?}");
                Err(Refusal::new(Class::Failed, "not_given_back", message))
            });
            if let Err(refusal) = given {
                tracing::error!(%term, %refusal, "something that the owner holds was not given back");
                result = Err(refusal);
            }
        }
        result
    }

    /// Commits the claim; `None` where this agent no longer leads, or that did not come about. `heard` is when a majority
    /// answered last.
    async fn claim(&self, heard: Time) -> Option<Tenure> {
        let vote_term = self.consensus.status().vote_term;
        if let Some(from) = self.consensus.counts_from(vote_term) {
            sleep(from.since(self.clock.now())).await;
        }
        let t0 = self.clock.now();
        self.consensus.hold_votes_until(lease::vote_hold(t0, self.lease));
        let at = self.clock.wall();
        let proposal = Proposal { request: None, at, term: None, command: Command::Claim(self.me) };
        let patience = (self.lease * 2).saturating_sub(t0.since(heard)).max(self.lease / 2);
        match timeout(patience, self.consensus.propose(proposal)).await {
            Ok(Ok(applied)) => match applied.answer {
                Ok(Outcome::Claimed { term, vacant }) => {
                    tracing::info!(%term, vacant, "claimed the CAP");
                    Some(Tenure { term, ends_at: Time::default(), since: at, vacant })
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

    /// Stops to lead where no majority has answered since `heard`, two leases ago: others may hear this node that it does
    /// not hear, and would go on waiting for it.
    async fn step_aside_where_deaf(&self, heard: &mut Option<Time>) {
        let now = self.clock.now();
        let deaf = heard.is_some_and(|at| now.since(at) >= self.lease * 2);
        if !deaf || !self.consensus.status().is_leader {
            return;
        }
        match timeout(self.lease, self.consensus.linearizable()).await {
            Ok(Ok(_)) => *heard = Some(now),
            Ok(Err(ProposeError::NoQuorum)) | Err(_) => {
                tracing::warn!("no majority has answered for two leases: leading no more");
                if let Err(error) = self.consensus.step_aside().await {
                    tracing::warn!(%error, "this node goes on as the leader that nobody follows");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "no longer leads"),
        }
    }

    /// Renews the lease until it cannot be renewed or is to be given up; notes in `heard` when a majority answered.
    async fn hold(&self, mut tenure: Tenure, heard: &mut Option<Time>) -> Ended<'_> {
        let begun = self.clock.now();
        let (term, mut probed) = (tenure.term, begun);
        loop {
            let t0 = self.clock.now();
            self.consensus.hold_votes_until(lease::vote_hold(t0, self.lease));
            match timeout(self.lease, self.consensus.linearizable()).await {
                Ok(Ok(_)) => {}
                // What a busy moment swallowed is asked for again as long as the lease lasts.
                Ok(Err(ProposeError::NoQuorum)) if self.clock.now() < tenure.ends_at => {
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
                Ok(Err(error)) => {
                    tracing::info!(%term, %error, "the lease cannot be renewed");
                    return Ended::Lost;
                }
                Err(_) => {
                    tracing::warn!(%term, "no quorum answered for a whole lease");
                    return Ended::Lost;
                }
            }
            *heard = Some(t0);
            if self.consensus.state().claim.map(|claim| claim.term) != Some(term) {
                tracing::info!(%term, "a newer claim was applied");
                return Ended::Lost;
            }
            tenure.ends_at = lease::ends_at(t0, self.lease);
            self.tenure.send_replace(Some(tenure));
            if self.clock.now().since(probed) >= DISK_PROBE_INTERVAL {
                probed = self.clock.now();
                if !planted::is(Bug::HungDiskOwns) && !self.disk_answers(term).await {
                    return Ended::Lost;
                }
            }
            let renewed = t0.after(lease::renewal_interval(self.lease));
            // Younger than a lease, it may have taken over from a dead owner some of whose hold is not over yet.
            let may_yield = self.clock.now().since(begun) >= self.lease;
            if let Some((order, yielding)) = self.due_order(renewed.since(self.clock.now()), may_yield).await {
                return Ended::HandOver(order, yielding);
            }
        }
    }

    /// Whether a small commit applies within two leases. If not, this agent stops its heartbeats, so that another with
    /// a working disk is elected; its own come back when a write has gone through.
    async fn disk_answers(&self, term: Term) -> bool {
        let command = Command::Mark(self.consensus.status().marks(self.me));
        let probe = Proposal { request: None, at: self.clock.wall(), term: Some(term), command };
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
        drop(self.step_down(term).await);
        let _barred = self.standing.bar();
        self.consensus.set_heartbeats(false);
        let _ = pending.await;
        self.consensus.set_heartbeats(true);
        false
    }

    /// A witness that leads waits until a data node has the whole log, then gives the lead to it.
    async fn let_a_node_lead(&self) {
        let mut status = self.consensus.watch_status();
        loop {
            let (leads, next) = {
                let status = status.borrow_and_update();
                let state = self.consensus.state();
                let electable = |member: &MemberId| {
                    status.voters.contains(member) && state.members.get(member).is_some_and(|member| !member.witness)
                };
                let mut whole = status.followers.iter().filter(|(_, progress)| progress.lag == 0);
                let next = whole.find(|(member, _)| electable(member)).map(|(member, _)| *member);
                (status.is_leader, next.zip(status.last_log))
            };
            if !leads {
                return;
            }
            if let Some((next, upto)) = next {
                tracing::info!(%next, "a witness does not own the CAP: giving the lead to a node that has caught up");
                let _barred = self.standing.bar();
                let yielded = async { self.consensus.begin_to_yield(next).await?.finish(upto).await };
                if let Err(error) = yielded.await {
                    tracing::info!(%next, %error, "the lead was not given");
                }
                // Its chance, before this node may stand again.
                drop(timeout(self.lease, status.wait_for(|status| !status.is_leader)).await);
                sleep(self.lease / 2).await;
                continue;
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }
}
