//! Answering primaries: Probe, Place, Locate, Remove, Respecify.
//!
//! Any agent answers. Questions are answered from the applied state; a Place is the owner's, and another agent forwards
//! it with the name that the caller's certificate proved.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::ca_fingerprint;
use landfall_proto::id::{Fingerprint, Fqdn, MemberId, NodeName, Position, VmId};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest, Location, PassedOver, Place};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{Command, Outcome, Replica};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::{Instant, timeout, timeout_at};

use crate::decide::placement::{self, Wish};
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::drive::propose::{NO_QUORUM, no_quorum};
use crate::drive::{peers, sight};

/// How long a question waits for this agent to apply what the asker has already seen.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long the chosen node has to register the replica with its VM service before another is chosen.
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);

/// Nodes tried for one Place: the next one is drawn when the chosen one does not register.
const PLACE_TRIES: u32 = 3;

/// How long a Place waits at an agent for an owner: longer than a dead one's succession takes, and shorter than a client
/// has patience with one agent ([`landfall_proto::limits::ATTEMPT_TIME`]), so that it hears the reason.
const OWNER_WAIT: Duration = Duration::from_secs(4);

/// How long a leader to whom a Place was forwarded may take to own the CAP: two commits and a round trip.
const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// How long a forwarded Place may take: all tries of the owner.
const FORWARD_DEADLINE: Duration = Duration::from_secs(20);

/// Answers one request of `primary`, the CAP (or FQDN) that the caller's certificate proved.
pub async fn answer(node: &Node, primary: &Fqdn, request: BrokerRequest) -> BrokerAnswer {
    if let Some(refusal) = peers::outdated(node, primary) {
        node.events.refuse("primary_refused", primary.as_str(), &refusal.message);
        return BrokerAnswer::Refused(refusal);
    }
    let answered = match request {
        BrokerRequest::Probe => probe(node, primary),
        BrokerRequest::Place(place) => place_or_forward(node, primary, *place).await,
        BrokerRequest::Locate { vm, at_least } => locate(node, primary, vm, at_least).await,
        BrokerRequest::Remove { request, vm } => {
            let command = Command::RemoveReplica { vm, primary: Some(primary.clone()) };
            node.proposer.commit_as(request, command).await.map(|(_, position)| BrokerAnswer::Done { position })
        }
        BrokerRequest::Respecify { request, vm } => {
            let command = Command::Respecify { vm, primary: primary.clone() };
            node.proposer.commit_as(request, command).await.map(|(_, position)| BrokerAnswer::Done { position })
        }
    };
    answered.unwrap_or_else(|refusal| {
        if refusal.class == Class::Refused {
            node.events.refuse("primary_refused", primary.as_str(), &refusal.message);
        }
        BrokerAnswer::Refused(refusal)
    })
}

fn probe(node: &Node, primary: &Fqdn) -> Result<BrokerAnswer, Refusal> {
    let state = node.state();
    let cap = state.cap().ok_or_else(no_quorum)?.clone();
    let list = state.member_list().ok_or_else(no_quorum)?;
    let agents = list.dialled().collect();
    Ok(BrokerAnswer::Ready { cap, agents, authorized: state.permit(primary).map(drop) })
}

async fn locate(node: &Node, primary: &Fqdn, vm: VmId, at_least: Position) -> Result<BrokerAnswer, Refusal> {
    let state = node.proposer.applied(at_least, Instant::now() + CATCH_UP).await?;
    let replica = replica_of(&state, primary, vm)?;
    location(&state, replica).map(BrokerAnswer::Located)
}

/// The replica of `vm`, where `primary` may ask for it.
pub fn replica_of<'a>(state: &'a State, primary: &Fqdn, vm: VmId) -> Result<&'a Replica, Refusal> {
    let none = || {
        Refusal::new(Class::NotFound, "no_replica", format!("this cluster keeps no replica of {vm} for {primary}"))
            .field("vm")
            .remedy("enable replication again at the primary: `landfall vm enable`")
    };
    let replica = state.replicas.get(&vm).ok_or_else(none)?;
    if replica.primary == *primary {
        return Ok(replica);
    }
    // A primary may move between servers whose entries have the trust group the replica was created under.
    match state.permit(primary) {
        Ok(entry) if entry.trust_group == replica.trust_group => Ok(replica),
        _ => Err(none()),
    }
}

/// The replica of `vm`, where `primary` is the one whose data it takes. Others of its trust group may ask where it is, and
/// become its primary by placing it: from then on the one before is refused.
pub fn replica_sent_by<'a>(state: &'a State, primary: &Fqdn, vm: VmId) -> Result<&'a Replica, Refusal> {
    let replica = replica_of(state, primary, vm)?;
    if replica.primary == *primary {
        return Ok(replica);
    }
    let message = format!("the primary of {} is {} now, not {primary}", replica.vm.name, replica.primary);
    Err(Refusal::new(Class::Refused, "other_primary", message)
        .field("primary")
        .remedy(format!("disable replication at {primary}; or make it the primary again: `landfall vm enable` there")))
}

/// The identity of the cluster that is paired as `primary`, where a key is one of its members': its CA. Another cluster
/// of the same name has another one.
pub fn cluster_of(state: &State, primary: &Fqdn, key: &Fingerprint) -> Option<Fingerprint> {
    let peer = state.peers.get(primary).filter(|peer| peer.list.by_key(key).is_some())?;
    Some(ca_fingerprint(&peer.ca))
}

/// Where `replica` is received, as `state` has it.
pub fn location(state: &State, replica: &Replica) -> Result<Location, Refusal> {
    let id = replica.receiver();
    let member = state.members.get(&id).ok_or_else(|| {
        Refusal::new(Class::Failed, "holder_removed", format!("the replica's node {id} is no member any longer"))
    })?;
    Ok(Location {
        node: member.node.clone(),
        member: id,
        data: member.data,
        epoch: replica.epoch,
        position: state.applied,
    })
}

/// Has the owner place it, whoever that is. While nobody owns the CAP it is waited for here, where that is noticed at
/// once: a client could only ask again and again.
async fn place_or_forward(node: &Node, primary: &Fqdn, place: Place) -> Result<BrokerAnswer, Refusal> {
    let patience = Instant::now() + OWNER_WAIT;
    let (mut status, mut tenure) = (node.consensus.watch_status(), node.owner.watch());
    let mut states = node.consensus.watch_state();
    loop {
        tenure.mark_unchanged();
        let (leader, claim) = (status.borrow_and_update().leader, states.borrow_and_update().claim);
        if node.owner.acting().is_some() {
            return self::place(node, primary, place).await;
        }
        if let Some(leader) = leader.filter(|leader| *leader != node.me)
            && let Some(answer) = forward(node, leader, primary, &place).await?
        {
            return Ok(answer);
        }
        let another = async {
            tokio::select! {
                changed = status.wait_for(|status| status.leader != leader) => changed.is_ok(),
                changed = states.wait_for(|state| state.claim != claim) => changed.is_ok(),
                changed = tenure.changed() => changed.is_ok(),
            }
        };
        if !matches!(timeout_at(patience, another).await, Ok(true)) {
            return Err(no_quorum());
        }
    }
}

/// The answer of `leader` to a Place; `None` where it is not the owner, or another leads by now.
async fn forward(
    node: &Node,
    leader: MemberId,
    primary: &Fqdn,
    place: &Place,
) -> Result<Option<BrokerAnswer>, Refusal> {
    let target = control_target(&node.state(), leader).ok_or_else(no_quorum)?;
    let ask = ControlRequest::Place { primary: primary.clone(), place: Box::new(place.clone()) };
    let mut status = node.consensus.watch_status();
    let answered = tokio::select! {
        answered = node.calls.call(&target, Alpn::Control, &ask, FORWARD_DEADLINE) => answered,
        // A dead owner never answers: its successor gets the same request.
        _ = status.wait_for(|status| status.leader != Some(leader)) => return Ok(None),
    };
    match answered {
        Ok(ControlAnswer::Broker(answer)) => match *answer {
            BrokerAnswer::Refused(refusal) if refusal.code == NO_QUORUM => Ok(None),
            answer => Ok(Some(answer)),
        },
        Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
        Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "the owner gave an answer of another kind")),
        Err(error) => {
            tracing::debug!(%leader, %error, "place not forwarded");
            Ok(Some(BrokerAnswer::Owner { control: target.address }))
        }
    }
}

/// Places what another agent has forwarded here. A leader that is about to own the CAP is waited for.
pub async fn place_forwarded(node: &Node, primary: &Fqdn, place: Place) -> Result<BrokerAnswer, Refusal> {
    let mut tenure = node.owner.watch();
    let owns = tenure.wait_for(Option::is_some);
    _ = timeout(CLAIM_WAIT, owns).await;
    self::place(node, primary, place).await
}

/// Places a replica as the owner: chooses, commits, and waits until the chosen node has registered it.
pub async fn place(node: &Node, primary: &Fqdn, place: Place) -> Result<BrokerAnswer, Refusal> {
    let mut except: Option<MemberId> = None;
    let mut instead_of = place.instead_of;
    let mut silent: Vec<NodeName> = Vec::new();
    for attempt in 0..PLACE_TRIES {
        let term = node.owner.acting().ok_or_else(no_quorum)?;
        let state = node.state();
        let storage = state.permit(primary)?.storage;
        let existing = state.replicas.get(&place.vm.id);
        except = except.or_else(|| existing.filter(|r| Some(r.epoch) == instead_of).map(Replica::receiver));
        let bytes = place.vm.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.bytes));
        let candidates = sight::candidates(node, place.vm.id);
        let wish = Wish { storage: storage.clone(), bytes, except, even_quarantined: false };
        let (chosen, passed_over) = placement::choose(&candidates, &wish, seed(&state, &place, attempt));
        let holder = match (chosen, existing) {
            (Some(holder), _) => holder,
            (None, Some(replica)) if instead_of.is_none() => replica.receiver(),
            (None, _) => return Err(no_node(&passed_over)),
        };
        let command = Command::Place {
            vm: Box::new(place.vm.clone()),
            primary: primary.clone(),
            holder,
            frequency: place.frequency,
            recovery_points: place.recovery_points,
            instead_of,
            lineage: place.lineage,
        };
        // Only the first try is the client's request: a further one is a new decision of this owner.
        let request = (attempt == 0).then_some(place.request);
        let (answer, position) = node.proposer.commit_here(request, term, command).await?;
        let Outcome::Placed { replica, created } = answer? else {
            return Err(Refusal::new(Class::Failed, "protocol", "placing gave an answer of another kind"));
        };
        let state = node.proposer.applied(position, Instant::now() + CATCH_UP).await?;
        let at = location(&state, &replica)?;
        if !created {
            return Ok(BrokerAnswer::Placed { passed_over: kept(&passed_over, &at.node), at });
        }
        match registered(node, &replica, position).await {
            Ok(()) => {
                let told = format!("{} is placed on {} for {primary}", replica.vm.name, at.node);
                node.events.record(Happening::info("replica_placed", told).vm(replica.vm.id).node(&at.node));
                let passed_over = with_silent(passed_over, &silent);
                return Ok(BrokerAnswer::Placed { at, passed_over });
            }
            Err(refusal) => {
                let told = format!("{} did not register the replica of {}: {refusal}", at.node, replica.vm.name);
                node.events.record(Happening::warning("replica_not_registered", told).vm(replica.vm.id).node(&at.node));
                silent.push(at.node);
                except = Some(replica.receiver());
                instead_of = Some(replica.epoch);
            }
        }
    }
    Err(Refusal::new(Class::Failed, "not_registered", "no chosen node registered the replica in time")
        .remedy("see `landfall node list` for the state of the nodes' VM services"))
}

/// Waits until the node that receives `replica` has registered it with its VM service.
async fn registered(node: &Node, replica: &Replica, position: Position) -> Result<(), Refusal> {
    let Some(term) = node.owner.acting() else { return Err(no_quorum()) };
    let ask = ControlRequest::AwaitRegistered { term, vm: replica.vm.id, epoch: replica.epoch, position };
    if replica.receiver() == node.me {
        return match crate::drive::control::await_registered(node, term, replica.vm.id, replica.epoch, position).await {
            ControlAnswer::Done => Ok(()),
            ControlAnswer::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::new(Class::Failed, "protocol", "registering gave an answer of another kind")),
        };
    }
    let target = control_target(&node.state(), replica.receiver()).ok_or_else(no_quorum)?;
    match node.calls.call(&target, Alpn::Control, &ask, REGISTER_DEADLINE).await {
        Ok(ControlAnswer::Done) => Ok(()),
        Ok(ControlAnswer::Refused(refusal)) => Err(refusal),
        Ok(_) => Err(Refusal::new(Class::Failed, "protocol", "registering gave an answer of another kind")),
        Err(error) => Err(Refusal::new(Class::Unreachable, "node_unreachable", error.to_string())),
    }
}

/// The draw of one try: the same request on the same cluster draws the same.
fn seed(state: &State, place: &Place, attempt: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("landfall 2026 placement draw");
    hasher.update(&state.found.as_ref().map_or(0, |found| found.cluster_id).to_le_bytes());
    hasher.update(&place.request.session.to_le_bytes());
    hasher.update(&place.request.sequence.to_le_bytes());
    hasher.update(&attempt.to_le_bytes());
    *hasher.finalize().as_bytes()
}

fn no_node(passed_over: &[PassedOver]) -> Refusal {
    let reasons = placement::told(passed_over);
    Refusal::new(Class::Failed, "no_node", format!("no node can take the replica ({reasons})"))
        .remedy("mend one of these, then try again")
}

fn kept(passed_over: &[PassedOver], at: &NodeName) -> Vec<PassedOver> {
    passed_over
        .iter()
        .filter(|node| node.node != *at)
        .map(|node| PassedOver { reason: "the replica exists elsewhere".to_owned(), ..node.clone() })
        .collect()
}

fn with_silent(passed_over: Vec<PassedOver>, silent: &[NodeName]) -> Vec<PassedOver> {
    passed_over
        .into_iter()
        .map(|node| match silent.contains(&node.node) {
            true => PassedOver { reason: "was drawn first, but did not register the replica".to_owned(), ..node },
            false => node,
        })
        .collect()
}

#[cfg(test)]
#[path = "broker_test.rs"]
mod tests;
