//! `vm` and `point`: what is replicated, where it is, and what can be recovered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, NodeName, VmId};
use landfall_proto::message::control::{
    ControlAnswer, ControlRequest, Figures, HolderFigures, LocalVm, Point, PointState, SenderFigures,
};
use landfall_proto::model::{Command, Primary, Replica, VmSpec};
use landfall_proto::{Class, Refusal};
use landfall_store::state::State;
use tokio::time::{Instant, sleep, timeout};

use crate::decide::health::{self, Verdict};
use crate::drive::broker;
use crate::drive::control::{Control, local_vms};
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::surface::point::{ExportedFile, PointExport, PointExported, PointStatus};
use crate::surface::vm::{
    DiskStatus, Health, NamedVm, ReplicationState, VmDetail, VmEnable, VmLocation, VmMove, VmRole, VmSelector, VmState,
    VmStatus,
};
use crate::surface::wait::{WaitSeconds, timed_out};

/// How long a node may take to tell what it knows of a VM.
const FIGURES_DEADLINE: Duration = Duration::from_millis(1_500);

/// How long the export of a point may take where nothing else is asked: a terabyte at 100 MB/s.
const EXPORT_DEADLINE: Duration = Duration::from_secs(3 * 3600);

/// How long `vm enable` waits for a node to claim the VM before it answers all the same.
const CLAIM_WAIT: Duration = Duration::from_secs(3);

/// How often a wait looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// All VMs: replicated ones, and those that only run here.
struct Census {
    local: BTreeMap<VmId, (NodeName, LocalVm)>,
}

/// Asks every live node which VMs it has.
async fn census(node: &Node) -> Census {
    let state = node.state();
    let asked = state.members.values().filter(|member| !member.witness).map(|member| async {
        if member.id == node.me {
            return (member.node.clone(), local_vms(node));
        }
        let vms = match control_target(&state, member.id) {
            Some(target) => match node.calls.call(&target, Alpn::Control, &ControlRequest::Vms, FIGURES_DEADLINE).await
            {
                Ok(ControlAnswer::Vms(vms)) => vms,
                _ => Vec::new(),
            },
            None => Vec::new(),
        };
        (member.node.clone(), vms)
    });
    let mut local = BTreeMap::new();
    for (name, vms) in join_all(asked).await {
        for vm in vms.into_iter().filter(|vm| !vm.replica) {
            local.insert(vm.vm.id, (name.clone(), vm));
        }
    }
    Census { local }
}

/// Finds the VM that a request names, among the replicated ones first.
async fn resolve(node: &Node, vm: &VmSelector) -> Result<VmId, Refusal> {
    let state = node.state();
    let committed = committed_names(&state);
    match vm.resolve(committed.iter().map(|(id, name)| (*id, name.as_str()))) {
        Err(refusal) if refusal.class == Class::NotFound => {
            let census = census(node).await;
            vm.resolve(census.local.iter().map(|(id, (_, vm))| (*id, vm.vm.name.as_str())))
        }
        other => other,
    }
}

fn committed_names(state: &State) -> BTreeMap<VmId, String> {
    let replicas = state.replicas.iter().map(|(id, replica)| (*id, replica.vm.name.to_string()));
    let primaries = state.primaries.iter().map(|(id, primary)| (*id, primary.vm.name.to_string()));
    replicas.chain(primaries).collect()
}

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
    let fault = vm.fault.as_ref().map(|fault| fault.message.clone());
    VmStatus {
        primary_host: Some(host.to_string()),
        ..blank(
            &vm.vm,
            VmRole::Primary,
            Verdict {
                state: ReplicationState::Disabled,
                health: Health::NotApplicable,
                reasons: fault.into_iter().collect(),
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
        health_reasons: verdict.reasons,
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

/// What `member` knows of `vm`; `None` where it does not answer.
async fn figures(control: &Control, state: &State, member: MemberId, vm: VmId) -> Option<Figures> {
    let node = &control.node;
    if member == node.me {
        return Some(control.figures(vm).await);
    }
    let target = control_target(state, member)?;
    match node.calls.call(&target, Alpn::Control, &ControlRequest::Figures(vm), FIGURES_DEADLINE).await {
        Ok(ControlAnswer::Figures(figures)) => Some(*figures),
        _ => None,
    }
}

fn name(state: &State, member: MemberId) -> NodeName {
    let found = state.members.get(&member).map(|member| member.node.clone());
    found.unwrap_or_else(|| removed_member(member))
}

/// A member that is no longer listed is called by its number.
fn removed_member(member: MemberId) -> NodeName {
    match format!("member-{}", member.number()).parse() {
        Ok(name) => name,
        Err(_) => unreachable!("a number and a fixed word are a label"),
    }
}

async fn primary_status(control: &Control, state: &State, primary: &Primary) -> (VmStatus, Option<SenderFigures>) {
    let sender = match primary.sender {
        Some(member) => figures(control, state, member, primary.vm.id).await.and_then(|figures| figures.sender),
        None => None,
    };
    let now = control.node.outside.clock.wall();
    let verdict = health::of_primary(primary, sender.as_ref(), now);
    let newest = sender.as_ref().and_then(|sender| sender.acknowledged.clone());
    let age = newest.as_ref().map(|point| now.0.saturating_sub(point.taken_at.0) / 1000);
    let status = VmStatus {
        connection_point: Some(primary.to.clone()),
        primary_host: primary.sender.map(|member| name(state, member).to_string()),
        replica_cluster: Some(primary.to.clone()),
        replica_host: sender.as_ref().and_then(|sender| sender.receiver.as_ref()).map(ToString::to_string),
        in_sync: newest.as_ref().map(|point| point.copies.clone()).unwrap_or_default(),
        consistency: newest.as_ref().map(|point| point.consistency),
        last_point_at: newest.as_ref().map(|point| point.taken_at.into()),
        lag_seconds: age,
        recoverable_rpo_seconds: age,
        sent_bytes: sender.as_ref().map_or(0, |sender| sender.sent_bytes),
        wire_bytes: sender.as_ref().map_or(0, |sender| sender.wire_bytes),
        ..blank(&primary.vm, VmRole::Primary, verdict)
    };
    (status, sender)
}

async fn replica_status(control: &Control, state: &State, replica: &Replica) -> (VmStatus, Option<HolderFigures>) {
    let holder = figures(control, state, replica.receiver(), replica.vm.id).await.and_then(|figures| figures.holder);
    let now = control.node.outside.clock.wall();
    let verdict = health::of_replica(replica, holder.as_ref(), now);
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
        sent_bytes: holder.as_ref().map_or(0, |holder| holder.received_bytes),
        wire_bytes: holder.as_ref().map_or(0, |holder| holder.received_bytes),
        ..blank(&replica.vm, VmRole::Replica, verdict)
    };
    (status, holder)
}

/// The newest point that can be restored.
fn newest(points: &[Point]) -> Option<&Point> {
    points.iter().rev().find(|point| point.state != PointState::Unreachable)
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
            fault: sender.and_then(|sender| sender.fault).map(Into::into),
            rivals: primary.rivals.iter().map(|member| name(&state, *member)).collect(),
            passed_over: control.senders.passed_over(id),
            ..detail(&primary.vm, status)
        });
    }
    if let Some(replica) = state.replicas.get(&id) {
        let (status, _) = replica_status(control, &state, replica).await;
        return Ok(VmDetail {
            vm_state: Some(VmState::Stopped),
            frequency_seconds: Some(replica.frequency),
            recovery_points: Some(replica.recovery_points),
            storage: Some(replica.storage.clone()),
            trust_group: Some(replica.trust_group.clone()),
            moving_to: replica.handover.as_ref().map(|handover| name(&state, handover.to)),
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
        rivals: Vec::new(),
        passed_over: Vec::new(),
    }
}

/// Where the replica is received: of a replica here, or of a primary by what its CAP answers.
pub async fn locate(control: &Control, vm: &VmSelector) -> Result<VmLocation, Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let state = node.state();
    let at = match (state.replicas.get(&id), state.primaries.get(&id)) {
        (Some(replica), _) => broker::location(&state, replica)?,
        (None, Some(primary)) => control.senders.locate(primary).await?,
        (None, None) => {
            return Err(Refusal::new(Class::NotFound, "not_replicated", format!("{vm} is not replicated"))
                .field("vm")
                .remedy("enable it: `landfall vm enable`"));
        }
    };
    Ok(VmLocation { uuid: id, node: at.node, address: at.data, epoch: at.epoch })
}

/// Replicates a VM of this cluster: places the replica first, so that a refusal there leaves nothing behind here.
pub async fn enable(control: &Control, vm: &VmSelector, request: VmEnable) -> Result<VmDetail, Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let state = node.state();
    if let Some(primary) = state.primaries.get(&id) {
        return Err(Refusal::new(
            Class::Refused,
            "already_enabled",
            format!("{vm} replicates to {} already", primary.to),
        )
        .field("vm")
        .remedy("disable it first: `landfall vm disable`"));
    }
    let census = census(node).await;
    let (_, local) = census.local.get(&id).ok_or_else(|| {
        Refusal::new(Class::NotFound, "not_found", format!("no live node of this cluster has the VM {vm}")).field("vm")
    })?;
    if let Some(fault) = &local.fault {
        return Err(fault.clone());
    }
    if !state.peers.contains(&request.to) {
        let known: Vec<&str> = state.peers.keys().map(|cap| cap.as_str()).collect();
        return Err(Refusal::new(
            Class::NotFound,
            "unknown_peer",
            format!("this cluster is not paired with {}", request.to),
        )
        .field("to")
        .remedy(format!(
            "pair first (landfall peer invite there, landfall peer accept CODE here); paired are: {}",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )));
    }
    let recovery_points = request.recovery_points.get();
    let placed = control.senders.place(&request.to, &local.vm, request.frequency_seconds, recovery_points).await?;
    let command = Command::Enable {
        vm: Box::new(local.vm.clone()),
        to: request.to.clone(),
        frequency: request.frequency_seconds,
        recovery_points,
    };
    node.proposer.commit(command).await?;
    let told = format!("{} replicates to {}, received by {}", local.vm.name, request.to, placed.node);
    node.events.record(Happening::info("replication_enabled", told).vm(id).node(&placed.node));
    // The node that has the VM claims it within a moment; waiting for that makes the answer say where it is sent from.
    let mut states = node.consensus.watch_state();
    let claimed = states.wait_for(|state| state.primaries.get(&id).is_none_or(|primary| primary.sender.is_some()));
    drop(timeout(CLAIM_WAIT, claimed).await);
    if let Some(wait) = request.wait_seconds {
        first_point(control, id, wait).await?;
    }
    let mut detail = show(control, &VmSelector::from(id)).await?;
    detail.status.replica_host.get_or_insert_with(|| placed.node.to_string());
    detail.status.epoch.get_or_insert(placed.epoch);
    Ok(detail)
}

async fn first_point(control: &Control, vm: VmId, wait: WaitSeconds) -> Result<(), Refusal> {
    let deadline = Instant::now() + wait.duration();
    loop {
        let state = control.node.state();
        let Some(primary) = state.primaries.get(&vm) else { return Err(Refusal::not_found("vm", &vm.to_string())) };
        let (status, sender) = primary_status(control, &state, primary).await;
        if sender.is_some_and(|sender| sender.acknowledged.is_some()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = status.health_reasons.first().cloned().unwrap_or_else(|| "the initial copy runs".to_owned());
            return Err(timed_out("replication is enabled", &format!("no point is acknowledged yet: {why}"), wait));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Ends the replication of a VM.
pub async fn disable(control: &Control, vm: &VmSelector) -> Result<NamedVm, Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let state = node.state();
    let named = committed_names(&state).get(&id).cloned().unwrap_or_default();
    if let Some(primary) = state.primaries.get(&id) {
        node.proposer.commit(Command::Disable(id)).await?;
        if let Err(refusal) = control.senders.give_up(primary).await {
            let told = format!("{named} is disabled here, but {} was not told: {refusal}", primary.to);
            node.events.record(Happening::warning("replica_left", told).vm(id));
        }
    } else if state.replicas.contains(&id) {
        node.proposer.commit(Command::RemoveReplica { vm: id, primary: None }).await?;
    } else {
        return Err(Refusal::new(Class::NotFound, "not_replicated", format!("{vm} is not replicated")).field("vm"));
    }
    node.events.record(Happening::info("replication_disabled", format!("{named} is no longer replicated")).vm(id));
    Ok(NamedVm { uuid: id, name: named })
}

/// Hands a replica to another node of this cluster.
pub async fn hand_over(control: &Control, vm: &VmSelector, request: VmMove) -> Result<VmLocation, Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let state = node.state();
    let replica = state.replicas.get(&id).ok_or_else(|| {
        Refusal::new(Class::NotFound, "no_replica", format!("this cluster keeps no replica of {vm}"))
            .field("vm")
            .remedy("give the command at the cluster that keeps the replica")
    })?;
    let target = state.members.values().find(|member| member.node == request.to).ok_or_else(|| {
        let known: BTreeSet<&str> = state.members.values().map(|member| member.node.as_str()).collect();
        Refusal::not_found("node", request.to.as_str())
            .field("to")
            .remedy(format!("the members are {}", known.into_iter().collect::<Vec<_>>().join(", ")))
    })?;
    if replica.receiver() != target.id {
        let command = Command::Handover { vm: id, epoch: replica.epoch, to: Some(target.id) };
        node.proposer.commit(command).await?;
        if let Some(wait) = request.wait_seconds {
            handed_over(node, id, target.id, wait).await?;
        }
    }
    let state = node.state();
    let replica = state.replicas.get(&id).ok_or_else(|| Refusal::not_found("vm", &id.to_string()))?;
    let at = broker::location(&state, replica)?;
    Ok(VmLocation { uuid: id, node: at.node, address: at.data, epoch: at.epoch })
}

async fn handed_over(node: &Node, vm: VmId, to: MemberId, wait: WaitSeconds) -> Result<(), Refusal> {
    let mut state = node.consensus.watch_state();
    let ended = state.wait_for(|state| {
        state.replicas.get(&vm).is_none_or(|replica| replica.receiver() == to || replica.handover.is_none())
    });
    match timeout(wait.duration(), ended).await {
        Ok(Ok(state)) if state.replicas.get(&vm).is_some_and(|replica| replica.receiver() == to) => Ok(()),
        Ok(_) => Err(Refusal::new(
            Class::Failed,
            "handover_ended",
            "the hand-over was given up: the replica stays where it is",
        )
        .remedy("see `landfall event tail` for the reason, then try again")),
        Err(_) => Err(timed_out("the hand-over has begun", "the node does not hold the replica yet", wait)),
    }
}

/// The recovery points of a VM, oldest first.
pub async fn points(control: &Control, vm: &VmSelector) -> Result<Vec<PointStatus>, Refusal> {
    let (_, holder) = holder_of(control, vm).await?;
    Ok(holder.points.into_iter().map(Into::into).collect())
}

async fn holder_of(control: &Control, vm: &VmSelector) -> Result<(MemberId, HolderFigures), Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let state = node.state();
    let replica = state.replicas.get(&id).ok_or_else(|| {
        Refusal::new(Class::NotFound, "no_replica", format!("this cluster keeps no replica of {vm}"))
            .field("vm")
            .remedy("points are kept by the replica's cluster: give the command there")
    })?;
    let member = replica.receiver();
    let holder = figures(control, &state, member, id).await.and_then(|figures| figures.holder);
    let holder = holder.ok_or_else(|| {
        let node = name(&state, member);
        Refusal::new(Class::Unreachable, "holder_unreachable", format!("{node}, which receives it, does not answer"))
            .remedy("see `landfall node list`; the replica gets a new home by itself when the node stays away")
    })?;
    Ok((member, holder))
}

/// Writes the disks of a point as raw images on the node that holds it.
pub async fn export(control: &Control, vm: &VmSelector, request: PointExport) -> Result<PointExported, Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let (member, holder) = holder_of(control, vm).await?;
    let point = match request.point {
        Some(sequence) => holder.points.iter().find(|point| point.sequence == sequence),
        None => newest(&holder.points),
    };
    let point = point.ok_or_else(|| {
        let listed: Vec<String> = holder.points.iter().map(|point| point.sequence.to_string()).collect();
        let asked = request.point.map_or_else(|| "newest".to_owned(), |point| point.to_string());
        Refusal::not_found("point", &asked).remedy(format!("the points are: {}", listed.join(", ")))
    })?;
    let folder =
        request.dir.to_str().map(str::to_owned).ok_or_else(|| {
            Refusal::invalid("dir", &request.dir.to_string_lossy(), "use a folder whose path is UTF-8")
        })?;
    let deadline = request.wait_seconds.map_or(EXPORT_DEADLINE, WaitSeconds::duration);
    let ask = ControlRequest::Export { vm: id, point: Some(point.sequence), folder };
    let files = if member == node.me {
        let exported = timeout(deadline, control.replicas.export(id, Some(point.sequence), request.dir.clone()));
        exported.await.map_err(|_| slow_export())??.files
    } else {
        let state = node.state();
        let target = control_target(&state, member).ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
        match node.calls.call(&target, Alpn::Control, &ask, deadline).await {
            Ok(ControlAnswer::Exported { files, .. }) => files,
            Ok(ControlAnswer::Refused(refusal)) => return Err(refusal),
            Ok(_) => return Err(Refusal::new(Class::Failed, "protocol", "the holder gave an answer of another kind")),
            Err(error) => return Err(Refusal::new(Class::Unreachable, "holder_unreachable", error.to_string())),
        }
    };
    let files = files
        .into_iter()
        .filter_map(|(target, bytes)| {
            let path = request.dir.join(format!("{target}.raw"));
            Some(ExportedFile { target: target.parse().ok()?, path, bytes })
        })
        .collect();
    Ok(PointExported { uuid: id, point: point.sequence, root: point.root.into(), files })
}

fn slow_export() -> Refusal {
    Refusal::new(Class::Failed, "timed_out", "the export was not finished in time").field("wait_seconds")
}
