//! Which VMs there are, replicated or not, and what the nodes know of each: asked for when somebody wants to know.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, NodeName, VmId};
use landfall_proto::message::control::{
    ControlAnswer, ControlRequest, Figures, HolderFigures, LocalVm, Point, PointState,
};
use landfall_proto::model::Replica;
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use crate::drive::control::{Control, local_vms};
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::surface::vm::VmSelector;

/// How long a node may take to tell what it knows of a VM.
const FIGURES_DEADLINE: Duration = Duration::from_millis(1_500);

/// All VMs: replicated ones, and those that only run here.
pub(super) struct Census {
    /// By VM: the node that has it, and the VM.
    pub(super) local: BTreeMap<VmId, (NodeName, LocalVm)>,
}

/// Asks every live node which VMs it has.
pub(super) async fn census(node: &Node) -> Census {
    let state = node.state();
    let asked = state.members.values().filter(|member| !member.witness).map(|member| async {
        if member.id == node.me {
            return (member.node.clone(), local_vms(node));
        }
        let vms = match control_target(&state, member.id) {
            Some(target) => match node.calls.call(&target, Alpn::Control, &ControlRequest::Vms, FIGURES_DEADLINE).await
            {
                Ok(ControlAnswer::Vms(vms)) => vms,
                _ => Vec::new(),
            },
            None => Vec::new(),
        };
        (member.node.clone(), vms)
    });
    let mut local = BTreeMap::new();
    for (name, vms) in join_all(asked).await {
        for vm in vms.into_iter().filter(|vm| !vm.replica) {
            local.insert(vm.vm.id, (name.clone(), vm));
        }
    }
    Census { local }
}

/// Finds the VM that a request names, among the replicated ones first.
pub(super) async fn resolve(node: &Node, vm: &VmSelector) -> Result<VmId, Refusal> {
    let state = node.state();
    let committed = committed_names(&state);
    match vm.resolve(committed.iter().map(|(id, name)| (*id, name.as_str()))) {
        Err(refusal) if refusal.class == Class::NotFound => {
            let census = census(node).await;
            vm.resolve(census.local.iter().map(|(id, (_, vm))| (*id, vm.vm.name.as_str())))
        }
        other => other,
    }
}

pub(super) fn committed_names(state: &State) -> BTreeMap<VmId, String> {
    let replicas = state.replicas.iter().map(|(id, replica)| (*id, replica.vm.name.to_string()));
    let primaries = state.primaries.iter().map(|(id, primary)| (*id, primary.vm.name.to_string()));
    replicas.chain(primaries).collect()
}

/// What `member` knows of `vm`; `None` where it does not answer.
pub(super) async fn figures(control: &Control, state: &State, member: MemberId, vm: VmId) -> Option<Figures> {
    let node = &control.node;
    if member == node.me {
        return Some(control.figures(vm).await);
    }
    let target = control_target(state, member)?;
    match node.calls.call(&target, Alpn::Control, &ControlRequest::Figures(vm), FIGURES_DEADLINE).await {
        Ok(ControlAnswer::Figures(figures)) => Some(*figures),
        _ => None,
    }
}

/// What the nodes of the in-sync set besides the one that receives a replica know of it: those that are seen to be up, and
/// answer.
pub(super) async fn copies(control: &Control, state: &State, replica: &Replica) -> Vec<(MemberId, HolderFigures)> {
    let view = control.node.view.borrow().clone();
    let up = |member: MemberId| member == control.node.me || view.get(&member).is_some_and(|seen| seen.live);
    let others = replica.in_sync.iter().copied().filter(|member| *member != replica.receiver() && up(*member));
    let asked = others.map(|member| async move {
        let figures = figures(control, state, member, replica.vm.id).await.and_then(|figures| figures.holder);
        figures.map(|figures| (member, figures))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

pub(super) fn name(state: &State, member: MemberId) -> NodeName {
    let found = state.members.get(&member).map(|member| member.node.clone());
    found.unwrap_or_else(|| removed_member(member))
}

/// A member that is no longer listed is called by its number.
fn removed_member(member: MemberId) -> NodeName {
    match format!("member-{}", member.number()).parse() {
        Ok(name) => name,
        Err(_) => unreachable!("a number and a fixed word are a label"),
    }
}

/// The newest point that can be restored.
pub(super) fn newest(points: &[Point]) -> Option<&Point> {
    points.iter().rev().find(|point| point.state != PointState::Unreachable)
}
