//! `vm seed`: at the node that has the VM, or receives its replica.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, Root, UnixMillis, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::{Class, Refusal};
use tokio::time::timeout;

use super::census::{census, name, resolve};
use crate::drive::control::Control;
use crate::drive::members::control_target;
use crate::drive::seed;
use crate::surface::point::ExportedFile;
use crate::surface::seed::{SeedAction, SeedRequest, Seeded};
use crate::surface::vm::VmSelector;
use crate::surface::wait::WaitSeconds;

/// How long a seed may take where nothing else is asked: a terabyte at 100 MB/s.
const SEED_DEADLINE: Duration = Duration::from_secs(3 * 3600);

/// Writes or takes a seed.
pub async fn seed(control: &Control, vm: &VmSelector, request: SeedRequest) -> Result<Seeded, Refusal> {
    let node = &control.node;
    let id = resolve(node, vm).await?;
    let import = request.action == SeedAction::Import;
    let member = if import { receiver(control, id, vm)? } else { host(control, id, vm).await? };
    let folder = request.dir.to_str().map(str::to_owned);
    let folder = folder
        .ok_or_else(|| Refusal::invalid("dir", &request.dir.to_string_lossy(), "use a folder whose path is UTF-8"))?;
    let deadline = request.wait_seconds.map_or(SEED_DEADLINE, WaitSeconds::duration);
    let (taken_at, files) = done(control, member, id, folder, import, deadline).await?;
    let file = |(target, bytes, root): (String, u64, Root)| {
        let path = request.dir.join(format!("{target}.raw"));
        Some(ExportedFile { target: target.parse().ok()?, path, bytes, root: root.into() })
    };
    let files = files.into_iter().filter_map(file).collect();
    let node = name(&node.state(), member);
    Ok(Seeded { uuid: id, action: request.action, node, taken_at: taken_at.into(), files })
}

type Files = Vec<(String, u64, Root)>;

async fn done(
    control: &Control,
    member: MemberId,
    vm: VmId,
    folder: String,
    import: bool,
    deadline: Duration,
) -> Result<(UnixMillis, Files), Refusal> {
    let node = &control.node;
    if member == node.me {
        let seeded = timeout(deadline, seed::here(node, &control.replicas, vm, folder.into(), import)).await;
        let seed = seeded.map_err(|_| {
            Refusal::new(Class::Failed, "timed_out", "the seed was not finished in time").field("wait_seconds")
        })??;
        return Ok((seed.taken_at, seed.files()));
    }
    let target = control_target(&node.state(), member);
    let target = target.ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
    let ask = ControlRequest::Seed { vm, folder, import };
    match node.calls.call(&target, Alpn::Control, &ask, deadline).await {
        Ok(ControlAnswer::Seeded { taken_at, files, .. }) => Ok((taken_at, files)),
        Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
        Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "the node gave an answer of another kind")),
        Err(error) => Err(Refusal::new(Class::Unreachable, "node_unreachable", error.to_string())),
    }
}

/// The node that receives the replica.
fn receiver(control: &Control, id: VmId, vm: &VmSelector) -> Result<MemberId, Refusal> {
    let state = control.node.state();
    state.replicas.get(&id).map(|replica| replica.receiver()).ok_or_else(|| {
        Refusal::new(Class::NotFound, "no_replica", format!("this cluster keeps no replica of {vm}"))
            .field("vm")
            .remedy("enable replication first (`landfall vm enable VM --start +7d`); import at the replica's cluster")
    })
}

/// The node that has the VM.
async fn host(control: &Control, id: VmId, vm: &VmSelector) -> Result<MemberId, Refusal> {
    let state = control.node.state();
    let census = census(&control.node).await;
    let found = census.local.get(&id).and_then(|(node, _)| state.member_named(node));
    found.map(|member| member.id).ok_or_else(|| {
        Refusal::new(Class::NotFound, "not_found", format!("no live node of this cluster has the VM {vm}"))
            .field("vm")
            .remedy("give the command at the primary's cluster")
    })
}
