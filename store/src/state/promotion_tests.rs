//! Failover: preconditions, what a promotion pins, and that two clusters never both have the right to run a VM.

use landfall_proto::id::{Epoch, Fqdn, MemberId, Position, Root, VmId};
use landfall_proto::model::{
    Command, DepartureState, FailoverStep, HandOff, Loss, Outcome, PointName, PromotionId, PromotionState,
};
use proptest::prelude::*;

use super::State;
use super::fixture::{Bench, R1, cap, vm};

const VM: u128 = 7;
const POINT: PointName = PointName { sequence: 3, root: Root([9; 32]) };

fn id(number: u128) -> PromotionId {
    PromotionId(number)
}

fn step(step: FailoverStep) -> Command {
    Command::Failover { vm: vm(VM).id, step: Box::new(step) }
}

fn promote(epoch: Epoch, number: u128) -> Command {
    step(FailoverStep::Promote { epoch, id: id(number), point: POINT, loss: Loss::default() })
}

fn replicated() -> (Bench, [MemberId; 3], Epoch) {
    let (mut bench, members) = Bench::ready();
    let epoch = bench.acknowledged(VM, members[1], &[members[2]]);
    (bench, members, epoch)
}

#[test]
fn a_failover_needs_a_replica_that_is_complete_and_at_rest() {
    let (mut bench, [_, r2, r3]) = Bench::ready();
    assert_eq!(bench.refused(promote(Epoch::default(), 1)), "not_found");
    let epoch = bench.place(VM, r2);
    assert_eq!(bench.refused(promote(epoch, 1)), "no_point");
    bench.ok(Command::Acknowledged { vm: vm(VM).id, epoch });
    assert_eq!(bench.refused(promote(Epoch::default(), 1)), "stale_epoch");
    bench.ok(Command::Handover { vm: vm(VM).id, epoch, to: Some(r3) });
    assert_eq!(bench.refused(promote(epoch, 1)), "moving");
    bench.ok(Command::Handover { vm: vm(VM).id, epoch, to: None });
    let Outcome::Epoch(epoch) = bench.ok(Command::Seed { vm: vm(VM).id, epoch, to: r3 }) else { panic!() };
    assert_eq!(bench.refused(promote(epoch, 1)), "seeding");
    bench.ok(Command::Seeded { vm: vm(VM).id, epoch });
    bench.ok(promote(epoch, 1));
    bench.ok(promote(epoch, 1));
    assert_eq!(bench.refused(promote(epoch, 2)), "failed_over");
}

#[test]
fn a_failed_over_replica_stays_where_it_is() {
    let (mut bench, [_, r2, r3], epoch) = replicated();
    bench.ok(promote(epoch, 1));
    let id = vm(VM).id;
    for command in [
        Command::Assign { vm: id, epoch, to: r3 },
        Command::Seed { vm: id, epoch, to: R1 },
        Command::Handover { vm: id, epoch, to: Some(r3) },
        Command::Remove(r2),
        Command::RemoveReplica { vm: id, primary: None },
        Command::Respecify { vm: Box::new(vm(VM)), primary: cap('p') },
        bench.asks_to_place(VM, 'p', r3),
    ] {
        assert_eq!(bench.refused(command.clone()), "failed_over", "{command:?}");
    }
    assert_eq!(bench.replica(VM).holder, r2);
}

#[test]
fn a_failover_is_taken_back_until_it_is_complete() {
    let (mut bench, _, epoch) = replicated();
    bench.ok(promote(epoch, 1));
    assert_eq!(bench.refused(step(FailoverStep::Withdrawn { id: id(1) })), "not_withdrawing");
    bench.ok(step(FailoverStep::Start { id: id(1) }));
    bench.ok(step(FailoverStep::Withdraw { id: id(1) }));
    assert_eq!(bench.refused(step(FailoverStep::Start { id: id(1) })), "withdrawn");
    assert_eq!(bench.refused(step(FailoverStep::Complete { id: id(1) })), "withdrawn");
    bench.ok(step(FailoverStep::Withdrawn { id: id(1) }));
    bench.ok(step(FailoverStep::Withdrawn { id: id(1) }));
    assert!(bench.state.promotions.is_empty());
    bench.ok(promote(epoch, 2));
    bench.ok(step(FailoverStep::Complete { id: id(2) }));
    assert_eq!(bench.refused(step(FailoverStep::Withdraw { id: id(2) })), "completed");
    assert_eq!(bench.state.promotions.get(&vm(VM).id).unwrap().state, PromotionState::Completed);
}

#[test]
fn there_is_one_test_at_a_time_and_it_moves_nothing() {
    let (mut bench, [_, _, r3], epoch) = replicated();
    let test = |number| step(FailoverStep::Test { epoch, id: id(number), point: POINT });
    bench.ok(test(1));
    bench.ok(test(1));
    assert_eq!(bench.refused(test(2)), "test_running");
    assert_eq!(bench.refused(Command::Handover { vm: vm(VM).id, epoch, to: Some(r3) }), "test_running");
    // A dead node's replica gets its new home all the same.
    let Outcome::Epoch(epoch) = bench.ok(Command::Assign { vm: vm(VM).id, epoch, to: r3 }) else { panic!() };
    bench.ok(step(FailoverStep::EndTest { id: id(2) }));
    assert_eq!(bench.state.tests.len(), 1);
    bench.ok(step(FailoverStep::EndTest { id: id(1) }));
    assert!(bench.state.tests.is_empty());
    bench.ok(promote(epoch, 3));
    assert_eq!(bench.refused(step(FailoverStep::Test { epoch, id: id(4), point: POINT })), "failed_over");
}

#[test]
fn failovers_survive_a_snapshot() {
    let (mut bench, _, epoch) = replicated();
    bench.ok(step(FailoverStep::Test { epoch, id: id(1), point: POINT }));
    let from = cap('p');
    let order = Position::new(0, 4);
    bench.ok(step(FailoverStep::Take { epoch, id: id(2), order, from, point: POINT }));
    bench.enable(100);
    bench.ok(bench.claims(100, R1, Default::default(), false));
    bench.ok(Command::Failover { vm: vm(100).id, step: Box::new(FailoverStep::Depart { id: id(3) }) });
    assert_eq!(State::from_archive(&bench.state.archive().unwrap()).unwrap(), bench.state);
}

#[test]
fn a_disabled_vm_cannot_slip_away_while_it_departs() {
    let mut sites = Sites::new();
    sites.p.ok(step(FailoverStep::Depart { id: id(1) }));
    assert_eq!(sites.p.refused(Command::Disable(vm(VM).id)), "failing_over");
    assert_eq!(sites.p.refused(step(FailoverStep::Depart { id: id(2) })), "failing_over");
    sites.p.ok(step(FailoverStep::Recall { id: id(1) }));
    assert!(sites.p.state.departures.is_empty() && sites.p.state.may_run(vm(VM).id));
}

/// A question of the primary's cluster on its way to the replica's.
#[derive(Clone, Copy, Debug)]
struct Question {
    id: PromotionId,
    order: Position,
    point: PointName,
    take: bool,
    decline: bool,
}

/// Two clusters and what is on the way between them.
struct Sites {
    p: Bench,
    r: Bench,
    epoch: Epoch,
    questions: Vec<Question>,
    answers: Vec<(PromotionId, HandOff)>,
    departures: u128,
}

impl Sites {
    fn new() -> Self {
        let (mut p, _) = Bench::ready();
        p.enable(VM);
        p.ok(p.claims(VM, R1, Default::default(), false));
        let (r, _, epoch) = replicated();
        Self { p, r, epoch, questions: Vec::new(), answers: Vec::new(), departures: 0 }
    }

    fn vm() -> VmId {
        vm(VM).id
    }

    /// What a node of the primary's cluster asks, by what is committed there.
    fn ask(&mut self) {
        let Some(departure) = self.p.state.departures.get(&Self::vm()) else { return };
        let Some(point) = departure.state.released() else { return };
        let take = matches!(departure.state, DepartureState::Released(_));
        let decline = matches!(departure.state, DepartureState::Recalling(_));
        self.questions.push(Question { id: departure.id, order: departure.order, point, take, decline });
    }

    /// A question arrives at the replica's cluster, which answers by commit.
    fn arrive(&mut self, question: Question) {
        let Question { id, order, point, take, decline } = question;
        let from: Fqdn = cap('p');
        let command = match (take, decline) {
            (true, _) => step(FailoverStep::Take { epoch: self.epoch, id, order, from, point }),
            (_, true) => step(FailoverStep::Decline { id, order, from }),
            _ => {
                let answer = self.r.state.hand_off(Self::vm(), &from, id, order);
                return self.answers.push((id, answer));
            }
        };
        if let Ok(Outcome::HandOff(answer)) = self.r.run(command) {
            self.answers.push((id, answer));
        }
    }

    fn learn(&mut self, (id, answer): (PromotionId, HandOff)) {
        match answer {
            HandOff::Taken => drop(self.p.run(step(FailoverStep::Departed { id }))),
            HandOff::Declined => drop(self.p.run(step(FailoverStep::Reinstate { id }))),
            HandOff::Open => {}
        }
    }

    fn current(&self) -> PromotionId {
        self.p.state.departures.get(&Self::vm()).map_or(id(0), |departure| departure.id)
    }

    fn promoted(&self) -> PromotionId {
        self.r.state.promotions.get(&Self::vm()).map_or(id(0), |promotion| promotion.id)
    }

    fn act(&mut self, kind: u8, at: usize, keep: bool) {
        match kind {
            0 | 1 => {
                self.departures += 1;
                drop(self.p.run(step(FailoverStep::Depart { id: id(self.departures) })));
            }
            2 | 3 => drop(self.p.run(step(FailoverStep::Release { id: self.current(), point: POINT }))),
            4 => drop(self.p.run(step(FailoverStep::Recall { id: self.current() }))),
            5..=7 => self.ask(),
            8..=11 if !self.questions.is_empty() => {
                let at = at % self.questions.len();
                // One that stays arrives again, later than others.
                let question = if keep { self.questions[at] } else { self.questions.swap_remove(at) };
                self.arrive(question);
            }
            12..=14 if !self.answers.is_empty() => {
                let at = at % self.answers.len();
                let answer = if keep { self.answers[at] } else { self.answers.swap_remove(at) };
                self.learn(answer);
            }
            15 => drop(self.r.run(step(FailoverStep::Withdraw { id: self.promoted() }))),
            16 => drop(self.r.run(step(FailoverStep::Withdrawn { id: self.promoted() }))),
            17 => drop(self.r.run(step(FailoverStep::Complete { id: self.promoted() }))),
            18 => drop(self.r.run(promote(self.epoch, 1 << 100))),
            19 if !self.questions.is_empty() => drop(self.questions.swap_remove(at % self.questions.len())),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Messages are lost, doubled and reordered, and an operator changes his mind at any time.
    #[test]
    fn at_most_one_cluster_has_the_right_to_run(
        moves in prop::collection::vec((0u8..20, any::<usize>(), any::<bool>()), 1..200)
    ) {
        let mut sites = Sites::new();
        for (kind, at, keep) in moves {
            sites.act(kind, at, keep);
            let (here, there) = (sites.p.state.may_run(Sites::vm()), sites.r.state.may_run(Sites::vm()));
            prop_assert!(!(here && there), "both may run it: {:?} and {:?}",
                sites.p.state.departures.get(&Sites::vm()), sites.r.state.promotions.get(&Sites::vm()));
        }
        // Whatever happened: once messages arrive, exactly one has it, or a branch stands in the way of taking it.
        for _ in 0..4 {
            sites.questions.clear();
            sites.ask();
            if let Some(question) = sites.questions.pop() {
                sites.arrive(question);
            }
            if let Some(answer) = sites.answers.pop() {
                sites.learn(answer);
            }
        }
        let (here, there) = (sites.p.state.may_run(Sites::vm()), sites.r.state.may_run(Sites::vm()));
        let branch = sites.r.state.promotions.get(&Sites::vm()).is_some_and(|standing| standing.order.is_none());
        prop_assert!(here != there || branch);
    }
}

#[test]
fn a_cancel_that_races_the_hand_over_leaves_the_vm_on_one_side() {
    for taken_first in [true, false] {
        let mut sites = Sites::new();
        sites.p.ok(step(FailoverStep::Depart { id: id(1) }));
        sites.p.ok(step(FailoverStep::Release { id: id(1), point: POINT }));
        sites.ask();
        sites.p.ok(step(FailoverStep::Recall { id: id(1) }));
        sites.ask();
        let (take, decline) = (sites.questions[0], sites.questions[1]);
        for question in if taken_first { [take, decline] } else { [decline, take] } {
            sites.arrive(question);
        }
        let expected = if taken_first { HandOff::Taken } else { HandOff::Declined };
        assert_eq!(sites.answers, [(id(1), expected), (id(1), expected)]);
        sites.learn((id(1), expected));
        assert_eq!(sites.p.state.may_run(Sites::vm()), !taken_first);
        assert_eq!(sites.r.state.may_run(Sites::vm()), taken_first);
        if taken_first {
            assert_eq!(sites.p.refused(step(FailoverStep::Recall { id: id(1) })), "departed");
        }
    }
}
