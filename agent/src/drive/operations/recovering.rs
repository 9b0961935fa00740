//! `cluster recover`, at the node that survives.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, NodeName, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use landfall_store::state::Survivor;

use super::clusters;
use crate::Agent;
use crate::decide::recovery::{self, Standing};
use crate::drive::control::Control;
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::replica::leftover;
use crate::drive::send::capture::blocking;
use crate::surface::cluster::{ClusterRecover, ClusterRecovered};

/// How long another member may take to show that it is alive.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Begins the cluster's next life with this node alone, or says what that would give up.
pub async fn recover(agent: &Agent, request: ClusterRecover) -> Result<ClusterRecovered, Refusal> {
    let membership = agent.member()?;
    let control = &membership.control;
    let node = &control.node;
    let state = membership.foresee().await?;
    let standing = Standing {
        node: node.name.to_string(),
        witness: node.config.witness,
        quorate: clusters::quorate(node),
        answering: answering(control, &state).await,
        others: state.members.keys().filter(|member| **member != node.me).count(),
    };
    let blockers = recovery::blockers(&standing);
    let survivor = Survivor { member: node.me, points: points(control, &state).await, at: node.outside.clock.wall() };
    let given_up = state.given_up(&survivor);
    let mut answer = ClusterRecovered {
        node: node.name.clone(),
        cluster: membership.enrolment.found.cluster.clone(),
        recovered: false,
        incarnation: state.incarnation.saturating_add(1),
        removed: given_up.members.clone(),
        lost: recovery::lost(&given_up),
        next: recovery::next(&given_up),
        blockers: Vec::new(),
    };
    if request.dry_run {
        answer.blockers = blockers.into_iter().map(Into::into).collect();
        return Ok(answer);
    }
    if let Some(blocker) = blockers.into_iter().next() {
        return Err(blocker);
    }
    if !request.yes {
        let message = format!("this gives up: {}", answer.lost.join("; "));
        return Err(Refusal::new(Class::Refused, "not_confirmed", message).field("yes").remedy(
            "make sure that every other member is off for good, then give --yes; --dry-run shows it line by line",
        ));
    }
    // The present membership ends with this.
    drop(membership);
    let state = agent.begin_next_life(survivor).await?;
    let told = format!(
        "{} begins life {} of {} alone; {} are no members any more",
        answer.node,
        state.incarnation,
        answer.cluster,
        answer.removed.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
    );
    agent.events().record(Happening::critical("cluster_recovered", told).node(&answer.node));
    answer.recovered = true;
    answer.incarnation = state.incarnation;
    Ok(answer)
}

/// The other members that answer, whatever they think of this one's state.
async fn answering(control: &Control, state: &State) -> Vec<NodeName> {
    let node = &control.node;
    let live: BTreeSet<MemberId> =
        node.view.borrow().iter().filter(|(_, seen)| seen.live).map(|(member, _)| *member).collect();
    let asked = state.members.values().filter(|member| member.id != node.me).map(|member| async {
        if live.contains(&member.id) {
            return Some(member.node.clone());
        }
        let target = control_target(state, member.id)?;
        let call = node.calls.call::<_, ControlAnswer>(&target, Alpn::Control, &ControlRequest::Probe, PROBE_DEADLINE);
        call.await.is_ok().then(|| member.node.clone())
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The replicas of which this node has a complete point on its disks.
async fn points(control: &Control, state: &State) -> BTreeSet<VmId> {
    let mut points = BTreeSet::new();
    for replica in state.replicas.values() {
        let vm = replica.vm.id;
        let Ok(folder) = control.replicas.folder(&replica.storage, vm) else { continue };
        let found = blocking(move || Ok(leftover::look(&folder, vm))).await;
        if found.ok().flatten().is_some_and(|manifest| !manifest.points.is_empty()) {
            points.insert(vm);
        }
    }
    points
}
