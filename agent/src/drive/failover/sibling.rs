//! Answering the cluster at the other end of a relationship: keeping a replica of what runs there, and branches.

use landfall_proto::id::{Fqdn, UnixMillis, VmId};
use landfall_proto::message::control::ControlAnswer;
use landfall_proto::model::{
    Command, FailoverStep, HandOff, PointName, PromotionId, PromotionState, Return, Rival, Side,
};
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use super::hand_off;
use crate::drive::control::Control;
use crate::drive::events::Happening;

async fn commit(control: &Control, vm: VmId, step: FailoverStep) -> Result<(), Refusal> {
    let command = Command::Failover { vm, step: Box::new(step) };
    control.node.proposer.commit(command).await.map(drop)
}

/// What the cluster that runs a VM asks of this one.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The VM.
    pub vm: VmId,
    /// What this cluster is to keep the replica of.
    pub back: Return,
    /// What that descends from.
    pub parent: Option<PromotionId>,
    /// Whether it only wants to know what stands in the way.
    pub check: bool,
}

/// `from` runs the VM and wants this cluster to keep a replica: everything that stands in the way, or nothing where it is
/// so, or could be.
pub async fn keep(control: &Control, from: &Fqdn, asked: Asked) -> ControlAnswer {
    match settle(control, from, asked).await {
        Ok(blockers) => ControlAnswer::Return { blockers },
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}

async fn settle(control: &Control, from: &Fqdn, asked: Asked) -> Result<Vec<Refusal>, Refusal> {
    let Asked { vm, back, parent, check } = asked;
    let state = control.node.state();
    let kept = state.replicas.get(&vm).is_some_and(|replica| replica.primary == *from);
    if kept && state.lineage(vm) == Some(back.id) {
        return Ok(Vec::new());
    }
    let mut blockers = state.return_blockers(vm, back.id, parent, from);
    if back.branch && blockers.iter().any(|blocker| blocker.code == "not_yielded") {
        match hand_off::runs(control, from, vm).await {
            // The order comes from where the VM runs, and nothing runs here: this branch gives way to it.
            ControlAnswer::Runs(Some(false)) => {
                if !check && blockers.len() == 1 {
                    give_way(control, from, asked).await?;
                } else {
                    blockers.retain(|blocker| blocker.code != "not_yielded");
                }
            }
            answer => {
                let runs = matches!(answer, ControlAnswer::Runs(Some(true)));
                blockers.iter_mut().filter(|blocker| blocker.code == "not_yielded").for_each(|blocker| {
                    *blocker = still_there(vm, runs);
                });
            }
        }
    }
    if check || !blockers.is_empty() {
        return Ok(blockers);
    }
    commit(control, vm, FailoverStep::Return { back, parent, from: from.clone() }).await?;
    let told = format!("{from} runs VM {vm}: this cluster keeps its replica, where its disks are");
    control.node.events.record(Happening::info("failover_reversed", told).vm(vm).node(&control.node.name));
    Ok(Vec::new())
}

fn still_there(vm: VmId, runs: bool) -> Refusal {
    let message = match runs {
        true => format!("VM {vm} runs there, too"),
        false => format!("the node that has VM {vm} there does not answer"),
    };
    let remedy = format!("decide there: `landfall failover resolve {vm} --keep there`");
    Refusal::new(Class::Refused, if runs { "primary_runs" } else { "primary_unknown" }, message)
        .field("vm")
        .remedy(remedy)
}

/// Decides that the other branch is kept. The node that has the VM makes sure that it is off, and gives up the right.
async fn give_way(control: &Control, from: &Fqdn, asked: Asked) -> Result<(), Refusal> {
    let Asked { vm, back, parent, .. } = asked;
    let rival = rival(from, back.id, parent, back.point);
    commit(control, vm, FailoverStep::Branch(Box::new(rival))).await?;
    commit(control, vm, FailoverStep::Resolve { id: back.id, keep: Side::There }).await
}

fn rival(from: &Fqdn, id: PromotionId, parent: Option<PromotionId>, point: PointName) -> Rival {
    Rival { id, parent, from: from.clone(), point, since: UnixMillis(0), keep: None, yielded: false }
}

/// `from` runs a branch of a VM of this cluster.
pub async fn branch(
    control: &Control,
    from: &Fqdn,
    vm: VmId,
    id: PromotionId,
    parent: Option<PromotionId>,
    point: PointName,
) -> ControlAnswer {
    let state = control.node.state();
    if state.rivals.get(&vm).is_some_and(|known| known.id == id) {
        return ControlAnswer::Done;
    }
    let Some(primary) = state.primaries.get(&vm) else {
        return ControlAnswer::Refused(Refusal::not_found("vm", &vm.to_string()));
    };
    let name = primary.vm.name.clone();
    match commit(control, vm, FailoverStep::Branch(Box::new(rival(from, id, parent, point)))).await {
        Ok(()) => {
            let told = format!("{from} runs {name} since a failover without this cluster: two branches of one VM");
            let event = Happening::critical("failover_branch", told).vm(vm).node(&control.node.name);
            control.node.events.record(event);
            ControlAnswer::Done
        }
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}

/// The branch that this cluster runs of a VM of `from`, if it does.
pub fn branch_of(control: &Control, from: &Fqdn, vm: VmId) -> ControlAnswer {
    let state = control.node.state();
    let replica = state.replicas.get(&vm).filter(|replica| replica.primary == *from);
    let promotion = replica.and_then(|_| state.promotions.get(&vm)).filter(|promotion| promotion.order.is_none());
    let promotion = promotion.filter(|promotion| !promotion.state.is_over());
    ControlAnswer::Branch(promotion.map(|promotion| (promotion.id, promotion.parent, promotion.point)))
}

/// `from` keeps its own branch of the VM, or only asks what became of this cluster's: `Declined` once that is over.
pub async fn abandon(control: &Control, from: &Fqdn, vm: VmId, id: PromotionId, look: bool) -> ControlAnswer {
    match became(&control.node.state(), from, vm, id, look) {
        // For good: so not by what is applied here, which may be older than the branch.
        HandOff::Declined => match control.node.proposer.commit(Command::Probe).await {
            Ok(_) => ControlAnswer::HandOff(became(&control.node.state(), from, vm, id, look)),
            Err(refusal) => ControlAnswer::Refused(refusal),
        },
        HandOff::Open if !look => {
            let step = FailoverStep::Abandon { id, decided_there: true };
            let committed = commit(control, vm, step).await;
            committed.map_or_else(ControlAnswer::Refused, |()| ControlAnswer::HandOff(HandOff::Taken))
        }
        stands => ControlAnswer::HandOff(stands),
    }
}

/// What became of the branch `id`: `Declined` where it is over, `Open` where it stands and is not being dropped.
fn became(state: &State, from: &Fqdn, vm: VmId, id: PromotionId, look: bool) -> HandOff {
    if state.replicas.get(&vm).is_none_or(|replica| replica.primary != *from) {
        // A VM that was detached is outside of the relationship: whoever keeps the other branch goes on alone.
        let stands = state.primaries.contains(&vm) || (look && state.lineage(vm) == Some(id));
        return if stands { HandOff::Taken } else { HandOff::Declined };
    }
    match state.promotions.get(&vm).filter(|_| !state.is_over(vm, id)) {
        None => HandOff::Declined,
        Some(promotion) if promotion.state == PromotionState::Abandoning => HandOff::Taken,
        Some(_) => HandOff::Open,
    }
}

/// `from` runs the branch that is kept: this cluster's gives way.
pub async fn give_up(control: &Control, from: &Fqdn, vm: VmId, id: PromotionId) -> ControlAnswer {
    let state = control.node.state();
    let named = state.rivals.get(&vm).is_some_and(|rival| rival.id == id && rival.from == *from);
    if !named {
        return ControlAnswer::Refused(Refusal::not_found("branch", &id.to_string()));
    }
    match commit(control, vm, FailoverStep::Resolve { id, keep: Side::There }).await {
        Ok(()) => ControlAnswer::Done,
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}
