//! Keeping the consensus group in step with the members, as the owner: one change at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_proto::id::MemberId;
use landfall_store::consensus::{Consensus, Status};
use landfall_store::state::State;
use tokio::time::{interval, timeout};

use crate::decide::voters::{self, Change, Group};
use crate::drive::node::Node;

/// How often the owner compares.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Entries that a member may lack and still count as caught up: a heartbeat's worth on a busy cluster.
const LAG_MAX: u64 = 100;

/// How long one change may take before it is tried again.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Adds, promotes and drops members of the consensus group for as long as this agent owns the CAP.
pub async fn keep_in_step(node: Node) {
    let mut look = interval(LOOK_INTERVAL);
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            continue;
        }
        let _grouping = node.proposer.grouping().lock().await;
        let group = group_of(&node.state(), &node.consensus.status(), node.me);
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

fn group_of(state: &State, status: &Status, me: MemberId) -> Group {
    let caught_up = status
        .followers
        .iter()
        .filter(|(_, progress)| progress.matched.is_some() && progress.lag <= LAG_MAX)
        .map(|(member, _)| *member)
        .chain([me])
        .collect();
    let members: BTreeSet<MemberId> = state.members.keys().copied().collect();
    Group { members, voters: status.voters.clone(), learners: status.learners.clone(), caught_up }
}
