//! `failover discard`: removing what a branch that gave way had written, on whichever node keeps it.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::PromotionId;
use landfall_proto::{Class, Refusal};

use super::census::name;
use crate::drive::control::Control;
use crate::drive::members::control_target;
use crate::surface::failover::FailoverPlan;

/// How long a node may take to look for a branch.
const LOOK_DEADLINE: Duration = Duration::from_millis(1_500);
/// How long it may take to remove one: the images of the largest VM.
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);

/// What would be removed, and where.
pub(super) async fn prepare(
    control: &Control,
    vm: VmId,
    branch: Option<&str>,
    plan: &mut FailoverPlan,
) -> Result<(), Refusal> {
    let id = named(branch)?;
    let keeper = keeper(control, vm, id).await?;
    plan.node = Some(name(&control.node.state(), keeper));
    plan.steps.push(format!("remove branch {id} with all that was written in it; nothing else has it"));
    Ok(())
}

/// Removes a branch.
pub(super) async fn discard(control: &Control, vm: VmId, branch: Option<&str>) -> Result<(), Refusal> {
    let id = named(branch)?;
    let keeper = keeper(control, vm, id).await?;
    if ask(control, keeper, ControlRequest::DropBranch { vm, id, look: false }, REMOVE_DEADLINE).await? {
        return Ok(());
    }
    Err(unknown(id))
}

fn named(branch: Option<&str>) -> Result<PromotionId, Refusal> {
    let remedy = "give one of the branches that `landfall failover status` shows, 32 hex digits";
    let text = branch.ok_or_else(|| Refusal::invalid("branch", "", remedy))?;
    text.parse().map_err(|_| Refusal::invalid("branch", text, remedy))
}

fn unknown(id: PromotionId) -> Refusal {
    Refusal::new(Class::NotFound, "no_branch", format!("no node of this cluster that answers keeps branch {id}"))
        .field("branch")
        .remedy("`landfall failover status` shows what is kept; give the command at the cluster that keeps it")
}

/// The node that keeps it.
async fn keeper(control: &Control, vm: VmId, id: PromotionId) -> Result<MemberId, Refusal> {
    let state = control.node.state();
    for member in state.members.values().filter(|member| !member.witness) {
        let look = ControlRequest::DropBranch { vm, id, look: true };
        if ask(control, member.id, look, LOOK_DEADLINE).await.unwrap_or(false) {
            return Ok(member.id);
        }
    }
    Err(unknown(id))
}

/// Whether a node has done it, or keeps the branch.
async fn ask(
    control: &Control,
    member: MemberId,
    request: ControlRequest,
    deadline: Duration,
) -> Result<bool, Refusal> {
    let node = &control.node;
    let answer = if member == node.me {
        let ControlRequest::DropBranch { vm, id, look } = request else { return Ok(false) };
        return control.replicas.drop_branch(vm, id, look).await;
    } else {
        let target = control_target(&node.state(), member);
        let target = target.ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
        node.calls.call(&target, Alpn::Control, &request, deadline).await
    };
    match answer {
        Ok(ControlAnswer::Done) => Ok(true),
        Ok(ControlAnswer::Refused(refusal)) if refusal.class == Class::NotFound => Ok(false),
        Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
        Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "the node gave an answer of another kind")),
        Err(error) => Err(Refusal::new(Class::Unreachable, "node_unreachable", error.to_string())),
    }
}
