//! A node that cannot have the CAP's address does not own the CAP while another can.
//!
//! An owner that loses the address asks the others themselves whether they could have it: gossip is no reason to move
//! anything (R7). Where one could, it hands the CAP over; where none could, it goes on without the address, since a cluster
//! without an owner can do nothing at all.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::{Class, Refusal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Standing;
use crate::decide::succession::{self, Heir};
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::drive::owner;

/// How long another node may take to say whether it could have the address.
const ASK_DEADLINE: Duration = Duration::from_millis(500);

/// How often an owner without the address asks again.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Answers whether this node could have the address.
pub fn could_hold(node: &Node) -> ControlAnswer {
    let fault = match &node.cap_address {
        Some(keeper) => keeper.standing().fault,
        None => Some("a witness has no address of the CAP".to_owned()),
    };
    fault.map_or(ControlAnswer::Done, |why| {
        ControlAnswer::Refused(Refusal::new(Class::Failed, "cap_address_unfit", why))
    })
}

/// Keeps this node from owning the CAP while it cannot have the address and another can, until the task is dropped.
pub(super) async fn stand_back(mut standing: watch::Receiver<Standing>, node: Node) {
    loop {
        let fault = standing.borrow_and_update().fault.clone();
        if let Some(fault) = &fault
            && node.owner.acting().is_some()
            && let able = who_could(&node).await
            && let Some(heir) = succession::best(&able)
        {
            let told = format!("{} gives up the CAP, whose address it cannot have: {fault}", node.name);
            node.events.record(Happening::critical("cap_given_up", told).node(&node.name));
            if let Err(refusal) = owner::give(&node, heir, &able).await {
                tracing::warn!(%refusal, "the CAP is not handed over");
            }
        }
        if let Ok(Err(_)) = timeout(ASK_INTERVAL, standing.changed()).await {
            return;
        }
    }
}

/// The nodes that can own the CAP, and say that they could have the address.
async fn who_could(node: &Node) -> Vec<Heir> {
    let state = node.state();
    let able: Vec<_> = owner::heirs(node).into_iter().filter(|heir| succession::check_able(heir).is_ok()).collect();
    let asked = able.iter().map(|heir| async {
        let Some(target) = control_target(&state, heir.member) else { return false };
        let request = ControlRequest::CouldHoldAddress;
        let call = node.calls.call::<_, ControlAnswer>(&target, Alpn::Control, &request, ASK_DEADLINE);
        matches!(call.await, Ok(ControlAnswer::Done))
    });
    let could = futures_util::future::join_all(asked).await;
    able.into_iter().zip(could).filter(|(_, could)| *could).map(|(heir, _)| heir).collect()
}
