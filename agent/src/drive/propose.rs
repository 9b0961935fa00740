//! Getting a command committed, from whichever agent it is asked of.
//!
//! The owner commits; every other agent forwards to it. A lost answer is asked for again under the same request id, so
//! that a command is applied once (R6) however often it was sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Calls;
use landfall_proto::id::{MemberId, Position, RequestId, Term};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{Answer, Command, Outcome, Proposal};
use landfall_proto::seam::{Clock, Outside};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use landfall_store::consensus::Consensus;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::drive::loss::DownSince;
use crate::drive::members::control_target;
use crate::drive::owner::Owner;

/// How long a command may take in all: an owner's death (about four seconds) and a second try fit.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(12);

/// How long one attempt may take: longer than two leases, so that a slow disk is not taken for a dead owner.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);

/// The pause between two attempts while there is no owner.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Requests that this agent may have under way: each lane is a session, and a session is strictly in order.
const LANES: usize = 16;

/// Where commands go in.
#[derive(Clone)]
pub struct Proposer {
    me: MemberId,
    consensus: Consensus,
    owner: Owner,
    calls: Calls,
    clock: Arc<dyn Clock>,
    lanes: Arc<Vec<Mutex<RequestId>>>,
    down: watch::Receiver<DownSince>,
    grouping: Arc<Mutex<()>>,
}

impl Proposer {
    /// A proposer of member `me`.
    pub fn new(
        me: MemberId,
        consensus: Consensus,
        owner: Owner,
        calls: Calls,
        outside: &Outside,
        down: watch::Receiver<DownSince>,
    ) -> Self {
        let session = || {
            let mut bytes = [0; 16];
            outside.random.fill(&mut bytes);
            Mutex::new(RequestId { session: u128::from_le_bytes(bytes), sequence: 0 })
        };
        let lanes = Arc::new((0..LANES).map(|_| session()).collect());
        Self { me, consensus, owner, calls, clock: Arc::clone(&outside.clock), lanes, down, grouping: Arc::default() }
    }

    /// Commits `command` and waits until this agent has applied it; the outcome and the position.
    pub async fn commit(&self, command: Command) -> Result<(Outcome, Position), Refusal> {
        let mut lane = self.free_lane().await;
        lane.sequence += 1;
        self.commit_as(*lane, command).await
    }

    /// Commits `command` as the request of a client, once.
    pub async fn commit_as(&self, request: RequestId, command: Command) -> Result<(Outcome, Position), Refusal> {
        let deadline = Instant::now() + COMMIT_DEADLINE;
        loop {
            let attempt = timeout(ATTEMPT_DEADLINE, self.attempt(request, command.clone()));
            let failure = match timeout_at(deadline, attempt).await {
                Ok(Ok(Ok((answer, position)))) => {
                    let outcome = answer?;
                    self.applied(position, deadline).await?;
                    return Ok((outcome, position));
                }
                Ok(Ok(Err(refusal))) => refusal,
                Ok(Err(_)) | Err(_) => no_quorum(),
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(failure);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// One attempt: `Err` where it is not known to have been applied and should be tried again.
    async fn attempt(&self, request: RequestId, command: Command) -> Result<(Answer, Position), Refusal> {
        if let Some(term) = self.owner.acting() {
            return self.commit_here(Some(request), term, command).await;
        }
        let state = self.consensus.state();
        let mut status = self.consensus.watch_status();
        let leader = status.borrow_and_update().leader.filter(|leader| *leader != self.me).ok_or_else(no_quorum)?;
        let target = control_target(&state, leader).ok_or_else(no_quorum)?;
        let ask = ControlRequest::Propose { request: Some(request), command: Box::new(command) };
        let answered = tokio::select! {
            answered = self.calls.call(&target, Alpn::Control, &ask, ATTEMPT_DEADLINE) => answered,
            // A dead owner never answers: the next attempt, under the same request, is its successor's.
            _ = status.wait_for(|status| status.leader != Some(leader)) => return Err(no_quorum()),
        };
        match answered {
            Ok(ControlAnswer::Applied { answer, position }) => Ok((answer, position)),
            Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
            Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "the owner gave an answer of another kind")),
            Err(error) => Err(Refusal::new(Class::Unreachable, "owner_unreachable", error.to_string()).remedy(
                "see `landfall node list` at another node: whether the owner runs, and whether this node is a member",
            )),
        }
    }

    /// Commits `command` on this agent as the owner of `term`. `Err` where that is not known to have happened.
    pub async fn commit_here(
        &self,
        request: Option<RequestId>,
        term: Term,
        mut command: Command,
    ) -> Result<(Answer, Position), Refusal> {
        if let Command::ClaimSender { vm, down, .. } = &mut command {
            // The claimer only sees gossip; whether the present sender is down is the owner's judgement.
            let sender = self.consensus.state().primaries.get(vm).and_then(|primary| primary.sender);
            *down &= sender.is_some_and(|sender| self.down.borrow().contains_key(&sender));
        }
        let mut _grouping = None;
        if let Command::Remove(member) = &command {
            _grouping = Some(self.grouping.lock().await);
            if let Err(refusal) = self.spare_vote(*member).await? {
                return Ok((Err(refusal), self.consensus.state().applied));
            }
        }
        let proposal = Proposal { request, at: self.clock.wall(), term: Some(term), command };
        match self.consensus.propose(proposal).await {
            Ok(applied) => match applied.answer {
                Err(refusal) if refusal.code == "stale_term" => Err(refusal),
                answer => Ok((answer, applied.position)),
            },
            Err(error) => Err(Refusal::new(Class::Unreachable, "not_owner", error.to_string())),
        }
    }

    /// Held while it is decided who votes and while that is carried out.
    pub fn grouping(&self) -> &Mutex<()> {
        &self.grouping
    }

    /// Makes sure that `leaving` can be cut off without its vote, which a removed member cannot give any more. `Err` where
    /// that failed and may be tried again, `Ok(Err)` where the others are too few.
    async fn spare_vote(&self, leaving: MemberId) -> Result<Result<(), Refusal>, Refusal> {
        let voters = self.consensus.status().voters;
        if leaving == self.me || !voters.contains(&leaving) {
            return Ok(Ok(()));
        }
        let rest: BTreeSet<MemberId> = voters.iter().copied().filter(|voter| *voter != leaving).collect();
        let live = {
            let down = self.down.borrow();
            rest.iter().filter(|voter| !down.contains_key(voter)).count()
        };
        if live * 2 > voters.len() {
            return Ok(Ok(()));
        }
        if live * 2 <= rest.len() {
            return Ok(Err(Refusal::new(
                Class::Refused,
                "vote_needed",
                "without this node fewer than half of the voters would be left",
            )
            .field("node")
            .remedy("bring the nodes that are down back first (`landfall node list`), or remove those")));
        }
        self.consensus
            .change_voters(rest)
            .await
            .map_err(|error| Refusal::new(Class::Unreachable, "voters_unchanged", error.to_string()))?;
        Ok(Ok(()))
    }

    /// Waits until this agent has applied `position`.
    pub async fn applied(&self, position: Position, deadline: Instant) -> Result<Arc<State>, Refusal> {
        let mut state = self.consensus.watch_state();
        let reached = timeout_at(deadline, state.wait_for(|state| state.applied >= position)).await;
        match reached {
            Ok(Ok(state)) => Ok(Arc::clone(&state)),
            _ => Err(no_quorum()),
        }
    }

    async fn free_lane(&self) -> tokio::sync::MutexGuard<'_, RequestId> {
        for lane in self.lanes.iter() {
            if let Ok(free) = lane.try_lock() {
                return free;
            }
        }
        self.lanes[0].lock().await
    }
}

/// What is said while nobody owns the CAP, or the owner cannot be reached.
pub fn no_quorum() -> Refusal {
    Refusal::new(Class::Unreachable, "no_quorum", "no owner of the CAP answers: the cluster may have lost its quorum")
        .remedy("see `landfall cluster status`; more than half of the voters must be up and reach one another")
}
