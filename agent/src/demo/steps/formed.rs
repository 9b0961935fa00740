//! Founding, joining, pairing.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use landfall_proto::Refusal;

use crate::demo::story::{P_CAP, R_CAP, Story};
use crate::demo::until::until;
use crate::surface::cluster::ClusterStatus;
use crate::surface::node::{MemberRole, NodeState, VmServiceState};
use crate::surface::peer::{PeerInvited, PeerStatus};
use crate::surface::token::TokenCreated;

/// How long a cluster may take until every node is seen with its VM service.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// Starts everybody but p4, and forms and pairs both clusters.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let nodes = ["p1", "p2", "p3", "r1", "r2", "rw"].map(|name| story.cast.at(name));
    let nodes = nodes.into_iter().collect::<Result<Vec<_>, Refusal>>()?;
    story
        .stage
        .say("Six agents are started, each with its own folders, ports and VM service: landfall agent --config FILE");
    nodes.iter().try_for_each(|node| node.start())?;
    join_all(nodes.iter().map(|node| node.answers())).await.into_iter().collect::<Result<(), Refusal>>()?;
    tokio::try_join!(
        found(story, "Cluster-P", P_CAP, "p1", &[("p2", false), ("p3", false)]),
        found(story, "Cluster-R", R_CAP, "r1", &[("r2", false), ("rw", true)]),
    )?;
    let invited: PeerInvited = story.run("r1", &["peer", "invite"]).await?;
    let peer: PeerStatus = story.run_secret("p1", &["peer", "accept", "--wait"], &invited.code, "CODE").await?;
    story.stage.saw(&format!(
        "Cluster-P now knows {} with {} nodes, and the other way round",
        peer.cap,
        peer.members.len()
    ));
    try_join_all([seen(story, "p1", 3, 3), seen(story, "r1", 3, 2)]).await?;
    story.stage.saw("every node sees every other, and their VM services run; the witness rw only votes");
    Ok(())
}

async fn found(story: &Story, name: &str, cap: &str, first: &str, others: &[(&str, bool)]) -> Result<(), Refusal> {
    let _: ClusterStatus = story.run(first, &["cluster", "init", "--name", name, "--cap", cap]).await?;
    for (node, witness) in others {
        join(story, first, node, *witness).await?;
    }
    Ok(())
}

/// Joins `node` by a token from `first`.
pub async fn join(story: &Story, first: &str, node: &str, witness: bool) -> Result<(), Refusal> {
    let create: &[&str] = if witness { &["token", "create", "--witness"] } else { &["token", "create"] };
    let created: TokenCreated = story.run(first, create).await?;
    let _: ClusterStatus = story.run_secret(node, &["cluster", "join"], &created.token, "TOKEN").await?;
    Ok(())
}

/// Waits until `from` sees `count` nodes up, `running` of them with a VM service.
pub async fn seen(story: &Story, from: &str, count: usize, running: usize) -> Result<(), Refusal> {
    until(&format!("{from} to see {count} nodes up"), SEEN_WITHIN, async || {
        let nodes = story.nodes(from).await?;
        let up = nodes.iter().filter(|node| node.state == NodeState::Up).count();
        let hosts = nodes.iter().filter(|node| node.role != MemberRole::Witness);
        let serving = hosts.filter(|node| node.vm_service == VmServiceState::Running).count();
        match (up, serving) == (count, running) {
            true => Ok(()),
            false => Err(format!("{up} up, the VM services of {serving} run").into()),
        }
    })
    .await
}
