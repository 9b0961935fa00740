//! Counting how often each other member is lost, and leaving alone for a while those that come and go.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::id::{MemberId, NodeName, UnixMillis};
use landfall_proto::seam::Time;
use tokio::sync::watch;

use crate::decide::flapping::{Change, Flapping, QUARANTINED, Quarantine, Quarantined};
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::sight;

/// How often this agent looks: gossip sees no more.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The members that are quarantined, in this agent's sight. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Quarantines(watch::Sender<BTreeMap<MemberId, Quarantined>>);

impl Quarantines {
    /// What this agent holds.
    pub fn held(&self) -> BTreeMap<MemberId, Quarantined> {
        self.0.borrow().clone()
    }

    /// What it tells the others: only what the owner holds has an effect.
    pub fn told(&self, node: &Node) -> Vec<Quarantined> {
        let owns = node.owner.acting().is_some();
        self.0.borrow().values().filter(|_| owns).copied().collect()
    }
}

/// Looks for as long as the agent runs. An event tells of each beginning and end, of which there are a few an hour at most.
pub async fn watch_over(node: Node) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut flapping = Flapping::default();
    let mut restored = node.state().restored.clone();
    let mut before: BTreeMap<MemberId, Quarantine> = BTreeMap::new();
    loop {
        look.tick().await;
        let (state, now) = (node.state(), node.outside.clock.now());
        let mut changes = flapping.look(now, node.me, &sight::live(&node));
        if state.restored != restored {
            for (member, at) in state.restored.iter().filter(|(member, at)| restored.get(member) != Some(*at)) {
                tracing::debug!(%member, %at, "an operator vouches for it");
                changes.extend(flapping.forgive(*member).then_some(Change::Ended(*member)));
            }
            restored = state.restored.clone();
        }
        let held = flapping.quarantined();
        if held != before {
            let wall = node.outside.clock.wall();
            node.quarantines.0.send_replace(held.iter().map(|(id, one)| (*id, told(*id, one, now, wall))).collect());
            before = held;
        }
        for change in changes {
            tell(&node, change);
        }
    }
}

fn told(member: MemberId, held: &Quarantine, now: Time, wall: UnixMillis) -> Quarantined {
    let left = |until: Time| u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX);
    let until = held.until.map(|until| UnixMillis(wall.0.saturating_add(left(until))));
    Quarantined { member, losses: held.losses, steady_seconds: held.needs.as_secs(), until }
}

fn tell(node: &Node, change: Change) {
    let (Change::Began(member) | Change::Ended(member)) = change;
    let Some(name) = node.state().members.get(&member).map(|member| member.node.clone()) else { return };
    let happening = match (change, node.quarantines.0.borrow().get(&member)) {
        (Change::Began(_), Some(held)) => {
            Happening::warning(QUARANTINED, format!("{name} is quarantined: it {}", held.reason()))
        }
        _ => Happening::info("quarantine_ended", format!("{name} is quarantined no more")),
    };
    node.events.record(happening.node(&name));
}

/// The members that the owner holds in quarantine, as far as this node knows.
pub fn known(node: &Node) -> Vec<(NodeName, Quarantined)> {
    let state = node.state();
    let Some(owner) = state.claim.map(|claim| claim.member) else { return Vec::new() };
    let told = match owner == node.me {
        true => node.quarantines.told(node),
        false => {
            let view = node.view.borrow();
            let seen = view.get(&owner).filter(|seen| seen.live);
            seen.and_then(|seen| seen.facts.as_ref()).map(|facts| facts.quarantined.clone()).unwrap_or_default()
        }
    };
    let named = |held: Quarantined| Some((state.members.get(&held.member)?.node.clone(), held));
    told.into_iter().filter_map(named).collect()
}
