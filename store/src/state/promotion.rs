//! Failover: which replica became the VM, and who has the right to run it.
//!
//! In the replica's cluster a [`Promotion`] stands for a replica that is failed over; while it does, the replica stays
//! where it is and is sent nothing. In the primary's cluster a [`Departure`] stands for a planned failover, and from its
//! release on the VM may not run there. A release that was declined, or taken and given back, is never taken again: the
//! replica's cluster keeps the order of the last one that it has answered for good (the floor).

use landfall_proto::id::{Epoch, Fqdn, MemberId, Position, VmId};
use landfall_proto::model::{
    Answer, Departure, DepartureState, FailoverKind, FailoverStep, HandOff, Loss, Outcome, PointName, Promotion,
    PromotionId, PromotionState, Replica, TestRun,
};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

use super::{Entry, State};
use crate::limits;

/// What a promotion is made of.
#[derive(Clone, Copy)]
pub(super) struct Rise {
    pub(super) id: PromotionId,
    pub(super) kind: FailoverKind,
    pub(super) point: PointName,
    pub(super) order: Option<Position>,
    pub(super) loss: Loss,
}

impl State {
    pub(super) fn failover(&mut self, entry: Entry, vm: VmId, step: &FailoverStep) -> Answer {
        self.check_right(vm, step)?;
        match step {
            FailoverStep::Test { epoch, id, point } => self.begin_test(entry, vm, *epoch, *id, *point),
            FailoverStep::EndTest { id } => self.end_test(vm, *id),
            FailoverStep::Promote { epoch, id, point, loss } => {
                let rise = Rise { id: *id, kind: FailoverKind::Unplanned, point: *point, order: None, loss: *loss };
                self.promote(entry, vm, *epoch, rise).map(|()| Outcome::Done)
            }
            FailoverStep::Start { id } => self.may_start(vm, *id),
            FailoverStep::Complete { id } => self.complete(vm, *id),
            FailoverStep::Withdraw { id } => self.withdraw(vm, *id),
            FailoverStep::Withdrawn { id } => self.withdrawn(vm, *id),
            FailoverStep::Depart { id } => self.depart(entry, vm, *id),
            FailoverStep::Release { id, point } => self.release(vm, *id, *point),
            FailoverStep::Recall { id } => self.recall(vm, *id),
            FailoverStep::Departed { id } => self.departed(vm, *id),
            FailoverStep::Reinstate { id } => self.reinstate(vm, *id),
            FailoverStep::Take { epoch, id, order, from, point } => {
                let loss = Loss::default();
                let rise = Rise { id: *id, kind: FailoverKind::Planned, point: *point, order: Some(*order), loss };
                self.take(entry, vm, *epoch, from, rise)
            }
            FailoverStep::Decline { id, order, from } => self.decline(vm, *id, *order, from),
            FailoverStep::Reverse { id } => self.reverse(vm, *id),
            FailoverStep::Reversed { id } => self.reversed(entry, vm, *id),
            FailoverStep::Return { back, parent, from } => self.return_home(entry, vm, from, *back, *parent),
            FailoverStep::Returned { id } => self.returned(vm, *id),
            FailoverStep::Branch(rival) => self.learn_rival(entry, vm, rival),
            FailoverStep::Resolve { id, keep } => self.resolve(vm, *id, *keep),
            FailoverStep::Yielded { id } => self.yielded(vm, *id),
            FailoverStep::Merged { id } => self.merged(entry, vm, *id),
            FailoverStep::Detach { id } => self.detach(vm, *id),
            FailoverStep::Abandon { id, decided_there } => self.abandon(vm, *id, *decided_there),
            FailoverStep::Account { before, from, contested } => self.account(vm, *before, from, *contested),
            FailoverStep::Learn { right } => self.learn_right(entry, vm, right),
            FailoverStep::Decide { keep, right, begin } => self.decide_right(entry, vm, *keep, right, *begin),
        }
    }

    /// Whether the committed state of this cluster gives it the right to run `vm`. An unplanned failover runs its branch
    /// without having the right.
    pub fn may_run(&self, vm: VmId) -> bool {
        let primary = self.primaries.contains(&vm)
            && self.departures.get(&vm).is_none_or(|departure| departure.state.released().is_none())
            && self.rivals.get(&vm).is_none_or(|rival| !rival.yielded);
        let promoted = self.promotions.get(&vm).is_some_and(|promotion| promotion.order.is_some());
        (primary || promoted) && !self.is_right_unknown(vm)
    }

    /// What became of the hand-over `id` of `from`, which it committed at `order`.
    pub fn hand_off(&self, vm: VmId, from: &Fqdn, id: PromotionId, order: Position) -> HandOff {
        if self.promotions.get(&vm).is_some_and(|promotion| promotion.id == id) {
            HandOff::Taken
        } else if self.hand_off_floors.get(&(vm, from.clone())).is_some_and(|floor| order <= *floor)
            && !planted::is(Bug::DeclinedIsTaken)
        {
            HandOff::Declined
        } else {
            HandOff::Open
        }
    }

    /// Refuses what must not happen to a replica that is failed over.
    pub(super) fn refuse_promoted(&self, vm: VmId) -> Result<(), Refusal> {
        match self.promotions.get(&vm) {
            None => Ok(()),
            Some(promotion) => {
                let message = format!("VM {vm} is failed over to member {} and stays there", promotion.holder);
                Err(Refusal::new(Class::Refused, "failed_over", message)
                    .field("vm")
                    .remedy("see `landfall failover status`: cancel the failover, or reverse the replication"))
            }
        }
    }

    /// Refuses what must not happen to a VM whose right to run is on its way, or elsewhere.
    pub(super) fn refuse_departing(&self, vm: VmId) -> Result<(), Refusal> {
        match self.departures.get(&vm) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(Class::Refused, "failing_over", format!("VM {vm} is failed over as planned"))
                .field("vm")
                .remedy("see `landfall failover status`, and cancel the failover if it is not wanted")),
        }
    }

    /// The replica, where it can be failed over or tested: complete, at rest, and at the epoch that was decided on.
    fn failable(&self, vm: VmId, epoch: Epoch) -> Result<&Replica, Refusal> {
        let replica = self.require_replica(vm)?;
        let name = &replica.vm.name;
        let refuse =
            |code, why: String, remedy: &str| Err(Refusal::new(Class::Refused, code, why).field("vm").remedy(remedy));
        if replica.epoch != epoch {
            return refuse("stale_epoch", format!("the replica of {name} is at epoch {}", replica.epoch), "look again");
        }
        if !replica.acknowledged {
            let why = format!("the replica of {name} has no complete point yet");
            return refuse("no_point", why, "wait for the initial copy: `landfall vm show`");
        }
        if replica.seeding.is_some() {
            return refuse(
                "seeding",
                format!("the replica of {name} is being filled anew"),
                "wait until it is complete",
            );
        }
        if replica.handover.is_some() {
            return refuse("moving", format!("the replica of {name} is being moved"), "wait until it has moved");
        }
        Ok(replica)
    }

    fn begin_test(&mut self, entry: Entry, vm: VmId, epoch: Epoch, id: PromotionId, point: PointName) -> Answer {
        if self.tests.get(&vm).is_some_and(|test| test.id == id) {
            return Ok(Outcome::Done);
        }
        let node = self.failable(vm, epoch)?.holder;
        self.refuse_promoted(vm)?;
        if self.tests.contains(&vm) {
            return Err(Refusal::new(
                Class::Refused,
                "test_running",
                format!("a test failover of VM {vm} runs already"),
            )
            .field("vm")
            .remedy("end it first: `landfall failover test VM --stop`"));
        }
        self.tests.put(vm, TestRun { id, point, node, started_at: entry.at });
        Ok(Outcome::Done)
    }

    fn end_test(&mut self, vm: VmId, id: PromotionId) -> Answer {
        if self.tests.get(&vm).is_some_and(|test| test.id == id) {
            self.tests.take(&vm);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn promote(&mut self, entry: Entry, vm: VmId, epoch: Epoch, rise: Rise) -> Result<(), Refusal> {
        if self.promotions.get(&vm).is_some_and(|standing| standing.id == rise.id) {
            return Ok(());
        }
        self.refuse_promoted(vm)?;
        let holder = self.failable(vm, epoch)?.holder;
        let Rise { id, kind, point, order, loss } = rise;
        let (parent, state) = (self.lineage(vm), PromotionState::Running);
        let promotion = Promotion { id, parent, kind, point, holder, order, state, started_at: entry.at, loss };
        self.promotions.put(vm, promotion);
        Ok(())
    }

    pub(super) fn require_promotion(&self, vm: VmId, id: PromotionId) -> Result<&Promotion, Refusal> {
        self.promotions.get(&vm).filter(|promotion| promotion.id == id).ok_or_else(|| {
            Refusal::new(Class::NotFound, "no_failover", format!("there is no failover {id} of VM {vm}"))
                .field("vm")
                .remedy("`landfall failover status` shows what there is")
        })
    }

    pub(super) fn set_promotion(&mut self, vm: VmId, state: PromotionState) -> Answer {
        if let Some(promotion) = self.promotions.edit(&vm) {
            promotion.state = state;
        }
        Ok(Outcome::Done)
    }

    fn may_start(&self, vm: VmId, id: PromotionId) -> Answer {
        match self.require_promotion(vm, id)?.state {
            PromotionState::Running | PromotionState::Completed | PromotionState::Reversing => Ok(Outcome::Done),
            PromotionState::Withdrawing | PromotionState::Abandoning => {
                Err(Refusal::new(Class::Refused, "withdrawn", format!("the failover of VM {vm} is being taken back")))
            }
        }
    }

    fn complete(&mut self, vm: VmId, id: PromotionId) -> Answer {
        match self.require_promotion(vm, id)?.state {
            PromotionState::Running | PromotionState::Completed => self.set_promotion(vm, PromotionState::Completed),
            // More final than that it cannot become.
            PromotionState::Reversing => Ok(Outcome::Done),
            PromotionState::Withdrawing | PromotionState::Abandoning => self.may_start(vm, id),
        }
    }

    fn withdraw(&mut self, vm: VmId, id: PromotionId) -> Answer {
        match self.require_promotion(vm, id)?.state {
            PromotionState::Running | PromotionState::Withdrawing => {
                self.set_promotion(vm, PromotionState::Withdrawing)
            }
            PromotionState::Abandoning => Ok(Outcome::Done),
            PromotionState::Reversing => {
                Err(Refusal::new(Class::Refused, "reversing", format!("the replication of VM {vm} is being reversed"))
                    .field("vm")
                    .remedy("wait until it is done, then fail over as planned to come back"))
            }
            PromotionState::Completed => Err(Refusal::new(
                Class::Refused,
                "completed",
                format!("the failover of VM {vm} is complete: its other points are gone"),
            )
            .field("vm")
            .remedy("reverse the replication, then fail over as planned to come back")),
        }
    }

    fn withdrawn(&mut self, vm: VmId, id: PromotionId) -> Answer {
        let Some(promotion) = self.promotions.get(&vm).filter(|promotion| promotion.id == id) else {
            return Ok(Outcome::Done);
        };
        if !promotion.state.is_over() {
            let message = format!("nobody has asked to take the failover of VM {vm} back");
            return Err(Refusal::new(Class::Refused, "not_withdrawing", message).field("vm"));
        }
        self.promotions.take(&vm);
        Ok(Outcome::Done)
    }

    fn depart(&mut self, entry: Entry, vm: VmId, id: PromotionId) -> Answer {
        if self.departures.get(&vm).is_some_and(|departure| departure.id == id) {
            return Ok(Outcome::Done);
        }
        self.refuse_departing(vm)?;
        self.refuse_branched(vm)?;
        let primary = self.primaries.get(&vm).ok_or_else(|| {
            Refusal::not_found("replicated vm", &vm.to_string()).field("vm").remedy("enable its replication first")
        })?;
        if primary.stopped.is_some() || primary.sender.is_none() || !primary.rivals.is_empty() {
            let message = format!("{} is not replicated at this moment", primary.vm.name);
            return Err(Refusal::new(Class::Refused, "not_replicating", message)
                .field("vm")
                .remedy("see the reasons in `landfall vm show`"));
        }
        let state = DepartureState::Preparing;
        self.departures.put(vm, Departure { id, order: entry.position, state, started_at: entry.at });
        Ok(Outcome::Done)
    }

    fn require_departure(&self, vm: VmId, id: PromotionId) -> Result<&Departure, Refusal> {
        self.departures.get(&vm).filter(|departure| departure.id == id).ok_or_else(|| {
            Refusal::new(Class::NotFound, "no_failover", format!("there is no planned failover {id} of VM {vm}"))
                .field("vm")
                .remedy("`landfall failover status` shows what there is")
        })
    }

    fn set_departure(&mut self, vm: VmId, state: DepartureState) -> Answer {
        if let Some(departure) = self.departures.edit(&vm) {
            departure.state = state;
        }
        Ok(Outcome::Done)
    }

    fn release(&mut self, vm: VmId, id: PromotionId, point: PointName) -> Answer {
        match self.require_departure(vm, id)?.state {
            DepartureState::Preparing => self.set_departure(vm, DepartureState::Released(point)),
            // Its own answer was lost, and much may have happened since.
            _ => Ok(Outcome::Done),
        }
    }

    fn recall(&mut self, vm: VmId, id: PromotionId) -> Answer {
        match self.require_departure(vm, id)?.state {
            DepartureState::Preparing => {
                self.departures.take(&vm);
                Ok(Outcome::Done)
            }
            DepartureState::Released(point) | DepartureState::Recalling(point) => {
                self.set_departure(vm, DepartureState::Recalling(point))
            }
            DepartureState::Departed(_) => Err(Refusal::new(
                Class::Refused,
                "departed",
                format!("the other cluster has taken the right to run VM {vm}"),
            )
            .field("vm")
            .remedy("cancel the failover there, or reverse the replication and fail over again")),
        }
    }

    fn departed(&mut self, vm: VmId, id: PromotionId) -> Answer {
        match self.require_departure(vm, id)?.state.released() {
            Some(point) => self.set_departure(vm, DepartureState::Departed(point)),
            None => Err(Refusal::new(Class::Refused, "not_released", format!("VM {vm} was not released")).field("vm")),
        }
    }

    fn reinstate(&mut self, vm: VmId, id: PromotionId) -> Answer {
        if self.departures.get(&vm).is_some_and(|departure| departure.id == id) {
            self.departures.take(&vm);
        }
        Ok(Outcome::Done)
    }

    fn take(&mut self, entry: Entry, vm: VmId, epoch: Epoch, from: &Fqdn, rise: Rise) -> Answer {
        let order = rise.order.unwrap_or_default();
        match self.hand_off(vm, from, rise.id, order) {
            HandOff::Open => {}
            settled => return Ok(Outcome::HandOff(settled)),
        }
        let replica = self.require_replica(vm)?;
        if replica.primary != *from {
            let message = format!("the replica of {} belongs to {}, not to {from}", replica.vm.name, replica.primary);
            return Err(Refusal::new(Class::Refused, "wrong_primary", message).field("vm"));
        }
        self.room_for_floor(vm, from)?;
        self.promote(entry, vm, epoch, rise)?;
        self.hand_off_floors.put((vm, from.clone()), order);
        Ok(Outcome::HandOff(HandOff::Taken))
    }

    fn decline(&mut self, vm: VmId, id: PromotionId, order: Position, from: &Fqdn) -> Answer {
        match self.hand_off(vm, from, id, order) {
            HandOff::Open => {
                self.room_for_floor(vm, from)?;
                self.hand_off_floors.put((vm, from.clone()), order);
                Ok(Outcome::HandOff(HandOff::Declined))
            }
            settled => Ok(Outcome::HandOff(settled)),
        }
    }

    pub(super) fn room_for_floor(&self, vm: VmId, from: &Fqdn) -> Result<(), Refusal> {
        if self.hand_off_floors.contains(&(vm, from.clone())) {
            return Ok(());
        }
        Self::room(self.hand_off_floors.len(), limits::HAND_OFF_FLOORS, "answered hand-overs")
    }

    /// Whether a promotion runs at `member`, which is then not removed.
    pub(super) fn runs_promotion(&self, member: MemberId) -> Option<VmId> {
        self.promotions.iter().find(|(_, promotion)| promotion.holder == member).map(|(vm, _)| *vm)
    }
}
