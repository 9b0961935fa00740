//! `failover resolve` of a VM of which this cluster does not know whether it may run it, since it was recovered.

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::model::{FailoverStep, PointName, Right, Side};
use landfall_store::State;

use super::census::{name, newest};
use crate::drive::control::Control;
use crate::drive::failover::{hand_off, rights};
use crate::surface::failover::FailoverPlan;

/// Fills in what a decision would do; the step that carries it out, where there is one.
pub(super) async fn prepare(
    control: &Control,
    state: &State,
    vm: VmId,
    keep: Option<Side>,
    plan: &mut FailoverPlan,
) -> Result<FailoverStep, Refusal> {
    let keep = keep
        .ok_or_else(|| Refusal::invalid("keep", "", "say which cluster has the right to run it: `here` or `there`"))?;
    let right = match rights::ask(&control.node, state, vm, false).await {
        Ok(right) => right,
        Err(refusal) => {
            plan.warnings.push(format!("the other cluster does not answer: {}", refusal.message));
            Right::Unknown
        }
    };
    let begin = begin_with(control, state, vm, plan).await;
    plan.steps = steps(state, vm, keep, &right).into_iter().map(str::to_owned).collect();
    if state.unknown_rights.get(&vm).is_some_and(|mark| mark.lost_run) && keep == Side::Here {
        plan.warnings.push("make sure that the node that ran it is off: it may run there still".to_owned());
    }
    Ok(FailoverStep::Decide { keep, right, begin })
}

/// The newest point of a replica here.
async fn begin_with(
    control: &Control,
    state: &State,
    vm: VmId,
    plan: &mut FailoverPlan,
) -> Option<(landfall_proto::id::Epoch, PointName)> {
    let replica = state.replicas.get(&vm)?;
    plan.node = Some(name(state, replica.holder));
    let holder = hand_off::holder_of(control, state, replica).await.ok()?;
    let point = newest(&holder.points)?;
    plan.point = Some(point.sequence);
    plan.taken_at = Some(point.taken_at.into());
    Some((replica.epoch, PointName { sequence: point.sequence, root: point.root }))
}

fn steps(state: &State, vm: VmId, keep: Side, right: &Right) -> Vec<&'static str> {
    let (primary, runs) = (state.primaries.contains(&vm), state.promotions.contains(&vm));
    match (keep, primary, runs) {
        (Side::Here, true, _) => vec![
            "the VM may be started here again",
            "the other cluster is told; if it has taken the VM, what it runs is a branch, and one must be chosen",
        ],
        (Side::There, true, _) => vec!["the VM is stopped here and kept from being started; its disks stay"],
        (Side::Here, false, true) => vec!["the failed-over VM goes on here, or is started here from its point"],
        (Side::Here, false, false) => vec!["take the right to run, and start the VM from the newest point here"],
        (Side::There, false, true) => {
            vec!["the failed-over VM is stopped here; what it wrote is kept as a branch beside the replica"]
        }
        (Side::There, false, false) if matches!(right, Right::Released { .. }) => {
            vec!["decline what the other cluster has released: it may run the VM again"]
        }
        (Side::There, false, false) => vec!["the replica goes on as one; the VM is the other cluster's to run"],
    }
}
