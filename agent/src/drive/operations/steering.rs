//! `broker move`: who owns the CAP, as an operator wants it.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{MemberId, Term};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::{Class, Refusal};

use super::clusters::find;
use crate::drive::members::owner_target;
use crate::drive::node::Node;
use crate::drive::owner;
use crate::drive::propose::no_quorum;
use crate::surface::broker::{BrokerMove, BrokerMoved};

/// How long the owner may take to hand the CAP over: its first lease, the beginning, the next election where the node
/// that was named does not make it, and what is asked afterwards.
const MOVE_DEADLINE: Duration = Duration::from_secs(25);

/// Gives the CAP to another node.
pub async fn broker_move(node: &Node, request: BrokerMove) -> Result<BrokerMoved, Refusal> {
    let state = node.state();
    let to = find(&state, &request.to).map_err(|refusal| refusal.field("to"))?;
    let cap = state.cap().ok_or_else(no_quorum)?.clone();
    let (owner, term, gap_ms) = hand_over(node, Some(to.id)).await?;
    let owner = node.state().members.get(&owner).map_or(to.node, |member| member.node.clone());
    Ok(BrokerMoved { cap, owner, term, gap_ms })
}

/// Has the owner, whichever node it is, hand the CAP over; who owns it then, under which term, and the gap in
/// milliseconds.
pub async fn hand_over(node: &Node, to: Option<MemberId>) -> Result<(MemberId, Term, u64), Refusal> {
    let gap_ms = |gap: Duration| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
    if node.owner.acting().is_some() {
        let done = owner::order(node, to).await?;
        return Ok((done.owner, done.term, gap_ms(done.gap)));
    }
    let target = owner_target(node)?;
    match node.calls.call(&target, Alpn::Control, &ControlRequest::HandOver { to }, MOVE_DEADLINE).await? {
        ControlAnswer::HandedOver { owner, term, gap_ms } => Ok((owner, term, gap_ms)),
        ControlAnswer::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::new(Class::Failed, "protocol", "the owner gave an answer of another kind")),
    }
}
