//! What a failover that is committed will read, whose point is not pinned yet.

use std::time::Duration;

use landfall_proto::id::VmId;
use landfall_store::consensus::Consensus;
use tokio::time::Instant;

use crate::drive::node::Node;
use crate::drive::replica::pins::Wants;

/// For how long after its start a node that does not know yet what is committed lets no point go: longer than finding a
/// leader takes. One that has none even then goes on without: its points would become too many.
const UNKNOWING: Duration = Duration::from_secs(30);

/// What the committed state says of one VM.
#[derive(Debug)]
pub(super) struct Committed {
    consensus: Consensus,
    vm: VmId,
    since: Instant,
}

impl Committed {
    pub(super) fn of(node: &Node, vm: VmId) -> Self {
        Self { consensus: node.consensus.clone(), vm, since: node.since }
    }
}

impl Wants for Committed {
    fn wants(&self, sequence: u64) -> bool {
        if !self.consensus.has_caught_up() && self.since.elapsed() < UNKNOWING {
            return true;
        }
        let state = self.consensus.state();
        let tested = state.tests.get(&self.vm).map(|test| test.point.sequence);
        let promoted = state.promotions.get(&self.vm).map(|promotion| promotion.point.sequence);
        tested == Some(sequence) || promoted == Some(sequence)
    }
}
