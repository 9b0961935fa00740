//! How a VM's replication stands and how well it is, from what is committed and what its two ends say.
//!
//! States and the meaning of Normal, Warning and Critical are Hyper-V's (its replication page, 3.1 and 3.2): Critical
//! where the primary cannot send, Warning where the newest point is late or incomplete.

use std::time::Duration;

use landfall_proto::id::UnixMillis;
use landfall_proto::message::control::{HolderFigures, Point, PointState, SenderFigures};
use landfall_proto::model::{Primary, Replica, Stop};

use crate::decide::resync::RESYNC_REQUIRED;
use crate::surface::vm::{Health, ReplicationState};

/// A newest point older than this is a Warning at every interval (Hyper-V: one hour since the last replica).
const LATE_AT_MOST: Duration = Duration::from_secs(3600);

/// Intervals without a new point that are a Warning before the hour is over.
const LATE_INTERVALS: u32 = 5;

/// The code with which a holder refuses a session while its replica is paused.
pub const PAUSED_AT_REPLICA: &str = "paused_at_replica";

/// How it stands, how well it is, and why it is not better: the worst reason first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it stands.
    pub state: ReplicationState,
    /// How well it is.
    pub health: Health,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
}

#[derive(Default)]
struct Reasons {
    critical: Vec<String>,
    warning: Vec<String>,
}

impl Reasons {
    fn verdict(self, state: ReplicationState) -> Verdict {
        let health = match (self.critical.is_empty(), self.warning.is_empty()) {
            (false, _) => Health::Critical,
            (true, false) => Health::Warning,
            (true, true) => Health::Normal,
        };
        Verdict { state, health, reasons: self.critical.into_iter().chain(self.warning).collect() }
    }

    fn stopped(&mut self, stop: &Stop) {
        self.critical.push(match stop {
            Stop::AuthorizationRemoved => "the authorization entry that it lived under was removed".to_owned(),
            Stop::PeerRemoved => "the other cluster is no longer paired".to_owned(),
        });
    }

    fn newest(&mut self, newest: Option<&Point>, interval: Duration, now: UnixMillis) {
        let Some(point) = newest else {
            self.warning.push("the initial copy is not complete".to_owned());
            return;
        };
        if point.state == PointState::Unconfirmed {
            self.warning.push("the newest point is not confirmed: its node cannot ask its quorum".to_owned());
        }
        let age = Duration::from_millis(now.0.saturating_sub(point.taken_at.0));
        if age > LATE_AT_MOST.min(interval.saturating_mul(LATE_INTERVALS)) {
            self.warning.push(format!("the newest point is {} s old", age.as_secs()));
        }
    }
}

/// The verdict at the primary's side. `sender` is `None` where the sending node does not answer.
pub fn of_primary(primary: &Primary, sender: Option<&SenderFigures>, now: UnixMillis) -> Verdict {
    let mut reasons = Reasons::default();
    if let Some(stop) = &primary.stopped {
        reasons.stopped(stop);
        return reasons.verdict(ReplicationState::Stopped);
    }
    if !primary.rivals.is_empty() {
        reasons
            .critical
            .push("the VM is on more than one node: nothing is sent until one of them lets go of it".into());
        return reasons.verdict(ReplicationState::Error);
    }
    if primary.sender.is_none() {
        reasons.critical.push("no node of this cluster has the VM".to_owned());
        return reasons.verdict(ReplicationState::Error);
    }
    if primary.paused.is_some() {
        reasons.warning.push("it is paused at the primary: nothing is sent".to_owned());
    }
    let Some(sender) = sender else {
        reasons.critical.push("the sending node does not answer".to_owned());
        return reasons.verdict(ReplicationState::Error);
    };
    let interval = sender
        .testing_interval_ms
        .map_or_else(|| Duration::from_secs(u32::from(primary.frequency).into()), Duration::from_millis);
    reasons.newest(sender.acknowledged.as_ref(), interval, now);
    if primary.paused.is_some() {
        return reasons.verdict(ReplicationState::Suspended);
    }
    if let Some(fault) = &sender.fault {
        reasons.critical.push(fault.message.clone());
        return reasons.verdict(match fault.code.as_str() {
            PAUSED_AT_REPLICA => ReplicationState::Suspended,
            RESYNC_REQUIRED => ReplicationState::WaitingToResynchronize,
            _ => ReplicationState::Error,
        });
    }
    let state = match (&sender.acknowledged, sender.activity.as_str()) {
        (_, "comparing") => ReplicationState::Resynchronizing,
        (None, "placing") => ReplicationState::ReadyForInitialReplication,
        (None, _) => ReplicationState::InitialReplication,
        (Some(_), _) => ReplicationState::Replicating,
    };
    reasons.verdict(state)
}

/// The verdict at the replica's side. `holder` is `None` where the receiving node does not answer.
pub fn of_replica(replica: &Replica, holder: Option<&HolderFigures>, now: UnixMillis) -> Verdict {
    let mut reasons = Reasons::default();
    if let Some(stop) = &replica.stopped {
        reasons.stopped(stop);
        return reasons.verdict(ReplicationState::Stopped);
    }
    if replica.paused.is_some() {
        reasons.critical.push("it is paused at the replica: nothing is taken from its primary".to_owned());
    }
    if let Some(fault) = holder.and_then(|holder| holder.fault.as_ref()) {
        reasons.critical.push(fault.clone());
    }
    match holder {
        None => reasons.critical.push("the node that receives it does not answer".to_owned()),
        Some(holder) => {
            let listed = holder.points.iter().rev().find(|point| point.state != PointState::Unreachable);
            reasons.newest(listed, Duration::from_secs(u32::from(replica.frequency).into()), now);
        }
    }
    let state = if replica.seeding.is_some() {
        reasons.warning.push("no node with the acknowledged points answers: a new one is being filled".to_owned());
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
    use landfall_proto::message::control::Consistency;
    use landfall_proto::model::{Frequency, VmSpec};

    use super::*;

    const NOW: UnixMillis = UnixMillis(10_000_000_000);

    fn vm() -> VmSpec {
        VmSpec { id: VmId(uuid::Uuid::from_u128(7)), name: "vm".parse().unwrap(), disks: vec![], adapters: vec![] }
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

    #[test]
    fn what_is_only_on_a_silent_node_is_not_counted_as_the_newest() {
        let replica = Replica {
            vm: vm(),
            primary: "p.contoso.com".parse().unwrap(),
            trust_group: "T".parse().unwrap(),
            storage: "default".parse().unwrap(),
            frequency: Frequency::HalfMinute,
            recovery_points: 0,
            holder: MemberId::from_number(1),
            in_sync: BTreeSet::from([MemberId::from_number(1)]),
            epoch: Epoch::from_number(4),
            seeding: Some(MemberId::from_number(2)),
            acknowledged: true,
            handover: None,
            stopped: None,
            created_at: UnixMillis(0),
            paused: None,
        };
        let holder = HolderFigures {
            epoch: Epoch::from_number(4),
            points: vec![point(5, PointState::Unreachable)],
            received_bytes: 0,
            fault: None,
        };
        let verdict = of_replica(&replica, Some(&holder), NOW);
        assert_eq!((verdict.state, verdict.health), (ReplicationState::Seeding, Health::Warning));
        assert!(verdict.reasons.iter().any(|reason| reason.contains("initial copy")), "{verdict:?}");
    }
}
