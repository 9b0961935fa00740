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
use landfall_store::consensus::{Rpc, Wire, WireError};
use serde::{Deserialize, Serialize};

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
