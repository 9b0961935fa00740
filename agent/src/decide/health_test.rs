//! How well replication is, rule by rule.

use std::collections::BTreeSet;

use landfall_proto::id::{Epoch, MemberId, Root, SenderEpoch};
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

fn told(holder: HolderFigures, possible: usize) -> Told {
    Told { holder: Some(holder), copies: Vec::new(), possible }
}

fn holding(points: Vec<Point>) -> HolderFigures {
    HolderFigures {
        branches: Vec::new(),
        epoch: Epoch::from_number(4),
        points,
        received: Default::default(),
        fault: None,
        damage: None,
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
    assert_eq!((there.state, codes(&there)[0]), (ReplicationState::Suspended, (PAUSED_AT_REPLICA, Health::Critical)));
    let required = of(SenderFigures { fault: fault(RESYNC_REQUIRED), ..sender(1) });
    assert_eq!(required.state, ReplicationState::WaitingToResynchronize);
    assert_eq!(required.health, Health::Critical);
    assert!(required.details[0].command.starts_with("landfall vm resync "), "{required:?}");
}

#[test]
fn a_disk_that_grows_is_a_warning_while_it_is_followed_and_one_that_shrank_is_critical() {
    let sized = |disk| {
        let fault = crate::decide::disk_size::check(&"vda".parse().unwrap(), 4096, disk).err();
        of_primary(&primary(), Some(&SenderFigures { fault, ..sender(1) }), NOW)
    };
    let (grown, shrunk) = (sized(8192), sized(512));
    assert_eq!((grown.state, codes(&grown)), (ReplicationState::Replicating, vec![(DISK_GROWING, Health::Warning)]));
    assert!(grown.reasons()[0].contains("by itself"), "{grown:?}");
    assert_eq!((shrunk.state, codes(&shrunk)), (ReplicationState::Error, vec![("cannot_send", Health::Critical)]));
    assert_eq!(sized(4096).health, Health::Normal);
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
    let holder = |taken_at| holding(vec![Point { taken_at: UnixMillis(taken_at), ..point(0, PointState::Listed) }]);
    let verdict = of_replica(&paused, &told(holder(NOW.0), 1), NOW);
    assert_eq!(verdict.state, ReplicationState::Suspended);
    assert_eq!(codes(&verdict), [(PAUSED_AT_REPLICA, Health::Critical)]);
    let verdict = of_replica(&Replica { paused: None, ..paused }, &told(holder(NOW.0 + 30_000), 1), NOW);
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
    let holder = holding(vec![point(5, PointState::Listed)]);
    assert_eq!(codes(&of_replica(&one, &told(holder.clone(), 1), NOW)), []);
    let missing = of_replica(&one, &told(holder.clone(), 2), NOW);
    assert_eq!(codes(&missing), [("copies_missing", Health::Warning)]);
    assert!(missing.reasons()[0].contains("1 of 2"), "{missing:?}");
    let two = Replica { in_sync: [1, 2].map(MemberId::from_number).into(), ..one.clone() };
    assert_eq!(codes(&of_replica(&two, &told(holder.clone(), 2), NOW)), []);
    let new = Replica { acknowledged: false, ..one };
    assert_eq!(
        codes(&of_replica(&new, &told(holder.clone(), 2), NOW)),
        [],
        "before the first point there is nothing to copy"
    );
}

#[test]
fn what_is_only_on_a_silent_node_is_not_counted_as_the_newest() {
    let holder = holding(vec![point(5, PointState::Unreachable)]);
    let verdict = of_replica(&replica(), &told(holder.clone(), 1), NOW);
    assert_eq!((verdict.state, verdict.health), (ReplicationState::Seeding, Health::Warning));
    assert!(verdict.reasons().iter().any(|reason| reason.contains("initial copy")), "{verdict:?}");
}

#[test]
fn what_is_wrong_with_another_copy_is_shown_whichever_node_is_asked() {
    let holder = holding(vec![point(5, PointState::Listed)]);
    let damage = Some("point 2 is damaged: disk vda, bytes 0 to 65536".to_owned());
    let other = HolderFigures { damage, fault: Some("the disk is full".to_owned()), ..holder.clone() };
    let two = Replica { seeding: None, in_sync: [1, 2].map(MemberId::from_number).into(), ..replica() };
    let told = Told { holder: Some(holder), copies: vec![("r2".parse().unwrap(), other)], possible: 2 };
    let verdict = of_replica(&two, &told, NOW);
    assert_eq!(codes(&verdict), [("copy_damaged", Health::Critical), ("copy_fault", Health::Warning)]);
    assert!(verdict.reasons()[0].contains("the copy on r2: point 2 is damaged: disk vda"), "{verdict:?}");
    assert_eq!(verdict.details[0].command, format!("landfall point verify {}", two.vm.id));
}
