//! Keeping a VM whose right to run is on its way or unknown, or of which another cluster runs a branch, from being started,
//! at every node of the primary's cluster.
//!
//! A lock is set as soon as the departure is applied. It is taken away only after a commit has shown that what is applied
//! here is not older than what the cluster has decided: a node that was away must not give free what was released.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::model::Command;
use landfall_store::State;
use tokio::time::timeout;

use super::{Failover, SERVICE_DEADLINE, lock};

/// What the VM service was told since this agent runs.
#[derive(Clone, Default)]
pub(super) struct Locks(Arc<Mutex<BTreeMap<VmId, bool>>>);

/// Whether a VM of this cluster may not be started.
fn is_locked(state: &State, vm: VmId) -> bool {
    state.departures.contains(&vm) || state.rivals.contains(&vm) || state.is_right_unknown(vm)
}

impl Failover {
    pub(super) fn settle_locks(&self, state: &State) {
        let mut told = lock(&self.locks.0);
        told.retain(|vm, _| state.primaries.contains(vm));
        let due: Vec<VmId> =
            state.primaries.keys().filter(|vm| told.get(vm) != Some(&is_locked(state, **vm))).copied().collect();
        drop(told);
        for vm in due {
            self.work(vm, |this| async move { this.settle_lock(vm).await });
        }
    }

    async fn settle_lock(&self, vm: VmId) -> Result<(), Refusal> {
        if !is_locked(&self.node.state(), vm) {
            self.node.proposer.commit(Command::Probe).await?;
        }
        let locked = is_locked(&self.node.state(), vm);
        self.set_lock(vm, locked).await
    }

    /// Tells the VM service. Only ever called by the one task that works on the VM.
    pub(super) async fn set_lock(&self, vm: VmId, locked: bool) -> Result<(), Refusal> {
        let service = self.node.vms.service()?;
        match timeout(SERVICE_DEADLINE, service.lock(vm, locked)).await {
            Ok(Ok(())) => {}
            // One that cannot lock has nothing to give free either.
            Ok(Err(refusal)) if refusal.code == "not_supported" && !locked => {}
            Ok(Err(refusal)) => return Err(refusal),
            Err(_) => return Err(super::runs::silent("lock a VM")),
        }
        lock(&self.locks.0).insert(vm, locked);
        Ok(())
    }
}
