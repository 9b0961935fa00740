//! `vm pause`, `resume`, `resync` and `reset-statistics`: what an operator asks of a running replication.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::VmId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::Command;
use landfall_proto::{Class, Refusal};

use super::census::{committed_names, name, resolve};
use super::vms::show;
use crate::drive::control::Control;
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::peers;
use crate::surface::vm::{VmDetail, VmSelector};

/// How long the sending node may take to answer.
const SENDER_DEADLINE: Duration = Duration::from_secs(3);

/// Pauses a VM at this side.
pub async fn pause(control: &Control, vm: &VmSelector) -> Result<VmDetail, Refusal> {
    let id = replicated(control, vm).await?;
    control.node.proposer.commit(Command::Pause(id)).await?;
    told(control, id, "replication_paused", "is paused at this side");
    show(control, &id.into()).await
}

/// Goes on with it. A primary elsewhere is told, so that it need not wait for its next try; a lost notice costs only that.
pub async fn resume(control: &Control, vm: &VmSelector) -> Result<VmDetail, Refusal> {
    let id = replicated(control, vm).await?;
    let node = &control.node;
    node.proposer.commit(Command::Resume(id)).await?;
    told(control, id, "replication_resumed", "goes on at this side");
    let state = node.state();
    if let Some(primary) = state.replicas.get(&id).map(|replica| replica.primary.clone()) {
        let (node, state) = (node.clone(), state);
        tokio::spawn(async move { peers::announce_moved(&node, &state, &primary, ControlRequest::Resumed(id)).await });
    }
    show(control, &id.into()).await
}

/// Has the sender compare both sides before it sends anything more.
pub async fn resync(control: &Control, vm: &VmSelector) -> Result<VmDetail, Refusal> {
    let id = sent_from_here(control, vm).await?;
    control.node.proposer.commit(Command::Resync(id)).await?;
    told(control, id, "resync_asked", "is to be compared with its replica");
    show(control, &id.into()).await
}

/// Has the sender count from zero.
pub async fn reset_statistics(control: &Control, vm: &VmSelector) -> Result<VmDetail, Refusal> {
    let id = sent_from_here(control, vm).await?;
    let (node, state) = (&control.node, control.node.state());
    let sender = state.primaries.get(&id).and_then(|primary| primary.sender);
    let sender = sender.ok_or_else(|| {
        Refusal::new(Class::Failed, "no_sender", "no node of this cluster sends the VM at this moment").field("vm")
    })?;
    if sender == node.me {
        control.senders.reset_statistics(id)?;
    } else {
        let target = control_target(&state, sender).ok_or_else(|| Refusal::not_found("node", &sender.to_string()))?;
        let ask = ControlRequest::ResetStatistics(id);
        match node.calls.call(&target, Alpn::Control, &ask, SENDER_DEADLINE).await {
            Ok(ControlAnswer::Done) => {}
            Ok(ControlAnswer::Refused(refusal)) => return Err(refusal),
            Ok(_) => return Err(Refusal::new(Class::Failed, "protocol", "the sender gave an answer of another kind")),
            Err(error) => {
                let message = format!("{}, which sends it, does not answer: {error}", name(&state, sender));
                return Err(
                    Refusal::new(Class::Unreachable, "sender_unreachable", message).remedy("see `landfall node list`")
                );
            }
        }
    }
    told(control, id, "statistics_reset", "is counted from zero");
    show(control, &id.into()).await
}

pub(super) fn told(control: &Control, vm: VmId, kind: &'static str, what: &str) {
    let node = &control.node;
    let named = committed_names(&node.state()).remove(&vm).unwrap_or_default();
    node.events.record(Happening::info(kind, format!("{named} {what}")).vm(vm).node(&node.name));
}

/// The VM, which is replicated at either side.
async fn replicated(control: &Control, vm: &VmSelector) -> Result<VmId, Refusal> {
    let id = resolve(&control.node, vm).await?;
    let state = control.node.state();
    if state.primaries.contains(&id) || state.replicas.contains(&id) {
        return Ok(id);
    }
    Err(Refusal::new(Class::NotFound, "not_replicated", format!("{vm} is not replicated"))
        .field("vm")
        .remedy("enable it: `landfall vm enable`"))
}

/// The VM, which must be a primary of this cluster.
pub(super) async fn sent_from_here(control: &Control, vm: &VmSelector) -> Result<VmId, Refusal> {
    let id = replicated(control, vm).await?;
    match control.node.state().replicas.get(&id) {
        None => Ok(id),
        Some(replica) => Err(Refusal::new(Class::Refused, "is_replica_here", format!("{vm} is a replica here"))
            .field("vm")
            .remedy(format!("give the command at the primary's cluster, {}", replica.primary))),
    }
}
