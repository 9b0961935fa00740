//! Reversing and resolving: what each half asks for.

use landfall_proto::id::{Root, UnixMillis, VmId};
use landfall_proto::model::{Command, FailoverStep, Loss, PointName, PromotionId, Return, Rival, Side};

use super::State;
use super::fixture::{Bench, R1, cap, vm};

pub(super) const VM: u128 = 7;
pub(super) const POINT: PointName = PointName { sequence: 3, root: Root([9; 32]) };

pub(super) fn id(number: u128) -> PromotionId {
    PromotionId(number)
}

pub(super) fn it() -> VmId {
    vm(VM).id
}

pub(super) fn step(step: FailoverStep) -> Command {
    Command::Failover { vm: it(), step: Box::new(step) }
}

fn back(number: u128, branch: bool) -> Return {
    Return { id: id(number), point: POINT, branch }
}

pub(super) fn returns(number: u128, parent: Option<PromotionId>, branch: bool) -> Command {
    step(FailoverStep::Return { back: back(number, branch), parent, from: cap('p') })
}

pub(super) fn rival(number: u128, parent: Option<PromotionId>) -> Command {
    let since = UnixMillis(1);
    let rival = Rival { id: id(number), parent, from: cap('p'), point: POINT, since, keep: None, yielded: false };
    step(FailoverStep::Branch(Box::new(rival)))
}

pub(super) fn primary() -> Bench {
    let (mut bench, _) = Bench::ready();
    bench.enable(VM);
    bench.ok(bench.claims(VM, R1, Default::default(), false));
    bench
}

pub(super) fn replica() -> Bench {
    let (mut bench, _) = Bench::ready();
    bench.acknowledged(VM, R1, &[]);
    bench
}

#[test]
fn only_a_final_failover_is_reversed_and_then_it_is_not_taken_back() {
    let mut r = replica();
    assert_eq!(r.refused(step(FailoverStep::Reverse { id: id(1) })), "no_failover");
    let epoch = r.replica(VM).epoch;
    r.ok(step(FailoverStep::Promote { epoch, id: id(1), point: POINT, loss: Loss::default() }));
    assert_eq!(r.refused(step(FailoverStep::Reverse { id: id(1) })), "not_completed");
    assert_eq!(r.refused(step(FailoverStep::Reversed { id: id(1) })), "not_reversing");
    r.ok(step(FailoverStep::Complete { id: id(1) }));
    r.ok(step(FailoverStep::Reverse { id: id(1) }));
    r.ok(step(FailoverStep::Reverse { id: id(1) }));
    assert_eq!(r.refused(step(FailoverStep::Withdraw { id: id(1) })), "reversing");
    assert_eq!(r.refused(step(FailoverStep::Abandon { id: id(1), decided_there: false })), "reversing");
    r.ok(step(FailoverStep::Reversed { id: id(1) }));
    r.ok(step(FailoverStep::Reversed { id: id(1) }));
    assert!(r.state.may_run(it()) && r.state.replicas.is_empty() && r.state.promotions.is_empty());
    assert_eq!(r.state.primaries.get(&it()).unwrap().to, cap('p'));
    assert_eq!(r.state.lineage(it()), Some(id(1)));
    assert_eq!(State::from_archive(&r.state.archive().unwrap()).unwrap(), r.state);
}

#[test]
fn a_cluster_keeps_a_replica_only_of_what_it_has_given_away() {
    let mut p = primary();
    let blockers = |p: &Bench, number, parent| -> Vec<String> {
        p.state.return_blockers(it(), id(number), parent, &cap('p')).into_iter().map(|blocker| blocker.code).collect()
    };
    assert_eq!(blockers(&p, 1, None), ["not_yielded"]);
    assert_eq!(blockers(&p, 1, Some(id(9))), ["other_promotion", "not_yielded"], "all at once");
    assert_eq!(p.refused(returns(1, None, false)), "not_yielded");
    p.ok(step(FailoverStep::Depart { id: id(1) }));
    assert_eq!(blockers(&p, 1, None), ["failing_over"]);
    p.ok(step(FailoverStep::Release { id: id(1), point: POINT }));
    p.ok(step(FailoverStep::Departed { id: id(1) }));
    p.set(&[("replication_enabled", "false")]);
    assert_eq!(blockers(&p, 1, None), ["replication_disabled"]);
    p.set(&[("replication_enabled", "true")]);
    p.ok(returns(1, None, false));
    p.ok(returns(1, None, false));
    let kept = p.replica(VM).clone();
    assert_eq!((kept.holder, kept.acknowledged, p.state.may_run(it())), (R1, false, false));
    // Its disks are here: nobody else is filled, and nothing is failed over before they are a point.
    let other = p.state.members.keys().find(|member| **member != R1).copied().unwrap();
    assert_eq!(p.refused(Command::Seed { vm: it(), epoch: kept.epoch, to: other }), "returning");
    assert_eq!(p.refused(Command::Handover { vm: it(), epoch: kept.epoch, to: Some(other) }), "returning");
    assert_eq!(State::from_archive(&p.state.archive().unwrap()).unwrap(), p.state);
    p.ok(step(FailoverStep::Returned { id: id(1) }));
    p.ok(step(FailoverStep::Returned { id: id(1) }));
    assert!(p.replica(VM).acknowledged && p.replica(VM).in_sync.contains(&R1));
}

#[test]
fn a_replica_that_is_placed_anew_descends_from_the_promotion_that_its_primary_runs_under() {
    let mut r = replica();
    let placed = |r: &Bench, lineage: Option<PromotionId>| {
        let mut command = r.asks_to_place(VM, 'p', R1);
        if let Command::Place { lineage: told, .. } = &mut command {
            *told = lineage;
        }
        command
    };
    r.ok(placed(&r, Some(id(4))));
    assert_eq!(r.state.lineage(it()), Some(id(4)));
    r.ok(placed(&r, None));
    assert_eq!(r.state.lineage(it()), None, "it was enabled anew");
    r.ok(Command::RemoveReplica { vm: it(), primary: None });
    r.ok(placed(&r, Some(id(5))));
    let epoch = r.replica(VM).epoch;
    r.ok(Command::Acknowledged { vm: it(), epoch });
    r.ok(step(FailoverStep::Promote { epoch, id: id(6), point: POINT, loss: Loss::default() }));
    assert_eq!(r.state.promotions.get(&it()).unwrap().parent, Some(id(5)));
}

#[test]
fn a_final_failover_is_detached_and_no_replica_is_placed_beside_it() {
    let mut r = replica();
    let epoch = r.replica(VM).epoch;
    r.ok(step(FailoverStep::Promote { epoch, id: id(1), point: POINT, loss: Loss::default() }));
    assert_eq!(r.refused(step(FailoverStep::Detach { id: id(1) })), "not_completed");
    r.ok(step(FailoverStep::Complete { id: id(1) }));
    assert_eq!(r.refused(step(FailoverStep::Detach { id: id(2) })), "no_failover");
    r.ok(step(FailoverStep::Detach { id: id(1) }));
    r.ok(step(FailoverStep::Detach { id: id(1) }));
    assert!(r.state.is_detached(it()) && r.state.promotions.is_empty() && r.state.replicas.is_empty());
    assert_eq!(State::from_archive(&r.state.archive().unwrap()).unwrap(), r.state);
    assert_eq!(r.refused(r.asks_to_place(VM, 'p', R1)), "own_vm");
    r.enable(VM);
    assert_eq!((r.state.is_detached(it()), r.state.lineage(it())), (false, Some(id(1))));
    // Once it has given the VM up, the other cluster may end its part, too.
    let mut p = primary();
    p.ok(rival(1, None));
    assert_eq!(p.refused(Command::Disable(it())), "branched");
    p.ok(step(FailoverStep::Resolve { id: id(1), keep: Side::There }));
    p.ok(step(FailoverStep::Yielded { id: id(1) }));
    p.ok(Command::Disable(it()));
    assert!(p.state.rivals.is_empty());
}

#[test]
fn a_sibling_is_a_rival_and_a_late_word_of_an_earlier_one_is_not() {
    let mut p = primary();
    assert_eq!(p.refused(rival(5, Some(id(4)))), "other_promotion");
    p.ok(rival(5, None));
    p.ok(rival(5, None));
    assert!(p.state.may_run(it()), "what runs goes on");
    assert_eq!(p.refused(step(FailoverStep::Depart { id: id(6) })), "branched");
    assert_eq!(p.refused(Command::Disable(it())), "branched");
    assert_eq!(p.refused(step(FailoverStep::Yielded { id: id(5) })), "not_resolved");
    assert_eq!(State::from_archive(&p.state.archive().unwrap()).unwrap(), p.state);
    let mut here = p.clone();
    here.ok(step(FailoverStep::Resolve { id: id(5), keep: Side::Here }));
    assert_eq!(here.refused(step(FailoverStep::Resolve { id: id(5), keep: Side::There })), "resolved");
    assert_eq!(here.refused(returns(5, None, true)), "kept_here");
    here.ok(step(FailoverStep::Merged { id: id(5) }));
    assert_eq!(here.refused(rival(5, None)), "other_promotion", "a late word of what is dropped");
    assert_eq!(State::from_archive(&here.state.archive().unwrap()).unwrap(), here.state);
    assert!(here.state.rivals.is_empty() && here.state.primaries.get(&it()).unwrap().resync.is_some());
    p.ok(step(FailoverStep::Resolve { id: id(5), keep: Side::There }));
    p.ok(step(FailoverStep::Yielded { id: id(5) }));
    assert!(!p.state.may_run(it()));
    assert_eq!(p.refused(step(FailoverStep::Resolve { id: id(5), keep: Side::Here })), "resolved");
    p.ok(returns(5, None, true));
    assert!(p.state.returns.get(&it()).unwrap().branch);
    assert_eq!(p.refused(rival(5, None)), "not_found", "it is a replica now");
}
