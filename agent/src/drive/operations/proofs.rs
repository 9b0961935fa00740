//! `point verify`, and what a failover does about a point that nobody has read back.

use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, NodeName, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, Point, PointState, ProofFigures};
use landfall_proto::{Class, Refusal};
use tokio::time::{Instant, sleep};

use super::census::name;
use super::points::{holder_of, point_of};
use crate::drive::control::Control;
use crate::drive::members::control_target;
use crate::surface::point::{CopyProof, PointProof, PointVerify};
use crate::surface::vm::VmSelector;
use crate::surface::wait::{WaitSeconds, timed_out};

/// How often a wait asks how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long the holder may take to say it.
const FIGURES_DEADLINE: Duration = Duration::from_secs(10);

/// Reads a point back on every node that has it. Without a wait it begins, or says how far it is.
pub async fn verify(control: &Control, vm: &VmSelector, request: PointVerify) -> Result<PointProof, Refusal> {
    let (id, member, holder) = holder_of(control, vm).await?;
    let point = point_of(&holder.points, request.point)?;
    if point.state == PointState::Unreachable {
        return Err(Refusal::new(
            Class::Unreachable,
            "point_unreachable",
            "the point is on a node that does not answer",
        )
        .field("point")
        .remedy("see `landfall point list` for the nodes that have it"));
    }
    let state = control.node.state();
    let members = state.replicas.get(&id).map(|replica| replica.in_sync.clone()).unwrap_or_default();
    let others: Vec<MemberId> = members.into_iter().filter(|other| *other != member).collect();
    let wait = request.wait_seconds;
    let there = join_all(others.iter().map(|other| prove(control, id, *other, point.sequence, wait)));
    let (figures, there) = tokio::join!(prove(control, id, member, point.sequence, wait), there);
    let figures = figures?;
    refuse_damage(&name(&state, member), &figures)?;
    let mut copies = vec![proof(name(&state, member), Ok(figures.clone()))];
    for (other, found) in others.into_iter().zip(there) {
        let node = name(&state, other);
        match found {
            Ok(figures) => {
                refuse_damage(&node, &figures)?;
                copies.push(proof(node, Ok(figures)));
            }
            Err(refusal) if refusal.code == TIMED_OUT => return Err(refusal),
            Err(refusal) => copies.push(proof(node, Err(refusal))),
        }
    }
    Ok(PointProof {
        uuid: id,
        point: figures.point,
        root: figures.root.into(),
        bytes: figures.bytes,
        read_bytes: figures.read_bytes,
        verified_at: figures.verified_at.map(Into::into),
        repaired: figures.repaired,
        copies,
    })
}

/// What a wait that is over is called.
const TIMED_OUT: &str = "timed_out";

fn refuse_damage(node: &NodeName, figures: &ProofFigures) -> Result<(), Refusal> {
    let Some(damage) = &figures.damage else { return Ok(()) };
    let message = format!("point {} is damaged at {node}: {damage}", figures.point);
    let remedy = "fail over to another point; what another copy has is repaired out of it by itself, and a damaged newest \
                  one is compared with its primary by itself, or now: `landfall vm resync`";
    Err(Refusal::new(Class::Failed, "damaged", message).field("point").remedy(remedy))
}

fn proof(node: NodeName, found: Result<ProofFigures, Refusal>) -> CopyProof {
    let (found, fault) = match found {
        Ok(figures) => (Some(figures), None),
        Err(refusal) => (None, Some(refusal.message)),
    };
    let (read_bytes, verified_at) =
        found.as_ref().map_or((0, None), |figures| (figures.read_bytes, figures.verified_at));
    let repaired = found.and_then(|figures| figures.repaired);
    CopyProof { node, read_bytes, verified_at: verified_at.map(Into::into), repaired, fault }
}

/// Lets `member` read a point back, and waits until it is through, or `wait` is over; without a wait it says how far it is.
async fn prove(
    control: &Control,
    vm: VmId,
    member: MemberId,
    point: u64,
    wait: Option<WaitSeconds>,
) -> Result<ProofFigures, Refusal> {
    let until = wait.map(|wait| (wait, Instant::now() + wait.duration()));
    let mut begin = true;
    loop {
        let figures = ask(control, vm, member, point, begin).await?;
        let over = figures.verified_at.is_some() || figures.damage.is_some();
        let Some((wait, deadline)) = until.filter(|_| !over) else { return Ok(figures) };
        if Instant::now() >= deadline {
            let missing = format!("{} of {} bytes are read", figures.read_bytes, figures.bytes);
            return Err(timed_out("the point is being read back", &missing, wait));
        }
        begin = false;
        sleep(LOOK_INTERVAL).await;
    }
}

async fn ask(control: &Control, vm: VmId, member: MemberId, point: u64, begin: bool) -> Result<ProofFigures, Refusal> {
    let node = &control.node;
    if member == node.me {
        return Box::pin(control.replicas.prove(vm, Some(point), begin)).await;
    }
    let state = node.state();
    let target = control_target(&state, member).ok_or_else(|| Refusal::not_found("node", &member.to_string()))?;
    let request = ControlRequest::Prove { vm, point: Some(point), begin };
    match node.calls.call(&target, Alpn::Control, &request, FIGURES_DEADLINE).await {
        Ok(ControlAnswer::Proof(figures)) => Ok(figures),
        Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
        Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "the holder gave an answer of another kind")),
        Err(error) => Err(Refusal::new(Class::Unreachable, "holder_unreachable", error.to_string())),
    }
}

/// How long a failover waits for its point to be read where no other time was given.
const FAILOVER_SECONDS: u64 = 45;

/// Reads the chosen point back before anything is begun from it. A damaged one is refused.
pub(super) async fn before_failover(
    control: &Control,
    vm: VmId,
    member: MemberId,
    point: &Point,
    wait: Option<WaitSeconds>,
) -> Result<(), Refusal> {
    let wait = wait.map_or_else(|| WaitSeconds::try_from(FAILOVER_SECONDS), Ok)?;
    let figures = prove(control, vm, member, point.sequence, Some(wait)).await;
    let figures = figures.map_err(|refusal| match refusal.code.as_str() {
        "timed_out" => {
            refusal.remedy("it goes on by itself: give the command again, or begin at once with --skip-verify")
        }
        _ => refusal,
    })?;
    figures.damage.map_or(Ok(()), |damage| Err(damaged(point, &damage)))
}

/// The refusal to fail over to a damaged point.
pub(super) fn damaged(point: &Point, damage: &str) -> Refusal {
    let message = format!("point {} is damaged: {damage}", point.sequence);
    Refusal::new(Class::Refused, "damaged", message)
        .field("point")
        .remedy("choose another point (`landfall point list`), or force it: its damage comes with it")
}
