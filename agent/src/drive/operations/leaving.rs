//! `cluster leave`, at the node that leaves.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::calls::CallError;
use landfall_proto::close::Close;
use landfall_proto::endpoint::DialError;
use landfall_proto::id::RequestId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::Command;
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::{Instant, sleep};

use super::{clusters, draining, steering};
use crate::Agent;
use crate::decide::drain::Tie;
use crate::drive::events::Happening;
use crate::drive::members::owner_target;
use crate::drive::node::Node;
use crate::surface::WaitSeconds;
use crate::surface::cluster::{ClusterLeave, ClusterLeft};

/// How long the removal may take: an election fits.
const REMOVE_DEADLINE: Duration = Duration::from_secs(15);

/// How long one owner may take to answer.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);

/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long replicas may take to be moved away where no time is given.
const DRAIN_SECONDS: u64 = 3600;

/// Takes this node out of its cluster and sets its state aside.
pub async fn leave(agent: &Agent, request: ClusterLeave) -> Result<ClusterLeft, Refusal> {
    let membership = agent.member()?;
    let node = &membership.control.node;
    let (cluster, name) = (membership.enrolment.found.cluster.clone(), node.name.clone());
    may_go_at_all(node)?;
    let mut warnings = Vec::new();
    let blocked = blockers(node);
    match (request.force, blocked.into_iter().next()) {
        (false, Some(refusal)) => return Err(refusal),
        (false, None) => {
            empty(node, request.wait_seconds).await?;
            removed(node).await?;
        }
        (true, _) => {
            // As far as it goes: whoever forces it knows that the rest may have to do without this node.
            if node.owner.acting().is_some()
                && let Err(refusal) = steering::hand_over(node, None).await
            {
                warnings.push(format!("the CAP was not handed over: {refusal}"));
            }
            if let Err(refusal) = removed(node).await {
                warnings.push(format!(
                    "the cluster still lists {name} ({refusal}): remove it there once that can be (`landfall node remove \
                     {name}`)"
                ));
            }
        }
    }
    let set_aside = agent.forget().await?;
    agent.events().record(Happening::info("cluster_left", format!("{name} has left {cluster}")).node(&name));
    Ok(ClusterLeft { node: name, cluster, set_aside, warnings })
}

/// What no force helps with: without this node there would be no cluster.
fn may_go_at_all(node: &Node) -> Result<(), Refusal> {
    let state = node.state();
    let others: Vec<bool> =
        state.members.values().filter(|member| member.id != node.me).map(|member| member.witness).collect();
    if node.config.witness || others.contains(&false) {
        return Ok(());
    }
    let what = if others.is_empty() { "the last member of its cluster" } else { "the only node that can own the CAP" };
    Err(Refusal::new(Class::Refused, "last_node", format!("{} is {what}", node.name)).remedy(
        "to end the cluster, stop its agents and set their data_dir aside; to replace this node, let another one join first",
    ))
}

/// What the cluster would lose.
fn blockers(node: &Node) -> Vec<Refusal> {
    let state = node.state();
    let refused =
        |code: &str, message: String, remedy: &str| Refusal::new(Class::Refused, code, message).remedy(remedy);
    let mut blockers = Vec::new();
    if !clusters::quorate_without(node, node.me) {
        blockers.push(refused(
            "vote_needed",
            "without this node fewer than half of the voters would be left".to_owned(),
            "bring the nodes that are down back first (`landfall node list`), or remove those; --force leaves all the same",
        ));
    }
    let sends = sent_here(&state, node);
    if !sends.is_empty() {
        blockers.push(refused(
            "sends_vms",
            format!("this node sends {}", draining::named(&sends)),
            "move these VMs to another node first, or end their replication; --force leaves all the same",
        ));
    }
    let stays: Vec<String> = crate::drive::draining::ties(node, &state, node.me)
        .into_iter()
        .filter(|(replica, _)| replica.in_sync.iter().all(|member| *member == node.me) || replica.receiver() == node.me)
        .filter_map(|(replica, tie)| match tie {
            Tie::Stays(why) => Some(format!("{}: {why}", replica.vm.name)),
            _ => None,
        })
        .collect();
    if !stays.is_empty() {
        blockers.push(refused(
            "only_copy",
            format!("what this node holds cannot be moved away: {}", draining::named(&stays)),
            "see to it that another node can take it; --force leaves all the same, and the cluster may lose these points",
        ));
    }
    blockers
}

fn sent_here(state: &State, node: &Node) -> Vec<String> {
    let sent = state.primaries.values().filter(|primary| primary.sender == Some(node.me));
    sent.map(|primary| primary.vm.name.to_string()).collect()
}

/// Moves everything away, the CAP too. Where that fails the node is as drained as it was before.
async fn empty(node: &Node, wait: Option<WaitSeconds>) -> Result<(), Refusal> {
    if node.config.witness {
        return Ok(());
    }
    let before = node.state().drained.contains(&node.me);
    let wait = match wait {
        Some(wait) => wait,
        None => WaitSeconds::try_from(DRAIN_SECONDS)?,
    };
    if let Err(refusal) = draining::drain(node, &node.name, Some(wait)).await {
        if !before {
            drop(draining::restore(node, &node.name).await);
        }
        return Err(refusal);
    }
    Ok(())
}

/// Has the owner remove this node. Its answer may be that the connection is closed: a removed node is out at once.
async fn removed(node: &Node) -> Result<(), Refusal> {
    let request = RequestId { session: node.outside.random.u128(), sequence: 1 };
    let deadline = Instant::now() + REMOVE_DEADLINE;
    loop {
        let failure = match ask(node, request).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refusal)) => return Err(refusal),
            Err(failure) => failure,
        };
        if Instant::now() + RETRY_PAUSE >= deadline {
            return Err(failure);
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// One try: `Err` where it is not known whether the node is removed.
async fn ask(node: &Node, request: RequestId) -> Result<Result<(), Refusal>, Refusal> {
    let target = owner_target(node)?;
    let command = Box::new(Command::Remove(node.me));
    let propose = ControlRequest::Propose { request: Some(request), command };
    match node.calls.call(&target, Alpn::Control, &propose, ATTEMPT_DEADLINE).await {
        Ok(ControlAnswer::Applied { answer: Ok(_), .. }) => Ok(Ok(())),
        Ok(ControlAnswer::Applied { answer: Err(refusal), .. }) => Ok(Err(refusal)),
        Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
        Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "the owner gave an answer of another kind")),
        Err(
            CallError::Closed { close: Close::Removed, .. }
            | CallError::Dial(DialError::Refused { close: Close::Removed, .. }),
        ) => Ok(Ok(())),
        Err(error) => Err(Refusal::new(Class::Unreachable, "owner_unreachable", error.to_string())),
    }
}
