//! Consensus calls between members: what the agent carries, and how calls become bytes.
//!
//! The agent carries bytes from one member to another and finds out by itself where a member answers; connections and
//! their pooling are its own. An append call stays below one data frame of 1 MiB, whatever the log holds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use landfall_proto::id::MemberId;
use landfall_proto::planted::{self, Bug};
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{AnyError, EmptyNode};

use super::tail::Tail;
use super::types::{LogEntry, LogId, SnapshotMeta, Types, Vote};
use super::yielding::Yielded;
use crate::limits;
use crate::rows::{RowError, RowReader, RowWriter};

/// The kinds of calls; the bytes say nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Rpc {
    /// Entries, or a heartbeat.
    Append,
    /// A candidate asks for a vote.
    Vote,
    /// A part of a snapshot.
    Snapshot,
    /// A leader gives its lead up: vote for its successor.
    Yield,
    /// A leader gives its lead to the one that is called: stand for election.
    Stand,
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The member cannot be reached.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The member was reached and gave no answer in time, or refused to give one.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

/// Carries consensus calls to other members.
#[async_trait]
pub trait Wire: Send + Sync + fmt::Debug + 'static {
    /// Hands `payload` to member `to`, whose agent passes it to [`super::Consensus::serve`], and returns what that gave.
    /// Nobody waits for it longer than `deadline` from now. Never dials from within: an unconnected member is
    /// [`WireError::Unreachable`] until the agent has connected.
    async fn call(&self, to: MemberId, rpc: Rpc, payload: Vec<u8>, deadline: Duration) -> Result<Vec<u8>, WireError>;
}

pub(super) fn encode_append(request: &AppendEntriesRequest<Types>) -> Result<Vec<u8>, RowError> {
    let mut rows = RowWriter::default();
    rows.push(&(request.vote, request.prev_log_id, request.leader_commit))?;
    for entry in &request.entries {
        rows.push(entry)?;
    }
    Ok(rows.finish())
}

pub(super) fn decode_append(bytes: &[u8]) -> Result<AppendEntriesRequest<Types>, RowError> {
    let mut rows = RowReader::new(bytes);
    let (vote, prev_log_id, leader_commit): (Vote, Option<LogId>, Option<LogId>) = rows.next()?;
    let mut entries: Vec<LogEntry> = Vec::new();
    while !rows.is_empty() {
        entries.push(rows.next()?);
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, leader_commit, entries })
}

pub(super) fn encode_snapshot(request: &InstallSnapshotRequest<Types>) -> Result<Vec<u8>, RowError> {
    let mut rows = RowWriter::default();
    rows.push(&(request.vote, &request.meta, request.offset, request.done))?;
    rows.push_raw(&request.data)?;
    Ok(rows.finish())
}

pub(super) fn decode_snapshot(bytes: &[u8]) -> Result<InstallSnapshotRequest<Types>, RowError> {
    let mut rows = RowReader::new(bytes);
    let (vote, meta, offset, done): (Vote, SnapshotMeta, u64, bool) = rows.next()?;
    let data = rows.next_raw()?.to_vec();
    rows.end()?;
    Ok(InstallSnapshotRequest { vote, meta, offset, data, done })
}

pub(super) fn encode_one<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, RowError> {
    let mut rows = RowWriter::default();
    rows.push(value)?;
    Ok(rows.finish())
}

pub(super) fn decode_one<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, RowError> {
    let mut rows = RowReader::new(bytes);
    let value = rows.next()?;
    rows.end()?;
    Ok(value)
}

/// Whether what a peer sends as a call of this kind can be read: for whoever tries hostile bytes. The kinds by which a lead
/// is given hold one value each, which the codec reads.
pub fn reads(rpc: Rpc, payload: &[u8]) -> bool {
    match rpc {
        Rpc::Append => decode_append(payload).is_ok(),
        Rpc::Vote => decode_one::<VoteRequest<u64>>(payload).is_ok(),
        Rpc::Snapshot => decode_snapshot(payload).is_ok(),
        Rpc::Yield | Rpc::Stand => RowReader::new(payload).next_raw().is_ok(),
    }
}

/// Whose word a call is: the leader's, or the candidate's, that its vote names. `None` where it names nobody, or cannot be
/// read. Consensus itself believes whoever calls; the agent knows who that is, and passes on nobody's word but its own.
pub fn speaker(rpc: Rpc, payload: &[u8]) -> Option<MemberId> {
    let mut rows = RowReader::new(payload);
    let vote = match rpc {
        Rpc::Append => rows.next::<(Vote, Option<LogId>, Option<LogId>)>().ok()?.0,
        Rpc::Vote => rows.next::<VoteRequest<u64>>().ok()?.vote,
        Rpc::Snapshot => rows.next::<(Vote, SnapshotMeta, u64, bool)>().ok()?.0,
        Rpc::Yield | Rpc::Stand => rows.next::<Yielded>().ok()?.from,
    };
    vote.leader_id().voted_for().map(MemberId::from_number)
}

/// The answer to a part of a snapshot.
pub(super) type SnapshotAnswer = Result<InstallSnapshotResponse<u64>, SnapshotMismatch>;

/// Makes the network of each follower.
pub(super) struct Network {
    pub(super) wire: Arc<dyn Wire>,
    /// What of this node's own log is durable.
    pub(super) tail: Arc<Tail>,
    /// How long to leave an unreachable member alone.
    pub(super) pause: Duration,
    /// Set once a member that was asked for its vote has a longer log.
    pub(super) behind: Arc<AtomicBool>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Link {
        Link {
            wire: self.wire.clone(),
            tail: self.tail.clone(),
            to: target,
            told: None,
            pause: self.pause,
            behind: self.behind.clone(),
        }
    }
}

/// The way to one member.
pub(super) struct Link {
    wire: Arc<dyn Wire>,
    tail: Arc<Tail>,
    to: u64,
    /// The newest position that this follower was told to be committed.
    told: Option<LogId>,
    pause: Duration,
    behind: Arc<AtomicBool>,
}

impl Link {
    /// What of `committed` may be told: entries that this node has durably itself. A message that only tells waits a
    /// little for its sync, which began before the follower's.
    async fn may_tell(&mut self, committed: Option<LogId>, waits: bool) -> Option<LogId> {
        let Some(id) = committed else { return self.told };
        if waits && !self.tail.is_durable(id.index) {
            _ = tokio::time::timeout(limits::COMMIT_NOTICE_WAIT, self.tail.durable(id.index)).await;
        }
        if self.tail.is_durable(id.index) {
            self.told = Some(id);
        }
        self.told
    }

    async fn call<E: std::error::Error>(
        &self,
        rpc: Rpc,
        payload: Result<Vec<u8>, RowError>,
        option: &RPCOption,
    ) -> Result<Vec<u8>, RPCError<u64, EmptyNode, E>> {
        let payload = payload.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let answer = self.wire.call(MemberId::from_number(self.to), rpc, payload, option.hard_ttl()).await;
        answer.map_err(|error| match &error {
            WireError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
            WireError::NoAnswer(_) => RPCError::Network(NetworkError::new(&error)),
        })
    }
}

fn unreadable<E: std::error::Error>(error: &RowError) -> RPCError<u64, EmptyNode, E> {
    RPCError::Network(NetworkError::new(&AnyError::error(format!("the answer cannot be read: {error}"))))
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        mut request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        request.leader_commit = self.may_tell(request.leader_commit, request.entries.is_empty()).await;
        let answer = self.call(Rpc::Append, encode_append(&request), &option).await;
        if answer.is_err() && planted::is(Bug::CommitWithoutQuorum) {
            return Ok(AppendEntriesResponse::Success);
        }
        decode_one(&answer?).map_err(|error| unreadable(&error))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64, InstallSnapshotError>>> {
        let answer = self.call(Rpc::Snapshot, encode_snapshot(&request), &option).await?;
        let answer: SnapshotAnswer = decode_one(&answer).map_err(|error| unreadable(&error))?;
        answer.map_err(|mismatch| {
            let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
            RPCError::RemoteError(RemoteError::new(self.to, error))
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        let answer = self.call(Rpc::Vote, encode_one(&request), &option).await?;
        let answer: VoteResponse<u64> = decode_one(&answer).map_err(|error| unreadable(&error))?;
        if answer.last_log_id > request.last_log_id {
            self.behind.store(true, Ordering::SeqCst);
        }
        Ok(answer)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.pause))
    }
}
