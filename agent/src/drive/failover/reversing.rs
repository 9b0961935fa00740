//! Reversing a relationship at the node that runs the VM: the other cluster keeps a replica, then the VM is this cluster's.

use std::sync::Arc;

use landfall_proto::id::VmId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{Command, FailoverStep, Promotion, PromotionState, Return};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::timeout;

use super::runs::silent;
use super::{Failover, SERVICE_DEADLINE, lock};
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::peers;
use crate::vm_service::VmRole;

/// What stands in the way at the other cluster; nothing where it keeps the replica, or could.
pub(in crate::drive) async fn ask_to_keep(
    node: &Node,
    state: &State,
    vm: VmId,
    promotion: &Promotion,
    check: bool,
) -> Result<Vec<Refusal>, Refusal> {
    let replica = state.replicas.get(&vm).ok_or_else(|| Refusal::not_found("replica", &vm.to_string()))?;
    let to = &replica.primary;
    let peer = state.peers.get(to).ok_or_else(|| {
        Refusal::not_found("peer", to.as_str()).remedy(format!("pair with {to} again: `landfall peer invite` there"))
    })?;
    let back = Return { id: promotion.id, point: promotion.point, branch: promotion.order.is_none() };
    let request = ControlRequest::Return { vm, back, parent: promotion.parent, check };
    match peers::first_answer(node, peer, &request).await? {
        ControlAnswer::Return { blockers } => Ok(blockers),
        ControlAnswer::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::new(Class::Failed, "protocol", "the peer gave an answer of another kind")),
    }
}

/// Whether a VM that a failover has brought here is this cluster's own: reversed, or detached from where it came from.
fn is_own(state: &State, vm: VmId) -> bool {
    !state.promotions.contains(&vm) && (state.primaries.contains(&vm) || state.is_detached(vm))
}

impl Failover {
    /// Goes on with reversals whose VM runs here, and makes VMs this cluster's own whose reversal is done.
    pub(super) fn settle_reversals(&self, state: &Arc<State>) {
        let reversing =
            |promotion: &Promotion| promotion.state == PromotionState::Reversing && promotion.holder == self.node.me;
        for (vm, promotion) in state.promotions.iter().filter(|(_, promotion)| reversing(promotion)) {
            // The VM is brought up first: what is not there cannot be replicated.
            if !lock(&self.settled).iter().any(|(id, _)| *id == promotion.id) {
                continue;
            }
            let (vm, promotion) = (*vm, promotion.clone());
            self.work(vm, |this| async move { this.go_the_other_way(vm, promotion).await });
        }
        for report in self.node.vms.vms().into_iter().flatten().filter(|report| report.role == VmRole::FailedOver) {
            let vm = report.vm.id;
            if is_own(state, vm) {
                self.work(vm, |this| async move { this.adopt(vm).await });
            }
        }
    }

    async fn go_the_other_way(&self, vm: VmId, promotion: Promotion) -> Result<(), Refusal> {
        self.step(vm, "reversing", Some(vm));
        let state = self.node.state();
        let blockers = ask_to_keep(&self.node, &state, vm, &promotion, false).await?;
        if let Some(blocker) = blockers.into_iter().next() {
            return Err(blocker);
        }
        self.commit(vm, FailoverStep::Reversed { id: promotion.id }).await?;
        let to = state.replicas.get(&vm).map(|replica| (replica.vm.name.clone(), replica.primary.clone()));
        if let Some((name, to)) = to {
            let told = format!("{name} is this cluster's now and replicates to {to}");
            self.node.events.record(Happening::info("failover_reversed", told).vm(vm).node(&self.node.name));
        }
        Ok(())
    }

    /// The VM that a failover runs is registered as what it is now.
    async fn adopt(&self, vm: VmId) -> Result<(), Refusal> {
        // As of now, not as of when this node was last in touch.
        self.node.proposer.commit(Command::Probe).await?;
        if !is_own(&self.node.state(), vm) {
            return Ok(());
        }
        let service = self.node.vms.service()?;
        timeout(SERVICE_DEADLINE, service.adopt(vm)).await.unwrap_or_else(|_| Err(silent("take a VM over")))
    }
}
