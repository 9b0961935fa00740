//! Giving the CAP to another node: in good order, so that nobody has to find out that the owner is gone.
//!
//! The owner stops acting and gives back what it holds; waits until whatever it did before is surely out; commits that it
//! gives the CAP up, so that nothing of its term is carried out any more; then gives the consensus lead to the next node
//! (`store/src/consensus/yielding.rs`), which claims the CAP. At no instant two may act: the old owner has stopped before
//! anything else happens, and acts again only after a claim of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, Term};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{Command, Proposal};
use landfall_proto::seam::Time;
use landfall_proto::{Class, Refusal};
use landfall_store::consensus::{ProposeError, Yielding};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::Owner;
use super::standing::Bar;
use crate::decide::succession::{self, Heir};
use crate::decide::{lease, voters};
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::drive::propose::no_quorum;
use crate::drive::sight;

/// How long an owner tries to begin a hand-over: the rest of its first lease, and the time in which a node that lags or a
/// change of the voters comes to its end.
const BEGIN_DEADLINE: Duration = Duration::from_secs(6);

/// How often it tries.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// How long the next owner may take until it answers that it acts, once it has claimed the CAP.
const ACTS_DEADLINE: Duration = Duration::from_secs(2);

/// The pause between two questions whether the next owner acts.
const ACTS_INTERVAL: Duration = Duration::from_millis(10);

/// A hand-over that has come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Who owns the CAP now.
    pub owner: MemberId,
    /// Its term.
    pub term: Term,
    /// How long nobody acted, at most: until the old owner heard that the new one acts.
    pub gap: Duration,
}

/// What became of an order: the claim that followed, and when this agent had stopped acting.
type Followed = (MemberId, Term, Time);

/// An order to give the CAP to `to`.
pub(super) struct Order {
    to: MemberId,
    at: Time,
    answer: oneshot::Sender<Result<Followed, Refusal>>,
}

impl Order {
    fn end(self, result: Result<Followed, Refusal>) {
        // Whoever asked may have gone.
        drop(self.answer.send(result));
    }
}

/// The order that waits for the owner, if there is one.
#[derive(Default)]
pub(super) struct Orders {
    waiting: Mutex<Option<Order>>,
    given: Notify,
}

impl Orders {
    fn place(&self, order: Order) -> Result<(), Refusal> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_some() {
            return Err(Refusal::new(Class::Failed, "busy", "the CAP is being handed over already")
                .remedy("see `landfall broker status` in a moment"));
        }
        *waiting = Some(order);
        self.given.notify_one();
        Ok(())
    }

    pub(super) fn take(&self) -> Option<Order> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Owner {
    /// Waits for an order, `wait` at most, and makes ready to carry it out; `None` where there is none that can begin now.
    pub(super) async fn due_order(&self, wait: Duration, may_yield: bool) -> Option<(Order, Yielding<'_>)> {
        let until = self.clock.now().after(wait);
        loop {
            let left = until.since(self.clock.now());
            let Some(order) = self.orders.take() else {
                if left.is_zero() || timeout(left, self.orders.given.notified()).await.is_err() {
                    return None;
                }
                continue;
            };
            let why_not = match may_yield {
                true => match self.consensus.begin_to_yield(order.to).await {
                    Ok(yielding) => return Some((order, yielding)),
                    Err(error) => error.refusal(),
                },
                false => Refusal::new(Class::Failed, "too_young", "this node has owned the CAP for a moment only"),
            };
            if self.clock.now().since(order.at) >= BEGIN_DEADLINE {
                order.end(Err(why_not.remedy("nothing was changed; try again, or name another node")));
                continue;
            }
            *self.orders.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
            if left.is_zero() {
                return None;
            }
            sleep(TRY_INTERVAL.min(left)).await;
        }
    }

    /// Gives the CAP to another node, having stopped to act at `stopped` and given back what it held.
    pub(super) async fn yield_to(
        &self,
        term: Term,
        (order, yielding): (Order, Yielding<'_>),
        stopped: Time,
        given_back: Result<(), Refusal>,
    ) {
        if let Err(refusal) = given_back {
            return order.end(Err(refusal.remedy("the CAP stays where it is; see the log of its owner")));
        }
        // What checked the lease a moment ago may still be on its way.
        sleep(lease::MARGIN).await;
        let command = Command::Yield(self.me);
        let proposal = Proposal { request: None, at: self.clock.wall(), term: Some(term), command };
        let upto = match timeout(self.lease, self.consensus.propose(proposal)).await {
            Ok(Ok(applied)) if applied.answer.is_ok() => applied.position.index(),
            Ok(Ok(applied)) => return order.end(applied.answer.map(|_| (self.me, term, stopped))),
            Ok(Err(error)) => return order.end(Err(error.refusal())),
            Err(_) => return order.end(Err(no_quorum())),
        };
        let bar = self.standing.bar();
        match yielding.finish(upto).await {
            Ok(()) => {}
            // It leads as before, and claims the CAP again.
            Err(error @ ProposeError::Busy(_)) => return order.end(Err(error.refusal())),
            Err(error) => {
                tracing::warn!(%term, to = %order.to, %error, "the next owner is elected in the ordinary way")
            }
        }
        tracing::info!(%term, to = %order.to, "gave the CAP up");
        tokio::spawn(self.clone().follow(term, order, stopped, bar));
    }

    /// Waits for the claim that follows the one of `term`. The next owner has a lease of time before this node may stand.
    async fn follow(self, term: Term, order: Order, stopped: Time, bar: Bar) {
        let mut states = self.consensus.watch_state();
        let mut next = async || {
            let next = states.wait_for(|state| state.claim.is_some_and(|claim| claim.term > term));
            next.await.ok().and_then(|state| state.claim)
        };
        let mut claim = timeout(self.lease, next()).await.ok().flatten();
        drop(bar);
        if claim.is_none() {
            // R9: once faults stop there is an owner within 4 L + 2 s.
            claim = timeout(self.lease * 3 + Duration::from_secs(2), next()).await.ok().flatten();
        }
        order.end(claim.map(|claim| (claim.member, claim.term, stopped)).ok_or_else(no_quorum));
    }
}

/// Hands the CAP, which this node owns, to `to`, or to whichever node is best; refused, with nothing changed, where an operator
/// should not give it to that node.
pub async fn order(node: &Node, to: Option<MemberId>) -> Result<HandedOver, Refusal> {
    let own = node.owner.acting().ok_or_else(no_quorum)?;
    if to == Some(node.me) {
        return Ok(HandedOver { owner: node.me, term: own, gap: Duration::ZERO });
    }
    let heirs = heirs(node);
    let heir = match to {
        Some(to) => {
            let named = heirs.iter().find(|heir| heir.member == to);
            let named = named.ok_or_else(|| Refusal::not_found("node", &to.to_string()))?;
            succession::check(named)?;
            named
        }
        None => succession::best(&heirs).ok_or_else(nobody)?,
    };
    give(node, heir, &heirs).await
}

/// Hands the CAP, which this node owns, to `heir` of `heirs`; refused, with nothing changed, where that one cannot own it.
pub async fn give(node: &Node, heir: &Heir, heirs: &[Heir]) -> Result<HandedOver, Refusal> {
    succession::check_able(heir)?;
    let to = heir.member;
    if !heir.votes {
        let _grouping = node.proposer.grouping().lock().await;
        let next = voters::instead(&node.consensus.status().voters, node.me, to, heirs);
        node.consensus.change_voters(next).await.map_err(|error| error.refusal())?;
    }
    let (answer, answered) = oneshot::channel();
    node.owner.orders.place(Order { to, at: node.outside.clock.now(), answer })?;
    let (owner, term, stopped) = answered.await.map_err(|_| no_quorum())??;
    let gap = acts(node, owner, term).await.since(stopped);
    let name = |member| node.state().members.get(&member).map(|member| member.node.to_string()).unwrap_or_default();
    if owner != to {
        let message = format!("{} did not take the CAP over: {} owns it now, under term {term}", name(to), name(owner));
        return Err(Refusal::new(Class::Failed, "not_taken_over", message)
            .field("node")
            .remedy("see `landfall node list`, then try again, or name another node"));
    }
    let told = format!("{} owns the CAP now: nobody acted for {} ms at most", name(owner), gap.as_millis());
    node.events.record(Happening::info("cap_handed_over", told).with("term", &term).with("gap_ms", &gap.as_millis()));
    Ok(HandedOver { owner, term, gap })
}

/// When `owner` is known to act under `term`, or as late as it is waited for.
async fn acts(node: &Node, owner: MemberId, term: Term) -> Time {
    let deadline = Instant::now() + ACTS_DEADLINE;
    let target = control_target(&node.state(), owner).filter(|_| owner != node.me);
    while Instant::now() < deadline {
        let acts = match &target {
            None => node.owner.acting() >= Some(term),
            Some(target) => {
                let asked = node.calls.call(target, Alpn::Control, &ControlRequest::Confirm, ACTS_DEADLINE).await;
                matches!(asked, Ok(ControlAnswer::Confirmed { term: acting, .. }) if acting >= term)
            }
        };
        if acts {
            break;
        }
        sleep(ACTS_INTERVAL).await;
    }
    node.outside.clock.now()
}

fn nobody() -> Refusal {
    Refusal::new(Class::Refused, "no_heir", "no other node can own the CAP now")
        .remedy("another node that hosts VMs must be up, vote, and not be drained: see `landfall node list`")
}

/// Every other member as a next owner.
pub fn heirs(node: &Node) -> Vec<Heir> {
    let (state, status, live) = (node.state(), node.consensus.status(), sight::live(node));
    let (down, quarantined) = (node.down.borrow(), node.quarantines.held());
    state
        .members
        .values()
        .filter(|member| member.id != node.me)
        .map(|member| Heir {
            member: member.id,
            node: member.node.clone(),
            witness: member.witness,
            drained: state.drained.contains(&member.id),
            quarantined: quarantined.contains_key(&member.id),
            up: live.get(&member.id) == Some(&true) && !down.contains_key(&member.id),
            votes: status.voters.contains(&member.id),
            lag: status.followers.get(&member.id).filter(|seen| seen.matched.is_some()).map(|seen| seen.lag),
        })
        .collect()
}

/// Ends an order that nobody is left to carry out.
pub(super) fn lost(orders: &Arc<Orders>) {
    if let Some(order) = orders.take() {
        order.end(Err(no_quorum()));
    }
}
