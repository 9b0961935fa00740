//! How a VM's replication stands and how well it is, from what is committed and what its two ends say.
//!
//! States and the meaning of Normal, Warning and Critical are Hyper-V's (its replication page, 3.1 and 3.2): Critical
//! where the primary cannot send, must resynchronize, or the replica is paused; Warning where the newest point is late or
//! incomplete, more than a fifth of the cycles were missed or the average latency is high in the monitoring window, or the
//! primary is paused. What was counted in the window outlives its cause until the window ends or statistics are reset.

use std::time::Duration;

use landfall_proto::id::UnixMillis;
use landfall_proto::message::control::{HolderFigures, Point, PointState, SenderFigures};
use landfall_proto::model::{Primary, Replica};
use landfall_proto::{Class, Refusal};

use super::health_rules as rules;
use super::reason::Reasons;
pub use super::reason::Verdict;
use crate::decide::resync::RESYNC_REQUIRED;
use crate::surface::vm::ReplicationState;

/// The code with which a holder refuses a session while its replica is paused.
pub const PAUSED_AT_REPLICA: &str = "paused_at_replica";

fn newest(reasons: &mut Reasons, point: &Point, interval: Duration, now: UnixMillis) {
    if let Some(age) = rules::late(point.taken_at, interval, now) {
        let command = reasons.vm("show");
        reasons.warning("point_late", format!("the newest point is {} s old", age.as_secs()), command);
    }
}

/// What the sender has counted in the monitoring window.
fn window(reasons: &mut Reasons, sender: &SenderFigures, interval: Duration) {
    if let Some((missed, due)) = rules::missed(&sender.statistics) {
        let command = reasons.vm("reset-statistics");
        reasons.warning("cycles_missed", format!("{missed} of {due} cycles were missed in this window"), command);
    }
    if let Some(average) = rules::slow(&sender.statistics, interval) {
        let message = format!("a change set takes {} s on average in this window", average.as_secs());
        reasons.warning("latency_high", message, "landfall settings show");
    }
    if let Some(ahead) = sender.clock_skew_ms.and_then(rules::skewed) {
        reasons.skewed("the other site's", ahead);
    }
}

/// Why the sender cannot send, and how the VM stands by that.
fn fault(reasons: &mut Reasons, fault: &Refusal) -> ReplicationState {
    match fault.code.as_str() {
        PAUSED_AT_REPLICA => {
            let command = reasons.vm("resume");
            reasons.critical(PAUSED_AT_REPLICA, fault.message.clone(), command);
            ReplicationState::Suspended
        }
        RESYNC_REQUIRED => {
            let command = reasons.vm("resync");
            reasons.critical(RESYNC_REQUIRED, fault.message.clone(), command);
            ReplicationState::WaitingToResynchronize
        }
        _ => {
            let unreachable = fault.class == Class::Unreachable;
            let command = if unreachable { "landfall peer list" } else { "landfall event tail --no-follow" };
            reasons.critical("cannot_send", fault.message.clone(), command);
            ReplicationState::Error
        }
    }
}

/// The verdict at the primary's side. `sender` is `None` where the sending node does not answer.
pub fn of_primary(primary: &Primary, sender: Option<&SenderFigures>, now: UnixMillis) -> Verdict {
    let mut reasons = Reasons::of(primary.vm.id);
    if let Some(stop) = &primary.stopped {
        reasons.stopped(stop, "landfall peer list".to_owned());
        return reasons.verdict(ReplicationState::Stopped);
    }
    if !primary.rivals.is_empty() {
        let command = reasons.vm("show");
        let message = "the VM is on more than one node: nothing is sent until one of them lets go of it";
        reasons.critical("on_several_nodes", message, command);
        return reasons.verdict(ReplicationState::Error);
    }
    if primary.sender.is_none() {
        reasons.critical("no_sender", "no node of this cluster has the VM", "landfall node list");
        return reasons.verdict(ReplicationState::Error);
    }
    if primary.paused.is_some() {
        let command = reasons.vm("resume");
        reasons.warning("paused", "it is paused at the primary: nothing is sent", command);
    }
    let Some(sender) = sender else {
        reasons.critical("sender_silent", "the sending node does not answer", "landfall node list");
        return reasons.verdict(ReplicationState::Error);
    };
    let interval = sender
        .testing_interval_ms
        .map_or_else(|| Duration::from_secs(u32::from(primary.frequency).into()), Duration::from_millis);
    let starts_at = primary.starts_at.filter(|at| *at > now);
    match &sender.acknowledged {
        Some(point) => newest(&mut reasons, point, interval, now),
        None => reasons.incomplete(starts_at),
    }
    if sender.unconfirmed.is_some() {
        let message = "the newest point is not confirmed: its node cannot ask its quorum";
        reasons.warning("point_unconfirmed", message, "landfall cluster status");
    }
    window(&mut reasons, sender, interval);
    if primary.paused.is_some() {
        return reasons.verdict(ReplicationState::Suspended);
    }
    if let Some(refusal) = &sender.fault {
        let state = fault(&mut reasons, refusal);
        return reasons.verdict(state);
    }
    let state = match (&sender.acknowledged, sender.activity.as_str()) {
        (_, "comparing") => ReplicationState::Resynchronizing,
        (None, "placing" | "scheduled" | "queued") => ReplicationState::ReadyForInitialReplication,
        (None, _) => ReplicationState::InitialReplication,
        (Some(_), _) => ReplicationState::Replicating,
    };
    reasons.verdict(state)
}

/// A replica that has fewer copies than are wanted and could be had.
fn copies(reasons: &mut Reasons, replica: &Replica, possible: usize) {
    let present = replica.in_sync.len();
    if !replica.acknowledged || replica.seeding.is_some() || present >= possible {
        return;
    }
    let doing = if replica.joiner.is_some() { "another node copies it" } else { "no other node can take it now" };
    let message = format!("{present} of {possible} copies are complete: {doing}");
    reasons.warning("copies_missing", message, "landfall node list");
}

/// The verdict at the replica's side. `holder` is `None` where the receiving node does not answer; `possible` is how many
/// copies are wanted, but no more than there are nodes that could have one.
pub fn of_replica(replica: &Replica, holder: Option<&HolderFigures>, possible: usize, now: UnixMillis) -> Verdict {
    let mut reasons = Reasons::of(replica.vm.id);
    if let Some(stop) = &replica.stopped {
        reasons.stopped(stop, format!("landfall authorization add {}", replica.primary));
        return reasons.verdict(ReplicationState::Stopped);
    }
    if replica.paused.is_some() {
        let command = reasons.vm("resume");
        let message = "it is paused at the replica: nothing is taken from its primary";
        reasons.critical(PAUSED_AT_REPLICA, message, command);
    }
    match holder {
        None => {
            let message = "the node that receives it does not answer";
            reasons.critical("holder_silent", message, "landfall node list");
        }
        Some(holder) => {
            if let Some(fault) = &holder.fault {
                reasons.critical("replica_fault", fault.clone(), "landfall event tail --no-follow");
            }
            if let Some(damage) = &holder.damage {
                let command = reasons.vm("resync");
                reasons.critical("point_damaged", damage.clone(), command);
            }
            let listed = holder.points.iter().rev().find(|point| point.state != PointState::Unreachable);
            match listed {
                Some(point) => {
                    newest(&mut reasons, point, Duration::from_secs(u32::from(replica.frequency).into()), now);
                    if let Some(ahead) = rules::taken_ahead(point.taken_at, now) {
                        reasons.skewed("the sender's", ahead);
                    }
                }
                None => reasons.incomplete(None),
            }
        }
    }
    copies(&mut reasons, replica, possible);
    let state = if replica.seeding.is_some() {
        let message = "no node with the acknowledged points answers: a new one is being filled";
        reasons.warning("seeding", message, "landfall node list");
        ReplicationState::Seeding
    } else if replica.handover.is_some() {
        ReplicationState::Moving
    } else if replica.paused.is_some() {
        ReplicationState::Suspended
    } else if holder.is_none() {
        ReplicationState::Error
    } else if replica.acknowledged {
        ReplicationState::Replicating
    } else {
        ReplicationState::InitialReplication
    };
    reasons.verdict(state)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use landfall_proto::id::{Epoch, MemberId, Root, SenderEpoch, VmId};
    use landfall_proto::message::control::{Consistency, Statistics};
    use landfall_proto::model::{Frequency, VmSpec};

    use super::*;
    use crate::surface::vm::Health;

    const NOW: UnixMillis = UnixMillis(10_000_000_000);

    fn vm() -> VmSpec {
        VmSpec {
            id: VmId(uuid::Uuid::from_u128(7)),
            name: "vm".parse().unwrap(),
            disks: vec![],
            adapters: vec![],
            launch: Default::default(),
        }
    }

    fn point(age_s: u64, state: PointState) -> Point {
        Point {
            sequence: 3,
            taken_at: UnixMillis(NOW.0 - age_s * 1000),
            consistency: Consistency::Crash,
            bytes: 1,
            root: Root([0; 32]),
            copies: vec![],
            state,
            stays: true,
            verified_at: None,
        }
    }

    fn primary() -> Primary {
        Primary {
            vm: vm(),
            to: "r.contoso.com".parse().unwrap(),
            frequency: Frequency::HalfMinute,
            recovery_points: 0,
            sender: Some(MemberId::from_number(1)),
            sender_epoch: SenderEpoch::from_number(3),
            rivals: BTreeSet::new(),
            stopped: None,
            created_at: UnixMillis(0),
            paused: None,
            resync: None,
            starts_at: None,
            limit: None,
            excluded: Vec::new(),
        }
    }

    fn sender(age_s: u64) -> SenderFigures {
        SenderFigures {
            activity: "waiting".to_owned(),
            acknowledged: Some(point(age_s, PointState::Listed)),
            ..SenderFigures::default()
        }
    }

    #[test]
    fn a_fresh_point_is_normal_a_late_one_a_warning_and_a_fault_critical() {
        assert_eq!(of_primary(&primary(), Some(&sender(20)), NOW).health, Health::Normal);
        assert_eq!(of_primary(&primary(), Some(&sender(200)), NOW).health, Health::Warning);
        assert_eq!(of_primary(&primary(), None, NOW).health, Health::Critical);
        let rivals = Primary { rivals: BTreeSet::from([MemberId::from_number(2)]), ..primary() };
        let verdict = of_primary(&rivals, Some(&sender(1)), NOW);
        assert_eq!((verdict.state, verdict.health), (ReplicationState::Error, Health::Critical));
    }

    fn codes(verdict: &Verdict) -> Vec<(&str, Health)> {
        verdict.details.iter().map(|detail| (detail.code.as_str(), detail.severity)).collect()
    }

    #[test]
    fn each_rule_of_the_primary_is_a_reason_with_its_code_and_the_worst_comes_first() {
        let of = |sender: SenderFigures| of_primary(&primary(), Some(&sender), NOW);
        assert_eq!(codes(&of(sender(20))), []);
        let fault = |code: &str| Some(Refusal::new(Class::Unreachable, code, "why"));
        let missed = Statistics { cycles: 6, missed: 4, latency_ms: 6 * 40_000, ..Statistics::default() };
        let all = of(SenderFigures {
            fault: fault("connection_lost"),
            statistics: missed,
            clock_skew_ms: Some(-60_000),
            ..sender(200)
        });
        assert_eq!((all.state, all.health), (ReplicationState::Error, Health::Critical));
        let warning = |code| (code, Health::Warning);
        let expected = ["point_late", "cycles_missed", "latency_high", "clock_skew"].map(warning);
        assert_eq!(codes(&all), [&[("cannot_send", Health::Critical)], &expected[..]].concat());
        assert!(all.reasons()[4].contains("60 s behind"), "{all:?}");
        assert!(all.details.iter().all(|detail| !detail.command.is_empty()));

        let there = of(SenderFigures { fault: fault(PAUSED_AT_REPLICA), ..sender(1) });
        assert_eq!(
            (there.state, codes(&there)[0]),
            (ReplicationState::Suspended, (PAUSED_AT_REPLICA, Health::Critical))
        );
        let required = of(SenderFigures { fault: fault(RESYNC_REQUIRED), ..sender(1) });
        assert_eq!(required.state, ReplicationState::WaitingToResynchronize);
        assert_eq!(required.health, Health::Critical);
        assert!(required.details[0].command.starts_with("landfall vm resync "), "{required:?}");
    }

    #[test]
    fn a_paused_or_unfinished_primary_is_a_warning() {
        let paused = Primary { paused: Some(NOW), ..primary() };
        let verdict = of_primary(&paused, Some(&sender(1)), NOW);
        assert_eq!((verdict.state, codes(&verdict)), (ReplicationState::Suspended, vec![("paused", Health::Warning)]));
        let scheduled = Primary { starts_at: Some(UnixMillis(NOW.0 + 1)), ..primary() };
        let figures = SenderFigures { activity: "scheduled".to_owned(), ..SenderFigures::default() };
        let verdict = of_primary(&scheduled, Some(&figures), NOW);
        assert_eq!(verdict.state, ReplicationState::ReadyForInitialReplication);
        assert_eq!(codes(&verdict), [("initial_copy_scheduled", Health::Warning)]);
        let begun = SenderFigures { activity: "sending".to_owned(), ..SenderFigures::default() };
        let verdict = of_primary(&primary(), Some(&begun), NOW);
        assert_eq!(verdict.state, ReplicationState::InitialReplication);
        assert_eq!(codes(&verdict), [("initial_copy_incomplete", Health::Warning)]);
    }

    #[test]
    fn a_paused_replica_is_critical_and_a_sender_whose_clock_is_ahead_a_warning() {
        let paused = Replica { paused: Some(NOW), seeding: None, ..replica() };
        let holder = |taken_at| HolderFigures {
            branches: Vec::new(),
            epoch: Epoch::from_number(4),
            points: vec![Point { taken_at: UnixMillis(taken_at), ..point(0, PointState::Listed) }],
            received: Default::default(),
            fault: None,
            damage: None,
        };
        let verdict = of_replica(&paused, Some(&holder(NOW.0)), 1, NOW);
        assert_eq!(verdict.state, ReplicationState::Suspended);
        assert_eq!(codes(&verdict), [(PAUSED_AT_REPLICA, Health::Critical)]);
        let verdict = of_replica(&Replica { paused: None, ..paused }, Some(&holder(NOW.0 + 30_000)), 1, NOW);
        assert_eq!(
            (verdict.state, codes(&verdict)),
            (ReplicationState::Replicating, vec![("clock_skew", Health::Warning)])
        );
    }

    fn replica() -> Replica {
        Replica {
            vm: vm(),
            epoch: Epoch::from_number(4),
            seeding: Some(MemberId::from_number(2)),
            ..crate::decide::copies::sample()
        }
    }

    #[test]
    fn a_copy_that_could_be_had_and_is_not_complete_is_a_warning_and_one_that_could_not_be_is_none() {
        let one = Replica { seeding: None, ..replica() };
        let holder = HolderFigures {
            branches: Vec::new(),
            epoch: Epoch::from_number(4),
            points: vec![point(5, PointState::Listed)],
            received: Default::default(),
            fault: None,
            damage: None,
        };
        assert_eq!(codes(&of_replica(&one, Some(&holder), 1, NOW)), []);
        let missing = of_replica(&one, Some(&holder), 2, NOW);
        assert_eq!(codes(&missing), [("copies_missing", Health::Warning)]);
        assert!(missing.reasons()[0].contains("1 of 2"), "{missing:?}");
        let two = Replica { in_sync: [1, 2].map(MemberId::from_number).into(), ..one.clone() };
        assert_eq!(codes(&of_replica(&two, Some(&holder), 2, NOW)), []);
        let new = Replica { acknowledged: false, ..one };
        assert_eq!(
            codes(&of_replica(&new, Some(&holder), 2, NOW)),
            [],
            "before the first point there is nothing to copy"
        );
    }

    #[test]
    fn what_is_only_on_a_silent_node_is_not_counted_as_the_newest() {
        let holder = HolderFigures {
            branches: Vec::new(),
            epoch: Epoch::from_number(4),
            points: vec![point(5, PointState::Unreachable)],
            received: Default::default(),
            fault: None,
            damage: None,
        };
        let verdict = of_replica(&replica(), Some(&holder), 1, NOW);
        assert_eq!((verdict.state, verdict.health), (ReplicationState::Seeding, Health::Warning));
        assert!(verdict.reasons().iter().any(|reason| reason.contains("initial copy")), "{verdict:?}");
    }
}
