//! `failover reverse` and `failover resolve`: what they would do, and what stands in their way.

use landfall_proto::id::VmId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{FailoverStep, PromotionState, Side};
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use super::census::name;
use crate::drive::control::Control;
use crate::drive::failover::ask_to_keep;
use crate::drive::peers;
use crate::surface::failover::FailoverPlan;

fn nothing(vm: VmId) -> Refusal {
    Refusal::new(Class::NotFound, "no_failover", format!("VM {vm} is not failed over to this cluster"))
        .field("vm")
        .remedy("`landfall failover status` shows what there is; give the command at the cluster where the VM runs now")
}

/// Everything that stands in the way of replicating the other way, here and at the other cluster.
pub(super) async fn prepare_reverse(
    control: &Control,
    state: &State,
    vm: VmId,
    plan: &mut FailoverPlan,
    blockers: &mut Vec<Refusal>,
) {
    let (Some(promotion), Some(replica)) = (state.promotions.get(&vm), state.replicas.get(&vm)) else {
        return blockers.push(nothing(vm));
    };
    plan.node = Some(name(state, promotion.holder));
    plan.point = Some(promotion.point.sequence);
    (plan.loss_seconds, plan.loss_bytes) = (Some(0), Some(0));
    plan.steps = vec![
        format!("{} makes a point of the disks that the VM had there, and keeps a replica", replica.primary),
        "the VM goes on running here, as this cluster's own".to_owned(),
        "both sides are compared by hash; only what differs is sent".to_owned(),
    ];
    if promotion.order.is_none() {
        let told = format!(
            "what the VM wrote at {} after point {} is kept there, aside",
            replica.primary, promotion.point.sequence
        );
        plan.warnings.push(told);
    }
    if let Some(blocker) = State::not_final(promotion) {
        blockers.push(blocker);
    }
    if promotion.state == PromotionState::Reversing {
        plan.warnings.push("it is being reversed already".to_owned());
    }
    match ask_to_keep(&control.node, state, vm, promotion, true).await {
        Ok(there) => blockers.extend(
            there
                .into_iter()
                .map(|blocker| Refusal { message: format!("at {}: {}", replica.primary, blocker.message), ..blocker }),
        ),
        Err(refusal) => blockers.push(refusal),
    }
}

/// What choosing a branch would do.
pub(super) fn prepare(
    state: &State,
    vm: VmId,
    keep: Option<Side>,
    plan: &mut FailoverPlan,
    blockers: &mut Vec<Refusal>,
) {
    let Some(keep) = keep else {
        return blockers.push(Refusal::invalid("keep", "", "say which branch is kept: `here` or `there`"));
    };
    let steps: &[&str] = match (state.rivals.get(&vm), state.promotions.get(&vm).filter(|found| found.order.is_none()))
    {
        (Some(rival), _) => {
            plan.point = Some(rival.point.sequence);
            match keep {
                Side::Here => &[
                    "the other cluster stops its VM, and keeps what it wrote as a branch beside the replica",
                    "both sides are compared, and replication goes on from here",
                ],
                Side::There => &[
                    "stop the VM here and keep it from being started; its disks stay",
                    "`landfall failover reverse`, at the other cluster, makes a replica of it",
                ],
            }
        }
        (None, Some(promotion)) => {
            plan.point = Some(promotion.point.sequence);
            plan.node = Some(name(state, promotion.holder));
            match keep {
                Side::Here => &[
                    "the other cluster stops its VM and keeps it from being started; its disks stay",
                    "`landfall failover complete` and `landfall failover reverse`, here, make a replica of it",
                ],
                Side::There => &[
                    "stop the VM here, and keep what it wrote as a branch beside the replica",
                    "replication goes on from the other cluster",
                ],
            }
        }
        (None, None) => {
            let message = format!("there is one branch of VM {vm}, as far as this cluster knows");
            let refusal = Refusal::new(Class::NotFound, "no_branch", message).field("vm");
            return blockers.push(refusal.remedy("`landfall failover status` shows what there is, at each cluster"));
        }
    };
    plan.steps = steps.iter().map(|step| (*step).to_owned()).collect();
}

/// The command that choosing a branch commits here.
pub(super) fn step_of(state: &State, vm: VmId, keep: Option<Side>) -> Result<FailoverStep, Refusal> {
    let keep = keep.ok_or_else(|| Refusal::invalid("keep", "", "say which branch is kept: `here` or `there`"))?;
    if let Some(rival) = state.rivals.get(&vm) {
        return Ok(FailoverStep::Resolve { id: rival.id, keep });
    }
    let promotion = state.promotions.get(&vm).ok_or_else(|| nothing(vm))?;
    Ok(match keep {
        Side::There => FailoverStep::Abandon { id: promotion.id, decided_there: false },
        // The other cluster has given way: nothing changes here.
        Side::Here => FailoverStep::Start { id: promotion.id },
    })
}

/// What ends the replication of a VM that is failed over to this cluster for good: `None` where it is not. Refused while the
/// other cluster answers that it has the VM, too: then there is a better way.
pub(super) async fn detaching(control: &Control, state: &State, vm: VmId) -> Result<Option<FailoverStep>, Refusal> {
    let (Some(promotion), Some(replica)) = (state.promotions.get(&vm), state.replicas.get(&vm)) else {
        return Ok(None);
    };
    if promotion.state != PromotionState::Completed {
        return Ok(None);
    }
    if let Some(peer) = state.peers.get(&replica.primary)
        && let Ok(ControlAnswer::Runs(_)) = peers::first_answer(&control.node, peer, &ControlRequest::Runs(vm)).await
    {
        let message = format!("{} answers, and {} is a primary there", replica.primary, replica.vm.name);
        return Err(Refusal::new(Class::Refused, "other_site_answers", message).field("vm").remedy(
            "reverse the replication (`landfall failover reverse`), or disable it there first (`landfall vm disable`)",
        ));
    }
    Ok(Some(FailoverStep::Detach { id: promotion.id }))
}

/// Where this cluster runs the branch that is kept: the other one decides so, by commit.
pub(super) async fn ask_to_give_up(control: &Control, state: &State, vm: VmId) -> Result<(), Refusal> {
    if state.rivals.contains(&vm) {
        return Ok(());
    }
    let (Some(promotion), Some(replica)) = (state.promotions.get(&vm), state.replicas.get(&vm)) else { return Ok(()) };
    let to = &replica.primary;
    let peer = state.peers.get(to).ok_or_else(|| Refusal::not_found("peer", to.as_str()))?;
    let ask = |request: ControlRequest| {
        let node = control.node.clone();
        async move { peers::first_answer(&node, peer, &request).await }
    };
    let (id, parent, point) = (promotion.id, promotion.parent, promotion.point);
    for request in [ControlRequest::Branch { vm, id, parent, point }, ControlRequest::GiveUp { vm, id }] {
        match ask(request).await? {
            ControlAnswer::Done => {}
            ControlAnswer::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::new(Class::Failed, "protocol", "the peer gave an answer of another kind")),
        }
    }
    Ok(())
}
