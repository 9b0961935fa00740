//! `cluster rotate-ca`, at any agent.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::ca_fingerprint;
use landfall_proto::id::{NodeName, Position, UnixMillis};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use landfall_store::state::ROTATION_MOST;
use tokio::time::{Instant, timeout};

use crate::drive::control::Control;
use crate::drive::members::owner_target;
use crate::drive::propose::{COMMIT_DEADLINE, no_quorum};
use crate::drive::rotation;
use crate::surface::ca::{CaRotation, CaStatus, ClusterRotateCa, ClusterRotation};
use crate::surface::wait::{WaitSeconds, timed_out};

/// How long the owner may take to make a CA, hand its key out and commit it.
const BEGIN_DEADLINE: Duration = Duration::from_secs(20);

/// Begins a rotation, ends one, or says what that would do.
pub async fn rotate(control: &Control, request: ClusterRotateCa) -> Result<ClusterRotation, Refusal> {
    let node = &control.node;
    let state = node.state();
    let cluster = state.found.as_ref().ok_or_else(no_quorum)?.cluster.clone();
    let given_up = if request.finish { given_up(&state) } else { Vec::new() };
    let (missed, position) = match (request.finish, request.dry_run) {
        (true, false) => (Vec::new(), rotation::retire(node, &state, true).await?),
        (true, true) if state.ca.rotation.is_none() => return Err(rotation::nothing_to_finish()),
        (true, true) => (Vec::new(), state.applied),
        (false, dry_run) => begin(control, dry_run).await?,
    };
    let mut state = node.proposer.applied(position, Instant::now() + COMMIT_DEADLINE).await?;
    if let Some(wait) = request.wait_seconds.filter(|_| !request.dry_run) {
        state = retired(control, position, wait).await?;
    }
    Ok(ClusterRotation { cluster, rotated: !request.dry_run, ca: status(&state), missed, given_up })
}

/// Has the owner, whichever node it is, begin a rotation.
async fn begin(control: &Control, dry_run: bool) -> Result<(Vec<NodeName>, Position), Refusal> {
    let node = &control.node;
    if node.owner.acting().is_some() {
        return rotation::begin(node, &control.papers, dry_run).await;
    }
    let target = owner_target(node)?;
    match node.calls.call(&target, Alpn::Control, &ControlRequest::RotateCa { dry_run }, BEGIN_DEADLINE).await? {
        ControlAnswer::Rotates { missed, position } => Ok((missed, position)),
        ControlAnswer::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::new(Class::Failed, "protocol", "the owner gave an answer of another kind")),
    }
}

/// Waits until the rotation that was begun at `position` is over.
async fn retired(control: &Control, position: Position, wait: WaitSeconds) -> Result<Arc<State>, Refusal> {
    let mut states = control.node.consensus.watch_state();
    let over = |state: &Arc<State>| !state.ca.line.rotating || state.ca.line.changed > position;
    if let Ok(Ok(state)) = timeout(wait.duration(), states.wait_for(over)).await {
        return Ok(Arc::clone(&state));
    }
    let missing = format!("it waits for {}", control.node.state().names_waited_for().join(", "));
    Err(timed_out("the new CA is committed, and both count", &missing, wait))
}

/// What ending a rotation now gives up.
fn given_up(state: &State) -> Vec<String> {
    let (members, peers) = state.waits_for().unwrap_or_default();
    let nodes = members.iter().filter_map(|id| state.members.get(id)).map(|member| {
        format!(
            "{}: its certificate counts no longer; let it join again (`landfall token create{}` here, `landfall cluster join \
             TOKEN` there): it keeps its key, its id and its data",
            member.node,
            if member.witness { " --witness" } else { "" }
        )
    });
    let peers = peers.iter().map(|cap| {
        format!("{cap}: it follows by itself once it is reached, as long as no more than four rotations lie between")
    });
    nodes.chain(peers).collect()
}

/// The CAs, for people.
pub fn status(state: &State) -> CaStatus {
    let line = &state.ca.line;
    let rotation = state.ca.rotation.as_ref().zip(state.waits_for()).map(|(rotation, (members, peers))| {
        let most = u64::try_from(ROTATION_MOST.as_millis()).unwrap_or(u64::MAX);
        let name = |id| state.members.get(id).map(|member| member.node.clone());
        CaRotation {
            next: ca_fingerprint(line.newest()).into(),
            begun_at: rotation.begun_at.into(),
            ends_by: UnixMillis(rotation.begun_at.0.saturating_add(most)).into(),
            renewed: rotation.renewed.iter().filter_map(name).collect(),
            waits_for_nodes: members.iter().filter_map(name).collect(),
            followed: rotation.followed.iter().filter(|cap| state.peers.contains(cap)).cloned().collect(),
            waits_for_peers: peers,
        }
    });
    CaStatus { present: ca_fingerprint(line.present()).into(), rotation }
}
