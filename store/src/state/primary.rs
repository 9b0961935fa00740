//! VMs of this cluster that are replicated elsewhere, and which node sends each.

use std::collections::BTreeSet;

use landfall_proto::id::{DiskTarget, Fqdn, MemberId, SenderEpoch, UnixMillis, VmId};
use landfall_proto::model::{Answer, Bandwidth, Frequency, Outcome, Primary, VmSpec};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::pause::check_start;
use super::vm::{check_excluded, check_points, check_vm};
use super::{Entry, State};
use crate::limits;

/// How a VM is to be replicated.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) vm: &'a VmSpec,
    pub(super) frequency: Frequency,
    pub(super) recovery_points: u8,
    pub(super) starts_at: Option<UnixMillis>,
    pub(super) limit: Option<&'a Bandwidth>,
    pub(super) excluded: &'a [DiskTarget],
}

impl State {
    pub(super) fn require_primary(&self, vm: VmId) -> Result<&Primary, Refusal> {
        self.primaries.get(&vm).ok_or_else(|| Refusal::not_found("replicated vm", &vm.to_string()).field("vm"))
    }

    /// Enables replication; for a VM that replicates to the same cluster already it changes how.
    pub(super) fn enable(&mut self, entry: Entry, to: &Fqdn, wish: Wish<'_>) -> Answer {
        let Wish { vm, frequency, recovery_points, starts_at, limit, excluded } = wish;
        let limit = limit.filter(|limit| !limit.is_unlimited()).cloned();
        check_vm(vm)?;
        check_excluded(vm, excluded)?;
        check_points(recovery_points)?;
        check_start(entry.at, starts_at)?;
        if self.cap() == Some(to) {
            let message = format!("{to} is this cluster itself");
            return Err(Refusal::new(Class::Refused, "same_cluster", message).field("to"));
        }
        if !self.peers.contains(to) {
            let message = format!("{to} is not a paired cluster");
            return Err(Refusal::new(Class::Refused, "unknown_peer", message)
                .field("to")
                .remedy("pair the clusters: `landfall peer invite` on one, `landfall peer accept CODE` on the other"));
        }
        if self.replicas.contains(&vm.id) {
            let message = format!("{} is a replica in this cluster", vm.name);
            return Err(Refusal::new(Class::Refused, "is_replica_here", message)
                .field("vm")
                .remedy("fail it over first"));
        }
        if let Some(primary) = self.primaries.get(&vm.id)
            && primary.to != *to
        {
            let message = format!("{} replicates to {} already", vm.name, primary.to);
            return Err(Refusal::new(Class::Refused, "already_enabled", message)
                .field("to")
                .remedy(format!("run `landfall vm disable {}` first", vm.name)));
        }
        if let Some(primary) = self.primaries.edit(&vm.id) {
            primary.vm = vm.clone();
            primary.frequency = frequency;
            primary.recovery_points = recovery_points;
            primary.limit = limit;
            primary.excluded = excluded.to_vec();
            return Ok(Outcome::Done);
        }
        Self::room(self.primaries.len(), limits::PRIMARIES, "replicated VMs")?;
        let primary = Primary {
            vm: vm.clone(),
            to: to.clone(),
            frequency,
            recovery_points,
            sender: None,
            sender_epoch: SenderEpoch::default(),
            rivals: BTreeSet::new(),
            stopped: None,
            created_at: entry.at,
            paused: None,
            resync: None,
            starts_at,
            limit,
            excluded: excluded.to_vec(),
        };
        self.primaries.put(vm.id, primary);
        self.take_farewell_back(vm.id, to);
        Ok(Outcome::Done)
    }

    /// Changes how a VM is replicated while it is.
    pub(super) fn adjust(
        &mut self,
        vm: VmId,
        frequency: Option<Frequency>,
        recovery_points: Option<u8>,
        limit: Option<&Bandwidth>,
    ) -> Answer {
        self.require_primary(vm)?;
        if let Some(points) = recovery_points {
            check_points(points)?;
        }
        if let Some(primary) = self.primaries.edit(&vm) {
            primary.frequency = frequency.unwrap_or(primary.frequency);
            primary.recovery_points = recovery_points.unwrap_or(primary.recovery_points);
            if let Some(limit) = limit {
                primary.limit = Some(limit).filter(|limit| !limit.is_unlimited()).cloned();
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn disable(&mut self, entry: Entry, vm: VmId) -> Answer {
        self.require_primary(vm)?;
        self.refuse_unknown(vm)?;
        self.refuse_departing(vm)?;
        if self.rivals.get(&vm).is_none_or(|rival| !rival.yielded) {
            self.refuse_branched(vm)?;
        }
        if let Some(primary) = self.primaries.take(&vm) {
            self.remember_farewell(entry, &primary);
        }
        self.settle_failover_addresses(vm);
        self.forget_lineage(vm);
        Ok(Outcome::Done)
    }

    pub(super) fn reshape(&mut self, vm: &VmSpec) -> Answer {
        self.require_primary(vm.id)?;
        check_vm(vm)?;
        if let Some(primary) = self.primaries.edit(&vm.id) {
            primary.vm = vm.clone();
        }
        Ok(Outcome::Done)
    }

    /// A node that has the VM wants to send it. The role changes hands only when it is free or its owner is down.
    pub(super) fn claim_sender(
        &mut self,
        entry: Entry,
        vm: VmId,
        member: MemberId,
        epoch: SenderEpoch,
        down: bool,
    ) -> Answer {
        let primary = self.require_primary(vm)?;
        self.require_host(member)?;
        if primary.sender == Some(member) {
            return Ok(Outcome::SenderEpoch(primary.sender_epoch));
        }
        if primary.sender_epoch != epoch {
            let message =
                format!("the sender of {} is at epoch {}, not at {epoch}", primary.vm.name, primary.sender_epoch);
            return Err(Refusal::new(Class::Refused, "stale_epoch", message).field("epoch").remedy("look again"));
        }
        let free = primary.sender.is_none() || down || planted::is(Bug::SenderTakenFromLiveNode);
        let Some(primary) = self.primaries.edit(&vm) else { return Ok(Outcome::Done) };
        if free {
            primary.sender = Some(member);
            primary.sender_epoch = SenderEpoch(entry.position);
            primary.rivals.remove(&member);
        } else {
            primary.rivals.insert(member);
        }
        Ok(Outcome::SenderEpoch(primary.sender_epoch))
    }

    /// The VM is no longer on that node.
    pub(super) fn release_sender(&mut self, vm: VmId, member: MemberId) -> Answer {
        self.require_primary(vm)?;
        let Some(primary) = self.primaries.edit(&vm) else { return Ok(Outcome::Done) };
        primary.sender = primary.sender.filter(|sender| *sender != member);
        primary.rivals.remove(&member);
        Ok(Outcome::SenderEpoch(primary.sender_epoch))
    }
}
