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
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::{Clock, Outside, Random};
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
    random: Arc<dyn Random>,
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
        let random = Arc::clone(&outside.random);
        let lane = || Mutex::new(RequestId { session: random.u128(), sequence: 0 });
        let lanes = Arc::new((0..LANES).map(|_| lane()).collect());
        let clock = Arc::clone(&outside.clock);
        Self { me, consensus, owner, calls, clock, random, lanes, down, grouping: Arc::default() }
    }

    /// Commits `command` and waits until this agent has applied it; the outcome and the position.
    pub async fn commit(&self, command: Command) -> Result<(Outcome, Position), Refusal> {
        let mut lane = self.free_lane().await;
        lane.sequence += 1;
        let mut attempts = 0;
        match self.commit_counted(*lane, command.clone(), &mut attempts).await {
            Err(refusal) if refusal.never_applied(attempts) => {
                *lane = RequestId { session: self.random.u128(), sequence: 1 };
                self.commit_as(*lane, command).await
            }
            other => other,
        }
    }

    /// Commits `command` as the request of a client, once.
    pub async fn commit_as(&self, request: RequestId, command: Command) -> Result<(Outcome, Position), Refusal> {
        self.commit_counted(request, command, &mut 0).await
    }

    /// As [`Proposer::commit_as`]; counts how often the request was sent.
    async fn commit_counted(
        &self,
        request: RequestId,
        command: Command,
        attempts: &mut u32,
    ) -> Result<(Outcome, Position), Refusal> {
        let deadline = Instant::now() + COMMIT_DEADLINE;
        let mut handed_in = false;
        loop {
            *attempts += 1;
            let attempt = timeout(ATTEMPT_DEADLINE, self.attempt(request, command.clone(), &mut handed_in));
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
                return Err(if handed_in { perhaps_done(failure) } else { failure });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// One attempt: `Err` where it is not known to have been applied and should be tried again. Sets `handed_in` before
    /// the command goes where it may end in a log.
    async fn attempt(
        &self,
        request: RequestId,
        command: Command,
        handed_in: &mut bool,
    ) -> Result<(Answer, Position), Refusal> {
        if let Some(term) = self.owner.acting() {
            *handed_in = true;
            return self.commit_here(Some(request), term, command).await;
        }
        let state = self.consensus.state();
        let mut status = self.consensus.watch_status();
        let leader = status.borrow_and_update().leader.filter(|leader| *leader != self.me).ok_or_else(no_quorum)?;
        let target = control_target(&state, leader).ok_or_else(no_quorum)?;
        let ask = ControlRequest::Propose { request: Some(request), command: Box::new(command) };
        *handed_in = true;
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
        command: Command,
    ) -> Result<(Answer, Position), Refusal> {
        if let Command::ClaimSender { vm, down: true, .. } = &command {
            // The claimer only sees gossip; whether the present sender is down is the owner's judgement.
            let state = self.consensus.state();
            let sender = state.primaries.get(vm).and_then(|primary| primary.sender);
            if let Some(sender) = sender.filter(|sender| !self.down.borrow().contains_key(sender)) {
                return Ok((Err(sender_not_down(&state, sender)), state.applied));
            }
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
        let reached =
            timeout_at(deadline, state.wait_for(|state| state.applied >= position || planted::is(Bug::AtLeastIgnored)))
                .await;
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

/// The code of [`no_quorum`].
pub const NO_QUORUM: &str = "no_quorum";

/// What is said while nobody owns the CAP, or the owner cannot be reached.
pub fn no_quorum() -> Refusal {
    Refusal::new(Class::Unreachable, NO_QUORUM, "no owner of the CAP answers: the cluster may have lost its quorum")
        .remedy("see `landfall cluster status`; more than half of the voters must be up and reach one another")
}

/// `failure` of a command that was handed to an owner: it may be in a log that a later owner carries out.
fn perhaps_done(failure: Refusal) -> Refusal {
    let message = format!("{}; what was asked for may still be carried out once an owner answers", failure.message);
    Refusal { message, ..failure }
}

/// The code of a claim whose sender is silent to the claimer, and not down for the owner.
pub const SENDER_NOT_DOWN: &str = "sender_not_down";

fn sender_not_down(state: &State, sender: MemberId) -> Refusal {
    let name = state.members.get(&sender).map_or_else(|| sender.to_string(), |member| member.node.to_string());
    Refusal::new(Class::Failed, SENDER_NOT_DOWN, format!("{name}, which sends the VM, is not held for lost"))
        .remedy("it is claimed again by itself until the owner holds that node for lost")
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::{Fingerprint, UnixMillis};
    use landfall_proto::model::{Found, Member, Timing};
    use landfall_store::limits::{SESSION_ANSWERS, SESSIONS};

    use super::*;

    /// The committed state of one member.
    struct Log {
        state: State,
        position: u64,
    }

    impl Log {
        fn founded() -> Self {
            let address = "127.0.0.1:7443".parse().unwrap();
            let founder = Member {
                id: Found::FOUNDER,
                node: "r1".parse().unwrap(),
                fqdn: "r1.contoso.com".parse().unwrap(),
                key: Fingerprint([1; 32]),
                control: address,
                data: address,
                witness: false,
            };
            let found = Found {
                cluster: "Cluster-R".parse().unwrap(),
                cap: "r-broker-cap.contoso.com".parse().unwrap(),
                cluster_id: 9,
                ca: vec![1; 300],
                timing: Timing::STANDARD,
                cap_address: None,
                founder,
            };
            let mut log = Self { state: State::default(), position: 1 };
            log.apply(None, Command::Found(Box::new(found))).unwrap();
            log.apply(None, Command::Claim(Found::FOUNDER)).unwrap();
            log
        }

        fn apply(&mut self, request: Option<RequestId>, command: Command) -> Answer {
            self.position += 1;
            let term = self.state.term();
            let proposal = Proposal { request, at: UnixMillis(0), term, command };
            self.state.apply(Position::from_number(self.position), &proposal)
        }
    }

    #[test]
    fn a_lane_that_was_idle_for_long_goes_on_in_a_new_session_and_only_then() {
        let mut log = Log::founded();
        let mut lane = RequestId { session: 7, sequence: 0 };
        for _ in 0..=SESSION_ANSWERS {
            lane.sequence += 1;
            log.apply(Some(lane), Command::Probe).unwrap();
        }
        for other in 0..SESSIONS as u128 {
            log.apply(Some(RequestId { session: 1_000 + other, sequence: 1 }), Command::Probe).unwrap();
        }
        // The session is forgotten for good: its own next requests do not bring it back.
        for _ in 0..2 {
            lane.sequence += 1;
            let refusal = log.apply(Some(lane), Command::Probe).unwrap_err();
            assert!(refusal.never_applied(1), "{refusal}");
            assert!(!refusal.never_applied(2), "it may have been applied by the attempt before");
        }
        let anew = RequestId { session: 8, sequence: 1 };
        log.apply(Some(anew), Command::Probe).unwrap();
        log.apply(Some(RequestId { sequence: 2, ..anew }), Command::Probe).unwrap();
        let other = Refusal::new(Class::Refused, "unknown_node", "another refusal was applied");
        assert!(!other.never_applied(1));
    }
}
