//! Keeping the consensus group in step with the members, as the owner: one change at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::id::MemberId;
use landfall_proto::seam::Time;
use landfall_store::consensus::Consensus;
use tokio::time::timeout;

use crate::decide::voters::{self, Change, Group};
use crate::drive::node::Node;
use crate::drive::sight;

/// How often the owner compares.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Entries that a member may lack and still count as caught up: a heartbeat's worth on a busy cluster.
const LAG_MAX: u64 = 100;

/// How long a voter must have been held for dead before another one votes in its place, in times of `node_down_after`: a
/// minute with the default, so that a restart changes nothing.
const VOTER_PATIENCE: u32 = 12;

/// Voters of a cluster that tolerates a loss: until it has so many, whoever has the log becomes one at once.
const FOUNDING: usize = 3;

/// How long a member must have answered without a break before it is made a voter.
const STEADY_FOR: Duration = Duration::from_secs(3);

/// How long one change may take before it is tried again.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Adds, promotes and drops members of the consensus group for as long as this agent owns the CAP.
pub async fn keep_in_step(node: Node) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut steady = BTreeMap::new();
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            steady.clear();
            node.owning().await;
            continue;
        }
        let _grouping = node.proposer.grouping().lock().await;
        let group = group_of(&node, &mut steady);
        let Some(change) = voters::next(&group) else { continue };
        tracing::info!(?change, "changing the consensus group");
        match timeout(CHANGE_DEADLINE, carry_out(&node.consensus, &change)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(?change, %error, "the consensus group was not changed"),
            Err(_) => tracing::warn!(?change, "the change of the consensus group takes long"),
        }
    }
}

async fn carry_out(consensus: &Consensus, change: &Change) -> Result<(), landfall_store::consensus::ProposeError> {
    match change {
        Change::AddLearner(member) => consensus.add_learner(*member).await,
        Change::Voters(voters) => consensus.change_voters(voters.clone()).await,
        Change::Drop(member) => consensus.remove(*member).await,
    }
}

/// `steady` remembers from one look to the next since when each member answers.
fn group_of(node: &Node, steady: &mut BTreeMap<MemberId, Time>) -> Group {
    let (state, status, now) = (node.state(), node.consensus.status(), node.outside.clock.now());
    let caught_up = status
        .followers
        .iter()
        .filter(|(_, progress)| progress.matched.is_some() && progress.lag <= LAG_MAX)
        .map(|(member, _)| *member)
        .chain([node.me])
        .collect();
    let live = sight::live(node);
    steady.retain(|member, _| live.get(member) == Some(&true));
    for member in live.iter().filter(|(_, live)| **live).map(|(member, _)| *member) {
        steady.entry(member).or_insert(now);
    }
    let patience = state.resolved_settings().node_down_after * VOTER_PATIENCE;
    let (down, quarantined) = (node.down.borrow(), node.quarantines.held());
    let long = |since: &Time, time: Duration| now.since(*since) >= time;
    // A cluster that is being formed does not wait for those that have just joined.
    let new = |member: &MemberId| !status.voters.contains(member) && status.voters.len() < FOUNDING;
    Group {
        members: state.members.keys().copied().collect(),
        voters: status.voters.clone(),
        learners: status.learners.clone(),
        caught_up,
        gone: down.iter().filter(|(_, since)| long(since, patience)).map(|(member, _)| *member).collect(),
        steady: steady
            .iter()
            .filter(|(member, since)| new(member) || (long(since, STEADY_FOR) && !quarantined.contains_key(member)))
            .map(|(member, _)| *member)
            .collect(),
    }
}
