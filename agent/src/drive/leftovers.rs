//! Removing what stays on a node of replicas that another node has taken over.
//!
//! Whether files may go is decided in `decide/leftover.rs`, first on what this node has applied, and once they are due on
//! what it has applied after asking the owner, who asked a quorum. They are set aside under the lock of the replica's
//! folder, so that nobody opens them, nor puts a copy in their place, in between. What a crash cut off is finished at the
//! next look.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::model::Replica;
use landfall_proto::seam::Time;
use tokio::time::{MissedTickBehavior, interval};

use crate::decide::leftover::{self, Files};
use crate::drive::confirm;
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::replica::Manifest;
use crate::drive::replica::branch::branches_in;
use crate::drive::replica::leftover::{REMOVED, clear, look, remove};
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;
use crate::vm_service::VmRole;

/// How often is looked: a fraction of the grace, and seldom enough to read a manifest of each.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Removes superseded files of this node, until the task is dropped.
pub async fn run(node: Node, replicas: Replicas) {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut superseded = BTreeMap::new();
    loop {
        look.tick().await;
        for location in &node.config.storage {
            let path = location.path.clone();
            match blocking(move || clear(&path, REMOVED)).await {
                Ok(0) => {}
                Ok(bytes) => tracing::info!(location = %location.name, bytes, "finished removing files"),
                Err(refusal) => tracing::warn!(location = %location.name, %refusal, "files not removed"),
            }
        }
        sweep(&node, &replicas, &mut superseded).await;
    }
}

/// Looks at each replica that this node does not receive. `superseded` says since when its files have been so.
async fn sweep(node: &Node, replicas: &Replicas, superseded: &mut BTreeMap<VmId, Time>) {
    let (state, now) = (node.state(), node.outside.clock.now());
    let mut before = std::mem::take(superseded);
    for replica in state.replicas.values().filter(|replica| replica.receiver() != node.me) {
        let vm = replica.vm.id;
        let Some((manifest, branches)) = found(replicas, replica).await else { continue };
        if leftover::kept_for(Some(replica), node.me, files(node, replicas, vm, (&manifest, branches))).is_some() {
            continue;
        }
        let since = before.remove(&vm).unwrap_or(now);
        superseded.insert(vm, since);
        if !leftover::is_due(since, now) {
            continue;
        }
        match discard(node, replicas, vm, (manifest, branches)).await {
            Ok(true) => drop(superseded.remove(&vm)),
            Ok(false) => {}
            Err(refusal) => tracing::warn!(%vm, %refusal, "superseded files not removed"),
        }
    }
}

/// What is there, and whether a branch is among it.
async fn found(replicas: &Replicas, replica: &Replica) -> Option<(Manifest, bool)> {
    let (folder, vm) = (replicas.folder(&replica.storage, replica.vm.id).ok()?, replica.vm.id);
    blocking(move || Ok(look(&folder, vm).map(|manifest| (manifest, !branches_in(&folder).is_empty()))))
        .await
        .ok()
        .flatten()
}

fn files(node: &Node, replicas: &Replicas, vm: VmId, (manifest, branches): (&Manifest, bool)) -> Files {
    let listed = node.vms.vms();
    // A VM service that says nothing may have it registered still.
    let unknown = listed.is_none();
    let has = listed.is_some_and(|vms| vms.iter().any(|seen| seen.vm.id == vm && seen.role == VmRole::Replica));
    let registered = unknown || has || node.registered.borrow().contains_key(&vm);
    Files { epoch: manifest.epoch, registered, in_use: replicas.is_read(vm), branches }
}

/// Removes files that are due, if they still are by what is committed now.
async fn discard(
    node: &Node,
    replicas: &Replicas,
    vm: VmId,
    (manifest, branches): (Manifest, bool),
) -> Result<bool, Refusal> {
    if !confirm::is_current(node).await {
        return Ok(false);
    }
    let state = node.state();
    let replica = state.replicas.get(&vm);
    let kept = leftover::kept_for(replica, node.me, files(node, replicas, vm, (&manifest, branches)));
    let Some(replica) = replica.filter(|_| kept.is_none()) else { return Ok(false) };
    let (epoch, points) = (manifest.epoch, manifest.points.len());
    let folder = replicas.folder(&replica.storage, vm)?;
    let Some(aside) = replicas.set_aside(vm, folder, manifest).await? else { return Ok(false) };
    let bytes = blocking(move || remove(&aside)).await?;
    let holder = state.members.get(&replica.holder).map_or_else(String::new, |member| member.node.to_string());
    let hours = leftover::GRACE.as_secs() / 3600;
    let told = format!(
        "the files of {} that had stayed here were removed ({points} points, {bytes} bytes): {holder} has held it since \
         assignment {}, these were of {epoch}, and so it has been for {hours} hours",
        replica.vm.name, replica.epoch
    );
    let event = Happening::info("replica_files_removed", told).vm(vm).node(&node.name).with("bytes", &bytes);
    node.events.record(event.with("points", &points).with("epoch", &epoch).with("holder", &holder));
    Ok(true)
}
