//! `vm locate`, `enable`, `disable` and `move`: what an operator does to a relationship.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_proto::id::{DiskTarget, MemberId, VmId};
use landfall_proto::message::control::LocalVm;
use landfall_proto::model::{Command, Outcome, Replica, VmSpec};
use landfall_proto::{Class, Refusal};
use landfall_store::state::check_start;
use tokio::time::{Instant, sleep, timeout};

use super::census::{census, committed_names, resolve};
use super::vms::{primary_status, show};
use crate::decide::farewell::{REPLICA_LEFT, Told};
use crate::drive::control::Control;
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::{broker, farewells, handover, sight};
use crate::surface::disabled::VmDisabled;
use crate::surface::vm::{VmDetail, VmEnable, VmLocation, VmMove, VmSelector};
use crate::surface::wait::{WaitSeconds, timed_out};
use crate::vm_service::NOT_MEASURED;

/// How long `vm enable` waits for a node to claim the VM, and to begin, before it answers all the same.
const CLAIM_WAIT: Duration = Duration::from_secs(3);

/// How long `vm enable` waits until the images of a VM that was just found have been looked at.
const MEASURE_WAIT: Duration = Duration::from_secs(5);

/// How often a wait looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

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
    let local = measured(node, vm, id).await?;
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
    // Checked where it is committed, too; by then the other side would have placed a replica.
    check_start(node.outside.clock.wall(), request.start_at.map(|start| start.0))?;
    let replicated = without(&local.vm, &request.exclude)?;
    let recovery_points = request.recovery_points.get();
    let placed = control.senders.place(&request.to, &replicated, request.frequency_seconds, recovery_points).await?;
    let command = Command::Enable {
        vm: Box::new(replicated),
        to: request.to.clone(),
        frequency: request.frequency_seconds,
        recovery_points,
        starts_at: request.start_at.map(|start| start.0),
        limit: request.limit,
        excluded: request.exclude.clone(),
    };
    node.proposer.commit(command).await?;
    let told = format!("{} replicates to {}, received by {}", local.vm.name, request.to, placed.node);
    node.events.record(Happening::info("replication_enabled", told).vm(id).node(&placed.node));
    // The node that has the VM claims it within a moment; waiting for that makes the answer say where it is sent from.
    drop(timeout(CLAIM_WAIT, begun(control, id)).await);
    if let Some(wait) = request.wait_seconds {
        first_point(control, id, wait).await?;
    }
    let mut detail = show(control, &VmSelector::from(id)).await?;
    detail.status.replica_host.get_or_insert_with(|| placed.node.to_string());
    detail.status.epoch.get_or_insert(placed.epoch);
    Ok(detail)
}

/// The VM as it is on a live node, without a fault. One that was found a moment ago is waited for: its images are looked
/// at in the background.
async fn measured(node: &Node, vm: &VmSelector, id: VmId) -> Result<LocalVm, Refusal> {
    let deadline = Instant::now() + MEASURE_WAIT;
    loop {
        let mut census = census(node).await;
        let (_, report) = census.local.remove(&id).ok_or_else(|| {
            Refusal::new(Class::NotFound, "not_found", format!("no live node of this cluster has the VM {vm}"))
                .field("vm")
        })?;
        match &report.fault {
            None => return Ok(report),
            Some(fault) if fault.code == NOT_MEASURED && Instant::now() < deadline => sleep(LOOK_INTERVAL).await,
            Some(fault) => return Err(fault.clone()),
        }
    }
}

/// The VM without the disks that are not to be replicated.
fn without(vm: &VmSpec, excluded: &[DiskTarget]) -> Result<VmSpec, Refusal> {
    let targets: Vec<&str> = vm.disks.iter().map(|disk| disk.target.as_str()).collect();
    if let Some(unknown) = excluded.iter().find(|target| !targets.contains(&target.as_str())) {
        let remedy = format!("the VM's disks are: {}", targets.join(", "));
        return Err(Refusal::invalid("exclude", unknown.as_str(), &remedy));
    }
    let replicated = vm.clone().without(excluded);
    if replicated.disks.is_empty() && !vm.disks.is_empty() {
        return Err(Refusal::invalid("exclude", &targets.join(","), "leave at least one disk to be replicated"));
    }
    Ok(replicated)
}

/// Waits until a node sends the VM and says so, or it is not replicated any more.
async fn begun(control: &Control, vm: VmId) {
    loop {
        let state = control.node.state();
        let Some(primary) = state.primaries.get(&vm) else { return };
        if primary_status(control, &state, primary).await.1.is_some() {
            return;
        }
        sleep(LOOK_INTERVAL).await;
    }
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
pub async fn disable(control: &Control, vm: &VmSelector) -> Result<VmDisabled, Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let state = node.state();
    let named = committed_names(&state).get(&id).cloned().unwrap_or_default();
    let (mut replica_left, mut ends_by_itself) = (None, false);
    if let Some(primary) = state.primaries.get(&id) {
        let (_, at) = node.proposer.commit(Command::Disable(id)).await?;
        let answer = control.senders.give_up(primary).await;
        let told = farewells::settle(node, id, &primary.to, at, &answer).await;
        if let (Told::Again | Told::Kept, Err(refusal)) = (told, answer) {
            let waits = node.state().farewells.contains(&(id, primary.to.clone()));
            ends_by_itself = told == Told::Again && waits;
            let then = if ends_by_itself { "; it is told as soon as it answers" } else { "" };
            let told = format!("{named} is disabled here, but {} keeps its replica: {refusal}{then}", primary.to);
            node.events.record(Happening::warning(REPLICA_LEFT, told).vm(id));
            replica_left = Some(refusal.message);
        }
    } else if let Some(detach) = super::resolving::detaching(control, &state, id).await? {
        node.proposer.commit(Command::Failover { vm: id, step: Box::new(detach) }).await?;
    } else if state.replicas.contains(&id) {
        node.proposer.commit(Command::RemoveReplica { vm: id, primary: None }).await?;
    } else {
        return Err(Refusal::new(Class::NotFound, "not_replicated", format!("{vm} is not replicated")).field("vm"));
    }
    node.events.record(Happening::info("replication_disabled", format!("{named} is no longer replicated")).vm(id));
    Ok(VmDisabled { uuid: id, name: named, replica_left, ends_by_itself })
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
        copied_once(node, replica, request.wait_seconds).await?;
        let has_it = replica.in_sync.contains(&target.id);
        if has_it && sight::live(node).get(&target.id) != Some(&true) {
            let message = format!("{} has the replica, and does not answer", target.node);
            return Err(Refusal::new(Class::Unreachable, "node_unreachable", message)
                .field("to")
                .remedy("see `landfall node list`; move it to a node that is up"));
        }
        let command = Command::Handover { vm: id, epoch: replica.epoch, to: Some(target.id) };
        if let (Outcome::Epoch(epoch), _) = node.proposer.commit(command).await?
            && epoch != replica.epoch
        {
            // It holds the replica by that very commit: nothing is copied.
            let told = format!("{} has every point of {} and holds it now", target.node, replica.vm.name);
            let event = Happening::info("replica_moved", told).vm(id).node(&target.node);
            node.events.record(event.with("bytes", &0).with("epoch", &epoch));
            tokio::spawn(handover::announce(node.clone(), id, epoch));
        }
        if let Some(wait) = request.wait_seconds {
            handed_over(node, id, target.id, wait).await?;
        }
    }
    let state = node.state();
    let replica = state.replicas.get(&id).ok_or_else(|| Refusal::not_found("vm", &id.to_string()))?;
    let at = broker::location(&state, replica)?;
    Ok(VmLocation { uuid: id, node: at.node, address: at.data, epoch: at.epoch })
}

/// Waits, where the caller waits at all, until the replica has a point: before that there is nothing to hand over.
async fn copied_once(node: &Node, replica: &Replica, wait: Option<WaitSeconds>) -> Result<(), Refusal> {
    if replica.acknowledged {
        return Ok(());
    }
    let Some(wait) = wait else {
        let message = format!("{} has no recovery point yet: its initial copy runs", replica.vm.name);
        return Err(Refusal::new(Class::Refused, "no_point_yet", message)
            .field("vm")
            .remedy("give --wait, and it is moved once the first point is complete"));
    };
    let vm = replica.vm.id;
    let mut state = node.consensus.watch_state();
    let copied = state.wait_for(|state| state.replicas.get(&vm).is_none_or(|replica| replica.acknowledged));
    match timeout(wait.duration(), copied).await {
        Ok(_) => Ok(()),
        Err(_) => Err(timed_out("nothing was moved", "the initial copy is not complete", wait)),
    }
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
