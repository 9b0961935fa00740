//! Where consensus stands on this node. None of it is authority: a leader that is cut off goes on saying that it leads.

use std::collections::{BTreeMap, BTreeSet};

use landfall_proto::id::MemberId;
use landfall_proto::model::LogMark;
use openraft::{LogIdOptionExt, RaftMetrics, ServerState};

/// How far a follower is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that it has, `None` while it is not known.
    pub matched: Option<u64>,
    /// How many entries it lacks.
    pub lag: u64,
}

/// Where consensus stands on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The member that this node takes for the leader.
    pub leader: Option<MemberId>,
    /// Whether this node takes itself for the leader.
    pub is_leader: bool,
    /// The vote's term: how many elections there were, more or less. Fences nothing.
    pub vote_term: u64,
    /// The index of the last entry of the log.
    pub last_log: Option<u64>,
    /// The index of the last entry applied.
    pub applied: Option<u64>,
    /// The index of the last entry in the snapshot.
    pub snapshot: Option<u64>,
    /// Members that vote.
    pub voters: BTreeSet<MemberId>,
    /// Members that follow without a vote.
    pub learners: BTreeSet<MemberId>,
    /// Whether a change of voters is under way.
    pub changing: bool,
    /// The other members, where this node leads.
    pub followers: BTreeMap<MemberId, Progress>,
    /// Why consensus has stopped on this node, if it has: it votes no more.
    pub fault: Option<String>,
}

impl Status {
    pub(super) fn of(metrics: &RaftMetrics<u64, openraft::EmptyNode>) -> Self {
        let member = MemberId::from_number;
        let membership = metrics.membership_config.membership();
        let is_leader = metrics.state == ServerState::Leader;
        let next = metrics.last_log_index.map_or(0, |index| index + 1);
        let progress =
            |matched: Option<u64>| Progress { matched, lag: next.saturating_sub(matched.map_or(0, |m| m + 1)) };
        let others = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
        Self {
            leader: metrics.current_leader.map(member),
            is_leader,
            vote_term: metrics.current_term,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.index(),
            snapshot: metrics.snapshot.index(),
            voters: membership.voter_ids().map(member).collect(),
            learners: membership.learner_ids().map(member).collect(),
            changing: membership.get_joint_config().len() > 1,
            followers: others.map(|(id, matched)| (member(*id), progress(matched.index()))).collect(),
            fault: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// What the leader `me` knows to be on each member's disk, its own included, of what is committed: what is applied here
    /// is. Nothing where this node does not lead.
    pub fn marks(&self, me: MemberId) -> BTreeMap<MemberId, LogMark> {
        let Some(committed) = self.applied.filter(|_| self.is_leader) else { return BTreeMap::new() };
        let mark = |index: u64| LogMark { vote: self.vote_term, index: index.min(committed) };
        let others = self.followers.iter().filter_map(|(member, progress)| Some((*member, mark(progress.matched?))));
        others.chain([(me, mark(committed))]).collect()
    }

    /// What the leader knows to be on the disk of `member`, committed or not: it holds in this leader's own term only.
    pub fn led(&self, member: MemberId) -> Option<LogMark> {
        let index = self.followers.get(&member).filter(|_| self.is_leader)?.matched?;
        Some(LogMark { vote: self.vote_term, index })
    }
}
