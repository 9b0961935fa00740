//! `point verify`, and what a failover does about a point that nobody has read back.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, Point, PointState, ProofFigures};
use landfall_proto::{Class, Refusal};
use tokio::time::{Instant, sleep};

use super::points::{holder_of, point_of};
use crate::drive::control::Control;
use crate::drive::members::control_target;
use crate::surface::point::{PointProof, PointVerify};
use crate::surface::vm::VmSelector;
use crate::surface::wait::{WaitSeconds, timed_out};

/// How often a wait asks how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long the holder may take to say it.
const FIGURES_DEADLINE: Duration = Duration::from_secs(10);

/// Reads a point back at its holder. Without a wait it begins, or says how far it is.
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
    let figures = prove(control, id, member, point.sequence, request.wait_seconds).await?;
    if let Some(damage) = figures.damage {
        let message = format!("point {} is damaged: {damage}", figures.point);
        let remedy = "fail over to another point; a damaged newest one is compared with its primary by itself, or now: \
                      `landfall vm resync`";
        return Err(Refusal::new(Class::Failed, "damaged", message).field("point").remedy(remedy));
    }
    Ok(PointProof {
        uuid: id,
        point: figures.point,
        root: figures.root.into(),
        bytes: figures.bytes,
        read_bytes: figures.read_bytes,
        verified_at: figures.verified_at.map(Into::into),
        repaired: figures.repaired,
    })
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
