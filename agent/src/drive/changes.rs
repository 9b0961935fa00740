//! Waiting for a reason to look again: what is committed, or what the VM service lists, has changed, or it is time.

use std::sync::Arc;
use std::time::Duration;

use landfall_store::State;
use tokio::sync::watch;
use tokio::time::Interval;

use crate::drive::node::Node;
use crate::drive::vm_side::Reported;

/// The reasons to look again, for one that follows them.
pub struct Changes {
    look: Interval,
    state: watch::Receiver<Arc<State>>,
    reported: watch::Receiver<Arc<Reported>>,
}

impl Changes {
    /// The changes at `node`; after `every` without one it is time as well.
    pub fn at(node: &Node, every: Duration) -> Self {
        Self { look: node.rhythm(every), state: node.consensus.watch_state(), reported: node.vms.watch() }
    }

    /// Waits for the next one; `None` where nothing can change any more, since the node is being stopped.
    pub async fn next(&mut self) -> Option<()> {
        tokio::select! {
            _ = self.look.tick() => Some(()),
            changed = self.state.changed() => changed.ok(),
            changed = self.reported.changed() => changed.ok(),
        }
    }
}
