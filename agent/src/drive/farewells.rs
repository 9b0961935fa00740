//! Telling the clusters that keep replicas which VMs are replicated no more, where that could not be told at once.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_proto::Refusal;
use landfall_proto::client::BrokerClient;
use landfall_proto::id::{Fqdn, Position, VmId};
use landfall_proto::model::Command;

use crate::decide::farewell::{self, REPLICA_LEFT, Told};
use crate::drive::events::Happening;
use crate::drive::node::Node;

/// How often the owner looks, and tries again.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long the other cluster may take: a failover of its owner fits.
const DEADLINE: Duration = Duration::from_secs(20);

/// Tells whoever was not told, for as long as the agent runs. Only the owner does.
pub async fn keep(node: Node) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            node.owning().await;
            continue;
        }
        let mut silent = BTreeSet::new();
        let waiting: Vec<(VmId, Fqdn)> = node.state().farewells.keys().cloned().collect();
        for (vm, cap) in waiting {
            if !silent.contains(&cap) && tell(&node, vm, &cap).await == Told::Again {
                silent.insert(cap);
            }
        }
    }
}

/// Tells one cluster of one VM, as long as that is to be told: where the VM is enabled there again, nothing is told any more.
async fn tell(node: &Node, vm: VmId, cap: &Fqdn) -> Told {
    let state = node.state();
    let (Some(farewell), Some(peer)) = (state.farewells.get(&(vm, cap.clone())), state.peers.get(cap)) else {
        return Told::Ended;
    };
    let broker = BrokerClient::new(node.calls.clone(), cap.clone(), peer.list.dialled().collect());
    let key = (vm, cap.clone());
    let mut states = node.consensus.watch_state();
    let answer = tokio::select! {
        answer = broker.remove(vm, DEADLINE) => answer.map(drop),
        _ = states.wait_for(|state| state.farewells.get(&key) != Some(farewell)) => return Told::Ended,
    };
    let told = settle(node, vm, cap, farewell.at, &answer).await;
    let event = match (told, &answer) {
        (Told::Ended, _) => {
            let told = format!("{cap} was told that {} is replicated no more, and has ended its half", farewell.name);
            Happening::info("replica_ended", told)
        }
        (Told::Kept, Err(refusal)) => {
            let told = format!("{} is replicated no more, and {cap} keeps what it has of it: {refusal}", farewell.name);
            Happening::warning(REPLICA_LEFT, told)
        }
        _ => {
            tracing::debug!(%vm, %cap, ?answer, "the end of a replication could not be told yet");
            return told;
        }
    };
    node.events.record(event.vm(vm).with("cap", cap));
    told
}

/// Commits what `answer` to the wish to end the replica means, of the end that was committed `at`: what need not be told
/// again. Where that fails it is told again, which is no harm.
pub async fn settle(node: &Node, vm: VmId, cap: &Fqdn, at: Position, answer: &Result<(), Refusal>) -> Told {
    let told = farewell::told(answer);
    let ended = Command::HalfEnded { vm, cap: cap.clone(), at };
    if told != Told::Again
        && let Err(refusal) = node.proposer.commit(ended).await
    {
        tracing::debug!(%vm, %cap, %refusal, "that a replication has ended there is not committed");
    }
    told
}
