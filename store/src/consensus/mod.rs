//! Consensus: one log, the same on every member, applied to [`State`]. The only place that names openraft.
//!
//! [`Consensus`] is the handle. It elects, replicates, compacts and changes voters; it decides nothing about who should
//! own the CAP, who should vote, or when this node may stand for election: the agent does, through the switches here.
//!
//! Being the leader is not authority. openraft 0.9 lets a leader grant its vote to a returning candidate within its own
//! lease, so an owner first holds its votes ([`Consensus::hold_votes_until`]), then asks a majority
//! ([`Consensus::linearizable`]), and only then counts on its lease.

mod error;
mod log_store;
mod machine;
mod recovery;
mod runtime;
mod status;
mod tail;
mod types;
mod wire;
mod yielding;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use landfall_proto::codec;
use landfall_proto::id::{MemberId, Position, UnixMillis};
use landfall_proto::model::{LogMark, Proposal, Timing};
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::{Clock, Random, Time};
use openraft::error::{CheckIsLeaderError, InitializeError, InstallSnapshotError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::storage::RaftLogStorage;
use openraft::{ChangeMembers, EmptyNode, LogIdOptionExt, SnapshotPolicy};
use tokio::sync::{Mutex, Semaphore, watch};

use crate::feed::SettingsFeed;
use crate::kv::Kv;
use crate::limits;
use crate::state::State;
pub use error::{OpenError, ProposeError, ServeError};
use error::{serve_fault, stopped, write_error};
use log_store::LogStore;
use machine::Machine;
pub use recovery::{foresee, recover};
pub use status::{Progress, Status};
use tail::Tail;
pub use types::Applied;
use types::{LogId, Raft, StorageError};
pub use wire::{Rpc, Wire, WireError, reads, speaker};
pub use yielding::Yielding;

/// What consensus stands on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Where log, vote and snapshots are kept.
    pub kv: Arc<dyn Kv>,
    /// This node.
    pub me: MemberId,
    /// The cluster's clocks.
    pub timing: Timing,
    /// The way to the other members.
    pub wire: Arc<dyn Wire>,
    /// The clock that leases run on: one that goes on through suspend.
    pub clock: Arc<dyn Clock>,
    /// Where election timeouts come from.
    pub random: Arc<dyn Random>,
}

/// One node's part in consensus. Clones are handles on the same.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    me: MemberId,
    raft: Raft,
    /// The last entry that the log had when this node was started.
    last: Option<LogId>,
    /// How far the log had come then.
    kept: LogMark,
    /// Whether nobody else followed it then.
    began_alone: bool,
    /// Until when others may call, where it was started alone with a log: it is of a time before them then.
    alone_until: Option<Time>,
    last_time: Option<UnixMillis>,
    clock: Arc<dyn Clock>,
    /// Gone once this node has stopped: whoever still has a handle keeps no connection with it.
    wire: std::sync::Mutex<Option<Arc<dyn Wire>>>,
    lease: Duration,
    /// Nanoseconds of the clock until which votes are refused to others.
    hold: AtomicU64,
    honours_hold: bool,
    /// Nanoseconds of the clock at which a leader was heard last; 0 where none was.
    heard: AtomicU64,
    /// Whether somebody's log was longer when this node stood last.
    behind: Arc<AtomicBool>,
    /// The term in which this node was last asked to stand, and until when an earlier leader might have had a lease then.
    stood: std::sync::Mutex<Option<(u64, Time)>>,
    /// Whether it stands when it is asked to.
    succeeds: AtomicBool,
    waiting: Semaphore,
    /// One change of members at a time.
    changing: Mutex<()>,
    state: watch::Receiver<Arc<State>>,
    status: watch::Receiver<Status>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

fn nanos(time: Time) -> u64 {
    u64::try_from(time.0.as_nanos()).unwrap_or(u64::MAX)
}

fn config(timing: Timing) -> Result<openraft::Config, OpenError> {
    let config = openraft::Config {
        cluster_name: "landfall".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        install_snapshot_timeout: limits::SNAPSHOT_TIMEOUT.as_millis() as u64,
        max_payload_entries: limits::APPEND_ENTRIES,
        replication_lag_threshold: limits::LAG_FOR_SNAPSHOT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(limits::SNAPSHOT_EVERY),
        snapshot_max_chunk_size: limits::SNAPSHOT_CHUNK,
        max_in_snapshot_log_to_keep: limits::LOG_KEEP,
        // Until the agent says otherwise: it has a node stand itself, when it may.
        enable_elect: true,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| OpenError::Timing(error.to_string()))
}

impl Consensus {
    /// Starts consensus on what `ground` has stored. Votes are held for one lease from now: whoever led before this
    /// node stopped may still count on it.
    pub async fn open(ground: Ground) -> Result<Self, OpenError> {
        Self::start(ground, true).await
    }

    /// As [`Consensus::open`], but ignores every hold: it exists so that a test can show what the hold prevents.
    #[doc(hidden)]
    pub async fn open_without_vote_hold(ground: Ground) -> Result<Self, OpenError> {
        Self::start(ground, false).await
    }

    async fn start(ground: Ground, honours_hold: bool) -> Result<Self, OpenError> {
        let store = |error: StorageError| OpenError::Store(error.to_string());
        let config = Arc::new(config(ground.timing)?);
        let tail = Arc::<Tail>::default();
        let machine = Machine::open(ground.kv.clone(), tail.clone()).map_err(store)?;
        let state = machine.watch();
        let pause = Duration::from_millis(ground.timing.heartbeat_ms);
        let behind = Arc::<AtomicBool>::default();
        let network = wire::Network { wire: ground.wire.clone(), tail: tail.clone(), pause, behind: behind.clone() };
        let mut log = LogStore::new(ground.kv, ground.me, tail);
        let began_alone = log.look_back(machine.members()).map_err(store)?;
        let last = log.get_log_state().await.map_err(store)?.last_log_id;
        let index = last.index().unwrap_or_default().max(machine.next_index().saturating_sub(1));
        let kept = LogMark { vote: log.vote_term().map_err(store)?, index };
        let last_time = log.last_time().map_err(store)?;
        let started = Raft::new(ground.me.number(), config, network, log.clone(), machine);
        // openraft's start-up future is large, and the caller's may be on a small stack.
        let raft = runtime::with_random(ground.random, Box::pin(started)).await;
        let raft = raft.map_err(|error| OpenError::Store(error.to_string()))?;
        let a_lease_on = ground.clock.now().after(ground.timing.lease());
        let hold = AtomicU64::new(nanos(a_lease_on));
        let inner = Inner {
            me: ground.me,
            status: follow_status(&raft),
            raft,
            last,
            kept,
            began_alone,
            alone_until: Some(a_lease_on).filter(|_| began_alone && last.is_some()),
            last_time,
            clock: ground.clock,
            wire: std::sync::Mutex::new(Some(ground.wire)),
            lease: ground.timing.lease(),
            hold,
            honours_hold: honours_hold && !planted::is(Bug::NoVoteHold),
            heard: AtomicU64::new(0),
            behind,
            stood: std::sync::Mutex::new(None),
            succeeds: AtomicBool::new(true),
            waiting: Semaphore::new(limits::PROPOSALS_WAITING),
            changing: Mutex::new(()),
            state,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This node.
    pub fn me(&self) -> MemberId {
        self.inner.me
    }

    /// How far this node's log had come when it was started: what its disk had kept.
    pub fn kept(&self) -> LogMark {
        self.inner.kept
    }

    /// Whether, by its own log, nobody else followed this node when it was started. Only then does it go on leading at once.
    pub fn began_alone(&self) -> bool {
        self.inner.began_alone
    }

    /// The time of the newest command that the log had when this node was started: it is not earlier than that.
    pub fn last_time(&self) -> Option<UnixMillis> {
        self.inner.last_time
    }

    /// Returns once this node has applied everything that can have been applied here before it was started: up to its
    /// log's last entry, or an entry of a later leader. Right after a start the state may be older than that, since only a
    /// leader can say what of the log counts.
    pub async fn caught_up(&self) {
        let last = self.inner.last;
        let wait = self.inner.raft.wait(None);
        if let Err(error) = wait.metrics(move |metrics| metrics.last_applied >= last, "caught up").await {
            tracing::warn!(%error, "consensus has stopped before this node had caught up");
            std::future::pending::<()>().await;
        }
    }

    /// Whether [`Consensus::caught_up`] would return now.
    pub fn has_caught_up(&self) -> bool {
        self.inner.raft.metrics().borrow().last_applied >= self.inner.last
    }

    /// Makes `members`, all of them new and empty, the first voters. Does nothing where there is a log already.
    pub async fn found(&self, members: BTreeSet<MemberId>) -> Result<(), ProposeError> {
        let nodes: std::collections::BTreeMap<u64, EmptyNode> =
            members.iter().map(|member| (member.number(), EmptyNode::default())).collect();
        match self.inner.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(ProposeError::Membership(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(stopped(&error)),
        }
    }

    /// Appends a proposal to the log and returns what applying it gave, once a majority has it. Waits for as long as
    /// there is no majority; dropping the call leaves the outcome unknown.
    pub async fn propose(&self, proposal: Proposal) -> Result<Applied, ProposeError> {
        let size = codec::encode(&proposal).map_err(|error| ProposeError::Membership(error.to_string()))?.len();
        if size > limits::PROPOSAL_BYTES {
            return Err(ProposeError::TooLarge { size });
        }
        let Ok(_place) = self.inner.waiting.try_acquire() else {
            return Err(ProposeError::Busy("proposals wait for a majority"));
        };
        match self.inner.raft.client_write(proposal).await {
            Ok(written) => Ok(written.data),
            Err(error) => Err(write_error(error)),
        }
    }

    /// Confirms with a majority that this node still leads, and waits until it has applied everything that was
    /// committed before the call; returns that position.
    pub async fn linearizable(&self) -> Result<Position, ProposeError> {
        if planted::is(Bug::LeadNotConfirmed) {
            return Ok(self.state().applied);
        }
        match self.inner.raft.ensure_linearizable().await {
            Ok(read) => Ok(Position::new(self.state().incarnation, read.index().unwrap_or_default())),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id.map(MemberId::from_number) })
            }
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => Err(ProposeError::NoQuorum),
            Err(RaftError::Fatal(error)) => Err(stopped(&error)),
        }
    }

    /// Refuses every VoteRequest of others until the clock shows `time`. A hold is only ever prolonged.
    pub fn hold_votes_until(&self, time: Time) {
        self.inner.hold.fetch_max(nanos(time), Ordering::SeqCst);
    }

    /// Answers a call that another member's [`Wire`] carried here.
    pub async fn serve(&self, rpc: Rpc, payload: &[u8]) -> Result<Vec<u8>, ServeError> {
        let malformed = |error: crate::rows::RowError| ServeError::Malformed(error.to_string());
        let raft = &self.inner.raft;
        let answer = match rpc {
            Rpc::Append => {
                let request = wire::decode_append(payload).map_err(malformed)?;
                let appended = raft.append_entries(request).await.map_err(|error| serve_fault(&error))?;
                if !matches!(appended, AppendEntriesResponse::HigherVote(_)) {
                    self.note_leader();
                }
                wire::encode_one(&appended)
            }
            Rpc::Vote => {
                let request = wire::decode_one(payload).map_err(malformed)?;
                if self.inner.honours_hold && nanos(self.inner.clock.now()) < self.inner.hold.load(Ordering::SeqCst) {
                    return Err(ServeError::VotesHeld);
                }
                wire::encode_one(&raft.vote(request).await.map_err(|error| serve_fault(&error))?)
            }
            Rpc::Snapshot => {
                let request = wire::decode_snapshot(payload).map_err(malformed)?;
                if request.offset.saturating_add(request.data.len() as u64) > limits::SNAPSHOT_BYTES {
                    return Err(ServeError::Malformed("the snapshot is too large".to_owned()));
                }
                let vote = request.vote;
                let answer: wire::SnapshotAnswer = match raft.install_snapshot(request).await {
                    Ok(installed) => {
                        if installed.vote == vote {
                            self.note_leader();
                        }
                        Ok(installed)
                    }
                    Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => Err(mismatch),
                    Err(RaftError::Fatal(error)) => return Err(ServeError::Stopped(error.to_string())),
                };
                wire::encode_one(&answer)
            }
            Rpc::Yield => return self.serve_yield(payload).await,
            Rpc::Stand => return self.serve_stand(payload).await,
        };
        answer.map_err(malformed)
    }

    /// Stands for election now, where this node votes and does not lead. Whether it was elected, the status tells.
    pub async fn stand(&self) -> Result<(), ProposeError> {
        self.inner.behind.store(false, Ordering::SeqCst);
        self.inner.raft.trigger().elect().await.map_err(|error| stopped(&error))
    }

    /// Whether somebody whose vote this node asked for when it stood last has a longer log: it cannot be elected before it
    /// has that one's entries.
    pub fn is_behind(&self) -> bool {
        self.inner.behind.load(Ordering::SeqCst)
    }

    /// Whether this node stands for election by openraft's own timers, too. It starts with `true`.
    pub fn set_elections(&self, allowed: bool) {
        self.inner.raft.runtime_config().elect(allowed);
    }

    /// Whether this node, where it leads, sends heartbeats: an owner whose disk hangs stops them, so that another one
    /// is elected.
    pub fn set_heartbeats(&self, allowed: bool) {
        self.inner.raft.runtime_config().heartbeat(allowed);
    }

    /// Where consensus stands.
    pub fn status(&self) -> Status {
        Status::of(&self.inner.raft.metrics().borrow())
    }

    /// Where consensus stands, and every change of it. Do not keep a borrow of the value across an await.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.inner.status.clone()
    }

    /// The committed state as this node has applied it.
    pub fn state(&self) -> Arc<State> {
        self.inner.state.borrow().clone()
    }

    /// The committed state, and every change of it: once for each batch of entries.
    pub fn watch_state(&self) -> watch::Receiver<Arc<State>> {
        self.inner.state.clone()
    }

    /// The feed of settings changes.
    pub fn settings_feed(&self) -> SettingsFeed {
        SettingsFeed::new(self.watch_state())
    }

    /// Lets `member` follow the log without a vote. Returns once that is committed; how far it has come is in the
    /// status.
    pub async fn add_learner(&self, member: MemberId) -> Result<(), ProposeError> {
        let _changing = self.begin_change()?;
        let added = self.inner.raft.add_learner(member.number(), EmptyNode::default(), false).await;
        added.map(drop).map_err(write_error)
    }

    /// Makes exactly `voters`, all of them followers already, the voters; those that lose their vote go on following.
    pub async fn change_voters(&self, voters: BTreeSet<MemberId>) -> Result<(), ProposeError> {
        let _changing = self.begin_change()?;
        let ids = voters.into_iter().map(MemberId::number).collect();
        let change = ChangeMembers::ReplaceAllVoters(ids);
        self.inner.raft.change_membership(change, true).await.map(drop).map_err(write_error)
    }

    /// Takes `member` out of consensus, as a voter or as a follower; nothing where it is neither.
    pub async fn remove(&self, member: MemberId) -> Result<(), ProposeError> {
        let _changing = self.begin_change()?;
        let one = BTreeSet::from([member.number()]);
        if self.status().voters.contains(&member) {
            let change = ChangeMembers::RemoveVoters(one.clone());
            self.inner.raft.change_membership(change, true).await.map_err(write_error)?;
        }
        let change = ChangeMembers::RemoveNodes(one);
        self.inner.raft.change_membership(change, false).await.map(drop).map_err(write_error)
    }

    fn begin_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, ProposeError> {
        self.inner.changing.try_lock().map_err(|_| ProposeError::Busy("the members are being changed"))
    }

    /// Stops: answers no call any more. What was acknowledged is on disk.
    pub async fn shutdown(&self) {
        drop(self.wire().take());
        if self.inner.raft.shutdown().await.is_err() {
            tracing::error!("consensus did not stop in good order");
        }
    }
}

/// A channel that shows the status for as long as consensus runs.
fn follow_status(raft: &Raft) -> watch::Receiver<Status> {
    let mut metrics = raft.metrics();
    let (status, receiver) = watch::channel(Status::of(&metrics.borrow_and_update()));
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            let next = Status::of(&metrics.borrow_and_update());
            status.send_if_modified(|present| {
                let differs = *present != next;
                *present = next;
                differs
            });
            if status.is_closed() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod chaos_tests;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod parallel_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod yielding_tests;
