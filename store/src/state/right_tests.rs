//! `cluster recover`: what the next life has, and that the right to run a VM stays with one cluster at most whatever of the
//! last commits was lost.

use landfall_proto::id::{Fqdn, MemberId, Position, Root, VmId};
use landfall_proto::model::{
    Command, DepartureState, FailoverStep, HandOff, Loss, Outcome, PointName, PromotionId, PromotionState, Right, Side,
    TicketKind,
};
use proptest::prelude::*;

use super::State;
use super::fixture::{Bench, R1, cap, vm};

const VM: u128 = 7;
const POINT: PointName = PointName { sequence: 3, root: Root([9; 32]) };

fn id(number: u128) -> PromotionId {
    PromotionId(number)
}

fn the_vm() -> VmId {
    vm(VM).id
}

fn step(step: FailoverStep) -> Command {
    Command::Failover { vm: the_vm(), step: Box::new(step) }
}

fn learn(right: Right) -> Command {
    step(FailoverStep::Learn { right })
}

fn decide(keep: Side, right: Right, bench: &Bench) -> Command {
    let begin = bench.state.replicas.get(&the_vm()).map(|replica| (replica.epoch, POINT));
    step(FailoverStep::Decide { keep, right, begin })
}

/// What the cluster of `bench` answers `from`, which has begun its next life.
fn asked(bench: &mut Bench, from: char, before: Position, contested: bool) -> Right {
    match bench.ok(step(FailoverStep::Account { before, from: cap(from), contested })) {
        Outcome::Right(right) => right,
        other => panic!("{other:?}"),
    }
}

fn life(bench: &Bench) -> Position {
    Position::new(bench.state.incarnation, 0)
}

fn promotion(bench: &Bench) -> Option<(PromotionId, bool, PromotionState)> {
    let promotion = bench.state.promotions.get(&the_vm())?;
    Some((promotion.id, promotion.order.is_some(), promotion.state))
}

/// A replica at r2, with a copy at r3.
fn replica_side() -> (Bench, [MemberId; 3]) {
    let (mut bench, members) = Bench::ready();
    bench.acknowledged(VM, members[1], &[members[2]]);
    (bench, members)
}

/// A VM that r1 sends.
fn primary_side() -> Bench {
    let (mut bench, _) = Bench::ready();
    bench.enable(VM);
    bench.ok(bench.claims(VM, R1, Default::default(), false));
    bench
}

fn take(bench: &mut Bench, number: u128, order: u64) {
    let epoch = bench.replica(VM).epoch;
    let order = Position::new(0, order);
    let taking = FailoverStep::Take { epoch, id: id(number), order, from: cap('p'), point: POINT };
    assert_eq!(bench.ok(step(taking)), Outcome::HandOff(HandOff::Taken));
}

#[test]
fn the_next_life_has_one_member_and_is_above_everything_of_the_last() {
    let (mut bench, [_, r2, r3]) = replica_side();
    bench.place(8, R1);
    bench.acknowledged(9, R1, &[]);
    bench.enable(10);
    bench.ok(bench.claims(10, r2, Default::default(), false));
    bench.enable(11);
    bench.ok(bench.claims(11, r3, Default::default(), false));
    bench.ticket(1, TicketKind::Join { witness: false, replaces: None });
    bench.ok(Command::Drain { member: r2, on: true });
    bench.set(&[("apply_vm_limit", "5")]);
    let before = bench.state.clone();
    let own = before.replicas.get(&vm(9).id).unwrap().clone();

    bench.recover(before.clone(), r2, &[the_vm()]);
    let state = &bench.state;
    assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [r2]);
    assert_eq!((state.incarnation, state.tickets.is_empty(), state.drained.is_empty()), (1, true, true));
    assert!(state.member_list().unwrap().position > before.member_list().unwrap().position);
    assert!(state.revision() > before.revision() && state.settings.values == before.settings.values);
    assert!(state.term() > before.term());
    for (number, has) in [(VM, true), (8, false), (9, false)] {
        let replica = bench.replica(number);
        assert_eq!((replica.holder, replica.acknowledged, replica.in_sync.contains(&r2)), (r2, has, has), "{number}");
        assert!(replica.epoch > own.epoch && replica.epoch.0.incarnation() == 1);
    }
    let sender = |number| state.primaries.get(&vm(number).id).unwrap();
    assert_eq!((sender(10).sender, sender(11).sender), (Some(r2), None));
    assert!(sender(10).sender_epoch > before.primaries.get(&vm(10).id).unwrap().sender_epoch);
    assert_eq!(State::from_archive(&state.archive().unwrap()).unwrap(), *state);
    // An id of the last life is never one of the next.
    let joined = bench.join("r1", 77);
    assert!(joined > r3 && joined.0.incarnation() == 1);
}

#[test]
fn a_member_that_cannot_own_the_cap_does_not_recover_the_cluster() {
    let (mut bench, _) = Bench::ready();
    let witness = bench.witness("rw", 9);
    for (member, code) in [(witness, "witness"), (MemberId::from_number(40_000), "not_a_member")] {
        let survivor = super::Survivor { member, points: Default::default(), at: Default::default() };
        let mut state = bench.state.clone();
        assert_eq!(state.begin_next_life(99, &survivor).unwrap_err().code, code);
        assert_eq!(state, bench.state);
    }
}

#[test]
fn nothing_is_started_taken_or_declined_until_the_right_is_known() {
    let (mut r, [_, r2, _]) = replica_side();
    let state = r.state.clone();
    r.recover(state, r2, &[the_vm()]);
    let epoch = r.replica(VM).epoch;
    let order = Position::new(0, 50);
    let (from, point) = (cap('p'), POINT);
    for refused in [
        FailoverStep::Promote { epoch, id: id(1), point, loss: Loss::default() },
        FailoverStep::Start { id: id(1) },
        FailoverStep::Take { epoch, id: id(1), order, from: from.clone(), point },
        FailoverStep::Decline { id: id(1), order, from },
    ] {
        assert_eq!(r.refused(step(refused)), "right_unknown");
    }
    // One that knows nothing itself settles nothing, for nobody.
    assert_eq!(asked(&mut r, 'p', Position::new(1, 0), false), Right::Unknown);
    for unhelpful in [Right::Unknown, Right::Released { id: id(1), order, point }] {
        r.ok(learn(unhelpful));
        assert!(r.state.is_right_unknown(the_vm()) && !r.state.is_settled_by(the_vm(), &unhelpful));
    }
    r.ok(learn(Right::Kept));
    assert!(!r.state.is_right_unknown(the_vm()));
    take(&mut r, 1, 50);

    let mut p = primary_side();
    let state = p.state.clone();
    p.recover(state, R1, &[]);
    assert!(!p.state.may_run(the_vm()));
    assert_eq!(p.refused(step(FailoverStep::Depart { id: id(1) })), "right_unknown");
    assert_eq!(p.refused(Command::Disable(the_vm())), "right_unknown");
    p.ok(learn(Right::NotTaken));
    assert!(p.state.may_run(the_vm()));
}

#[test]
fn a_release_of_an_earlier_life_is_never_taken_once_its_cluster_has_asked() {
    let (mut r, _) = replica_side();
    let epoch = r.replica(VM).epoch;
    assert_eq!(asked(&mut r, 'p', Position::new(1, 0), false), Right::NotTaken);
    let offered = |order| FailoverStep::Take { epoch, id: id(1), order, from: cap('p'), point: POINT };
    assert_eq!(r.ok(step(offered(Position::new(0, 999)))), Outcome::HandOff(HandOff::Declined));
    assert_eq!(r.ok(step(offered(Position::new(1, 3)))), Outcome::HandOff(HandOff::Taken));
}

#[test]
fn a_primary_whose_release_was_lost_learns_that_the_vm_has_gone() {
    let (mut p, (mut r, _)) = (primary_side(), replica_side());
    let before = p.state.clone();
    p.ok(step(FailoverStep::Depart { id: id(1) }));
    p.ok(step(FailoverStep::Release { id: id(1), point: POINT }));
    let order = p.state.departures.get(&the_vm()).unwrap().order;
    take(&mut r, 1, order.index());
    p.recover(before, R1, &[]);
    let right = asked(&mut r, 'p', life(&p), false);
    assert_eq!(right, Right::Taken { id: id(1), order, point: POINT });
    p.ok(learn(right));
    let departure = p.state.departures.get(&the_vm()).unwrap();
    assert_eq!((departure.id, departure.state), (id(1), DepartureState::Departed(POINT)));
    assert!(!p.state.may_run(the_vm()) && r.state.may_run(the_vm()));
}

#[test]
fn an_operator_decides_about_an_open_hand_over() {
    let released = Right::Released { id: id(1), order: Position::new(0, 50), point: POINT };
    let recovered = || {
        let (mut r, [_, r2, _]) = replica_side();
        let state = r.state.clone();
        r.recover(state, r2, &[the_vm()]);
        r
    };
    let mut r = recovered();
    r.ok(decide(Side::Here, released, &r));
    assert_eq!(promotion(&r), Some((id(1), true, PromotionState::Running)));
    assert!(r.state.may_run(the_vm()));
    assert_eq!(r.refused(decide(Side::There, released, &r)), "right_known");

    let mut r = recovered();
    assert_eq!(r.refused(decide(Side::Here, Right::Unknown, &r)), "nothing_here");
    r.ok(decide(Side::There, released, &r));
    assert_eq!(r.state.hand_off(the_vm(), &cap('p'), id(1), Position::new(0, 50)), HandOff::Declined);

    // One that is decided without the other cluster is closed, too, once that releases the VM anew.
    let mut r = recovered();
    r.ok(decide(Side::There, Right::Unknown, &r));
    take(&mut r, 1, 50);
}

#[test]
fn what_ran_at_a_lost_node_is_not_started_elsewhere_unless_somebody_says_so() {
    let lost = || {
        let (mut r, [_, _, r3]) = replica_side();
        take(&mut r, 1, 50);
        let state = r.state.clone();
        r.recover(state, r3, &[the_vm()]);
        assert_eq!(r.state.promotions.get(&the_vm()).unwrap().holder, r3);
        r
    };
    let gone = Right::Released { id: id(1), order: Position::new(0, 50), point: POINT };
    let mut r = lost();
    assert!(!r.state.is_settled_by(the_vm(), &gone), "the lost node may run it still");
    r.ok(decide(Side::Here, gone, &r));
    r.ok(step(FailoverStep::Start { id: id(1) }));

    let mut r = lost();
    r.ok(decide(Side::There, gone, &r));
    assert_eq!(promotion(&r), Some((id(1), false, PromotionState::Abandoning)));
    r.ok(step(FailoverStep::Withdrawn { id: id(1) }));
    assert_eq!(r.state.hand_off(the_vm(), &cap('p'), id(1), Position::new(0, 50)), HandOff::Declined);
}

#[test]
fn a_decision_that_the_other_cluster_contradicts_makes_two_branches() {
    let (mut p, (mut r, _)) = (primary_side(), replica_side());
    let before = p.state.clone();
    take(&mut r, 1, 50);
    p.recover(before, R1, &[]);
    p.ok(decide(Side::Here, Right::Unknown, &p));
    assert!(p.state.may_run(the_vm()), "by the operator's word");
    let contested = asked(&mut r, 'p', life(&p), true);
    assert_eq!(contested, Right::Branch { id: id(1), parent: None, point: POINT });
    assert!(!r.state.may_run(the_vm()));
    p.ok(learn(contested));
    assert_eq!(p.state.rivals.get(&the_vm()).unwrap().id, id(1));
    assert!(!p.state.unknown_rights.contains(&the_vm()));

    // The other way: this cluster gives it up before the other one is heard.
    let (mut p, before) = (primary_side(), primary_side().state);
    p.recover(before, R1, &[]);
    p.ok(decide(Side::There, Right::Unknown, &p));
    p.ok(learn(Right::NotTaken));
    assert!(!p.state.may_run(the_vm()), "an operator has said no");
}

/// Two clusters, their past, and what is on the way between them.
struct Sites {
    p: Bench,
    r: Bench,
    holder: MemberId,
    past: [Vec<State>; 2],
    questions: Vec<(PromotionId, Position, PointName, DepartureState)>,
    answers: Vec<(PromotionId, HandOff)>,
    /// Answers about rights, to P and to R.
    rights: [Vec<Right>; 2],
    departures: u128,
}

impl Sites {
    fn new() -> Self {
        let (r, [_, holder, _]) = replica_side();
        let (questions, answers, rights) = (Vec::new(), Vec::new(), Default::default());
        Self { p: primary_side(), r, holder, past: Default::default(), questions, answers, rights, departures: 0 }
    }

    fn ask(&mut self) {
        let Some(departure) = self.p.state.departures.get(&the_vm()) else { return };
        let Some(point) = departure.state.released() else { return };
        self.questions.push((departure.id, departure.order, point, departure.state));
    }

    fn arrive(&mut self, (id, order, point, state): (PromotionId, Position, PointName, DepartureState)) {
        let (from, epoch): (Fqdn, _) = (cap('p'), self.r.replica(VM).epoch);
        let command = match state {
            DepartureState::Released(_) => FailoverStep::Take { epoch, id, order, from, point },
            DepartureState::Recalling(_) => FailoverStep::Decline { id, order, from },
            // Answered by an owner that knows what is committed, and knows whether it does.
            _ if self.r.state.is_right_unknown(the_vm()) => return,
            _ => return self.answers.push((id, self.r.state.hand_off(the_vm(), &from, id, order))),
        };
        if let Ok(Outcome::HandOff(answer)) = self.r.run(step(command)) {
            self.answers.push((id, answer));
        }
    }

    fn heard(&mut self, (id, answer): (PromotionId, HandOff)) {
        match answer {
            HandOff::Taken => drop(self.p.run(step(FailoverStep::Departed { id }))),
            HandOff::Declined => drop(self.p.run(step(FailoverStep::Reinstate { id }))),
            HandOff::Open => {}
        }
    }

    /// Asks about the right wherever it is unknown.
    fn inquire(&mut self) {
        if self.p.state.unknown_rights.contains(&the_vm()) {
            self.rights[0].push(asked(&mut self.r, 'p', life(&self.p), false));
        }
        if self.r.state.unknown_rights.contains(&the_vm()) {
            // A cluster is asked under the name that it knows: here that of the replica's cluster.
            let to = self.p.state.primaries.get(&the_vm()).unwrap().to.clone();
            self.rights[1].push(self.p.state.right_for(the_vm(), &to));
        }
    }

    /// A cluster loses its last commits, at most `back` of them. What its processes had asked is gone with them.
    fn recover(&mut self, which: usize, back: usize) {
        let past = &mut self.past[which];
        let Some(state) = past.len().checked_sub(1 + back % 6).and_then(|at| past.get(at).cloned()) else { return };
        past.clear();
        self.rights[which].clear();
        if which == 0 {
            self.answers.clear();
            self.p.recover(state, R1, &[]);
        } else {
            self.r.recover(state, self.holder, &[the_vm()]);
        }
    }

    fn act(&mut self, kind: u8, at: usize, keep: bool) {
        let current = self.p.state.departures.get(&the_vm()).map_or(id(0), |departure| departure.id);
        let promoted = self.r.state.promotions.get(&the_vm()).map_or(id(0), |promotion| promotion.id);
        match kind {
            0 | 1 => {
                self.departures += 1;
                drop(self.p.run(step(FailoverStep::Depart { id: id(self.departures) })));
            }
            2 | 3 => drop(self.p.run(step(FailoverStep::Release { id: current, point: POINT }))),
            4 => drop(self.p.run(step(FailoverStep::Recall { id: current }))),
            5..=7 => self.ask(),
            8..=11 if !self.questions.is_empty() => {
                let at = at % self.questions.len();
                let question = if keep { self.questions[at] } else { self.questions.swap_remove(at) };
                self.arrive(question);
            }
            12..=14 if !self.answers.is_empty() => {
                let at = at % self.answers.len();
                let answer = self.answers.swap_remove(at);
                self.heard(answer);
            }
            15 => drop(self.r.run(step(FailoverStep::Withdraw { id: promoted }))),
            16 => drop(self.r.run(step(FailoverStep::Withdrawn { id: promoted }))),
            17 => drop(self.r.run(step(FailoverStep::Complete { id: promoted }))),
            18 | 19 => self.inquire(),
            20..=22 if !self.rights[0].is_empty() => {
                let right = self.rights[0].swap_remove(at % self.rights[0].len());
                self.p.ok(learn(right));
            }
            23..=25 if !self.rights[1].is_empty() => {
                let right = self.rights[1].swap_remove(at % self.rights[1].len());
                self.r.ok(learn(right));
            }
            26 => self.recover(0, at),
            27 => self.recover(1, at),
            _ => {}
        }
        self.past[0].push(self.p.state.clone());
        self.past[1].push(self.r.state.clone());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Messages are lost, doubled and reordered, either cluster loses its last commits and is recovered, at any time.
    #[test]
    fn at_most_one_cluster_has_the_right_to_run_though_commits_are_lost(
        moves in prop::collection::vec((0u8..28, any::<usize>(), any::<bool>()), 1..200)
    ) {
        let mut sites = Sites::new();
        for (kind, at, keep) in moves {
            sites.act(kind, at, keep);
            let (here, there) = (sites.p.state.may_run(the_vm()), sites.r.state.may_run(the_vm()));
            prop_assert!(!(here && there), "both may run it: {:?} and {:?}",
                sites.p.state.departures.get(&the_vm()), sites.r.state.promotions.get(&the_vm()));
        }
        // With nobody else recovered and messages that arrive, P knows; R may need an operator for an open hand-over.
        for _ in 0..4 {
            sites.questions.clear();
            sites.ask();
            if let Some(question) = sites.questions.pop() {
                sites.arrive(question);
            }
            if let Some(answer) = sites.answers.pop() {
                sites.heard(answer);
            }
            sites.rights = Default::default();
            sites.inquire();
            let [to_p, to_r] = std::mem::take(&mut sites.rights);
            to_p.into_iter().for_each(|right| drop(sites.p.ok(learn(right))));
            to_r.into_iter().for_each(|right| drop(sites.r.ok(learn(right))));
        }
        prop_assert!(
            !sites.p.state.is_right_unknown(the_vm()) || sites.r.state.is_right_unknown(the_vm()),
            "a cluster that knows tells the other one"
        );
    }
}
