//! Paired clusters: keeping each other's member lists fresh, and saying where replicas went.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::ca_fingerprint;
use landfall_proto::endpoint::Target;
use landfall_proto::id::{Fingerprint, Fqdn, Position, VmId};
use landfall_proto::message::broker::Location;
use landfall_proto::message::control::{ControlAnswer, ControlRequest, News};
use landfall_proto::model::{CaLine, Command, MemberList, Peer};
use landfall_proto::seam::Time;
use landfall_proto::{Class, Refusal};
use landfall_store::state::State;

use crate::decide::peer_list;
use crate::drive::events::Happening;
use crate::drive::members::peer_targets;
use crate::drive::node::Node;
use crate::drive::propose::no_quorum;

/// How often a peer is told and asked though nothing changed: hourly.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3600);

/// How often a change, or a peer that did not answer, is looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long one peer node may take to answer.
const PEER_DEADLINE: Duration = Duration::from_secs(3);

/// Takes in what a peer says of itself and answers with the same of this cluster.
pub async fn exchange(node: &Node, cap: &Fqdn, news: News) -> ControlAnswer {
    let taken = match *cap == news.list.cap {
        true => take_in(node, news).await,
        false => Err(Refusal::invalid("cap", news.list.cap.as_str(), "a cluster sends its own member list only")),
    };
    match taken.and_then(|()| own_news(&node.state(), cap)) {
        Ok(own) => ControlAnswer::Members(Box::new(own)),
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}

/// What this cluster tells the peer `cap` of itself.
fn own_news(state: &State, cap: &Fqdn) -> Result<News, Refusal> {
    let peer = state.peers.get(cap).ok_or_else(|| Refusal::not_found("peer", cap.as_str()))?;
    let list = state.member_list().ok_or_else(no_quorum)?;
    Ok(News { list, line: state.ca.line.clone(), follows: ca_fingerprint(peer.line.newest()) })
}

/// Commits what is new in a peer's word on itself.
async fn take_in(node: &Node, news: News) -> Result<(), Refusal> {
    let News { list, line, follows } = news;
    let cap = list.cap.clone();
    relist(node, list).await?;
    follow(node, &cap, line).await;
    let state = node.state();
    let newest = ca_fingerprint(state.ca.line.newest());
    let waited_for = state.waits_for_peer(&cap);
    if waited_for && follows == newest {
        node.proposer.commit(Command::Followed { cap, ca: newest }).await?;
    }
    Ok(())
}

/// Follows a peer to another CA, where the one that is pinned vouches for it. Its members are heard all the same where it
/// does not: that they are who they are has been proven by the one that is pinned.
async fn follow(node: &Node, cap: &Fqdn, line: CaLine) {
    let changed = line.changed;
    let has = |state: &State| state.peers.get(cap).is_none_or(|peer| changed <= peer.line.changed);
    if has(&node.state()) {
        return;
    }
    let (ca, rotating) = (ca_fingerprint(line.newest()), line.rotating);
    match node.proposer.commit(Command::Follow { cap: cap.clone(), line: Box::new(line) }).await {
        Ok(_) => {
            let told = match rotating {
                true => format!("{cap} takes a new CA, by the word of the one before: {ca}"),
                false => format!("of {cap} the CA {ca} alone counts from now on"),
            };
            node.events.record(Happening::info("peer_ca", told).with("cap", cap).with("ca", &ca));
        }
        Err(refusal) if has(&node.state()) => tracing::debug!(%cap, %refusal, "another node has committed it"),
        Err(refusal) => node.events.refuse("peer_ca_refused", cap.as_str(), &refusal.to_string()),
    }
}

/// Why the nodes of `cap` are served nothing but [`exchange`] just now, where that is so.
pub fn outdated(node: &Node, cap: &Fqdn) -> Option<Refusal> {
    node.state().peers.get(cap).and_then(|peer| peer_list::refusal(peer, node.outside.clock.wall()))
}

/// Commits a peer's list where it is newer than the committed one, or the committed one has not been confirmed for long.
async fn relist(node: &Node, list: MemberList) -> Result<(), Refusal> {
    let state = node.state();
    let peer = state.peers.get(&list.cap).ok_or_else(|| Refusal::not_found("peer", list.cap.as_str()))?;
    let age = node.outside.clock.wall().0.saturating_sub(peer.confirmed_at.0);
    let stale = u128::from(age) >= REFRESH_INTERVAL.as_millis() / 2;
    if list.position > peer.list.position || (list.position == peer.list.position && stale) {
        let (cap, position, before) = (list.cap.clone(), list.position, peer.list.position);
        node.proposer.commit(Command::Relist(list)).await?;
        if position.incarnation() > before.incarnation() {
            let told = format!(
                "{cap} was recovered and is in its life {}: what it had decided last may be lost, and its members of before \
                 are refused",
                position.incarnation()
            );
            node.events.record(Happening::warning("peer_recovered", told).node(&node.name));
        }
    }
    Ok(())
}

/// Sends this cluster's list to every peer when it has changed, and hourly. Only the owner does.
pub async fn keep_fresh(node: Node) {
    let mut told: BTreeMap<Fqdn, (Position, Position, Time)> = BTreeMap::new();
    let mut look = node.rhythm(LOOK_INTERVAL);
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            told.clear();
            node.owning().await;
            continue;
        }
        let state = node.state();
        let (members, cas) = (state.members_changed, state.ca.line.changed);
        told.retain(|cap, _| state.peers.contains(cap));
        for (cap, peer) in state.peers.iter() {
            let now = node.outside.clock.now();
            let fresh = told
                .get(cap)
                .is_some_and(|(list, line, at)| (*list, *line) == (members, cas) && now.since(*at) < REFRESH_INTERVAL);
            let waited_for = state.waits_for_peer(cap);
            // One that is not believed any more is asked for until it is there, whatever was told before.
            let believed = !peer_list::is_old(peer, node.outside.clock.wall());
            if (!(fresh && believed) || waited_for) && tell(&node, peer).await.is_ok() {
                told.insert(cap.clone(), (members, cas, now));
            }
        }
    }
}

/// Tells one peer this cluster's members and CAs, through the first of its nodes that answers, and takes in its own.
async fn tell(node: &Node, peer: &Peer) -> Result<(), Refusal> {
    let own = own_news(&node.state(), &peer.list.cap)?;
    let answer = first_answer(node, peer, &ControlRequest::Members(Box::new(own))).await?;
    match answer {
        ControlAnswer::Members(theirs) if theirs.list.cap == peer.list.cap => take_in(node, *theirs).await,
        ControlAnswer::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::new(Class::Failed, "protocol", "a peer gave an answer of another kind")),
    }
}

/// Asks a cluster's CAP about a key that its committed list does not have; whether it is listed now.
pub async fn vouches(node: &Node, cap: &Fqdn, key: &Fingerprint) -> bool {
    let state = node.state();
    let Some(peer) = state.peers.get(cap) else { return false };
    if let Err(refusal) = tell(node, peer).await {
        tracing::debug!(%cap, %refusal, "the peer was asked about an unknown key and did not help");
    }
    node.state().peers.get(cap).is_some_and(|peer| peer.list.by_key(key).is_some())
}

/// Tells a VM's primary that its replica is received elsewhere now. A lost notice is no harm: the primary asks the CAP.
pub async fn announce_moved(node: &Node, state: &State, primary: &Fqdn, request: ControlRequest) {
    let Some(peer) = state.peers.get(primary) else { return };
    for target in peer_targets(&peer.list) {
        let call = node.calls.call::<_, ControlAnswer>(&target, Alpn::Control, &request, PEER_DEADLINE);
        if let Err(error) = call.await {
            tracing::debug!(to = %target.address, %error, "moved notice not delivered");
        }
    }
}

/// The notice that a replica is received at `to`.
pub fn moved(vm: VmId, to: Location) -> ControlRequest {
    ControlRequest::Moved { vm, to }
}

/// Asks the first of a peer's nodes that answers; at the CAP's own address, where none does at the ones that were listed.
pub async fn first_answer(node: &Node, peer: &Peer, request: &ControlRequest) -> Result<ControlAnswer, Refusal> {
    let mut last = Refusal::new(Class::Unreachable, "peer_unreachable", format!("{} has no member", peer.list.cap));
    let own = peer.list.cap_addresses.iter();
    let own = own.map(|address| Target { cap: peer.list.cap.clone(), address: *address, key: None });
    for target in peer_targets(&peer.list).into_iter().chain(own) {
        match node.calls.call(&target, Alpn::Control, request, PEER_DEADLINE).await {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                last = Refusal::new(Class::Unreachable, "peer_unreachable", format!("{}: {error}", target.address));
            }
        }
    }
    Err(last)
}
