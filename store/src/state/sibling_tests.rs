//! Two clusters under a VM that is failed over, reversed and resolved: messages lost, doubled and reordered never give both
//! the right to run it, nor leave it to nobody.

use landfall_proto::id::Position;
use landfall_proto::model::{
    Command, DepartureState, FailoverStep, HandOff, Loss, Outcome, PromotionId, PromotionState, Return, Side,
};
use proptest::prelude::*;

use super::fixture::{Bench, R1, cap};
use super::reversal_tests::{POINT, id, it, primary, replica, returns, rival, step};

/// A question on its way to the other cluster.
#[derive(Clone, Copy, Debug)]
enum Ask {
    HandOff { id: PromotionId, order: Position, take: bool, decline: bool },
    Keep { back: Return, parent: Option<PromotionId> },
    Branch { id: PromotionId, parent: Option<PromotionId> },
    Abandon { id: PromotionId, look: bool },
    GiveUp { id: PromotionId },
}

/// An answer on its way back.
#[derive(Clone, Copy, Debug)]
enum Learnt {
    HandOff(PromotionId, HandOff),
    Kept(PromotionId),
    Over(PromotionId),
}

/// Two clusters, each of which calls the other one p, and what is on the way to each.
struct Pair {
    sites: [Bench; 2],
    asks: Vec<(usize, Ask)>,
    learnt: Vec<(usize, Learnt)>,
    next: u128,
}

impl Pair {
    fn new() -> Self {
        Self { sites: [primary(), replica()], asks: Vec::new(), learnt: Vec::new(), next: 0 }
    }

    fn fresh(&mut self) -> PromotionId {
        self.next += 1;
        id(self.next)
    }

    fn rights(&self) -> usize {
        self.sites.iter().filter(|site| site.state.may_run(it())).count()
    }

    /// What the agents of a cluster ask, by what is committed there.
    fn ask(&mut self, at: usize) {
        let (state, to) = (&self.sites[at].state, 1 - at);
        if let Some(departure) = state.departures.get(&it()).filter(|departure| departure.state.released().is_some()) {
            let take = matches!(departure.state, DepartureState::Released(_));
            let decline = matches!(departure.state, DepartureState::Recalling(_));
            self.asks.push((to, Ask::HandOff { id: departure.id, order: departure.order, take, decline }));
        }
        if let Some(promotion) = state.promotions.get(&it()) {
            let (id, parent, branch) = (promotion.id, promotion.parent, promotion.order.is_none());
            if promotion.state == PromotionState::Reversing {
                let back = Return { id, point: POINT, branch };
                self.asks.push((to, Ask::Keep { back, parent }));
            }
            if branch && !promotion.state.is_over() {
                self.asks.push((to, Ask::Branch { id, parent }));
            }
        }
        if let Some(rival) = state.rivals.get(&it()) {
            self.asks.push((to, Ask::Abandon { id: rival.id, look: rival.keep != Some(Side::Here) }));
        }
    }

    fn arrive(&mut self, at: usize, ask: Ask) {
        let (to, from) = (1 - at, cap('p'));
        let site = &mut self.sites[at];
        match ask {
            Ask::HandOff { id, order, take, decline } => {
                let epoch = site.state.replicas.get(&it()).map(|replica| replica.epoch).unwrap_or_default();
                let answer = match (take, decline) {
                    _ if !site.state.replicas.contains(&it()) => return,
                    (true, _) => site.run(step(FailoverStep::Take { epoch, id, order, from, point: POINT })),
                    (_, true) => site.run(step(FailoverStep::Decline { id, order, from })),
                    _ => Ok(Outcome::HandOff(site.state.hand_off(it(), &from, id, order))),
                };
                if let Ok(Outcome::HandOff(answer)) = answer {
                    self.learnt.push((to, Learnt::HandOff(id, answer)));
                }
            }
            Ask::Keep { back, parent } => {
                let blockers = site.state.return_blockers(it(), back.id, parent, &from);
                if back.branch && blockers.iter().all(|blocker| blocker.code == "not_yielded") {
                    drop(site.run(rival(back.id.0, parent)));
                    drop(site.run(step(FailoverStep::Resolve { id: back.id, keep: Side::There })));
                }
                if site.run(returns(back.id.0, parent, back.branch)).is_ok() {
                    self.learnt.push((to, Learnt::Kept(back.id)));
                }
            }
            Ask::Branch { id, parent } => drop(site.run(rival(id.0, parent))),
            Ask::Abandon { id, look } => {
                if !site.state.replicas.contains(&it()) {
                    return;
                }
                if site.state.is_over(it(), id) {
                    self.learnt.push((to, Learnt::Over(id)));
                } else if !look {
                    drop(site.run(step(FailoverStep::Abandon { id, decided_there: true })));
                }
            }
            Ask::GiveUp { id } => drop(site.run(step(FailoverStep::Resolve { id, keep: Side::There }))),
        }
    }

    fn learn(&mut self, at: usize, learnt: Learnt) {
        let command = match learnt {
            Learnt::HandOff(id, HandOff::Taken) => FailoverStep::Departed { id },
            Learnt::HandOff(id, HandOff::Declined) => FailoverStep::Reinstate { id },
            Learnt::HandOff(_, HandOff::Open) => return,
            Learnt::Kept(id) => FailoverStep::Reversed { id },
            Learnt::Over(id) => FailoverStep::Merged { id },
        };
        drop(self.sites[at].run(step(command)));
    }

    /// What the nodes of a cluster do by themselves.
    fn work(&mut self, at: usize) {
        let site = &mut self.sites[at];
        let state = site.state.clone();
        if let Some(promotion) = state.promotions.get(&it()) {
            drop(site.run(step(FailoverStep::Withdrawn { id: promotion.id })));
        }
        if let Some(rival) = state.rivals.get(&it()) {
            drop(site.run(step(FailoverStep::Yielded { id: rival.id })));
        }
        if let Some(back) = state.returns.get(&it()) {
            drop(site.run(step(FailoverStep::Returned { id: back.id })));
        }
        if let Some(primary) = state.primaries.get(&it()).filter(|primary| primary.sender.is_none()) {
            let epoch = primary.sender_epoch;
            drop(site.run(Command::ClaimSender { vm: it(), member: R1, epoch, down: false }));
        }
    }

    /// What an operator asks for.
    fn order(&mut self, at: usize, verb: u8) {
        let fresh = self.fresh();
        let site = &mut self.sites[at];
        let state = &site.state;
        let promotion = state.promotions.get(&it()).map_or(id(0), |promotion| promotion.id);
        let departure = state.departures.get(&it()).map_or(id(0), |departure| departure.id);
        let other = state.rivals.get(&it()).map_or(id(0), |rival| rival.id);
        let epoch = state.replicas.get(&it()).map(|replica| replica.epoch).unwrap_or_default();
        let command = match verb {
            0 | 1 => FailoverStep::Depart { id: fresh },
            2 => FailoverStep::Release { id: departure, point: POINT },
            3 => FailoverStep::Recall { id: departure },
            4 => FailoverStep::Promote { epoch, id: fresh, point: POINT, loss: Loss::default() },
            5 => FailoverStep::Complete { id: promotion },
            6 => FailoverStep::Withdraw { id: promotion },
            7 | 8 => FailoverStep::Reverse { id: promotion },
            9 => FailoverStep::Resolve { id: other, keep: Side::Here },
            10 => FailoverStep::Resolve { id: other, keep: Side::There },
            11 => FailoverStep::Abandon { id: promotion, decided_there: false },
            _ => {
                self.asks.push((1 - at, Ask::GiveUp { id: promotion }));
                return;
            }
        };
        drop(site.run(step(command)));
    }

    fn act(&mut self, kind: u8, at: usize, keep: bool) {
        let site = at % 2;
        match kind {
            0..=12 => self.order(site, kind),
            13..=15 => self.ask(site),
            16 | 17 => self.work(site),
            18..=22 if !self.asks.is_empty() => {
                let at = at % self.asks.len();
                let (to, ask) = if keep { self.asks[at] } else { self.asks.swap_remove(at) };
                self.arrive(to, ask);
            }
            23..=27 if !self.learnt.is_empty() => {
                let at = at % self.learnt.len();
                let (to, learnt) = if keep { self.learnt[at] } else { self.learnt.swap_remove(at) };
                self.learn(to, learnt);
            }
            28 if !self.asks.is_empty() => drop(self.asks.swap_remove(at % self.asks.len())),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever operators want and however messages travel.
    #[test]
    fn reversals_and_branches_give_the_right_to_one_cluster_at_most_and_the_vm_to_somebody(
        moves in prop::collection::vec((0u8..29, any::<usize>(), any::<bool>()), 1..300)
    ) {
        let mut pair = Pair::new();
        for (kind, at, keep) in moves {
            pair.act(kind, at, keep);
            prop_assert!(pair.rights() <= 1, "both may run it: {:?} and {:?}",
                pair.sites[0].state.departures.get(&it()), pair.sites[1].state.promotions.get(&it()));
            let somebodys = pair.sites.iter().any(|site| {
                site.state.primaries.contains(&it()) || site.state.promotions.contains(&it())
            });
            prop_assert!(somebodys, "both clusters only keep a replica");
        }
        // Once messages arrive: one has the right, or an operator has to decide between two branches.
        for _ in 0..8 {
            pair.asks.clear();
            for at in [0, 1] {
                pair.work(at);
                pair.ask(at);
            }
            for (to, ask) in std::mem::take(&mut pair.asks) {
                pair.arrive(to, ask);
            }
            for (to, learnt) in std::mem::take(&mut pair.learnt) {
                pair.learn(to, learnt);
            }
        }
        let branch = pair.sites.iter().any(|site| {
            site.state.promotions.get(&it()).is_some_and(|promotion| promotion.order.is_none())
        });
        prop_assert!(pair.rights() == 1 || branch);
    }
}

#[test]
fn a_late_word_of_a_branch_that_was_taken_back_leaves_nobody_without_the_right() {
    let mut pair = Pair::new();
    pair.order(1, 4);
    pair.ask(1);
    pair.order(1, 6);
    pair.work(1);
    let told = std::mem::take(&mut pair.asks);
    told.into_iter().for_each(|(to, ask)| pair.arrive(to, ask));
    // Another branch has come and gone since, and the first one was chosen.
    pair.order(1, 4);
    pair.order(1, 6);
    pair.order(0, 10);
    for _ in 0..2 {
        pair.work(0);
        pair.work(1);
        pair.ask(0);
        let asked = std::mem::take(&mut pair.asks);
        asked.into_iter().for_each(|(to, ask)| pair.arrive(to, ask));
        let learnt = std::mem::take(&mut pair.learnt);
        learnt.into_iter().for_each(|(to, learnt)| pair.learn(to, learnt));
    }
    assert!(pair.sites[0].state.may_run(it()) && pair.sites[0].state.rivals.is_empty());
}

#[test]
fn the_whole_cycle_comes_back_to_where_it_began() {
    let mut pair = Pair::new();
    for round in 0..3 {
        for at in [0, 1] {
            pair.order(at, 0);
            pair.order(at, 2);
            for _ in 0..3 {
                pair.ask(at);
                for (to, ask) in std::mem::take(&mut pair.asks) {
                    pair.arrive(to, ask);
                }
                for (to, learnt) in std::mem::take(&mut pair.learnt) {
                    pair.learn(to, learnt);
                }
            }
            let there = 1 - at;
            assert!(pair.sites[there].state.may_run(it()) && pair.rights() == 1, "round {round}");
            pair.order(there, 7);
            pair.ask(there);
            for (to, ask) in std::mem::take(&mut pair.asks) {
                pair.arrive(to, ask);
            }
            for (to, learnt) in std::mem::take(&mut pair.learnt) {
                pair.learn(to, learnt);
            }
            pair.work(at);
            pair.work(there);
            assert!(pair.sites[there].state.primaries.contains(&it()), "round {round}");
            assert!(pair.sites[at].state.replicas.get(&it()).unwrap().acknowledged, "round {round}");
        }
    }
}
