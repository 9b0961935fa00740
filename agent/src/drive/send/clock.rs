//! How far the clocks of the two sites are apart: asked of the node that receives the replica, now and then.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Target;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};

use super::{Line, Sender};

/// How often the other side is asked: clocks drift by seconds in days, and are set wrong by people at any time.
const ASK_INTERVAL: Duration = Duration::from_secs(600);

/// How long the answer may take: a clock that was read half of this ago is too old to tell.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

impl Sender {
    /// Asks for the other side's clock where it is time to. The answer was read about half-way between question and answer.
    pub(super) async fn compare_clocks(&self, line: &mut Line) {
        let clock = &self.node.outside.clock;
        let asked = clock.now();
        if line.clock_asked.is_some_and(|before| asked.since(before) < ASK_INTERVAL) {
            return;
        }
        let Some(at) = &line.at else { return };
        let state = self.node.state();
        let Some(member) = state.peers.get(&self.primary.to).and_then(|peer| peer.list.by_id(at.member)) else {
            return;
        };
        line.clock_asked = Some(asked);
        let target = Target { cap: self.primary.to.clone(), address: member.control, key: Some(member.key) };
        let answer = self.node.calls.call(&target, Alpn::Control, &ControlRequest::Clock, ASK_DEADLINE).await;
        let Ok(ControlAnswer::Clock(theirs)) = answer else { return };
        let half = clock.now().since(asked) / 2;
        let ours = clock.wall().0.saturating_sub(u64::try_from(half.as_millis()).unwrap_or(u64::MAX));
        let ahead = i64::try_from(i128::from(theirs.0) - i128::from(ours)).unwrap_or(i64::MAX);
        self.figures.send_modify(|figures| figures.clock_skew_ms = Some(ahead));
    }
}
