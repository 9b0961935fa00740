//! Giving the lead to another member at once, where the others would else wait until the leader's lease is over.
//!
//! A voter that heard its leader a moment ago refuses its vote, so that this leader may count on its lease. Nobody but that
//! leader counts on it: once it acts no more it may release the others from waiting. It does so by a vote for its successor
//! in the very next term, which it takes first itself and then hands to the other voters. Such a vote is no more than any
//! candidate could have sent, without the wait: it is on disk before it is answered, it is taken only by a node that still
//! follows the term that is given up, a vote of a later term is greater and refuses it, and it elects nobody. The successor
//! is elected by an ordinary request for votes, which looks at its log as always. So two leaders in one term, or one that
//! lacks an entry, are as impossible as before; what is skipped is the waiting alone.
//!
//! openraft 0.9 offers no transfer. The vote travels as a snapshot that is older than everything, of which only the vote
//! counts: the message that says nothing else.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use landfall_proto::id::MemberId;
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::Time;
use openraft::Snapshot;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::error::stopped;
use super::types::{SnapshotMeta, Vote};
use super::{Consensus, Progress, ProposeError, Rpc, ServeError, Wire, WireError, nanos, wire};

/// How long the other voters may take to put the vote on disk: ten times the p99 of a sync on a busy machine. A successor
/// whose voters are later asks them again by itself.
const VOTE_DEADLINE: Duration = Duration::from_millis(500);

/// How long the successor may lack the last entries before the lead is kept after all.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(1);

/// A lead that is given up, and to whom.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Yielded {
    /// The vote under which it was led.
    pub(super) from: Vote,
    /// The successor.
    to: u64,
}

impl Yielded {
    fn vote(&self) -> Vote {
        Vote::new(self.from.leader_id().get_term() + 1, self.to)
    }
}

/// A leader's right to give its lead up, while nobody changes the members.
#[derive(Debug)]
pub struct Yielding<'a> {
    consensus: &'a Consensus,
    yielded: Yielded,
    _changing: tokio::sync::MutexGuard<'a, ()>,
}

impl Consensus {
    /// Makes ready to give the lead to `to`, a voter that has the whole log; from now until the answer is dropped the
    /// members do not change. Refused where this node does not lead, or `to` cannot lead just now.
    pub async fn begin_to_yield(&self, to: MemberId) -> Result<Yielding<'_>, ProposeError> {
        let changing = self.begin_change()?;
        let from = self.vote().await?;
        let status = self.status();
        if !status.is_leader || from.leader_id().voted_for() != Some(self.me().number()) || !from.is_committed() {
            return Err(ProposeError::NotLeader { leader: status.leader });
        }
        if to == self.me() || !status.voters.contains(&to) {
            return Err(ProposeError::Membership(format!("member {to} does not vote")));
        }
        let lacks = |progress: &Progress| progress.lag > 0 && !planted::is(Bug::LaggardIsGivenLead);
        if status.changing || status.followers.get(&to).is_none_or(lacks) {
            return Err(ProposeError::Busy("the next leader does not have the whole log yet"));
        }
        Ok(Yielding { consensus: self, yielded: Yielded { from, to: to.number() }, _changing: changing })
    }

    /// Stops to lead where no majority answers: from now on this node sends nothing that would keep others from electing
    /// another leader. Does nothing where it leads alone, or not at all.
    pub async fn step_aside(&self) -> Result<(), ProposeError> {
        let from = self.vote().await?;
        let status = self.status();
        let leads = from.is_committed() && from.leader_id().voted_for() == Some(self.me().number());
        match status.voters.iter().find(|voter| **voter != self.me()) {
            Some(other) if leads => self.take(Yielded { from, to: other.number() }.vote()).await,
            _ => Ok(()),
        }
    }

    /// When this node last heard a leader that it follows; `None` where it has not, or that leader has given up its lead.
    pub fn heard_leader(&self) -> Option<Time> {
        match self.inner.heard.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(Time(Duration::from_nanos(nanos))),
        }
    }

    /// From when on this node, as the leader of `vote_term`, may count on no earlier leader having a lease: at once, unless
    /// it was asked to stand in another term than the one that it won, or was started a moment ago as the only member that
    /// its log knows of. Its data folder may have been put back from a time before there were others, whose leader calls it
    /// within a lease then.
    pub fn counts_from(&self, vote_term: u64) -> Option<Time> {
        let stood = *self.inner.stood.lock().unwrap_or_else(PoisonError::into_inner);
        let stood = stood.filter(|(term, _)| *term != vote_term && !planted::is(Bug::HeirWaitsForNobody));
        let alone = self.inner.alone_until.filter(|_| !planted::is(Bug::LoneNodeActsAtOnce));
        stood.map(|(_, until)| until).max(alone)
    }

    pub(super) fn wire(&self) -> MutexGuard<'_, Option<Arc<dyn Wire>>> {
        self.inner.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_stood(&self, term: u64) {
        let until = self.inner.clock.now().after(self.inner.lease);
        *self.inner.stood.lock().unwrap_or_else(PoisonError::into_inner) = Some((term, until));
    }

    pub(super) fn note_leader(&self) {
        self.inner.heard.store(nanos(self.inner.clock.now()).max(1), Ordering::SeqCst);
    }

    async fn vote(&self) -> Result<Vote, ProposeError> {
        self.inner.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(|error| stopped(&error))
    }

    /// Takes `vote` where it is greater than this node's own: it is on disk then, and this node does not lead.
    async fn take(&self, vote: Vote) -> Result<(), ProposeError> {
        let nothing = Snapshot { meta: SnapshotMeta::default(), snapshot: Box::new(Cursor::new(Vec::new())) };
        self.inner.raft.install_full_snapshot(vote, nothing).await.map(drop).map_err(|error| stopped(&error))
    }

    /// Serves [`Rpc::Yield`]: takes the successor's vote, unless this node follows another term by now.
    pub(super) async fn serve_yield(&self, payload: &[u8]) -> Result<Vec<u8>, ServeError> {
        let yielded: Yielded = read(payload)?;
        let hold = self.inner.hold.load(Ordering::SeqCst);
        let follows = self.still_follows(yielded).await?;
        if follows {
            self.take(yielded.vote()).await.map_err(|error| fault(&error))?;
            self.release(hold);
        }
        answer(follows)
    }

    /// Serves [`Rpc::Stand`]: stands for election at once, in the place of the leader that asks for it.
    pub(super) async fn serve_stand(&self, payload: &[u8]) -> Result<Vec<u8>, ServeError> {
        let yielded: Yielded = read(payload)?;
        let hold = self.inner.hold.load(Ordering::SeqCst);
        let follows = self.still_follows(yielded).await?;
        let stands = follows && yielded.to == self.me().number() && self.inner.succeeds.load(Ordering::SeqCst);
        if stands {
            self.note_stood(yielded.vote().leader_id().get_term());
            self.release(hold);
            let elect = self.inner.raft.trigger().elect().await;
            elect.map_err(|error| ServeError::Stopped(error.to_string()))?;
        }
        answer(stands)
    }

    /// Whether this node still follows the lead that is given up.
    async fn still_follows(&self, yielded: Yielded) -> Result<bool, ServeError> {
        let vote = self.vote().await.map_err(|error| fault(&error))?;
        Ok(vote == yielded.from || planted::is(Bug::LateYieldTaken))
    }

    /// Whether this node lets itself be made the leader: it starts with `true`; one that is about to stop does not.
    pub fn set_succeeds(&self, allowed: bool) {
        self.inner.succeeds.store(allowed, Ordering::SeqCst);
    }

    /// The leader that was heard last has given up: nothing that was held for it is held any longer. What was held since
    /// `hold` was read stays.
    fn release(&self, hold: u64) {
        let _ = self.inner.hold.compare_exchange(hold, 0, Ordering::SeqCst, Ordering::SeqCst);
        self.inner.heard.store(0, Ordering::SeqCst);
    }
}

impl Yielding<'_> {
    /// Gives the lead up: this node stops to lead and to hold its votes, the others are released from waiting, and the
    /// successor stands. The caller acts by its lease no more, and nothing that it did by it is still on its way. Returns
    /// once the successor stands; whether it was elected, the status tells. An error says that it does not stand: this node
    /// then leads as before where the error is [`ProposeError::Busy`], else somebody is elected in the ordinary way. `upto` is
    /// the last entry that the successor must have.
    pub async fn finish(self, upto: u64) -> Result<(), ProposeError> {
        let (consensus, to) = (self.consensus, MemberId::from_number(self.yielded.to));
        let mut status = consensus.watch_status();
        let whole = status.wait_for(|status| {
            let has = |progress: &Progress| progress.matched >= Some(upto) && progress.lag == 0;
            !status.is_leader || status.followers.get(&to).is_some_and(has)
        });
        if !matches!(timeout(CATCH_UP_DEADLINE, whole).await, Ok(Ok(_))) {
            return Err(ProposeError::Busy("the next leader does not have the whole log yet"));
        }
        let voters = consensus.status().voters;
        consensus.set_heartbeats(false);
        consensus.release(consensus.inner.hold.load(Ordering::SeqCst));
        let stepped = consensus.take(self.yielded.vote()).await;
        consensus.set_heartbeats(true);
        stepped?;
        let payload = wire::encode_one(&self.yielded).map_err(|error| ProposeError::Membership(error.to_string()))?;
        self.release_voters(&voters, &payload).await;
        match consensus.call(to, Rpc::Stand, payload).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ProposeError::Membership(format!("member {to} does not stand"))),
            Err(error) => Err(ProposeError::Membership(format!("member {to} does not stand: {error}"))),
        }
    }

    /// Releases the other voters, until they are a majority together with this node and the successor.
    async fn release_voters(&self, voters: &BTreeSet<MemberId>, payload: &[u8]) {
        let (me, to) = (self.consensus.me(), MemberId::from_number(self.yielded.to));
        let mut calls: FuturesUnordered<_> = voters
            .iter()
            .filter(|voter| **voter != me && **voter != to)
            .map(|voter| {
                let (consensus, voter, payload) = (self.consensus.clone(), *voter, payload.to_vec());
                // Those that are not waited for are told all the same.
                tokio::spawn(async move { consensus.call(voter, Rpc::Yield, payload).await })
            })
            .collect();
        let mut released = usize::from(voters.contains(&me)) + 1;
        while released * 2 <= voters.len()
            && let Some(answer) = calls.next().await
        {
            released += usize::from(matches!(answer, Ok(Ok(true))));
        }
    }
}

impl Consensus {
    async fn call(&self, to: MemberId, rpc: Rpc, payload: Vec<u8>) -> Result<bool, WireError> {
        let wire = self.wire().clone().ok_or_else(|| WireError::Unreachable("this node has stopped".to_owned()))?;
        let call = wire.call(to, rpc, payload, VOTE_DEADLINE);
        let late = |_| WireError::NoAnswer("late".to_owned());
        let bytes = timeout(VOTE_DEADLINE, call).await.map_err(late)??;
        wire::decode_one(&bytes).map_err(|error| WireError::NoAnswer(error.to_string()))
    }
}

fn read(payload: &[u8]) -> Result<Yielded, ServeError> {
    wire::decode_one(payload).map_err(|error| ServeError::Malformed(error.to_string()))
}

fn answer(done: bool) -> Result<Vec<u8>, ServeError> {
    wire::encode_one(&done).map_err(|error| ServeError::Malformed(error.to_string()))
}

fn fault(error: &ProposeError) -> ServeError {
    ServeError::Stopped(error.to_string())
}
