//! A replicated VM whose disks, adapters or command changed: the replica's cluster learns it first, then this one commits
//! it, and the sender goes on with what the VM is now.
//!
//! A grown disk grows the replica; an added one is copied beside the change sets; a removed one is not in later points.
//! Older points keep the disks that they had. A disk that shrank changes nothing: its sender says what to do about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, VmId};
use landfall_proto::model::{Command, Primary, VmSpec};
use landfall_store::State;

use crate::decide::disk_size::DISK_GROWING;
use crate::drive::events::Happening;
use crate::drive::senders::Senders;

/// Why what changed in VMs could not be committed when that was tried last, one refusal a VM that this node sends.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfollowed(Arc<Mutex<BTreeMap<VmId, Refusal>>>);

impl Unfollowed {
    /// Notes how a try ended; whether it is news that it failed so.
    fn note(&self, vm: VmId, ended: &Result<(), Refusal>) -> bool {
        let before = match ended {
            Ok(()) => self.lock().remove(&vm),
            Err(refusal) => self.lock().insert(vm, refusal.clone()),
        };
        ended.as_ref().is_err_and(|refusal| before.is_none_or(|before| before.code != refusal.code))
    }

    /// What is in the way where the sender says `fault`: that a disk has grown is nothing to worry about unless this cannot
    /// be followed.
    pub(super) fn behind(&self, vm: VmId, fault: Refusal) -> Refusal {
        let grown = fault.code == DISK_GROWING;
        self.lock().get(&vm).filter(|_| grown).cloned().unwrap_or(fault)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Senders {
    /// Tells and commits what changed in VMs that this node sends, each in a task of its own.
    pub(super) fn settle_shapes(&self, state: &State) {
        let node = self.node();
        for primary in state.primaries.values().filter(|primary| primary.sender == Some(node.me)) {
            let vm = primary.vm.id;
            let idle = primary.rivals.is_empty() && primary.stopped.is_none() && !state.departures.contains(&vm);
            let Some(report) = node.vms.vm(vm).filter(|report| idle && report.fault.is_none()) else { continue };
            let now = report.vm.without(&primary.excluded);
            if now == primary.vm || now.disks.is_empty() || shrank(&primary.vm, &now) || !self.begin_step(vm) {
                continue;
            }
            let (this, primary) = (self.clone(), primary.clone());
            tokio::spawn(async move {
                let ended = this.reshape(&primary, &now).await;
                if this.unfollowed().note(vm, &ended)
                    && let Err(refusal) = ended
                {
                    let told = format!("what changed in {} is not followed yet: {refusal}", primary.vm.name);
                    this.node().events.record(Happening::warning("disks_not_followed", told).vm(vm));
                }
                this.end_step(vm);
            });
        }
    }

    async fn reshape(&self, primary: &Primary, now: &VmSpec) -> Result<(), Refusal> {
        self.place(&primary.to, now, primary.frequency, primary.recovery_points).await?;
        self.node().proposer.commit(Command::Reshape(Box::new(now.clone()))).await?;
        if let Some(told) = changes(&primary.vm, now) {
            let event = Happening::info("disks_changed", format!("disks of {}: {told}", now.name));
            self.node().events.record(event.vm(now.id).node(&self.node().name));
        }
        Ok(())
    }
}

fn bytes_of(vm: &VmSpec, target: &DiskTarget) -> Option<u64> {
    vm.disks.iter().find(|disk| disk.target == *target).map(|disk| disk.bytes)
}

fn shrank(before: &VmSpec, now: &VmSpec) -> bool {
    now.disks.iter().any(|disk| bytes_of(before, &disk.target).is_some_and(|before| disk.bytes < before))
}

/// What happened to the disks, in words; `None` where nothing did.
fn changes(before: &VmSpec, now: &VmSpec) -> Option<String> {
    let mut told = Vec::new();
    for disk in &now.disks {
        match bytes_of(before, &disk.target) {
            None => told.push(format!("{} is added", disk.target)),
            Some(bytes) if bytes != disk.bytes => {
                told.push(format!("{} has grown from {bytes} to {} bytes", disk.target, disk.bytes));
            }
            Some(_) => {}
        }
    }
    for disk in before.disks.iter().filter(|disk| bytes_of(now, &disk.target).is_none()) {
        told.push(format!("{} is removed", disk.target));
    }
    (!told.is_empty()).then(|| told.join(", "))
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::VmId;
    use landfall_proto::model::DiskSpec;

    use super::*;

    fn vm(disks: &[(&str, u64)]) -> VmSpec {
        let disk = |(target, bytes): &(&str, u64)| DiskSpec { target: target.parse().unwrap(), bytes: *bytes };
        VmSpec {
            id: VmId(uuid::Uuid::from_u128(7)),
            name: "web".parse().unwrap(),
            disks: disks.iter().map(disk).collect(),
            adapters: Vec::new(),
            launch: Default::default(),
        }
    }

    #[test]
    fn growth_that_cannot_be_followed_is_told_once_and_instead_of_being_called_growing() {
        let (unfollowed, vm) = (Unfollowed::default(), VmId(uuid::Uuid::from_u128(7)));
        let refusal = |code: &str| Refusal::new(landfall_proto::Class::Failed, code, "why");
        let growing = || unfollowed.behind(vm, refusal(DISK_GROWING)).code;
        assert_eq!(growing(), DISK_GROWING);
        let failed = Err(refusal("no_quorum"));
        assert_eq!([unfollowed.note(vm, &failed), unfollowed.note(vm, &failed)], [true, false]);
        assert_eq!(growing(), "no_quorum");
        assert_eq!(unfollowed.behind(vm, refusal("connection_lost")).code, "connection_lost");
        assert!(unfollowed.note(vm, &Err(refusal("unknown_peer"))));
        assert!(!unfollowed.note(vm, &Ok(())));
        assert_eq!(growing(), DISK_GROWING);
    }

    #[test]
    fn what_happened_to_the_disks_is_told_and_a_shrunk_one_changes_nothing() {
        let before = vm(&[("vda", 100), ("vdb", 50)]);
        assert_eq!(changes(&before, &before), None);
        let now = vm(&[("vda", 200), ("vdc", 10)]);
        assert_eq!(
            changes(&before, &now).unwrap(),
            "vda has grown from 100 to 200 bytes, vdc is added, vdb is removed"
        );
        assert!(!shrank(&before, &now) && shrank(&before, &vm(&[("vda", 99)])));
        assert_eq!(now.without(&["vda".parse().unwrap()]), vm(&[("vdc", 10)]));
    }
}
