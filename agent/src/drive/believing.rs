//! Whom this node believes: kept in step with the committed state.

use landfall_proto::Refusal;
use landfall_proto::model::{CaLine, Found, MemberList, Peer};
use landfall_proto::trust::{ClusterTrust, Trust, TrustView};
use landfall_store::State;

use crate::drive::enrolment::{Enrolment, Papers};
use crate::drive::node::Node;
use crate::drive::raft_wire::RaftWire;

/// This node's own cluster, as certificates are judged.
pub fn own_trust(found: &Found, line: &CaLine, list: MemberList) -> ClusterTrust {
    ClusterTrust { cap: found.cap.clone(), cas: line.trusted(), list }
}

/// Has a node that has not applied anything yet believe its own cluster, as it was enrolled; the members that it remembers.
pub fn at_first(trust: &Trust, papers: &Papers, enrolment: &Enrolment) -> Result<MemberList, Refusal> {
    let list = papers.members()?.unwrap_or_else(|| enrolment.members.clone());
    let own = own_trust(&enrolment.found, &enrolment.line, list.clone());
    trust.set(TrustView { own: Some(own), peers: Vec::new() });
    Ok(list)
}

/// Keeps trust, the consensus wire and the remembered list in step with the committed state: a removed member or peer is
/// out of every connection as soon as its removal is applied here (R11).
pub async fn follow_lists(node: Node, wire: RaftWire, papers: Papers) {
    let mut states = node.consensus.watch_state();
    let mut applied = None;
    loop {
        let state = states.borrow_and_update().clone();
        if let (Some(found), Some(list)) = (&state.found, state.member_list()) {
            let view = TrustView { own: Some(own_trust(found, &node.cas(), list.clone())), peers: peer_trust(&state) };
            if *node.trust.view() != view {
                node.trust.set(view);
            }
            if applied != Some(list.position) {
                applied = Some(list.position);
                wire.set_members(list.clone());
                if let Err(refusal) = papers.remember(&list) {
                    tracing::warn!(%refusal, "the member list is not remembered");
                }
            }
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn peer_trust(state: &State) -> Vec<ClusterTrust> {
    let trust = |(cap, peer): (&_, &Peer)| ClusterTrust {
        cap: Clone::clone(cap),
        cas: peer.line.trusted(),
        list: peer.list.clone(),
    };
    state.peers.iter().map(trust).collect()
}
