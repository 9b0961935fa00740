//! `node drain` and `node restore`.

use std::time::Duration;

use landfall_proto::id::NodeName;
use landfall_proto::model::{Command, Member};
use landfall_proto::{Class, Refusal};
use tokio::time::{Instant, sleep};

use super::clusters::{find, standing};
use crate::decide::drain::Tie;
use crate::drive::draining;
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::surface::node::{NodeDrained, RemainingReplica};
use crate::surface::wait::{WaitSeconds, timed_out};

/// How often a caller that waits looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// For how long everything that is left must have a reason to stay before that is the answer: a candidate that is heard of
/// a moment late is none.
const STAYS_FOR: Duration = Duration::from_secs(5);

/// What a failure names; the answer without a wait lists all of it.
const NAMED_MAX: usize = 8;

/// Drains a node; waits, where the caller does, until nothing moves any more.
pub async fn drain(node: &Node, name: &NodeName, wait: Option<WaitSeconds>) -> Result<NodeDrained, Refusal> {
    let member = set(node, name, true).await?;
    let Some(wait) = wait else { return Ok(answer(node, &member)) };
    let deadline = Instant::now() + wait.duration();
    let mut only_stays: Option<Instant> = None;
    loop {
        let now = answer(node, &member);
        let staying = now.remaining.iter().all(|replica| replica.stays.is_some());
        if now.remaining.is_empty() && !now.owner {
            return Ok(now);
        }
        if !staying || (now.remaining.is_empty() && now.owner) {
            only_stays = None;
        } else if only_stays.get_or_insert_with(Instant::now).elapsed() >= STAYS_FOR {
            return Err(not_empty(&now));
        }
        if Instant::now() >= deadline {
            let owns = if now.owner { " and the CAP" } else { "" };
            let missing = format!("{} replicas{owns} are not moved away yet", now.remaining.len());
            return Err(timed_out(&format!("{name} is drained"), &missing, wait));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Ends a drain. What was moved away stays where it is.
pub async fn restore(node: &Node, name: &NodeName) -> Result<NodeDrained, Refusal> {
    let member = set(node, name, false).await?;
    Ok(answer(node, &member))
}

async fn set(node: &Node, name: &NodeName, on: bool) -> Result<Member, Refusal> {
    let state = node.state();
    let member = find(&state, name)?;
    node.proposer.commit(Command::Drain { member: member.id, on }).await?;
    if state.drained.contains(&member.id) != on {
        let (kind, what) = match on {
            true => ("node_drained", "is drained: it gets no new replicas, and those that it has are moved away"),
            false => ("node_restored", "is drained no more: it may get new replicas"),
        };
        node.events.record(Happening::info(kind, format!("{name} {what}")).node(name));
    }
    Ok(member)
}

fn answer(node: &Node, member: &Member) -> NodeDrained {
    let state = node.state();
    let drained = state.drained.contains(&member.id);
    let ties = if drained { draining::ties(node, &state, member.id) } else { Vec::new() };
    let remaining = ties.into_iter().map(|(replica, tie)| RemainingReplica {
        uuid: replica.vm.id,
        name: replica.vm.name.to_string(),
        stays: if let Tie::Stays(why) = tie { Some(why) } else { None },
    });
    NodeDrained {
        node: member.node.clone(),
        id: member.id,
        state: standing(node, member.id),
        owner: state.claim.is_some_and(|claim| claim.member == member.id),
        remaining: remaining.collect(),
    }
}

/// The first of `names`, and how many more there are.
pub(super) fn named(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn not_empty(left: &NodeDrained) -> Refusal {
    let reasons = left.remaining.iter().filter_map(|replica| Some((&replica.name, replica.stays.as_ref()?)));
    let kept: Vec<String> = reasons.map(|(name, why)| format!("{name}: {why}")).collect();
    let message = format!("{} is drained, and keeps {}", left.node, named(&kept));
    Refusal::new(Class::Failed, "not_empty", message).field("node").remedy(format!(
        "it gets nothing new meanwhile, and what can be moved later is; `landfall node restore {}` ends the drain",
        left.node
    ))
}
