//! The other copies of a replica whose failover is complete: they list what the node that runs the VM lists.
//!
//! Completing is final and makes every other point go, at the node that has the run. A copy that went on listing them would
//! be of a history that is no more, and keep room for it.

use std::sync::Arc;

use landfall_proto::Refusal;
use landfall_proto::id::Root;
use landfall_proto::model::{Command, PointName, PromotionId, PromotionState, Replica};
use landfall_store::State;

use super::{Failover, lock};
use crate::drive::events::Happening;
use crate::drive::replica::Manifest;
use crate::drive::send::capture::blocking;

impl Failover {
    /// Has the copies that this node keeps list the point only from which a failover elsewhere has become final.
    pub(super) fn settle_kept(&self, state: &Arc<State>) {
        let completed = state.promotions.iter().filter(|(_, promotion)| promotion.state == PromotionState::Completed);
        let elsewhere = completed.filter(|(_, promotion)| promotion.holder != self.node.me);
        lock(&self.kept).retain(|id| state.promotions.iter().any(|(_, promotion)| promotion.id == *id));
        for (vm, promotion) in elsewhere {
            let here = |replica: &&Replica| replica.in_sync.contains(&self.node.me);
            let Some(replica) = state.replicas.get(vm).filter(here).cloned() else { continue };
            let (id, point) = (promotion.id, promotion.point);
            if !lock(&self.kept).contains(&id) {
                self.work(*vm, |this| async move { this.keep_point(&replica, id, point).await });
            }
        }
    }

    async fn keep_point(&self, replica: &Replica, id: PromotionId, point: PointName) -> Result<(), Refusal> {
        let vm = replica.vm.id;
        let store = self.replicas.store(replica).await?;
        let mut guard = store.lock_owned().await;
        let Some(sequence) = listed_as(guard.manifest(), point) else {
            // Whatever it lists is of no use beside what runs.
            drop(guard);
            let command = Command::Leave { vm, epoch: replica.epoch, member: self.node.me };
            self.node.proposer.commit(command).await?;
            let told = format!("the copy of {} here does not list point {}", replica.vm.name, point.sequence);
            self.node.events.record(Happening::warning("copy_lost", told).vm(vm).node(&self.node.name));
            return Ok(());
        };
        let guard = blocking(move || guard.keep_only(sequence).map(|()| guard)).await?;
        self.replicas.note(vm, replica.epoch, &guard);
        lock(&self.kept).insert(id);
        Ok(())
    }
}

/// The number under which a copy lists a point: the same content may have got another one since.
fn listed_as(manifest: &Manifest, PointName { sequence, root }: PointName) -> Option<u64> {
    let has = |wanted: &Root, listed: u64| manifest.point(listed).is_some_and(|point| point.root == *wanted);
    let again = || manifest.newest().filter(|newest| newest.root == root).map(|newest| newest.sequence);
    if has(&root, sequence) { Some(sequence) } else { again() }
}
