//! Replicas as relationships: placing, describing, removing. Who holds one is the matter of `holder`.

use std::collections::BTreeSet;

use landfall_proto::id::{Epoch, Fqdn, MemberId, VmId};
use landfall_proto::model::{Answer, Frequency, Outcome, PromotionId, Replica, VmSpec};
use landfall_proto::{Class, Refusal};

use super::authorization::Permit;
use super::vm::{check_points, check_vm};
use super::{Entry, State};
use crate::limits;

/// What a primary asks for.
pub(super) struct Wish<'a> {
    pub(super) vm: &'a VmSpec,
    pub(super) primary: &'a Fqdn,
    pub(super) frequency: Frequency,
    pub(super) recovery_points: u8,
    pub(super) lineage: Option<PromotionId>,
}

/// A replica as `holder` gets it at this entry: with nothing in it yet. `often` is the interval of its change sets and how
/// many older points are kept.
pub(super) fn first_assignment(
    entry: Entry,
    vm: VmSpec,
    primary: Fqdn,
    permit: Permit,
    (frequency, recovery_points): (Frequency, u8),
    holder: MemberId,
) -> Replica {
    Replica {
        vm,
        primary,
        trust_group: permit.trust_group,
        storage: permit.storage,
        frequency,
        recovery_points,
        holder,
        in_sync: BTreeSet::new(),
        epoch: Epoch(entry.position),
        seeding: None,
        acknowledged: false,
        handover: None,
        joiner: None,
        stopped: None,
        created_at: entry.at,
        paused: None,
    }
}

impl State {
    /// The replica of `vm`, or a refusal.
    pub(super) fn require_replica(&self, vm: VmId) -> Result<&Replica, Refusal> {
        self.replicas.get(&vm).ok_or_else(|| Refusal::not_found("replica", &vm.to_string()))
    }

    /// Refuses a primary that has neither the replica nor its trust group.
    fn check_trust(replica: &Replica, primary: &Fqdn, permit: &Permit) -> Result<(), Refusal> {
        if replica.primary == *primary || permit.trust_group == replica.trust_group {
            return Ok(());
        }
        let message = format!(
            "the replica of {} has trust group {}, {primary} is authorized under {}",
            replica.vm.name, replica.trust_group, permit.trust_group
        );
        Err(Refusal::new(Class::Refused, "wrong_trust_group", message)
            .field("trust_group")
            .remedy("authorize both primaries under the same trust group"))
    }

    /// Creates a replica, or says where it is. A primary whose first holder did not answer gets another one, as long as
    /// nothing was acknowledged.
    pub(super) fn place(
        &mut self,
        entry: Entry,
        wish: &Wish<'_>,
        holder: MemberId,
        instead_of: Option<Epoch>,
    ) -> Answer {
        let permit = self.permit(wish.primary)?;
        check_vm(wish.vm)?;
        check_points(wish.recovery_points)?;
        let id = wish.vm.id;
        if self.primaries.contains(&id) {
            let message = format!("{} is a primary of this cluster", wish.vm.name);
            return Err(Refusal::new(Class::Refused, "is_primary_here", message)
                .field("vm")
                .remedy("run `landfall vm disable` here first"));
        }
        self.refuse_promoted(id)?;
        if self.is_detached(id) {
            let message = format!("{} runs here as this cluster's own since a failover", wish.vm.name);
            return Err(Refusal::new(Class::Refused, "own_vm", message)
                .field("vm")
                .remedy("disable its replication at the other cluster, or enable it here to replicate the other way"));
        }
        if let Some(replica) = self.replicas.get(&id) {
            Self::check_trust(replica, wish.primary, &permit)?;
            let elsewhere = replica.receiver() != holder && !self.returns.contains(&id);
            let again = instead_of == Some(replica.epoch) && !replica.acknowledged && elsewhere;
            if again {
                self.require_taker(holder)?;
            }
            return self.place_again(entry, wish, again.then_some(holder));
        }
        self.require_taker(holder)?;
        Self::room(self.replicas.len(), limits::REPLICAS, "replicas")?;
        let often = (wish.frequency, wish.recovery_points);
        let replica = first_assignment(entry, wish.vm.clone(), wish.primary.clone(), permit, often, holder);
        self.replicas.put(id, replica.clone());
        self.set_lineage(id, wish.lineage);
        Ok(Outcome::Placed { replica: Box::new(replica), created: true })
    }

    /// The replica is there: binds it to the asking primary's wish and, where given, to another holder.
    fn place_again(&mut self, entry: Entry, wish: &Wish<'_>, holder: Option<MemberId>) -> Answer {
        if let Some(replica) = self.replicas.edit(&wish.vm.id) {
            replica.primary = wish.primary.clone();
            replica.vm = wish.vm.clone();
            replica.frequency = wish.frequency;
            replica.recovery_points = wish.recovery_points;
            if let Some(holder) = holder {
                replica.holder = holder;
                replica.seeding = None;
                replica.handover = None;
                replica.joiner = None;
                replica.in_sync.clear();
                replica.epoch = Epoch(entry.position);
            }
        }
        if !self.returns.contains(&wish.vm.id) {
            self.set_lineage(wish.vm.id, wish.lineage);
        }
        self.settle_stop(wish.vm.id);
        let replica = self.require_replica(wish.vm.id)?.clone();
        Ok(Outcome::Placed { replica: Box::new(replica), created: holder.is_some() })
    }

    pub(super) fn respecify(&mut self, vm: &VmSpec, primary: &Fqdn) -> Answer {
        let replica = self.require_replica(vm.id)?;
        self.refuse_promoted(vm.id)?;
        Self::check_trust(replica, primary, &self.permit(primary)?)?;
        check_vm(vm)?;
        if let Some(replica) = self.replicas.edit(&vm.id) {
            replica.vm = vm.clone();
        }
        Ok(Outcome::Done)
    }

    /// Removes a replica at its primary's wish, or at this side's.
    pub(super) fn remove_replica(&mut self, vm: VmId, primary: Option<&Fqdn>) -> Answer {
        let replica = self.require_replica(vm)?;
        if let Some(primary) = primary
            && replica.primary != *primary
        {
            Self::check_trust(replica, primary, &self.permit(primary)?)?;
            // Its VM has moved on: what the cluster before it has ended is its own half.
            let message = format!("the replica of {} is that of {} now", replica.vm.name, replica.primary);
            return Err(Refusal::new(Class::Refused, "other_primary", message).field("primary"));
        }
        self.refuse_promoted(vm)?;
        self.tests.take(&vm);
        self.replicas.take(&vm);
        self.settle_failover_addresses(vm);
        self.forget_lineage(vm);
        Ok(Outcome::Done)
    }
}
