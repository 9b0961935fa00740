//! The right to run a VM where it is not known: after `cluster recover` the last that this cluster had committed may be
//! lost.
//!
//! What runs goes on; nothing is started, taken or declined until the other cluster has answered ([`Right`]), or an
//! operator has decided. Whoever is asked first closes what it was offered in the asker's earlier lives: a release that it
//! has not taken by then, it never takes. So an answer cannot be overtaken by an old message, and either cluster may be
//! asked again.

use landfall_proto::id::{Epoch, Fqdn, Position, VmId};
use landfall_proto::model::{
    Answer, Departure, DepartureState, FailoverKind, FailoverStep, Loss, Outcome, PointName, Promotion, PromotionId,
    PromotionState, Right, Rival, Side, UnknownRight,
};
use landfall_proto::{Class, Refusal};

use super::promotion::Rise;
use super::{Entry, State};

/// What an answer of the other cluster makes of an unknown right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lesson {
    /// The VM is this cluster's to run.
    Ours,
    /// The other cluster has taken it, by this departure.
    Gone(PromotionId, Position, PointName),
    /// The VM is the other cluster's to run.
    Theirs,
    /// What was handed over to this cluster is here.
    Stands,
    /// The other cluster has it as well: what runs here is a branch.
    Contested,
    /// What ran here ran at a node that is given up, and the other cluster has it.
    Over,
    /// The other cluster keeps the replica already.
    Reversed,
}

/// Whether a step takes, gives or uses the right to run.
fn uses_the_right(step: &FailoverStep) -> bool {
    use FailoverStep::{Account, Branch, Decide, EndTest, Learn, Merged, Resolve, Returned, Test, Withdrawn, Yielded};
    !matches!(
        step,
        Test { .. }
            | EndTest { .. }
            | Account { .. }
            | Learn { .. }
            | Decide { .. }
            | Branch(_)
            | Resolve { .. }
            | Yielded { .. }
            | Merged { .. }
            | Returned { .. }
            | Withdrawn { .. }
    )
}

impl State {
    /// Whether this cluster does not know if it has the right to run `vm`, so that nobody may start it here.
    pub fn is_right_unknown(&self, vm: VmId) -> bool {
        self.unknown_rights.get(&vm).is_some_and(|mark| mark.decided != Some(Side::Here))
    }

    /// Refuses what depends on the right to run where that is not known.
    pub fn refuse_unknown(&self, vm: VmId) -> Result<(), Refusal> {
        if !self.is_right_unknown(vm) {
            return Ok(());
        }
        let message = format!("whether this cluster has the right to run VM {vm} is not known since it was recovered");
        Err(Refusal::new(Class::Refused, "right_unknown", message).field("vm").remedy(
            "it is settled when the other cluster answers; else decide: `landfall failover resolve VM --keep here|there`",
        ))
    }

    /// As [`State::refuse_unknown`], for a step that needs the right.
    pub(super) fn check_right(&self, vm: VmId, step: &FailoverStep) -> Result<(), Refusal> {
        if uses_the_right(step) { self.refuse_unknown(vm) } else { Ok(()) }
    }

    /// What is committed here about the right to run `vm`, as the cluster `from` is told.
    pub fn right_for(&self, vm: VmId, from: &Fqdn) -> Right {
        if self.is_right_unknown(vm) {
            return Right::Unknown;
        }
        if self.replicas.get(&vm).is_some_and(|replica| replica.primary == *from) {
            return match self.promotions.get(&vm) {
                None => Right::NotTaken,
                Some(&Promotion { id, parent, point, order, .. }) => match order {
                    Some(order) => Right::Taken { id, order, point },
                    None => Right::Branch { id, parent, point },
                },
            };
        }
        if self.primaries.get(&vm).is_none_or(|primary| primary.to != *from) {
            return Right::Unknown;
        }
        let released = self.departures.get(&vm).and_then(|departure| Some((departure, departure.state.released()?)));
        match (released, self.rivals.get(&vm)) {
            (Some((&Departure { id, order, .. }, point)), _) => Right::Released { id, order, point },
            (None, Some(rival)) if rival.yielded => Right::Unknown,
            _ => Right::Kept,
        }
    }

    /// The other cluster, `from`, has begun its next life at `before`, and asks.
    pub(super) fn account(&mut self, vm: VmId, before: Position, from: &Fqdn, contested: bool) -> Answer {
        if self.is_right_unknown(vm) || self.replicas.get(&vm).is_none_or(|replica| replica.primary != *from) {
            return Ok(Outcome::Right(self.right_for(vm, from)));
        }
        self.room_for_floor(vm, from)?;
        let floor = self.hand_off_floors.get(&(vm, from.clone())).copied().unwrap_or_default();
        self.hand_off_floors.put((vm, from.clone()), floor.max(before));
        if contested
            && let Some(promotion) = self.promotions.edit(&vm)
            && !promotion.state.is_over()
        {
            promotion.order = None;
        }
        Ok(Outcome::Right(self.right_for(vm, from)))
    }

    fn lesson(&self, vm: VmId, right: &Right) -> Option<Lesson> {
        let mark = self.unknown_rights.get(&vm)?;
        if self.primaries.contains(&vm) {
            return match (*right, mark.decided) {
                (Right::NotTaken | Right::Branch { .. }, None | Some(Side::Here)) => Some(Lesson::Ours),
                (Right::Taken { id, order, point }, None | Some(Side::There)) => Some(Lesson::Gone(id, order, point)),
                _ => None,
            };
        }
        let promotion = self.promotions.get(&vm);
        match (promotion.map(|promotion| (promotion.id, promotion.order.is_some())), right) {
            (None, Right::Kept) => Some(Lesson::Theirs),
            (Some(_), Right::Kept) if mark.lost_run => Some(Lesson::Over),
            (Some((_, true)), Right::Kept) => Some(Lesson::Contested),
            (Some((ours, true)), Right::Released { id, .. }) if ours == *id && !mark.lost_run => Some(Lesson::Stands),
            (Some((_, true)), Right::NotTaken) if !mark.lost_run => Some(Lesson::Reversed),
            _ => None,
        }
    }

    /// Whether the other cluster's answer settles the right to run `vm`.
    pub fn is_settled_by(&self, vm: VmId, right: &Right) -> bool {
        self.lesson(vm, right).is_some()
    }

    /// The other cluster has answered.
    pub(super) fn learn_right(&mut self, entry: Entry, vm: VmId, right: &Right) -> Answer {
        let Some(lesson) = self.lesson(vm, right) else { return Ok(Outcome::Done) };
        let mark = self.unknown_rights.take(&vm);
        match lesson {
            Lesson::Ours => {
                // A planned failover that was under way is over: what was released is never taken now. One that was begun
                // since an operator decided is not meant.
                if mark.is_none_or(|mark| mark.decided.is_none()) {
                    self.departures.take(&vm);
                }
                self.note_branch(entry, vm, right);
            }
            Lesson::Gone(id, order, point) => {
                let started_at = self.departures.get(&vm).map_or(entry.at, |departure| departure.started_at);
                let state = DepartureState::Departed(point);
                self.departures.put(vm, Departure { id, order, state, started_at });
                self.rivals.take(&vm);
            }
            Lesson::Theirs | Lesson::Stands => {}
            Lesson::Contested => self.make_branch(vm, None),
            Lesson::Over => self.make_branch(vm, Some(PromotionState::Abandoning)),
            Lesson::Reversed => drop(self.set_promotion(vm, PromotionState::Reversing)),
        }
        Ok(Outcome::Done)
    }

    /// The other cluster runs a branch: known at once, so that the VM is not started here in between.
    fn note_branch(&mut self, entry: Entry, vm: VmId, right: &Right) {
        let Right::Branch { id, parent, point } = *right else { return };
        let Some(from) = self.primaries.get(&vm).map(|primary| primary.to.clone()) else { return };
        let rival = Rival { id, parent, from, point, since: entry.at, keep: None, yielded: false };
        // One of another parent is none of this VM's.
        drop(self.learn_rival(entry, vm, &rival));
    }

    /// What runs here has no right to: it is one of two branches, or over.
    fn make_branch(&mut self, vm: VmId, state: Option<PromotionState>) {
        if let Some(promotion) = self.promotions.edit(&vm) {
            promotion.order = None;
            promotion.state = state.unwrap_or(promotion.state);
        }
    }

    /// An operator decides, here.
    pub(super) fn decide_right(
        &mut self,
        entry: Entry,
        vm: VmId,
        keep: Side,
        right: &Right,
        begin: Option<(Epoch, PointName)>,
    ) -> Answer {
        let Some(mark) = self.unknown_rights.get(&vm).copied() else {
            let message = format!("it is known where the right to run VM {vm} is");
            return Err(Refusal::new(Class::Refused, "right_known", message)
                .field("vm")
                .remedy("see `landfall failover status`"));
        };
        if self.primaries.contains(&vm) {
            if keep == Side::Here {
                self.departures.take(&vm);
            }
            self.unknown_rights.put(vm, UnknownRight { decided: Some(keep), ..mark });
            return Ok(Outcome::Done);
        }
        match (keep, self.promotions.contains(&vm), *right) {
            (Side::Here, true, _) => {}
            (Side::Here, false, Right::Released { id, order, .. }) => {
                return self.take_over(entry, vm, id, order, begin);
            }
            (Side::Here, false, _) => {
                let message =
                    format!("nothing of VM {vm} runs here, and the other cluster does not say that it gave it up");
                return Err(Refusal::new(Class::Refused, "nothing_here", message).field("keep").remedy(
                    "decide for the other cluster (`--keep there`); then, if it is gone, `landfall failover unplanned`",
                ));
            }
            (Side::There, true, _) => self.make_branch(vm, Some(PromotionState::Abandoning)),
            (Side::There, false, Right::Released { order, .. }) => self.never_take(vm, order)?,
            (Side::There, false, _) => {}
        }
        self.unknown_rights.take(&vm);
        Ok(Outcome::Done)
    }

    /// Takes a right that the other cluster has released, from the newest content that is here.
    fn take_over(
        &mut self,
        entry: Entry,
        vm: VmId,
        id: PromotionId,
        order: Position,
        begin: Option<(Epoch, PointName)>,
    ) -> Answer {
        let from = self.require_replica(vm)?.primary.clone();
        let Some((epoch, point)) = begin else {
            let message = format!("no recovery point of VM {vm} is chosen to begin with");
            return Err(Refusal::new(Class::Refused, "no_point", message)
                .field("vm")
                .remedy("decide for the other cluster"));
        };
        self.room_for_floor(vm, &from)?;
        let loss = Loss::default();
        self.promote(entry, vm, epoch, Rise { id, kind: FailoverKind::Planned, point, order: Some(order), loss })?;
        self.never_take(vm, order)?;
        self.unknown_rights.take(&vm);
        Ok(Outcome::Done)
    }

    /// What the replica's primary has released up to `order` is not taken, or not again.
    fn never_take(&mut self, vm: VmId, order: Position) -> Result<(), Refusal> {
        let from = self.require_replica(vm)?.primary.clone();
        self.room_for_floor(vm, &from)?;
        let floor = self.hand_off_floors.get(&(vm, from.clone())).copied().unwrap_or_default();
        self.hand_off_floors.put((vm, from), floor.max(order));
        Ok(())
    }
}
