//! Emptying drained nodes, as the owner: one replica of a node after the other, and the CAP with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_proto::id::{MemberId, VmId};
use landfall_proto::model::{Command, Outcome, Replica};
use landfall_proto::seam::Time;
use landfall_store::State;

use crate::decide::drain::{self, Tie, Use};
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::{handover, owner, sight};

/// How often the owner looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a replica whose move did not come about is left alone, and the CAP: what failed a moment ago fails again.
const REST: Duration = Duration::from_secs(10);

/// What separates this choice from every other one of an owner.
const DRAW: &str = "landfall 2026 drained node draw";

/// Empties the drained nodes for as long as this agent owns the CAP.
pub async fn keep(node: Node) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut begun: BTreeMap<VmId, Time> = BTreeMap::new();
    let mut offered: Option<Time> = None;
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            node.owning().await;
            continue;
        }
        let (state, now) = (node.state(), node.outside.clock.now());
        begun.retain(|_, at| now.since(*at) < REST);
        for member in &state.drained {
            step(&node, &state, *member, &mut begun).await;
        }
        let rested = offered.is_none_or(|at| now.since(at) >= REST);
        if state.drained.contains(&node.me) && rested {
            offered = Some(now);
            if let Err(refusal) = owner::order(&node, None).await {
                tracing::info!(%refusal, "this node is drained and goes on owning the CAP");
            }
        }
    }
}

/// Begins the next move from `member`, unless one is under way.
async fn step(node: &Node, state: &State, member: MemberId, begun: &mut BTreeMap<VmId, Time>) {
    let ties: Vec<(&Replica, Tie)> = ties(node, state, member);
    // Copies are replaced beside; one replica that it receives goes at a time.
    let moving = ties.iter().any(|(replica, tie)| *tie == Tie::UnderWay && replica.receiver() == member);
    if moving {
        return;
    }
    let due = ties
        .into_iter()
        .find(|(replica, tie)| matches!(tie, Tie::Hold(_) | Tie::Fill(_)) && !begun.contains_key(&replica.vm.id));
    let Some((replica, tie)) = due else { return };
    begun.insert(replica.vm.id, node.outside.clock.now());
    let (vm, epoch, name) = (replica.vm.id, replica.epoch, &replica.vm.name);
    let (command, to) = match tie {
        Tie::Hold(to) => (Command::Handover { vm, epoch, to: Some(to) }, to),
        Tie::Fill(to) => (Command::Seed { vm, epoch, to }, to),
        Tie::None | Tie::UnderWay | Tie::Stays(_) => return,
    };
    let Some(term) = node.owner.acting() else { return };
    let at = |member| state.members.get(&member).map(|member| member.node.clone());
    let (Some(from), Some(to)) = (at(member), at(to)) else { return };
    match node.proposer.commit_here(None, term, command).await {
        Ok((Ok(outcome), _)) => {
            if let Outcome::Epoch(new) = outcome
                && new != epoch
            {
                tokio::spawn(handover::announce(node.clone(), vm, new));
            }
            let told = format!("{from} is drained: the replica of {name} goes to {to}");
            node.events.record(Happening::info("replica_drained", told).vm(vm).node(&to));
        }
        Ok((Err(refusal), _)) | Err(refusal) => tracing::info!(%vm, %refusal, "a drained node's replica stays for now"),
    }
}

/// What `member`, which is drained, still has to do with which replicas.
pub fn ties<'a>(node: &Node, state: &'a State, member: MemberId) -> Vec<(&'a Replica, Tie)> {
    let down: BTreeSet<MemberId> = node.down.borrow().keys().copied().collect();
    let concerned =
        state.replicas.values().filter(|replica| replica.receiver() == member || replica.in_sync.contains(&member));
    concerned
        .map(|replica| {
            let vm = replica.vm.id;
            let usage = Use {
                promoted: state.promotions.contains(&vm),
                tested: state.tests.contains(&vm),
                returning: state.returns.contains(&vm),
            };
            let candidates = sight::candidates(node, vm);
            (replica, drain::tie(replica, member, &candidates, &down, usage, sight::draw(state, vm, DRAW)))
        })
        .collect()
}
