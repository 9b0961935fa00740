//! Consensus calls between members, over `landfall-raft/1`.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use landfall_proto::alpn::Alpn;
use landfall_proto::calls::{CallError, Calls};
use landfall_proto::endpoint::Target;
use landfall_proto::id::MemberId;
use landfall_proto::model::MemberList;
use landfall_proto::trust::Caller;
use landfall_store::consensus::{Rpc, ServeError, Wire, WireError, speaker};
use serde::{Deserialize, Serialize};

use crate::drive::node::Node;
use crate::drive::{admission, rollback};

/// One consensus message: openraft's own encoding inside this project's frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RaftFrame {
    /// Which call it is.
    pub rpc: Rpc,
    /// The call, or the answer.
    pub payload: Vec<u8>,
}

/// Resolves members by the list applied last and calls them.
#[derive(Clone, Debug)]
pub struct RaftWire {
    calls: Calls,
    members: Arc<ArcSwap<MemberList>>,
}

impl RaftWire {
    /// A wire that begins with `members`: those that were last applied before a restart.
    pub fn new(calls: Calls, members: MemberList) -> Self {
        Self { calls, members: Arc::new(ArcSwap::from_pointee(members)) }
    }

    /// Takes over a newer list.
    pub fn set_members(&self, members: MemberList) {
        self.members.store(Arc::new(members));
    }
}

#[async_trait]
impl Wire for RaftWire {
    async fn call(&self, to: MemberId, rpc: Rpc, payload: Vec<u8>, deadline: Duration) -> Result<Vec<u8>, WireError> {
        let target = {
            let list = self.members.load();
            let member = list.by_id(to).ok_or_else(|| WireError::Unreachable(format!("member {to} is not known")))?;
            Target { cap: list.cap.clone(), address: member.control, key: Some(member.key) }
        };
        let call = RaftFrame { rpc, payload };
        let answer: RaftFrame =
            self.calls.call(&target, Alpn::Raft, &call, deadline).await.map_err(|error| match error {
                CallError::Dial(_) | CallError::Full => WireError::Unreachable(error.to_string()),
                _ => WireError::NoAnswer(error.to_string()),
            })?;
        Ok(answer.payload)
    }
}

/// Answers a call of `caller`, who may take part; nothing where it is not to be answered.
///
/// Consensus believes whoever calls, so a member that has gone bad is believed about itself alone: a call names its leader or
/// its candidate, and that must be the one who calls.
pub async fn serve(node: &Node, caller: &Caller, call: RaftFrame) -> Option<RaftFrame> {
    if !rollback::may_serve(node).await {
        return None;
    }
    let refuse = |why: &str| node.events.refuse("request_refused", &admission::who(caller), why);
    let speaker = speaker(call.rpc, &call.payload);
    if speaker.is_none() || speaker != caller.member_id() {
        refuse("it speaks for another member in consensus, or cannot be read");
        return None;
    }
    match node.consensus.serve(call.rpc, &call.payload).await {
        Ok(payload) => Some(RaftFrame { rpc: call.rpc, payload }),
        Err(ServeError::Malformed(why)) => {
            refuse(&format!("its consensus call cannot be read: {why}"));
            None
        }
        Err(error) => {
            tracing::debug!(%error, "consensus call not served");
            None
        }
    }
}
