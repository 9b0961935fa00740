//! What a VM's description must be before anything is committed about it.

use std::collections::BTreeSet;

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;
use landfall_proto::model::{AddressList, Launch, VmSpec};

use crate::limits;

/// Refuses more excluded disks than a VM can have, and one that is replicated all the same.
pub(super) fn check_excluded(vm: &VmSpec, excluded: &[DiskTarget]) -> Result<(), Refusal> {
    let replicated = excluded.iter().find(|target| vm.disks.iter().any(|disk| disk.target == **target));
    if let Some(target) = replicated.or_else(|| excluded.get(limits::DISKS)) {
        return Err(Refusal::invalid(
            "exclude",
            target.as_str(),
            "exclude at most 128 disks, and replicate the others",
        ));
    }
    Ok(())
}

/// Refuses a description that no cluster could register.
pub(super) fn check_vm(vm: &VmSpec) -> Result<(), Refusal> {
    let count = vm.disks.len();
    if !(1..=limits::DISKS).contains(&count) {
        return Err(Refusal::invalid("disk", &format!("{count} disks"), "a replicated VM has 1 to 128 disks"));
    }
    let targets: BTreeSet<_> = vm.disks.iter().map(|disk| &disk.target).collect();
    if targets.len() != count || !vm.disks.is_sorted_by(|left, right| left.target <= right.target) {
        let value = vm.disks.iter().map(|disk| disk.target.as_str()).collect::<Vec<_>>().join(",");
        return Err(Refusal::invalid("disk.target", &value, "name each disk once, ordered by target"));
    }
    for disk in &vm.disks {
        if disk.bytes == 0 || disk.bytes > limits::DISK_BYTES {
            return Err(Refusal::invalid("disk.bytes", &disk.bytes.to_string(), "a disk has 1 byte to 64 TiB"));
        }
    }
    if vm.adapters.len() > limits::ADAPTERS {
        let value = format!("{} adapters", vm.adapters.len());
        return Err(Refusal::invalid("adapter", &value, "a VM has at most 16 adapters"));
    }
    let names: BTreeSet<_> = vm.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
    if names.len() != vm.adapters.len() {
        return Err(Refusal::invalid("adapter.name", "", "name each adapter once"));
    }
    for adapter in &vm.adapters {
        let name = &adapter.name;
        if name.is_empty() || name.len() > limits::ADAPTER_NAME || name.chars().any(char::is_control) {
            return Err(Refusal::invalid("adapter.name", name, "use 1 to 64 bytes without control characters"));
        }
        if !is_mac(&adapter.mac) {
            return Err(Refusal::invalid("adapter.mac", &adapter.mac, "write it as 52:54:00:aa:bb:01"));
        }
        adapter.network.check().map_err(|fault| {
            fault.refusal(match fault.list {
                AddressList::Addresses => "adapter.addresses",
                AddressList::Gateways => "adapter.gateways",
                AddressList::Dns => "adapter.dns",
            })
        })?;
    }
    if !vm.launch.fits() {
        let value = format!("{} parts", vm.launch.command.len());
        let remedy = format!("a command of at most {} parts and {} bytes", Launch::PARTS_MAX, Launch::BYTES_MAX);
        return Err(Refusal::invalid("command", &value, &remedy));
    }
    Ok(())
}

/// Refuses a number of recovery points that no chain can keep.
pub(super) fn check_points(points: u8) -> Result<(), Refusal> {
    if points <= limits::RECOVERY_POINTS {
        return Ok(());
    }
    Err(Refusal::invalid("recovery_points", &points.to_string(), "keep 0 to 24 older points"))
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}
