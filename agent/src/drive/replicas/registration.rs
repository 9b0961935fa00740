//! Keeping the VM service's registrations in step with the committed state.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::model::Replica;
use landfall_store::State;
use tokio::time::timeout;

use super::{REGISTER_DEADLINE, Replicas, lock};
use crate::drive::changes::Changes;
use crate::drive::events::Happening;
use crate::drive::replica;
use crate::drive::send::capture::blocking;
use crate::vm_service::{Registration, VmRole};

/// How often registrations are looked at without being told of a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Replicas {
    /// Keeps the VM service's registrations in step with the committed state, reads points back and repairs them, as long as there is a
    /// committed state.
    pub async fn run(self) {
        let (scrubbing, mending) = (self.clone(), self.clone());
        tokio::select! {
            () = scrubbing.scrub() => {}
            () = mending.mend_all() => {}
            () = self.keep_registered() => {}
        }
    }

    async fn keep_registered(self) {
        let mut changes = Changes::at(&self.node, LOOK_INTERVAL);
        while changes.next().await.is_some() {
            self.settle(&self.node.state()).await;
        }
    }

    async fn settle(&self, state: &State) {
        let Ok(service) = self.node.vms.service() else { return };
        let Some(listed) = self.node.vms.vms() else { return };
        for replica in state.replicas.values().filter(|replica| replica.receiver() == self.node.me) {
            let vm = replica.vm.id;
            if state.promotions.contains(&vm) || state.returns.contains(&vm) {
                // It is registered as what it is now by whoever runs it, or takes its disks in.
                continue;
            }
            let registered = self.node.registered.borrow().get(&vm) == Some(&replica.epoch);
            let present = listed.iter().any(|report| report.vm.id == vm && report.role == VmRole::Replica);
            // A list may be older than the registration: what is missing was lost only if an earlier list had it.
            let lost = !present && lock(&self.listed).remove(&vm);
            if present {
                lock(&self.listed).insert(vm);
            }
            self.look_for_room(replica).await;
            if self.stays_shut(replica).await || (registered && !lost) {
                continue;
            }
            match timeout(REGISTER_DEADLINE, self.register(service.as_ref(), replica)).await {
                Ok(Ok(())) => {
                    lock(&self.let_go).remove(&vm);
                    let epoch = replica.epoch;
                    self.node.registered.send_modify(|registered| {
                        Arc::make_mut(registered).insert(vm, epoch);
                    });
                }
                Ok(Err(refusal)) => tracing::warn!(%vm, %refusal, "replica not registered"),
                Err(_) => tracing::warn!(%vm, "the VM service takes long to register a replica"),
            }
        }
        self.close_others(state).await;
        let registered = Arc::clone(&self.node.registered.borrow());
        lock(&self.let_go).retain(|vm| listed.iter().any(|report| report.vm.id == *vm));
        for report in listed.iter().filter(|report| report.role == VmRole::Replica) {
            let vm = report.vm.id;
            let mine = state.replicas.get(&vm).is_some_and(|replica| replica.receiver() == self.node.me);
            let due = !mine && self.node.consensus.status().leader.is_some() && lock(&self.let_go).insert(vm);
            if due && !self.unregister(service.as_ref(), vm).await {
                lock(&self.let_go).remove(&vm);
            }
        }
        for vm in registered.keys() {
            if state.replicas.get(vm).is_none_or(|replica| replica.receiver() != self.node.me) {
                self.node.registered.send_modify(|registered| {
                    Arc::make_mut(registered).remove(vm);
                });
            }
        }
    }

    /// Closes the stores of replicas of which this node has no copy any more, so that their files can be removed or
    /// replaced.
    async fn close_others(&self, state: &State) {
        let kept = |vm: &VmId| {
            let me = self.node.me;
            state.replicas.get(vm).is_some_and(|one| one.is_kept_at(me) || one.copying_since(me).is_some())
        };
        let open: Vec<VmId> = self.open.lock().await.keys().copied().collect();
        for vm in open.iter().filter(|vm| !kept(vm)) {
            self.close(*vm).await;
        }
    }

    async fn register(&self, service: &dyn crate::vm_service::VmService, replica: &Replica) -> Result<(), Refusal> {
        let folder = self.folder(&replica.storage, replica.vm.id)?;
        let (made, acknowledged) = (folder.clone(), self.has_acknowledged(replica));
        let there = blocking(move || match acknowledged {
            true => replica::check_acknowledged(&made),
            false => replica::make_folder(&made),
        });
        there.await.inspect_err(|refusal| self.note_shut(replica.vm.id, refusal))?;
        let registration = Registration {
            vm: replica.vm.clone(),
            primary: replica.primary.clone(),
            epoch: replica.epoch,
            folder,
            run: None,
        };
        service.register(&registration).await?;
        let told = format!("the replica of {} is registered here, not startable", replica.vm.name);
        self.node.events.record(Happening::info("replica_registered", told).vm(replica.vm.id).node(&self.node.name));
        Ok(())
    }

    /// Whether the VM service has forgotten the replica.
    async fn unregister(&self, service: &dyn crate::vm_service::VmService, vm: VmId) -> bool {
        match timeout(REGISTER_DEADLINE, service.unregister(vm)).await {
            Ok(Ok(())) => {
                let told =
                    "a replica that is not this node's any more is unregistered; its files stay for a day at least"
                        .to_owned();
                self.node.events.record(Happening::info("replica_unregistered", told).vm(vm).node(&self.node.name));
                return true;
            }
            Ok(Err(refusal)) => tracing::warn!(%vm, %refusal, "replica not unregistered"),
            Err(_) => tracing::warn!(%vm, "the VM service takes long to unregister a replica"),
        }
        false
    }
}
