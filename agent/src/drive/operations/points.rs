//! `point list` and `point export`: what can be recovered, and getting it out.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, NodeName, VmId};
use landfall_proto::message::control::{
    self, ControlAnswer, ControlRequest, DIFFERENCE_RANGES_MAX, HolderFigures, Point, PointState,
};
use landfall_proto::{Class, Refusal};
use tokio::time::timeout;

use super::census::{copies, figures, name, newest, resolve};
use crate::drive::control::Control;
use crate::drive::members::control_target;
use crate::surface::point::{
    ByteRange, DiskDifference, ExportedFile, PointDiff, PointDifference, PointExport, PointExported, PointStatus,
};
use crate::surface::vm::VmSelector;
use crate::surface::wait::WaitSeconds;

/// How long the export of a point may take where nothing else is asked: a terabyte at 100 MB/s.
const EXPORT_DEADLINE: Duration = Duration::from_secs(3 * 3600);

/// The recovery points of a VM, oldest first.
pub async fn list(control: &Control, vm: &VmSelector) -> Result<Vec<PointStatus>, Refusal> {
    let (id, member, holder) = holder_of(control, vm).await?;
    match &holder.fault {
        // No point and a fault is not an empty list: the points are there, or were.
        Some(fault) if holder.points.is_empty() => Err(Refusal::new(Class::Failed, "replica_unusable", fault.clone())
            .remedy("mend what it names on the node that receives the replica (`landfall vm locate`)")),
        _ => Ok(who_has(control, member, id, holder.points).await),
    }
}

/// Puts down for each point which nodes list it and where it is damaged, as each of them says that has a copy and answers.
async fn who_has(control: &Control, receiver: MemberId, id: VmId, points: Vec<Point>) -> Vec<PointStatus> {
    let state = control.node.state();
    let Some(replica) = state.replicas.get(&id) else { return points.into_iter().map(Into::into).collect() };
    let mut told: BTreeMap<MemberId, Vec<Point>> = BTreeMap::new();
    if replica.in_sync.contains(&receiver) {
        told.extend(
            copies(control, &state, replica).await.into_iter().map(|(member, figures)| (member, figures.points)),
        );
        told.insert(receiver, points.clone());
    }
    let show = |mut point: Point| {
        let listed = |points: &&Vec<Point>| points.iter().find(|other| is_same(other, &point)).map(|other| other.state);
        let states: Vec<(MemberId, PointState)> =
            told.iter().filter_map(|(member, points)| Some((*member, listed(&points)?))).collect();
        let nodes = |damaged: bool| {
            let found = states.iter().filter(move |(_, state)| (*state == PointState::Damaged) == damaged);
            found.map(|(member, _)| name(&state, *member)).collect::<Vec<NodeName>>()
        };
        if !told.is_empty() && point.state != PointState::Unreachable {
            point.copies = nodes(false);
        }
        PointStatus { damaged_at: nodes(true), ..point.into() }
    };
    points.into_iter().map(show).collect()
}

/// Whether what another node lists is that point.
fn is_same(other: &Point, point: &Point) -> bool {
    other.state != PointState::Unreachable && (other.sequence, other.root) == (point.sequence, point.root)
}

/// The replica, the node that receives it, and what that says of it.
pub(super) async fn holder_of(control: &Control, vm: &VmSelector) -> Result<(VmId, MemberId, HolderFigures), Refusal> {
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
    Ok((id, member, holder))
}

/// The point that was asked for; the newest that can be restored where none was.
pub(super) fn point_of(points: &[Point], asked: Option<u64>) -> Result<&Point, Refusal> {
    let point = match asked {
        Some(sequence) => points.iter().find(|point| point.sequence == sequence),
        None => newest(points),
    };
    point.ok_or_else(|| {
        let listed: Vec<String> = points.iter().map(|point| point.sequence.to_string()).collect();
        let asked = asked.map_or_else(|| "newest".to_owned(), |point| point.to_string());
        Refusal::not_found("point", &asked).remedy(format!("the points are: {}", listed.join(", ")))
    })
}

/// Writes the disks of a point as raw images on the node that holds it.
pub async fn export(control: &Control, vm: &VmSelector, request: PointExport) -> Result<PointExported, Refusal> {
    let node = &control.node;
    let (id, member, holder) = holder_of(control, vm).await?;
    let point = point_of(&holder.points, request.point)?;
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
        .filter_map(|(target, bytes, root)| {
            let path = request.dir.join(format!("{target}.raw"));
            Some(ExportedFile { target: target.parse().ok()?, path, bytes, root: root.into() })
        })
        .collect();
    Ok(PointExported { uuid: id, point: point.sequence, root: point.root.into(), files })
}

/// Which bytes differ between two points, as the node that holds them finds.
pub async fn diff(control: &Control, vm: &VmSelector, request: PointDiff) -> Result<PointDifference, Refusal> {
    let node = &control.node;
    let (id, member, holder) = holder_of(control, vm).await?;
    let PointDiff { from, to, limit } = request;
    if limit > DIFFERENCE_RANGES_MAX {
        let remedy = format!("list at most {DIFFERENCE_RANGES_MAX} ranges; the rest is counted");
        return Err(Refusal::invalid("limit", &limit.to_string(), &remedy));
    }
    for (field, asked) in [("from", from), ("to", to)] {
        if !holder.points.iter().any(|point| point.sequence == asked) {
            let listed: Vec<String> = holder.points.iter().map(|point| point.sequence.to_string()).collect();
            return Err(Refusal::not_found("point", &asked.to_string())
                .field(field)
                .remedy(format!("the points are: {}", listed.join(", "))));
        }
    }
    let disks = if member == node.me {
        control.replicas.difference(id, from, to, limit).await?
    } else {
        let target = control_target(&node.state(), member);
        let target = target.ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
        let ask = ControlRequest::Difference { vm: id, from, to, limit };
        match node.calls.call(&target, Alpn::Control, &ask, EXPORT_DEADLINE).await {
            Ok(ControlAnswer::Difference(disks)) => disks,
            Ok(ControlAnswer::Refused(refusal)) => return Err(refusal),
            Ok(_) => return Err(Refusal::new(Class::Failed, "protocol", "the holder gave an answer of another kind")),
            Err(error) => return Err(Refusal::new(Class::Unreachable, "holder_unreachable", error.to_string())),
        }
    };
    let shown = |disk: control::DiskDifference| {
        let ranges = disk.ranges.into_iter().map(|(offset, bytes)| ByteRange { offset, bytes }).collect();
        let (from_bytes, to_bytes, left_out) = (disk.from_bytes, disk.to_bytes, disk.left_out);
        let (target, differing_bytes) = (disk.target.parse().ok()?, disk.differing_bytes);
        Some(DiskDifference { target, from_bytes, to_bytes, differing_bytes, ranges, left_out })
    };
    Ok(PointDifference { uuid: id, from, to, disks: disks.into_iter().filter_map(shown).collect() })
}

fn slow_export() -> Refusal {
    Refusal::new(Class::Failed, "timed_out", "the export was not finished in time").field("wait_seconds")
}
