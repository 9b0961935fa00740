//! A replicated VM whose disks, adapters or command changed: the replica's cluster learns it first, then this one commits
//! it, and the sender goes on with what the VM is now.
//!
//! A grown disk grows the replica; an added one is copied beside the change sets; a removed one is not in later points.
//! Older points keep the disks that they had. A disk that shrank changes nothing: its sender says what to do about it.

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;
use landfall_proto::model::{Command, Primary, VmSpec};
use landfall_store::State;

use crate::drive::events::Happening;
use crate::drive::senders::Senders;

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
                if let Err(refusal) = this.reshape(&primary, &now).await {
                    tracing::debug!(%vm, %refusal, "the VM's changes are not committed yet");
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
