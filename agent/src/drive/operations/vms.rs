//! `vm list` and `vm show`: what is replicated, how it stands and how well it is.

use futures_util::future::join_all;
use landfall_proto::Refusal;
use landfall_proto::id::NodeName;
use landfall_proto::message::control::{HolderFigures, LocalVm, Point, PointState, SenderFigures};
use landfall_proto::model::{Primary, Replica, VmSpec};
use landfall_store::State;

use super::census::{census, copies, figures, name, newest, resolve};
use crate::decide::failover;
use crate::decide::health::{self, Told, Verdict};
use crate::drive::control::Control;
use crate::surface::vm::{DiskStatus, Health, ReplicationState, VmDetail, VmRole, VmSelector, VmState, VmStatus};
use crate::surface::vm::{HealthDetail, PointMark};

/// The VMs of this cluster, by name.
pub async fn list(control: &Control) -> Vec<VmStatus> {
    let node = &control.node;
    let state = node.state();
    let primaries = join_all(state.primaries.values().map(|primary| primary_status(control, &state, primary)));
    let replicas = join_all(state.replicas.values().map(|replica| replica_status(control, &state, replica)));
    let (primaries, replicas, census) = tokio::join!(primaries, replicas, census(node));
    let idle = census
        .local
        .into_iter()
        .filter(|(id, _)| !state.primaries.contains(id) && !state.replicas.contains(id))
        .map(|(_, (host, vm))| not_replicated(&host, &vm));
    let mut all: Vec<VmStatus> = primaries
        .into_iter()
        .map(|(status, _)| status)
        .chain(replicas.into_iter().map(|(status, _)| status))
        .chain(idle)
        .collect();
    all.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
    all
}

fn not_replicated(host: &NodeName, vm: &LocalVm) -> VmStatus {
    let fault = vm.fault.as_ref().map(|fault| HealthDetail {
        code: fault.code.clone(),
        severity: Health::NotApplicable,
        message: fault.message.clone(),
        command: format!("landfall vm show {}", vm.vm.id),
    });
    VmStatus {
        primary_host: Some(host.to_string()),
        ..blank(
            &vm.vm,
            VmRole::Primary,
            Verdict {
                state: ReplicationState::Disabled,
                health: Health::NotApplicable,
                details: fault.into_iter().collect(),
            },
        )
    }
}

fn blank(vm: &VmSpec, role: VmRole, verdict: Verdict) -> VmStatus {
    VmStatus {
        uuid: vm.id,
        name: vm.name.to_string(),
        role,
        state: verdict.state,
        health: verdict.health,
        health_reasons: verdict.reasons(),
        health_details: verdict.details,
        connection_point: None,
        primary_host: None,
        replica_cluster: None,
        replica_host: None,
        in_sync: Vec::new(),
        epoch: None,
        consistency: None,
        last_point_at: None,
        lag_seconds: None,
        recoverable_rpo_seconds: None,
        sent_bytes: 0,
        wire_bytes: 0,
    }
}

pub(super) async fn primary_status(
    control: &Control,
    state: &State,
    primary: &Primary,
) -> (VmStatus, Option<SenderFigures>) {
    let sender = match primary.sender {
        Some(member) => figures(control, state, member, primary.vm.id).await.and_then(|figures| figures.sender),
        None => None,
    };
    let now = control.node.outside.clock.wall();
    let verdict = health::of_primary(primary, sender.as_ref(), now);
    let verdict = failover::at_primary(primary.vm.id, state.departures.get(&primary.vm.id), verdict);
    let verdict = failover::at_branch(primary.vm.id, state.rivals.get(&primary.vm.id), verdict);
    let verdict = failover::at_unknown(primary.vm.id, state.unknown_rights.get(&primary.vm.id), verdict);
    let newest = sender.as_ref().and_then(|sender| sender.acknowledged.clone());
    let age = newest.as_ref().map(|point| now.0.saturating_sub(point.taken_at.0) / 1000);
    let status = VmStatus {
        connection_point: Some(primary.to.clone()),
        primary_host: primary.sender.map(|member| name(state, member).to_string()),
        replica_cluster: Some(primary.to.clone()),
        replica_host: sender.as_ref().and_then(|sender| sender.receiver.as_ref()).map(ToString::to_string),
        in_sync: newest.as_ref().map(|point| point.copies.clone()).unwrap_or_default(),
        epoch: sender.as_ref().and_then(|sender| sender.assignment),
        consistency: newest.as_ref().map(|point| point.consistency),
        last_point_at: newest.as_ref().map(|point| point.taken_at.into()),
        lag_seconds: age,
        recoverable_rpo_seconds: age,
        sent_bytes: sender.as_ref().map_or(0, |sender| sender.traffic.sent_bytes),
        wire_bytes: sender.as_ref().map_or(0, |sender| sender.traffic.wire_bytes),
        ..blank(&primary.vm, VmRole::Primary, verdict)
    };
    (status, sender)
}

async fn replica_status(control: &Control, state: &State, replica: &Replica) -> (VmStatus, Option<HolderFigures>) {
    let asked = figures(control, state, replica.receiver(), replica.vm.id);
    let (holder, copies) = tokio::join!(asked, copies(control, state, replica));
    let holder = holder.and_then(|figures| figures.holder);
    let now = control.node.outside.clock.wall();
    // One that is failed over is the VM, and gets no further copies.
    let promoted = state.promotions.contains(&replica.vm.id);
    let possible = if promoted { 0 } else { possible_copies(state) };
    let copies = copies.into_iter().map(|(member, figures)| (name(state, member), figures)).collect();
    let told = Told { holder, copies, possible };
    let verdict = health::of_replica(replica, &told, now);
    let holder = told.holder;
    let verdict = failover::at_replica(replica.vm.id, state.promotions.get(&replica.vm.id), verdict);
    let verdict = failover::at_unknown(replica.vm.id, state.unknown_rights.get(&replica.vm.id), verdict);
    let newest = holder.as_ref().and_then(|holder| newest(&holder.points)).cloned();
    let age = newest.as_ref().map(|point| now.0.saturating_sub(point.taken_at.0) / 1000);
    let status = VmStatus {
        connection_point: Some(replica.primary.clone()),
        replica_cluster: state.cap().cloned(),
        replica_host: Some(name(state, replica.receiver()).to_string()),
        in_sync: replica.in_sync.iter().map(|member| name(state, *member)).collect(),
        epoch: Some(replica.epoch),
        consistency: newest.as_ref().map(|point| point.consistency),
        last_point_at: newest.as_ref().map(|point| point.taken_at.into()),
        lag_seconds: age,
        recoverable_rpo_seconds: age,
        sent_bytes: holder.as_ref().map_or(0, |holder| holder.received.sent_bytes),
        wire_bytes: holder.as_ref().map_or(0, |holder| holder.received.wire_bytes),
        ..blank(&replica.vm, VmRole::Replica, verdict)
    };
    (status, holder)
}

/// One VM.
pub async fn show(control: &Control, vm: &VmSelector) -> Result<VmDetail, Refusal> {
    let node = &control.node;
    let state = node.state();
    let id = resolve(node, vm).await?;
    if let Some(primary) = state.primaries.get(&id) {
        let (status, sender) = primary_status(control, &state, primary).await;
        let running = census(node).await.local.get(&id).map(|(_, vm)| vm.running);
        return Ok(VmDetail {
            vm_state: running.map(|running| if running { VmState::Running } else { VmState::Stopped }),
            frequency_seconds: Some(primary.frequency),
            testing_interval_ms: sender.as_ref().and_then(|sender| sender.testing_interval_ms),
            recovery_points: Some(primary.recovery_points),
            sender_epoch: Some(primary.sender_epoch),
            activity: sender.as_ref().map(|sender| sender.activity.clone()),
            freeze: sender.as_ref().and_then(|sender| sender.freeze.clone()),
            frozen_micros: sender.as_ref().map(|sender| sender.frozen_micros),
            source: sender.as_ref().and_then(|sender| sender.source.clone()),
            missed_cycles: sender.as_ref().map(|sender| sender.missed_cycles),
            sent_point: sender.as_ref().and_then(sent_point),
            durable_point: sender.as_ref().and_then(|sender| sender.acknowledged.as_ref()).map(Into::into),
            verified_point: sender.as_ref().and_then(|sender| verified(sender.acknowledged.as_slice())),
            pending_bytes: sender.as_ref().map(|sender| sender.in_flight.map_or(0, |flight| flight.bytes)),
            clock_skew_ms: sender.as_ref().and_then(|sender| sender.clock_skew_ms),
            statistics: sender.as_ref().map(|sender| sender.statistics.into()),
            limited_to_kbit: sender.as_ref().and_then(|sender| sender.limited_to_kbit),
            compared: sender.as_ref().and_then(|sender| sender.compared.clone()).map(Into::into),
            fault: sender.and_then(|sender| sender.fault).map(Into::into),
            paused_since: primary.paused.map(Into::into),
            starts_at: primary.starts_at.map(Into::into),
            bandwidth_limit: primary.limit.clone(),
            excluded_disks: primary.excluded.clone(),
            rivals: primary.rivals.iter().map(|member| name(&state, *member)).collect(),
            passed_over: control.senders.passed_over(id),
            ..detail(&primary.vm, status)
        });
    }
    if let Some(replica) = state.replicas.get(&id) {
        let (status, holder) = replica_status(control, &state, replica).await;
        let promoted = state.promotions.contains(&id);
        let running = promoted && census(node).await.local.get(&id).is_some_and(|(_, vm)| vm.running);
        return Ok(VmDetail {
            vm_state: Some(if running { VmState::Running } else { VmState::Stopped }),
            frequency_seconds: Some(replica.frequency),
            recovery_points: Some(replica.recovery_points),
            storage: Some(replica.storage.clone()),
            trust_group: Some(replica.trust_group.clone()),
            paused_since: replica.paused.map(Into::into),
            durable_point: holder.as_ref().and_then(|holder| newest(&holder.points)).map(Into::into),
            verified_point: holder.as_ref().and_then(|holder| verified(&holder.points)),
            moving_to: replica.handover.as_ref().map(|handover| name(&state, handover.to)),
            copies_wanted: Some(state.resolved_settings().copies),
            copying_to: replica.joiner.map(|joiner| name(&state, joiner.member)),
            ..detail(&replica.vm, status)
        });
    }
    let census = census(node).await;
    let (host, vm) = census.local.get(&id).ok_or_else(|| Refusal::not_found("vm", &id.to_string()))?;
    Ok(VmDetail {
        vm_state: Some(if vm.running { VmState::Running } else { VmState::Stopped }),
        fault: vm.fault.clone().map(Into::into),
        ..detail(&vm.vm, not_replicated(host, vm))
    })
}

/// How many copies of a replica are wanted, but no more than there are nodes that could have one.
fn possible_copies(state: &State) -> usize {
    let hosts = state.members.values().filter(|member| !member.witness).count();
    state.resolved_settings().copies.min(hosts)
}

/// The newest point that was sent, or is on its way.
fn sent_point(sender: &SenderFigures) -> Option<PointMark> {
    let flight = sender.in_flight.map(|flight| PointMark { point: flight.sequence, taken_at: flight.taken_at.into() });
    flight.or_else(|| sender.acknowledged.as_ref().map(Into::into))
}

/// The newest of `points` whose holder was sure of itself when it had proven it.
fn verified(points: &[Point]) -> Option<PointMark> {
    points.iter().rev().find(|point| point.state == PointState::Listed).map(Into::into)
}

fn detail(vm: &VmSpec, status: VmStatus) -> VmDetail {
    VmDetail {
        status,
        vm_state: None,
        frequency_seconds: None,
        testing_interval_ms: None,
        recovery_points: None,
        storage: None,
        trust_group: None,
        sender_epoch: None,
        disks: vm.disks.iter().map(|disk| DiskStatus { target: disk.target.clone(), bytes: disk.bytes }).collect(),
        adapters: vm.adapters.clone(),
        activity: None,
        freeze: None,
        frozen_micros: None,
        source: None,
        missed_cycles: None,
        fault: None,
        moving_to: None,
        copies_wanted: None,
        copying_to: None,
        sent_point: None,
        durable_point: None,
        verified_point: None,
        pending_bytes: None,
        clock_skew_ms: None,
        statistics: None,
        paused_since: None,
        starts_at: None,
        bandwidth_limit: None,
        limited_to_kbit: None,
        excluded_disks: Vec::new(),
        compared: None,
        rivals: Vec::new(),
        passed_over: Vec::new(),
    }
}
