//! Whether another agent's ports can be reached from here, tried by a connection of its own.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::close::Close;
use landfall_proto::endpoint::{Link, Target};
use landfall_proto::id::Fqdn;
use landfall_proto::message::control::{ControlAnswer, FAULT_TEXT_MAX, Reach};
use landfall_proto::model::Member;
use landfall_proto::trust::Caller;
use landfall_proto::{Class, Refusal};
use tokio::time::{Instant, sleep};

use crate::drive::node::Node;

/// How long a path may take to show how large its packets may be: some ten probes, each a round trip.
const MTU_DEADLINE: Duration = Duration::from_millis(800);

/// How often that is looked at.
const MTU_INTERVAL: Duration = Duration::from_millis(50);

/// What plain Ethernet carries: more is not looked for.
const MTU_FULL: u16 = 1452;

/// One port of an agent.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where.
    pub target: Target,
    /// By which protocol.
    pub alpn: Alpn,
}

impl Way {
    /// The port of `member` that speaks `alpn`.
    pub fn to(cap: &Fqdn, member: &Member, alpn: Alpn) -> Self {
        let address = if alpn == Alpn::Data { member.data } else { member.control };
        Self { target: Target { cap: cap.clone(), address, key: Some(member.key) }, alpn }
    }
}

/// Opens a connection that way and closes it again: the size of its packets, or why there is none.
pub async fn dial(node: &Node, way: &Way) -> Result<Option<u16>, String> {
    let link = node.calls.endpoint(way.alpn).dial(&way.target, way.alpn).await.map_err(|error| error.to_string())?;
    let mtu = settled_mtu(&link).await;
    link.close(Close::Done, "only looked whether it can be reached");
    Ok(Some(mtu))
}

/// The size of a connection's packets, once it has had time to find out how large they may be.
pub async fn settled_mtu(link: &Link) -> u16 {
    let end = Instant::now() + MTU_DEADLINE;
    loop {
        let mtu = link.connection().stats().path.current_mtu;
        if mtu >= MTU_FULL || Instant::now() >= end {
            return mtu;
        }
        sleep(MTU_INTERVAL).await;
    }
}

/// Tries both ports of whoever asks: of nobody else, so that no agent can be made to knock at strangers' doors.
pub async fn back(node: &Node, caller: &Caller) -> ControlAnswer {
    let state = node.state();
    let (cap, member) = match (caller, state.cap()) {
        (Caller::Member { member }, Some(cap)) => (cap, member),
        (Caller::PeerNode { cap, member }, _) => (cap, member),
        _ => {
            let message = "only listed nodes are called back";
            return ControlAnswer::Refused(Refusal::new(Class::Refused, "not_allowed", message));
        }
    };
    let ways = [Alpn::Control, Alpn::Data].map(|alpn| Way::to(cap, member, alpn));
    let (control, data) = tokio::join!(dial(node, &ways[0]), dial(node, &ways[1]));
    ControlAnswer::ReachedBack { control: said(control), data: said(data) }
}

fn said(outcome: Result<Option<u16>, String>) -> Reach {
    match outcome {
        Ok(mtu) => Reach { mtu, fault: None },
        Err(why) => Reach { mtu: None, fault: Some(why.chars().take(FAULT_TEXT_MAX / 4).collect()) },
    }
}
