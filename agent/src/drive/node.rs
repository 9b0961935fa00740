//! The handles that everything a member does is done with. It holds no decision and no state of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use landfall_proto::calls::Calls;
use landfall_proto::id::{Epoch, MemberId, NodeName, VmId};
use landfall_proto::model::CaLine;
use landfall_proto::seam::Outside;
use landfall_proto::trust::Trust;
use landfall_store::State;
use landfall_store::consensus::Consensus;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::config::NodeConfig;
use crate::decide::twins::Twin;
use crate::drive::cap_address::CapAddressKeeper;
use crate::drive::events::Events;
use crate::drive::exclusion::Exclusion;
use crate::drive::flapping::Quarantines;
use crate::drive::gossip::View;
use crate::drive::loss::DownSince;
use crate::drive::owner::Owner;
use crate::drive::propose::Proposer;
use crate::drive::rollback::Gate;
use crate::drive::vm_side::VmSide;

/// This node as a member of its cluster.
#[derive(Clone)]
pub struct Node {
    /// Its identity.
    pub me: MemberId,
    /// Its name.
    pub name: NodeName,
    /// Its file.
    pub config: Arc<NodeConfig>,
    /// Time, randomness, network, cryptography.
    pub outside: Outside,
    /// The committed state and who leads.
    pub consensus: Consensus,
    /// The hold on the CAP.
    pub owner: Owner,
    /// Where commands go in.
    pub proposer: Proposer,
    /// Connections to other agents.
    pub calls: Calls,
    /// Whom certificates are believed.
    pub trust: Trust,
    /// What gossip sees.
    pub view: watch::Receiver<Arc<View>>,
    /// The members that the owner, where it is this node, holds for dead.
    pub down: watch::Receiver<DownSince>,
    /// Its VM service.
    pub vms: VmSide,
    /// The keys of others that are heard in two places.
    pub twins: watch::Receiver<Vec<Twin>>,
    /// The replicas that this node's VM service has registered, and at which assignment.
    pub registered: watch::Sender<Arc<BTreeMap<VmId, Epoch>>>,
    /// Its part in holding the CAP's own address; `None` where the CAP has none, and on a witness.
    pub cap_address: Option<Arc<CapAddressKeeper>>,
    /// What happened lately, for people.
    pub events: Events,
    /// The CAs of the cluster as this node was told when it was enrolled, or last kept them: see [`Node::cas`].
    pub known: Arc<ArcSwap<CaLine>>,
    /// Whether the others refuse it.
    pub exclusion: Exclusion,
    /// Whether it takes part in consensus.
    pub gate: Gate,
    /// The members that come and go, in its own sight.
    pub quarantines: Quarantines,
    /// Since when it runs, which is where its rhythms begin.
    pub since: Instant,
}

impl Node {
    /// The committed state as this node has applied it.
    pub fn state(&self) -> Arc<State> {
        self.consensus.state()
    }

    /// The CAs of the cluster: as committed, where this node has not been told of newer ones when it joined again.
    pub fn cas(&self) -> CaLine {
        let (known, state) = (self.known.load_full(), self.state());
        let line = &state.ca.line;
        if line.changed > known.changed { line.clone() } else { CaLine::clone(&known) }
    }

    /// Keeps in mind how the CAs of the cluster follow each other.
    pub fn know(&self, line: CaLine) {
        self.known.store(Arc::new(line));
    }

    /// Ticks at once, and then at the multiples of `every` of this node's life: whatever looks around in the same rhythm
    /// does so in the same moment, so that an idle node is woken once for all of it.
    pub fn rhythm(&self, every: Duration) -> Interval {
        let lived = self.since.elapsed();
        let passed = lived.as_nanos().checked_rem(every.as_nanos()).unwrap_or_default();
        let last = lived.saturating_sub(Duration::from_nanos(u64::try_from(passed).unwrap_or_default()));
        let mut ticks = interval_at(self.since + last, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    }

    /// Returns once this agent acts as the owner of the CAP; who has nothing to do but as the owner waits here.
    pub async fn owning(&self) {
        let mut tenure = self.owner.watch();
        while self.owner.acting().is_none() {
            if tenure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
