//! Who holds a replica, and who has all of it.
//!
//! Every command here names the epoch that it was decided on and is refused when that is no longer the current one. A
//! new holder comes out of the in-sync set; only a seeding node, once it is complete, replaces the set.

use std::collections::BTreeSet;

use landfall_proto::id::{Epoch, MemberId, Position, VmId};
use landfall_proto::model::{Answer, Handover, Joiner, Outcome, Replica};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::{Entry, State};

impl State {
    /// The replica of `vm`, provided that `epoch` is its current one.
    fn replica_at(&self, vm: VmId, epoch: Epoch) -> Result<&Replica, Refusal> {
        let replica = self.require_replica(vm)?;
        if replica.epoch == epoch || planted::is(Bug::EpochNotCompared) {
            return Ok(replica);
        }
        let message = format!("the replica of {} is at epoch {}, not at {epoch}", replica.vm.name, replica.epoch);
        Err(Refusal::new(Class::Refused, "stale_epoch", message).field("epoch").remedy("locate it again"))
    }

    fn refuse_seeding(replica: &Replica) -> Result<(), Refusal> {
        match replica.seeding {
            None => Ok(()),
            Some(node) => {
                let message = format!("the replica of {} is being filled at member {node}", replica.vm.name);
                Err(Refusal::new(Class::Refused, "seeding", message).field("vm").remedy("wait until it is complete"))
            }
        }
    }

    /// Has a node copy the replica, or gives that up.
    pub(super) fn copy(&mut self, entry: Entry, vm: VmId, epoch: Epoch, to: Option<MemberId>) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        let next = match to {
            None => None,
            Some(to) => {
                self.require_taker(to)?;
                self.refuse_promoted(vm)?;
                Self::refuse_seeding(replica)?;
                let name = &replica.vm.name;
                if !replica.acknowledged {
                    let message = format!("{name} has no recovery point yet");
                    return Err(Refusal::new(Class::Refused, "no_point_yet", message).field("vm"));
                }
                if replica.in_sync.contains(&to) {
                    let message = format!("member {to} has every acknowledged byte of {name} already");
                    return Err(Refusal::new(Class::Refused, "in_sync", message).field("to"));
                }
                if let Some(handover) = &replica.handover {
                    let message = format!("{name} is being moved to member {}", handover.to);
                    return Err(Refusal::new(Class::Refused, "handover_under_way", message)
                        .field("vm")
                        .remedy("wait until it is done"));
                }
                let same = replica.joiner.filter(|joiner| joiner.member == to);
                same.or(Some(Joiner { member: to, begun: entry.position }))
            }
        };
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.joiner = next;
        }
        Ok(Outcome::Epoch(epoch))
    }

    /// Adds a node that has copied the replica to the in-sync set. It must still be told to, and by the same entry: a
    /// repeated command whose node was given up since adds nobody.
    pub(super) fn admit(&mut self, vm: VmId, epoch: Epoch, member: MemberId, begun: Position) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        Self::refuse_seeding(replica)?;
        self.require_host(member)?;
        if replica.in_sync.contains(&member) {
            return Ok(Outcome::Epoch(epoch));
        }
        self.refuse_promoted(vm)?;
        if replica.copying_since(member) != Some(begun) && !planted::is(Bug::GivenUpNodeJoins) {
            let message = format!("member {member} is not to join the in-sync set of {} now", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "not_joining", message).field("member"));
        }
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.in_sync.insert(member);
            replica.joiner = replica.joiner.filter(|joiner| joiner.member != member);
        }
        Ok(Outcome::Epoch(epoch))
    }

    /// Takes a node out of the in-sync set, whether it has joined it or is about to. The holder cannot leave.
    pub(super) fn leave(&mut self, vm: VmId, epoch: Epoch, member: MemberId) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        Self::refuse_seeding(replica)?;
        if member == replica.holder {
            let message = format!("the holder of {} cannot leave its own set", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "is_holder", message).field("member"));
        }
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.in_sync.remove(&member);
            replica.joiner = replica.joiner.filter(|joiner| joiner.member != member);
        }
        Ok(Outcome::Epoch(epoch))
    }

    /// The holder lists its first point.
    pub(super) fn acknowledged(&mut self, vm: VmId, epoch: Epoch) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        Self::refuse_seeding(replica)?;
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.acknowledged = true;
            replica.in_sync.insert(replica.holder);
        }
        Ok(Outcome::Epoch(epoch))
    }

    /// Starts or gives up a hand-over.
    pub(super) fn handover(&mut self, entry: Entry, vm: VmId, epoch: Epoch, to: Option<MemberId>) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        let next = match to {
            None => None,
            Some(to) => {
                self.require_taker(to)?;
                self.refuse_promoted(vm)?;
                self.refuse_returning(vm)?;
                if self.tests.contains(&vm) {
                    let message = format!("a test failover of {} runs", replica.vm.name);
                    return Err(Refusal::new(Class::Refused, "test_running", message)
                        .field("vm")
                        .remedy("end it first: `landfall failover test VM --stop`"));
                }
                Self::refuse_seeding(replica)?;
                if to == replica.holder {
                    let message = format!("member {to} holds the replica of {} already", replica.vm.name);
                    return Err(Refusal::new(Class::Refused, "already_holder", message).field("to"));
                }
                if replica.in_sync.contains(&to) {
                    return self.assign(entry, vm, epoch, to);
                }
                match &replica.handover {
                    Some(under_way) if under_way.to == to => Some(under_way.clone()),
                    Some(under_way) => {
                        let message = format!("{} is being moved to member {} already", replica.vm.name, under_way.to);
                        return Err(Refusal::new(Class::Refused, "handover_under_way", message)
                            .field("to")
                            .remedy("wait until it is done"));
                    }
                    None => Some(Handover { to, since: entry.at, begun: entry.position }),
                }
            }
        };
        if let Some(replica) = self.replicas.edit(&vm) {
            // The node that takes the replica over becomes a copy of it, too.
            replica.joiner = replica.joiner.filter(|_| next.is_none());
            replica.handover = next;
        }
        Ok(Outcome::Epoch(epoch))
    }

    /// Makes a member of the in-sync set the holder.
    pub(super) fn assign(&mut self, entry: Entry, vm: VmId, epoch: Epoch, to: MemberId) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        self.require_host(to)?;
        self.refuse_promoted(vm)?;
        if to == replica.holder && replica.seeding.is_none() {
            return Ok(Outcome::Epoch(epoch));
        }
        if !replica.in_sync.contains(&to) && !planted::is(Bug::InSyncSetNotConsulted) {
            let message = format!("member {to} does not have every acknowledged byte of {}", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "not_in_sync", message).field("to"));
        }
        let copies = self.resolved_settings().copies;
        if let Some(replica) = self.replicas.edit(&vm) {
            let moved = replica.handover.as_ref().is_some_and(|handover| handover.to == to);
            if moved && replica.in_sync.len() > copies {
                // It was moved away from there, so that one is the first too many.
                replica.in_sync.remove(&replica.holder);
            }
            replica.holder = to;
            replica.seeding = None;
            replica.handover = None;
            replica.joiner = None;
            replica.epoch = Epoch(entry.position);
        }
        Ok(Outcome::Epoch(Epoch(entry.position)))
    }

    /// Starts to fill a node from the primary; the set and the holder stay until it is complete.
    pub(super) fn seed(&mut self, entry: Entry, vm: VmId, epoch: Epoch, to: MemberId) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        self.require_taker(to)?;
        self.refuse_promoted(vm)?;
        self.refuse_returning(vm)?;
        if replica.in_sync.contains(&to) || replica.holder == to {
            let message = format!("member {to} has the replica of {}: assign it", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "in_sync", message).field("to"));
        }
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.seeding = Some(to);
            replica.handover = None;
            replica.joiner = None;
            replica.epoch = Epoch(entry.position);
        }
        Ok(Outcome::Epoch(Epoch(entry.position)))
    }

    /// The seeding node is complete: it is the holder, and the only one that has everything acknowledged.
    pub(super) fn seeded(&mut self, vm: VmId, epoch: Epoch) -> Answer {
        let replica = self.replica_at(vm, epoch)?;
        let Some(node) = replica.seeding else {
            // Its own answer was lost and asked for again: the epoch is still the one of the seeding.
            if replica.acknowledged && replica.in_sync == BTreeSet::from([replica.holder]) {
                return Ok(Outcome::Epoch(epoch));
            }
            let message = format!("the replica of {} is not being filled", replica.vm.name);
            return Err(Refusal::new(Class::Refused, "not_seeding", message).field("vm"));
        };
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.holder = node;
            replica.in_sync = BTreeSet::from([node]);
            replica.acknowledged = true;
            replica.seeding = None;
            replica.handover = None;
            replica.joiner = None;
        }
        Ok(Outcome::Epoch(epoch))
    }
}
