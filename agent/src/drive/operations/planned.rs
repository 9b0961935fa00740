//! `failover planned`: what it would do.

use landfall_proto::id::VmId;
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use super::census::name;
use crate::surface::failover::FailoverPlan;

/// What it would do, and everything that stands in its way here.
pub(super) fn prepare(state: &State, vm: VmId, plan: &mut FailoverPlan, blockers: &mut Vec<Refusal>) {
    let Some(primary) = state.primaries.get(&vm) else {
        let refusal = Refusal::new(Class::NotFound, "no_primary", format!("VM {vm} is no primary of this cluster"));
        let remedy = "give the command at the primary's cluster; without it, fail over unplanned at the replica's";
        return blockers.push(refusal.field("vm").remedy(remedy));
    };
    plan.node = primary.sender.map(|member| name(state, member));
    (plan.loss_seconds, plan.loss_bytes) = (Some(0), Some(0));
    plan.command.clone_from(&primary.vm.launch.command);
    plan.steps = vec![
        "stop the VM and keep it from being started".to_owned(),
        "send its last changes and wait until they are acknowledged".to_owned(),
        "give up the right to run it, by commit here".to_owned(),
        format!("{} takes the right, by commit there, and starts it", primary.to),
    ];
    if state.departures.contains(&vm) {
        let message = format!("{} is failed over already", primary.vm.name);
        let refusal = Refusal::new(Class::Refused, "failing_over", message).field("vm");
        blockers.push(refusal.remedy("see `landfall failover status`"));
    }
    if primary.stopped.is_some() || primary.sender.is_none() || !primary.rivals.is_empty() {
        let message = format!("{} is not replicated at this moment", primary.vm.name);
        let refusal = Refusal::new(Class::Refused, "not_replicating", message).field("vm");
        blockers.push(refusal.remedy("see the reasons in `landfall vm show`"));
    }
    if let Some(rival) = state.rivals.get(&vm) {
        let message = format!("{} runs a branch of {}", rival.from, primary.vm.name);
        let refusal = Refusal::new(Class::Refused, "branched", message).field("vm");
        blockers.push(refusal.remedy("decide which one is kept: `landfall failover resolve VM --keep here|there`"));
    }
}
