//! `failover status`: how far a failover is, as this cluster knows it.

use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, Point, RunFigures};
use landfall_proto::model::{DepartureState, FailoverKind, PromotionState, Rival};
use landfall_store::State;

use super::census::{self, committed_names, name, resolve};
use crate::drive::control::{Control, local_vms};
use crate::drive::failover::test_vm;
use crate::drive::members::control_target;
use crate::surface::failover::{FailoverBranch, FailoverStatus, FailoverWord};
use crate::surface::vm::VmSelector;

/// How long a node may take to say what it does.
const FIGURES_DEADLINE: Duration = Duration::from_millis(1_500);

/// The step of a VM of which this cluster does not know whether it may run it.
const UNKNOWN: &str = "unknown";

/// Steps that are committed as they are: what a node does says nothing more of them.
const FINAL: [&str; 9] =
    [UNKNOWN, "completed", "departed", "recalling", "released", "reversing", "returning", "branched", "yielded"];

/// How far the failover of a VM is.
pub async fn status(control: &Control, vm: &VmSelector) -> Result<FailoverStatus, Refusal> {
    let id = resolve(&control.node, vm).await?;
    Ok(status_of(control, id).await)
}

pub(super) async fn status_of(control: &Control, vm: VmId) -> FailoverStatus {
    let state = control.node.state();
    let mut status = FailoverStatus {
        uuid: vm,
        name: committed_names(&state).get(&vm).cloned().unwrap_or_default(),
        kind: None,
        step: "none".to_owned(),
        right_to_run: state.may_run(vm),
        promotion: None,
        point: None,
        point_verified_at: None,
        started_at: None,
        loss_seconds: None,
        loss_bytes: None,
        node: None,
        run_vm: None,
        parent: state.lineage(vm).map(|id| id.to_string()),
        branch: state.rivals.get(&vm).map(branch),
        branches: Vec::new(),
        test: state.tests.contains(&vm),
        fault: None,
    };
    let at = describe(&state, &mut status);
    if let Some(replica) = state.replicas.get(&vm) {
        let holder = census::figures(control, &state, replica.receiver(), vm).await;
        let branches = holder.and_then(|figures| figures.holder).map(|holder| holder.branches).unwrap_or_default();
        status.branches = branches.iter().map(ToString::to_string).collect();
    }
    if state.is_right_unknown(vm) {
        UNKNOWN.clone_into(&mut status.step);
    }
    let Some(member) = at else { return status };
    status.node = Some(name(&state, member));
    if let Some(figures) = figures(control, &state, member, vm).await {
        let final_word = FINAL.contains(&status.step.as_str());
        if !final_word && !figures.step.is_empty() {
            status.step = figures.step;
        }
        status.fault = figures.fault.map(Into::into);
    }
    if state.replicas.contains(&vm)
        && let Some(holder) = census::figures(control, &state, member, vm).await.and_then(|figures| figures.holder)
    {
        let begun_with = |point: &&Point| Some(point.sequence) == status.point;
        status.point_verified_at =
            holder.points.iter().find(begun_with).and_then(|point| point.verified_at).map(Into::into);
    }
    status
}

/// Says what is committed of a failover, and returns the node whose part it is.
fn describe(state: &State, status: &mut FailoverStatus) -> Option<MemberId> {
    let vm = status.uuid;
    let mut at = None;
    if let Some(promotion) = state.promotions.get(&vm) {
        status.kind = Some(match promotion.kind {
            FailoverKind::Planned => FailoverWord::Planned,
            FailoverKind::Unplanned => FailoverWord::Unplanned,
        });
        status.promotion = Some(promotion.id.to_string());
        status.parent = promotion.parent.map(|id| id.to_string());
        status.point = Some(promotion.point.sequence);
        status.started_at = Some(promotion.started_at.into());
        status.loss_seconds = Some(promotion.loss.millis / 1000);
        status.loss_bytes = Some(promotion.loss.bytes);
        status.run_vm = Some(vm);
        status.step = match promotion.state {
            PromotionState::Running => "preparing",
            PromotionState::Withdrawing => "stopping",
            PromotionState::Completed => "completed",
            PromotionState::Reversing => "reversing",
            PromotionState::Abandoning => "abandoning",
        }
        .to_owned();
        at = Some(promotion.holder);
    } else if let Some(departure) = state.departures.get(&vm) {
        status.kind = Some(FailoverWord::Planned);
        status.promotion = Some(departure.id.to_string());
        status.point = departure.state.released().map(|point| point.sequence);
        status.started_at = Some(departure.started_at.into());
        (status.loss_seconds, status.loss_bytes) = (Some(0), Some(0));
        status.step = match departure.state {
            DepartureState::Preparing => "stopping",
            DepartureState::Released(_) => "released",
            DepartureState::Recalling(_) => "recalling",
            DepartureState::Departed(_) => "departed",
        }
        .to_owned();
        at = state.primaries.get(&vm).and_then(|primary| primary.sender);
    } else if let Some(rival) = state.rivals.get(&vm) {
        status.kind = Some(FailoverWord::Unplanned);
        if rival.yielded { "yielded" } else { "branched" }.clone_into(&mut status.step);
        at = state.primaries.get(&vm).and_then(|primary| primary.sender);
    } else if let Some(back) = state.returns.get(&vm) {
        status.promotion = Some(back.id.to_string());
        "returning".clone_into(&mut status.step);
        at = state.replicas.get(&vm).map(|replica| replica.holder);
    } else if let Some(test) = state.tests.get(&vm) {
        status.kind = Some(FailoverWord::Test);
        status.promotion = Some(test.id.to_string());
        status.point = Some(test.point.sequence);
        status.started_at = Some(test.started_at.into());
        (status.loss_seconds, status.loss_bytes) = (Some(0), Some(0));
        "preparing".clone_into(&mut status.step);
        status.run_vm = Some(test_vm(test.id));
        at = Some(test.node);
    }
    at
}

fn branch(rival: &Rival) -> FailoverBranch {
    FailoverBranch {
        promotion: rival.id.to_string(),
        at: rival.from.clone(),
        point: rival.point.sequence,
        since: rival.since.into(),
        keep: rival.keep,
    }
}

/// What `member` does for the failover of `vm`.
async fn figures(control: &Control, state: &State, member: MemberId, vm: VmId) -> Option<RunFigures> {
    if member == control.node.me {
        return control.failover.figures(vm);
    }
    let target = control_target(state, member)?;
    match control.node.calls.call(&target, Alpn::Control, &ControlRequest::Run(vm), FIGURES_DEADLINE).await {
        Ok(ControlAnswer::Run(figures)) => figures.map(|figures| *figures),
        _ => None,
    }
}

/// Whether any node that answers still has the VM of a test.
pub(super) async fn lists(control: &Control, state: &State, vm: VmId) -> bool {
    for member in state.members.values().filter(|member| !member.witness) {
        let listed = if member.id == control.node.me {
            local_vms(&control.node)
        } else {
            let Some(target) = control_target(state, member.id) else { continue };
            let asked = control.node.calls.call(&target, Alpn::Control, &ControlRequest::Vms, FIGURES_DEADLINE);
            match asked.await {
                Ok(ControlAnswer::Vms(listed)) => listed,
                _ => continue,
            }
        };
        if listed.iter().any(|local| local.vm.id == vm) {
            return true;
        }
    }
    false
}
