//! The broker client: what a primary asks of a cluster by its CAP name, whoever of its agents answers.
//!
//! Any agent may be asked; a referral to the owner is followed; an agent that fails is passed over for the next. Within
//! its deadline a call is tried again and again with the same [`RequestId`], so that it is applied once. The client
//! believes no position or epoch lower than one it has seen, and decides nothing about a VM.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::alpn::Alpn;
use crate::calls::{CallError, Calls};
use crate::endpoint::Target;
use crate::id::{Epoch, Fqdn, Position, RequestId, VmId};
use crate::limits::{
    ATTEMPT_TIME, ATTEMPT_TIME_MIN, EPOCHS_REMEMBERED, HEDGE_AFTER, MEMBERS_MAX, REFERRALS_MAX, RETRY_WAIT,
    RETRY_WAIT_MAX,
};
use crate::message::broker::{BrokerAnswer, BrokerRequest, Location, PassedOver, Place};
use crate::model::{Frequency, PromotionId, VmSpec};
use crate::refusal::{Class, Refusal};
use crate::seam::Random;
use crate::transport::lock;

/// A wish for a replica: [`Place`] without its request, which the client adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The VM.
    pub vm: VmSpec,
    /// The change set interval.
    pub frequency: Frequency,
    /// Older points to keep, 0-24.
    pub recovery_points: u8,
    /// The epoch at which the node placed earlier did not answer, where nothing was acknowledged yet.
    pub instead_of: Option<Epoch>,
    /// The promotion under which the primary runs; `None` for a VM as it was first enabled.
    pub lineage: Option<PromotionId>,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The CAP's own addresses, and every agent's control address.
    pub agents: Vec<SocketAddr>,
    /// Whether the cluster accepts replication from this one, and if not, why.
    pub authorized: Result<(), Refusal>,
}

/// A client of one cluster's broker. The cluster's CA comes from the [`crate::trust::Trust`] of the calls' endpoints.
#[derive(Debug)]
pub struct BrokerClient {
    calls: Calls,
    random: Arc<dyn Random>,
    cap: Fqdn,
    known: Mutex<Known>,
    /// Requests that change something go one after the other: the cluster executes no sequence below one it has seen.
    turn: tokio::sync::Mutex<RequestId>,
}

#[derive(Debug, Default)]
struct Known {
    /// Where the client began: kept, so that a wrong list of agents does not cut it off.
    first: Vec<SocketAddr>,
    agents: Vec<SocketAddr>,
    /// The agent that answered last, or that was named as owner.
    preferred: Option<SocketAddr>,
    position: Position,
    epochs: BTreeMap<VmId, Epoch>,
}

/// What one agent's answer means for the call.
enum Step<T> {
    Done(T),
    /// Ask the owner, there.
    Refer(SocketAddr),
    /// It failed for now, there.
    Failed(Refusal),
}

impl BrokerClient {
    /// A client of the cluster `cap`, whose agents answer at `agents` (control addresses).
    pub fn new(calls: Calls, cap: Fqdn, agents: Vec<SocketAddr>) -> Self {
        let random = Arc::clone(&calls.endpoint(Alpn::Broker).outside().random);
        let known = Mutex::new(Known { first: agents, ..Known::default() });
        let turn = tokio::sync::Mutex::new(RequestId { session: random.u128(), sequence: 0 });
        Self { calls, random, cap, known, turn }
    }

    /// The cluster's CAP.
    pub fn cap(&self) -> &Fqdn {
        &self.cap
    }

    /// Agents that are known, the first ones included.
    pub fn agents(&self) -> Vec<SocketAddr> {
        lock(&self.known).candidates()
    }

    /// Replaces the list of agents, for example by a member list's addresses. An empty one is ignored.
    pub fn set_agents(&self, agents: &[SocketAddr]) {
        lock(&self.known).learn(agents);
    }

    /// The highest position that any answer carried.
    pub fn position(&self) -> Position {
        lock(&self.known).position
    }

    /// The highest epoch seen of this VM's replica, from whatever source.
    pub fn epoch(&self, vm: VmId) -> Option<Epoch> {
        lock(&self.known).epochs.get(&vm).copied()
    }

    /// Tells the client of an epoch that was learned elsewhere, such as from a Moved notice.
    pub fn saw(&self, vm: VmId, at: &Location) {
        lock(&self.known).saw(vm, at);
    }

    /// May this cluster replicate there?
    pub async fn probe(&self, deadline: Duration) -> Result<Probed, Refusal> {
        self.ask(&|_| BrokerRequest::Probe, deadline, |answer| match answer {
            BrokerAnswer::Ready { cap, agents, authorized } if cap == self.cap => {
                lock(&self.known).learn(&agents);
                Ok(Probed { agents, authorized })
            }
            other => Err(Box::new(other)),
        })
        .await
    }

    /// Finds a node for a replica; where there is one already, that is the answer.
    pub async fn place(&self, wish: Wish, deadline: Duration) -> Result<(Location, Vec<PassedOver>), Refusal> {
        let Wish { vm, frequency, recovery_points, instead_of, lineage } = wish;
        let id = vm.id;
        let make = |request| {
            let place = Place { request, vm: vm.clone(), frequency, recovery_points, instead_of, lineage };
            BrokerRequest::Place(Box::new(place))
        };
        self.change(make, deadline, |answer| match answer {
            BrokerAnswer::Placed { at, passed_over } => {
                lock(&self.known).saw(id, &at);
                Ok((at, passed_over))
            }
            other => Err(Box::new(other)),
        })
        .await
    }

    /// Where is this VM's replica? An answer behind `at_least`, or behind what the client has seen, is not taken.
    pub async fn locate(&self, vm: VmId, at_least: Position, deadline: Duration) -> Result<Location, Refusal> {
        let make = |position: Position| BrokerRequest::Locate { vm, at_least: at_least.max(position) };
        self.ask(&make, deadline, |answer| match answer {
            BrokerAnswer::Located(at) => {
                let mut known = lock(&self.known);
                if known.epochs.get(&vm).is_some_and(|seen| at.epoch < *seen) || at.position < at_least {
                    let behind = Refusal::new(
                        Class::Failed,
                        "behind",
                        format!("an agent of {} has not heard of the replica's newest home yet", self.cap),
                    );
                    return Err(Box::new(BrokerAnswer::Refused(behind)));
                }
                known.saw(vm, &at);
                Ok(at)
            }
            other => Err(Box::new(other)),
        })
        .await
    }

    /// Where is this VM's replica, by the newest of the answers of all agents at once: for whoever has reason to think
    /// that the agent asked first is cut off from the others. Nobody waits for anything there.
    pub async fn locate_newest(&self, vm: VmId, deadline: Duration) -> Result<Location, Refusal> {
        let request = BrokerRequest::Locate { vm, at_least: Position::default() };
        let take = |answer| match answer {
            BrokerAnswer::Located(at) => Ok(at),
            other => Err(Box::new(other)),
        };
        let agents = self.agents();
        let asked = agents.iter().map(|agent| self.attempt(*agent, &request, deadline.min(ATTEMPT_TIME), &take));
        let (mut newest, mut last) = (None::<Location>, None);
        for answer in futures_util::future::join_all(asked).await {
            match answer {
                Ok(Step::Done(at)) if newest.as_ref().is_none_or(|newest| newest.epoch < at.epoch) => newest = Some(at),
                Ok(Step::Done(_) | Step::Refer(_)) => {}
                Ok(Step::Failed(refusal)) | Err(refusal) => last = Some(refusal),
            }
        }
        let newest = newest.ok_or_else(|| last.unwrap_or_else(|| self.unreachable(None, deadline)))?;
        lock(&self.known).saw(vm, &newest);
        Ok(newest)
    }

    /// Gives the relationship up. The answer is where that was committed.
    pub async fn remove(&self, vm: VmId, deadline: Duration) -> Result<Position, Refusal> {
        self.change(|request| BrokerRequest::Remove { request, vm }, deadline, |answer| self.committed(answer)).await
    }

    /// The VM's disks or adapters changed. The answer is where that was committed.
    pub async fn respecify(&self, vm: &VmSpec, deadline: Duration) -> Result<Position, Refusal> {
        let make = |request| BrokerRequest::Respecify { request, vm: Box::new(vm.clone()) };
        self.change(make, deadline, |answer| self.committed(answer)).await
    }

    fn committed(&self, answer: BrokerAnswer) -> Result<Position, Box<BrokerAnswer>> {
        match answer {
            BrokerAnswer::Done { position } => {
                lock(&self.known).reached(position);
                Ok(position)
            }
            other => Err(Box::new(other)),
        }
    }

    /// One request that changes something: in turn, and under one id however often it is sent.
    async fn change<T>(
        &self,
        make: impl Fn(RequestId) -> BrokerRequest,
        deadline: Duration,
        take: impl Fn(BrokerAnswer) -> Result<T, Box<BrokerAnswer>>,
    ) -> Result<T, Refusal> {
        let end = Instant::now() + deadline;
        let mut turn = timeout_at(end, self.turn.lock()).await.map_err(|_| self.unreachable(None, deadline))?;
        turn.sequence += 1;
        let sent = AtomicU32::new(0);
        let send = |_| {
            sent.fetch_add(1, Ordering::Relaxed);
            make(*turn)
        };
        let answer = self.ask(&send, end.saturating_duration_since(Instant::now()), &take).await;
        match answer {
            Err(refusal) if refusal.never_applied(sent.into_inner()) => {
                *turn = RequestId { session: self.random.u128(), sequence: 1 };
                self.ask(&|_| make(*turn), end.saturating_duration_since(Instant::now()), &take).await
            }
            answer => answer,
        }
    }

    /// Sends what `make` gives for the highest position seen, to one agent after the other, until one gives an answer
    /// that `take` takes, one refuses for good, or `deadline` has passed. An agent that is silent is not waited for alone.
    async fn ask<T>(
        &self,
        make: &impl Fn(Position) -> BrokerRequest,
        deadline: Duration,
        take: impl Fn(BrokerAnswer) -> Result<T, Box<BrokerAnswer>>,
    ) -> Result<T, Refusal> {
        let end = Instant::now() + deadline;
        let mut last = None;
        let (mut wait, mut referrals) = (RETRY_WAIT, 0);
        let (mut asked, mut under_way) = (FuturesUnordered::new(), BTreeSet::new());
        // When the next agent is asked; `None` is at once, for which no timer is fine enough.
        let (mut round, mut next_at) = (self.round(), None);
        loop {
            let (agent, step) = tokio::select! {
                biased;
                Some(answered) = asked.next() => answered,
                () = until(next_at.map(|at: Instant| at.min(end))) => {
                    let now = Instant::now();
                    let left = end.saturating_duration_since(now);
                    if left.is_zero() {
                        return Err(self.unreachable(last, deadline));
                    }
                    match round.pop() {
                        Some(agent) if under_way.insert(agent) => {
                            // A silent agent takes at most half of what is left: it may be asked again in any case.
                            let share = (left / 2).clamp(ATTEMPT_TIME_MIN, ATTEMPT_TIME).min(left);
                            let (request, take) = (make(self.position()), &take);
                            asked.push(async move { (agent, self.attempt(agent, &request, share, take).await) });
                            next_at = Some(now + HEDGE_AFTER);
                        }
                        // It has not answered yet: it is not asked twice at a time.
                        Some(_) => next_at = None,
                        None => {
                            (round, referrals) = (self.round(), 0);
                            next_at = Some(now + self.jittered(wait));
                            wait = (wait * 2).min(RETRY_WAIT_MAX);
                        }
                    }
                    continue;
                }
            };
            under_way.remove(&agent);
            next_at = None;
            match step? {
                Step::Done(value) => {
                    lock(&self.known).preferred = Some(agent);
                    return Ok(value);
                }
                Step::Refer(owner) if referrals < REFERRALS_MAX && owner != agent => {
                    referrals += 1;
                    lock(&self.known).preferred = Some(owner);
                    round.push(owner);
                }
                Step::Refer(_) => {}
                Step::Failed(refusal) => {
                    lock(&self.known).failed(agent);
                    last = Some(refusal);
                }
            }
        }
    }

    /// One agent's answer. The error is a refusal that no other agent would take back.
    async fn attempt<T>(
        &self,
        agent: SocketAddr,
        request: &BrokerRequest,
        deadline: Duration,
        take: &impl Fn(BrokerAnswer) -> Result<T, Box<BrokerAnswer>>,
    ) -> Result<Step<T>, Refusal> {
        let target = Target { cap: self.cap.clone(), address: agent, key: None };
        let answer: Result<BrokerAnswer, CallError> = self.calls.call(&target, Alpn::Broker, request, deadline).await;
        let other = match answer.map(take) {
            Ok(Ok(value)) => return Ok(Step::Done(value)),
            Ok(Err(other)) => *other,
            // Even "you are not on my list" may be one agent's old list: the others are asked as well.
            Err(error) => return Ok(Step::Failed(error.into())),
        };
        match other {
            BrokerAnswer::Owner { control } => Ok(Step::Refer(control)),
            BrokerAnswer::Refused(refusal) if refusal.is_retryable() => Ok(Step::Failed(refusal)),
            BrokerAnswer::Refused(refusal) => Err(refusal),
            _ => {
                let text = format!("{agent} has answered something else than was asked");
                Ok(Step::Failed(Refusal::new(Class::Failed, "protocol", text)))
            }
        }
    }

    /// The agents in the order of asking, the first one last: the preferred one, then the others in random order.
    fn round(&self) -> Vec<SocketAddr> {
        let known = lock(&self.known);
        let preferred = known.preferred;
        let mut agents: Vec<SocketAddr> =
            known.candidates().into_iter().filter(|agent| Some(*agent) != preferred).collect();
        drop(known);
        for at in (1..agents.len()).rev() {
            let other = usize::try_from(self.random.u64() % (at as u64 + 1)).unwrap_or(0);
            agents.swap(at, other);
        }
        agents.extend(preferred);
        agents
    }

    /// Half of `wait` to all of it, so that clients which failed together do not come back together.
    fn jittered(&self, wait: Duration) -> Duration {
        let half = wait / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(self.random.u64() % span)
    }

    fn unreachable(&self, last: Option<Refusal>, deadline: Duration) -> Refusal {
        let code = "broker_unreachable";
        let within = format!("{:.1} s", deadline.as_secs_f32());
        let text = match &last {
            Some(refusal) => {
                format!("no agent of {} gave an answer within {within}: {}", self.cap, refusal.message)
            }
            None => format!("no agent of {} gave an answer within {within}", self.cap),
        };
        // Where every agent refused for the same lasting reason, that is what the user must act on.
        match last {
            Some(refusal) if refusal.class == Class::Refused => Refusal { message: text, ..refusal },
            _ => Refusal::new(Class::Unreachable, code, text)
                .remedy("check that an agent of that cluster runs and that this node reaches its control address"),
        }
    }
}

/// Waits until `at`; not at all, not even for a timer's tick, where there is none.
async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at).await;
    }
}

impl Known {
    fn candidates(&self) -> Vec<SocketAddr> {
        let mut all = self.agents.clone();
        all.extend(self.first.iter().filter(|agent| !self.agents.contains(agent)));
        all
    }

    fn learn(&mut self, agents: &[SocketAddr]) {
        if !agents.is_empty() {
            self.agents = agents.iter().copied().take(MEMBERS_MAX).collect();
        }
    }

    fn failed(&mut self, agent: SocketAddr) {
        if self.preferred == Some(agent) {
            self.preferred = None;
        }
    }

    fn reached(&mut self, position: Position) {
        self.position = self.position.max(position);
    }

    fn saw(&mut self, vm: VmId, at: &Location) {
        self.reached(at.position);
        if self.epochs.len() >= EPOCHS_REMEMBERED && !self.epochs.contains_key(&vm) {
            self.epochs.pop_first();
        }
        let epoch = self.epochs.entry(vm).or_insert(at.epoch);
        *epoch = (*epoch).max(at.epoch);
    }
}
