//! The other half of a reversal, at the node that has the disks of a VM that runs elsewhere now: they become a point of the
//! replica, the VM's folder is set aside, and the replica is registered.
//!
//! Nothing of an operator's is removed: the folder keeps its images, and its `vm.toml` under another name. The images that
//! a failover made here are removed once a point has their content; those of a branch are kept under its name.

use std::sync::Arc;

use landfall_proto::id::{SenderEpoch, VmId};
use landfall_proto::message::control::ControlRequest;
use landfall_proto::model::{FailoverStep, Replica, Return};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::runs::silent;
use super::{Failover, SERVICE_DEADLINE};
use crate::drive::events::Happening;
use crate::drive::image::{Readable, Source};
use crate::drive::peers;
use crate::drive::replica::local::Local;
use crate::drive::replica::{Epochs, ReplicaStore};
use crate::drive::send::capture::{blocking, image_of};
use crate::vm_service::{Image, VmRole, VmState};

impl Failover {
    pub(super) fn settle_returns(&self, state: &Arc<State>) {
        for (vm, back) in state.returns.iter() {
            let Some(replica) = state.replicas.get(vm).filter(|replica| replica.holder == self.node.me) else {
                continue;
            };
            let (vm, back, replica) = (*vm, *back, replica.clone());
            self.work(vm, |this| async move { this.take_home(vm, back, replica).await });
        }
    }

    /// Every part may be done again: until the folder is set aside its disks are read, afterwards they are a point.
    async fn take_home(&self, vm: VmId, back: Return, replica: Replica) -> Result<(), Refusal> {
        self.set_lock(vm, true).await?;
        self.step(vm, "returning", None);
        let service = self.node.vms.service()?;
        let listed = service.list().await?;
        let own = listed.into_iter().find(|report| report.vm.id == vm && report.role == VmRole::Primary);
        let store = self.replicas.store(&replica).await?;
        let mut guard = store.lock_owned().await;
        if let Some(report) = own {
            if report.state != VmState::Stopped {
                timeout(SERVICE_DEADLINE, service.stop(vm)).await.unwrap_or_else(|_| Err(silent("stop a VM")))?;
                return Err(Refusal::new(Class::Failed, "still_running", "the VM has just been stopped"));
            }
            guard = self.make_point(guard, &replica, back, report.images).await?;
            let set_aside = service.retire(vm, back.id);
            timeout(SERVICE_DEADLINE, set_aside).await.unwrap_or_else(|_| Err(silent("set a VM aside")))?;
        } else if !guard.has_taken(back.id) {
            let message = format!("the folder of {} is not here, with the disks that it had", replica.vm.name);
            return Err(Refusal::new(Class::Failed, "disks_missing", message).field("vm").remedy(
                "bring it back into this node's VM path; or remove the replica here, and enable it anew there",
            ));
        }
        let guard = blocking(move || {
            guard.settle_taken(back.id)?;
            Ok(guard)
        })
        .await?;
        self.replicas.note(vm, replica.epoch, &guard);
        drop(guard);
        self.commit(vm, FailoverStep::Returned { id: back.id }).await?;
        let told =
            format!("the disks of {} are a point of its replica here: only what differs is sent", replica.vm.name);
        self.node.events.record(Happening::info("failover_returned", told).vm(vm).node(&self.node.name));
        // Its sender waits for nothing but this. A lost notice is no harm: it tries again by itself.
        let state = self.node.state();
        if let Some(peer) = state.peers.get(&replica.primary) {
            drop(peers::first_answer(&self.node, peer, &ControlRequest::Resumed(vm)).await);
        }
        Ok(())
    }

    async fn make_point(
        &self,
        mut store: OwnedMutexGuard<ReplicaStore>,
        replica: &Replica,
        back: Return,
        images: Vec<Image>,
    ) -> Result<OwnedMutexGuard<ReplicaStore>, Refusal> {
        let state = self.node.state();
        let cluster = state.found.as_ref().map(|found| landfall_proto::authority::ca_fingerprint(&found.ca));
        let cluster = cluster.ok_or_else(|| Refusal::not_found("cluster", "of this node"))?;
        // This cluster itself was the sender of what is on its disks.
        let epochs = Epochs { assignment: replica.epoch, cluster, sender: SenderEpoch(replica.epoch.0) };
        let (disks, points) = (replica.vm.disks.clone(), replica.recovery_points);
        let clock = Arc::clone(&self.node.outside.clock);
        let taken_at = clock.wall();
        blocking(move || {
            store.set_recovery_points(points)?;
            let sources =
                disks.iter().map(|disk| Source::open(image_of(&images, disk)?)).collect::<Result<Vec<_>, _>>()?;
            let local: Vec<Local<'_>> =
                disks.iter().zip(&sources).map(|(disk, source)| (disk.clone(), source as &dyn Readable)).collect();
            // A branch is another content than the point of that number.
            let sequence = back.point.sequence.saturating_add(u64::from(back.branch));
            store.take_in(&epochs, &local, (sequence, taken_at), clock.as_ref())?;
            store.note_taken(back.id, back.branch)?;
            Ok(store)
        })
        .await
    }
}
