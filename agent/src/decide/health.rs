//! How a VM's replication stands and how well it is, from what is committed and what its two ends say.
//!
//! States and the meaning of Normal, Warning and Critical are Hyper-V's (its replication page, 3.1 and 3.2): Critical
//! where the primary cannot send, must resynchronize, or the replica is paused; Warning where the newest point is late or
//! incomplete, more than a fifth of the cycles were missed or the average latency is high in the monitoring window, or the
//! primary is paused. What was counted in the window outlives its cause until the window ends or statistics are reset.

use std::time::Duration;

use landfall_proto::id::{NodeName, UnixMillis, VmId};
use landfall_proto::message::control::{HolderFigures, Point, PointState, SenderFigures};
use landfall_proto::model::{Primary, Replica};
use landfall_proto::{Class, Refusal};

use super::health_rules as rules;
use super::reason::Reasons;
pub use super::reason::Verdict;
use crate::decide::disk_size::DISK_GROWING;
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

/// Why the sender cannot send, and how the VM stands by that; `None` where that mends itself in a moment.
fn fault(reasons: &mut Reasons, fault: &Refusal) -> Option<ReplicationState> {
    let state = match fault.code.as_str() {
        DISK_GROWING => {
            reasons.warning(DISK_GROWING, fault.message.clone(), "landfall event tail --no-follow");
            return None;
        }
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
    };
    Some(state)
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
    if let Some(state) = sender.fault.as_ref().and_then(|refusal| fault(&mut reasons, refusal)) {
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

/// What the nodes of a replica say of it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The node that receives it; `None` where that does not answer.
    pub holder: Option<HolderFigures>,
    /// Every other node of the in-sync set that answers.
    pub copies: Vec<(NodeName, HolderFigures)>,
    /// How many copies are wanted, but no more than there are nodes that could have one.
    pub possible: usize,
}

/// What the other copies say is wrong with them. It is as bad as at the holder: either of them may be what is left.
fn told_by_copies(reasons: &mut Reasons, vm: VmId, copies: &[(NodeName, HolderFigures)]) {
    for (node, figures) in copies {
        if let Some(damage) = &figures.damage {
            let command = format!("landfall point verify {vm}");
            reasons.critical("copy_damaged", format!("the copy on {node}: {damage}"), command);
        }
        if let Some(fault) = &figures.fault {
            let message = format!("the copy on {node}: {fault}");
            reasons.warning("copy_fault", message, "landfall event tail --no-follow");
        }
    }
}

/// The verdict at the replica's side.
pub fn of_replica(replica: &Replica, told: &Told, now: UnixMillis) -> Verdict {
    let holder = told.holder.as_ref();
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
    told_by_copies(&mut reasons, replica.vm.id, &told.copies);
    copies(&mut reasons, replica, told.possible);
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
#[path = "health_test.rs"]
mod tests;
