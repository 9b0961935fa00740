//! After a failover: the direction of a relationship is reversed, and of two branches one is chosen.
//!
//! Two clusters each commit their half. The cluster where the VM runs commits first that it wants to reverse; then the other
//! one makes its record a replica ([`FailoverStep::Return`]), which it does only once it has no right to run the VM; then the
//! first one makes its own record a primary. Each step can be repeated, and names the promotion: a late message of an
//! earlier cycle finds another one.
//!
//! A branch is recorded where the VM was, as a [`Rival`]. Which of two promotions are siblings says the parent that both
//! name; clocks say nothing.

use landfall_proto::id::{Epoch, Fqdn, VmId};
use landfall_proto::model::{
    Answer, Outcome, PointName, Primary, Promotion, PromotionId, PromotionState, Return, Rival, Side,
};
use landfall_proto::{Class, Refusal};

use super::replica::first_assignment;
use super::{Entry, State};
use crate::limits;

fn refused(code: &str, message: String, remedy: &str) -> Refusal {
    Refusal::new(Class::Refused, code, message).field("vm").remedy(remedy)
}

impl State {
    /// The promotion under which the primary of `vm` runs; `None` for a VM as it was first enabled.
    pub fn lineage(&self, vm: VmId) -> Option<PromotionId> {
        self.lineages.get(&vm).copied()
    }

    /// What a primary says of itself when its replica is placed.
    pub(super) fn set_lineage(&mut self, vm: VmId, lineage: Option<PromotionId>) {
        match lineage {
            Some(id) => self.lineages.put(vm, id),
            None => drop(self.lineages.take(&vm)),
        }
    }

    /// Forgets what belongs to a relationship that is over.
    pub(super) fn forget_lineage(&mut self, vm: VmId) {
        self.lineages.take(&vm);
        self.returns.take(&vm);
        self.rivals.take(&vm);
        self.dropped.take(&vm);
        self.unknown_rights.take(&vm);
    }

    /// Refuses what must not happen to a replica whose holder still takes in the disks of the VM that ran there.
    pub(super) fn refuse_returning(&self, vm: VmId) -> Result<(), Refusal> {
        match self.returns.contains(&vm) {
            false => Ok(()),
            true => Err(refused(
                "returning",
                format!("the disks of VM {vm} are being taken in where it ran"),
                "wait until that is done: `landfall failover status`",
            )),
        }
    }

    /// Refuses what must not happen to a VM of which another cluster runs a branch.
    pub(super) fn refuse_branched(&self, vm: VmId) -> Result<(), Refusal> {
        match self.rivals.get(&vm) {
            None => Ok(()),
            Some(rival) => Err(refused(
                "branched",
                format!("{} runs a branch of VM {vm}", rival.from),
                "decide which one is kept: `landfall failover resolve VM --keep here|there`",
            )),
        }
    }

    /// R: the replication is to go the other way.
    pub(super) fn reverse(&mut self, vm: VmId, id: PromotionId) -> Answer {
        if self.is_reversed(vm, id) {
            return Ok(Outcome::Done);
        }
        let promotion = self.require_promotion(vm, id)?;
        if let Some(blocker) = Self::not_final(promotion) {
            return Err(blocker);
        }
        self.set_promotion(vm, PromotionState::Reversing)
    }

    fn is_reversed(&self, vm: VmId, id: PromotionId) -> bool {
        self.primaries.contains(&vm) && self.lineage(vm) == Some(id)
    }

    /// R: the other cluster keeps a replica now; the VM is this cluster's.
    pub(super) fn reversed(&mut self, entry: Entry, vm: VmId, id: PromotionId) -> Answer {
        if self.is_reversed(vm, id) {
            return Ok(Outcome::Done);
        }
        if self.require_promotion(vm, id)?.state != PromotionState::Reversing {
            let message = format!("nobody has asked to reverse the replication of VM {vm}");
            return Err(refused("not_reversing", message, "see `landfall failover status`"));
        }
        let replica = self.require_replica(vm)?;
        Self::room(self.primaries.len(), limits::PRIMARIES, "replicated VMs")?;
        let primary = Primary {
            vm: replica.vm.clone(),
            to: replica.primary.clone(),
            frequency: replica.frequency,
            recovery_points: replica.recovery_points,
            sender: None,
            sender_epoch: Default::default(),
            rivals: Default::default(),
            stopped: None,
            created_at: entry.at,
            paused: None,
            resync: None,
            starts_at: None,
            // What a line bears is said at the end that sends.
            limit: None,
            // What was not replicated is not here.
            excluded: Vec::new(),
        };
        self.promotions.take(&vm);
        self.replicas.take(&vm);
        self.forget_lineage(vm);
        self.primaries.put(vm, primary);
        self.lineages.put(vm, id);
        self.settle_stops();
        Ok(Outcome::Done)
    }

    /// R: the other cluster is given up, and with it the replication: what was failed over is this cluster's own VM. Its
    /// lineage stays, so that the other cluster, should it come back, places no replica beside it.
    pub(super) fn detach(&mut self, vm: VmId, id: PromotionId) -> Answer {
        if self.is_detached(vm) && self.lineage(vm) == Some(id) {
            return Ok(Outcome::Done);
        }
        if self.require_promotion(vm, id)?.state != PromotionState::Completed {
            let message = format!("the failover of VM {vm} is not final");
            return Err(refused("not_completed", message, "complete it first: `landfall failover complete`"));
        }
        let detached = self.lineages.keys().filter(|vm| self.is_detached(**vm)).count();
        Self::room(detached, limits::DETACHED, "VMs of clusters that were given up")?;
        self.promotions.take(&vm);
        self.tests.take(&vm);
        self.replicas.take(&vm);
        self.forget_lineage(vm);
        self.lineages.put(vm, id);
        self.settle_failover_addresses(vm);
        Ok(Outcome::Done)
    }

    /// Whether `vm` came here by a failover and is replicated neither way any more.
    pub fn is_detached(&self, vm: VmId) -> bool {
        self.lineages.contains(&vm) && !self.replicas.contains(&vm) && !self.primaries.contains(&vm)
    }

    /// Why this cluster cannot keep the replica of `vm`, which `from` runs under the promotion `id`: all reasons.
    pub fn return_blockers(&self, vm: VmId, id: PromotionId, parent: Option<PromotionId>, from: &Fqdn) -> Vec<Refusal> {
        let mut blockers: Vec<Refusal> = self.permit(from).err().into_iter().collect();
        let Some(primary) = self.primaries.get(&vm) else {
            let message = format!("VM {vm} is no primary of this cluster");
            blockers.push(refused("no_primary", message, "disable its replication where it runs, and enable it anew"));
            return blockers;
        };
        let name = &primary.vm.name;
        if primary.to != *from {
            let message = format!("{name} replicates to {}, not to {from}", primary.to);
            blockers.push(refused("other_peer", message, "disable its replication here first"));
        }
        if primary.sender.is_none() {
            let message = format!("no node here has the disks of {name}");
            blockers.push(refused("no_disks", message, "bring the VM's folder back to a node of this cluster"));
        }
        if self.lineage(vm) != parent {
            let message = format!("{name} runs under another promotion here than the one that was failed over");
            blockers.push(refused("other_promotion", message, "see `landfall failover status` at both clusters"));
        }
        if let Err(blocker) = self.has_yielded(vm, id, name.as_str()) {
            blockers.push(blocker);
        }
        blockers.extend(Self::room(self.replicas.len(), limits::REPLICAS, "replicas").err());
        blockers
    }

    /// Whether the right to run went over with the promotion `id`, or was given up for it.
    fn has_yielded(&self, vm: VmId, id: PromotionId, name: &str) -> Result<(), Refusal> {
        if let Some(departure) = self.departures.get(&vm) {
            if departure.id == id && departure.state.released().is_some() {
                return Ok(());
            }
            let message = format!("{name} is failed over as planned, by another order");
            return Err(refused("failing_over", message, "cancel that failover here, or wait for its end"));
        }
        match self.rivals.get(&vm).filter(|rival| rival.id == id) {
            Some(rival) if rival.yielded => Ok(()),
            Some(rival) if rival.keep == Some(Side::Here) => {
                let message = format!("it was decided here to keep this cluster's branch of {name}");
                Err(refused("kept_here", message, "nothing is to be reversed: replication goes on the old way"))
            }
            _ => {
                let message = format!("{name} has not been given up here");
                let remedy = "stop it there, or decide there: `landfall failover resolve VM --keep there`";
                Err(refused("not_yielded", message, remedy))
            }
        }
    }

    /// P: its record becomes a replica, held where the VM's disks are.
    pub(super) fn return_home(
        &mut self,
        entry: Entry,
        vm: VmId,
        from: &Fqdn,
        back: Return,
        parent: Option<PromotionId>,
    ) -> Answer {
        // Its answer was lost.
        if let Some(replica) = self.replicas.get(&vm)
            && replica.primary == *from
            && self.lineage(vm) == Some(back.id)
        {
            return Ok(Outcome::Epoch(replica.epoch));
        }
        if let Some(blocker) = self.return_blockers(vm, back.id, parent, from).into_iter().next() {
            return Err(blocker);
        }
        let permit = self.permit(from)?;
        let primary = self.require_primary(vm)?;
        let Some(holder) = primary.sender else { return Err(Refusal::not_found("node", "sender")) };
        let often = (primary.frequency, primary.recovery_points);
        let replica = first_assignment(entry, primary.vm.clone(), from.clone(), permit, often, holder);
        let branch = !self.departures.contains(&vm);
        self.primaries.take(&vm);
        self.departures.take(&vm);
        self.forget_lineage(vm);
        self.replicas.put(vm, replica);
        self.lineages.put(vm, back.id);
        self.returns.put(vm, Return { branch, ..back });
        Ok(Outcome::Epoch(Epoch(entry.position)))
    }

    /// P: the holder has made a point of the disks that the VM had here.
    pub(super) fn returned(&mut self, vm: VmId, id: PromotionId) -> Answer {
        if self.returns.get(&vm).is_none_or(|back| back.id != id) {
            return Ok(Outcome::Done);
        }
        self.returns.take(&vm);
        if let Some(replica) = self.replicas.edit(&vm) {
            replica.acknowledged = true;
            replica.in_sync.insert(replica.holder);
        }
        Ok(Outcome::Done)
    }

    /// P: the other cluster runs a branch. Of the same parent, it is a divergence; any other one is not this VM's.
    pub(super) fn learn_rival(&mut self, entry: Entry, vm: VmId, rival: &Rival) -> Answer {
        if self.rivals.get(&vm).is_some_and(|known| known.id == rival.id) {
            return Ok(Outcome::Done);
        }
        let primary = self.require_primary(vm)?;
        // Its cluster has dropped it for good: to give way to it would leave the VM to nobody.
        let dropped = self.dropped.get(&vm).is_some_and(|ids| ids.contains(&rival.id));
        let other = self.lineage(vm) != rival.parent || self.lineage(vm) == Some(rival.id);
        let stale = primary.to != rival.from || other || dropped;
        if stale {
            let message = format!("{} does not run under the promotion that was branched from", primary.vm.name);
            return Err(refused("other_promotion", message, "see `landfall failover status` at both clusters"));
        }
        let fresh = Rival { since: entry.at, keep: None, yielded: false, ..rival.clone() };
        self.rivals.put(vm, fresh);
        Ok(Outcome::Done)
    }

    fn require_rival(&self, vm: VmId, id: PromotionId) -> Result<&Rival, Refusal> {
        self.rivals.get(&vm).filter(|rival| rival.id == id).ok_or_else(|| {
            Refusal::new(Class::NotFound, "no_rival", format!("there is no branch {id} of VM {vm}"))
                .field("vm")
                .remedy("`landfall failover status` shows what there is")
        })
    }

    /// P: an operator has decided. To keep what is here is final, since the other side drops its branch for it.
    pub(super) fn resolve(&mut self, vm: VmId, id: PromotionId, keep: Side) -> Answer {
        let rival = self.require_rival(vm, id)?;
        let settled = rival.yielded || rival.keep == Some(Side::Here);
        if settled && rival.keep != Some(keep) {
            let message = format!("it is decided already which branch of VM {vm} is kept");
            return Err(refused("resolved", message, "see `landfall failover status`"));
        }
        if let Some(rival) = self.rivals.edit(&vm) {
            rival.keep = Some(keep);
        }
        Ok(Outcome::Done)
    }

    /// P: the VM is off here and stays off: the right to run it is given up.
    pub(super) fn yielded(&mut self, vm: VmId, id: PromotionId) -> Answer {
        if self.require_rival(vm, id)?.keep != Some(Side::There) {
            let message = format!("nobody has decided to give VM {vm} up here");
            return Err(refused("not_resolved", message, "decide: `landfall failover resolve VM --keep there`"));
        }
        if let Some(rival) = self.rivals.edit(&vm) {
            rival.yielded = true;
        }
        Ok(Outcome::Done)
    }

    /// P: the other cluster has dropped its branch: this one's goes on, and is compared with what is there.
    pub(super) fn merged(&mut self, entry: Entry, vm: VmId, id: PromotionId) -> Answer {
        if self.rivals.get(&vm).is_some_and(|rival| rival.id == id) {
            self.rivals.take(&vm);
            let mut dropped = self.dropped.get(&vm).cloned().unwrap_or_default();
            dropped.push(id);
            dropped.drain(..dropped.len().saturating_sub(limits::DROPPED_BRANCHES));
            self.dropped.put(vm, dropped);
            if let Some(primary) = self.primaries.edit(&vm) {
                primary.resync = Some(entry.position);
            }
        }
        Ok(Outcome::Done)
    }

    /// R: its branch is dropped, and what it wrote kept under its name. By the other cluster's decision at any time; by
    /// this one's as long as it does not wait for the other to keep a replica, which may have happened.
    pub(super) fn abandon(&mut self, vm: VmId, id: PromotionId, decided_there: bool) -> Answer {
        let Some(promotion) = self.promotions.get(&vm).filter(|promotion| promotion.id == id) else {
            return Ok(Outcome::Done);
        };
        if promotion.order.is_some() {
            let message = format!("VM {vm} was handed over to this cluster: it is no branch");
            return Err(refused("no_branch", message, "cancel or reverse the failover instead"));
        }
        if promotion.state == PromotionState::Reversing && !decided_there {
            let message = format!("the replication of VM {vm} is being reversed");
            return Err(refused("reversing", message, "wait until it is done, then fail over as planned"));
        }
        self.set_promotion(vm, PromotionState::Abandoning)
    }

    /// Whether the branch `id` of a replica here is over. The other cluster heard of it after it was committed, so that one
    /// which is not there has been taken back: provided that this state is no older than the question.
    pub fn is_over(&self, vm: VmId, id: PromotionId) -> bool {
        self.replicas.contains(&vm) && self.promotions.get(&vm).is_none_or(|promotion| promotion.id != id)
    }

    /// The content with which a returned VM left, where its disks are still to be taken in at `holder`.
    pub fn to_take_in(&self, vm: VmId) -> Option<(PromotionId, PointName)> {
        self.returns.get(&vm).map(|back| (back.id, back.point))
    }

    /// Why a promotion cannot be reversed yet.
    pub fn not_final(promotion: &Promotion) -> Option<Refusal> {
        match promotion.state {
            PromotionState::Reversing | PromotionState::Completed => None,
            // What was handed over is nobody else's.
            PromotionState::Running if promotion.order.is_some() => None,
            PromotionState::Running => Some(refused(
                "not_completed",
                "the failover is not final: its other points could still be chosen".to_owned(),
                "complete it first: `landfall failover complete VM`",
            )),
            PromotionState::Withdrawing | PromotionState::Abandoning => Some(refused(
                "withdrawn",
                "the failover is being taken back".to_owned(),
                "wait until replication goes on the old way",
            )),
        }
    }
}
