//! `cluster`, `node`, `broker` and `token`: the members and who speaks for them.

use std::time::Duration;

use landfall_proto::id::{MemberId, NodeName};
use landfall_proto::invitation::{self, Purpose};
use landfall_proto::model::{CapAddress, Command, HostAddress, IpAddr, Member, TicketKind};
use landfall_proto::{Class, Refusal};
use landfall_store::state::State;

use super::{cap_address, rotating};
use crate::decide::rollback as decided;
use crate::drive::control::Control;
use crate::drive::events::Happening;
use crate::drive::flapping;
use crate::drive::gossip::Facts;
use crate::drive::join;
use crate::drive::node::Node;
use crate::drive::propose::no_quorum;
use crate::drive::rollback;
use crate::surface::broker::BrokerStatus;
use crate::surface::cluster::{ClusterStatus, MemberStatus};
use crate::surface::node::{
    MemberRole, NodeDetail, NodeQuarantine, NodeRemoved, NodeState, NodeStatus, StorageRoom, VmServiceState,
};
use crate::surface::token::{TokenCreate, TokenCreated, TokenId, TokenKind, TokenRevoked, TokenStatus, ttl};

/// The cluster as this agent sees it.
pub fn status(node: &Node) -> Result<ClusterStatus, Refusal> {
    let state = node.state();
    let found = state.found.as_ref().ok_or_else(no_quorum)?;
    let consensus = node.consensus.status();
    let voters = consensus.voters.len();
    let tolerates = u32::try_from(voters.saturating_sub(1) / 2).unwrap_or(u32::MAX);
    let mut warnings = Vec::new();
    if voters == 2 {
        warnings
            .push("two voters: no loss can be survived; add a witness (landfall token create --witness)".to_owned());
    }
    warnings.extend(node.exclusion.reason());
    warnings.extend(rollback::known(node).iter().map(|(name, loss)| decided::told(name, loss)));
    for (unfit, why) in cap_address::unfit(node, &state) {
        warnings.push(format!("{unfit} cannot have the CAP's address: {why}"));
    }
    let owner = owner(node, &state);
    let members = state
        .members
        .values()
        .map(|member| MemberStatus {
            node: member.node.clone(),
            id: member.id,
            role: role(node, member),
            state: standing(node, member.id),
            address: member.control,
        })
        .collect();
    Ok(ClusterStatus {
        cluster: found.cluster.clone(),
        cap: found.cap.clone(),
        node: node.name.clone(),
        role: state.members.get(&node.me).map_or(MemberRole::Learner, |member| role(node, member)),
        term: owner.as_ref().and(state.claim.as_ref().map(|claim| claim.term)),
        cap_address: cap_address::status(node, &state, owner.as_ref()),
        owner,
        quorate: quorate(node),
        settings_revision: state.settings.revision,
        members,
        ca: rotating::status(&state),
        tolerates_losses: tolerates,
        warnings,
    })
}

/// The owner as far as this node can tell: nobody where it would be this node and its lease is over, nor where too few
/// voters answer for anybody to act.
fn owner(node: &Node, state: &State) -> Option<NodeName> {
    let claim = state.claim.as_ref()?;
    // One that takes no part hears of no other.
    let leads = node.gate.is_open() && node.consensus.status().leader == Some(claim.member);
    let acts = claim.member != node.me || node.owner.acting().is_some();
    (leads && acts && has_majority(node))
        .then(|| state.members.get(&claim.member).map(|member| member.node.clone()))
        .flatten()
}

/// Who answers primaries.
pub fn broker(node: &Node) -> Result<BrokerStatus, Refusal> {
    let state = node.state();
    let cap = state.cap().ok_or_else(no_quorum)?.clone();
    let owner = owner(node, &state);
    let claim = state.claim.as_ref().filter(|_| owner.is_some());
    Ok(BrokerStatus {
        cap,
        owner_since: claim.map(|claim| claim.since.into()),
        term: claim.map(|claim| claim.term),
        address: state.found.as_ref().and_then(|found| found.cap_address.as_ref()).and_then(first),
        cap_address: cap_address::status(node, &state, owner.as_ref()),
        owner,
    })
}

/// The address that stands for all of them.
fn first(cap: &CapAddress) -> Option<IpAddr> {
    cap.addresses().first().map(HostAddress::ip)
}

/// Whether this node follows or is a leader, and hears from a majority of the voters.
pub(super) fn quorate(node: &Node) -> bool {
    node.gate.is_open() && node.consensus.status().leader.is_some() && has_majority(node)
}

fn has_majority(node: &Node) -> bool {
    live_voters(node) * 2 > node.consensus.status().voters.len()
}

/// Whether more than half of the voters that are left answer once `leaving` is gone.
pub(super) fn quorate_without(node: &Node, leaving: MemberId) -> bool {
    let voters = node.consensus.status().voters;
    let live = |voter: &&MemberId| takes_part(node, **voter);
    let rest = || voters.iter().filter(|voter| **voter != leaving);
    rest().filter(live).count() * 2 > rest().count()
}

/// Voters that answer and take part.
fn live_voters(node: &Node) -> usize {
    node.consensus.status().voters.iter().filter(|voter| takes_part(node, **voter)).count()
}

/// Whether `voter` answers, and its log has lost nothing.
fn takes_part(node: &Node, voter: MemberId) -> bool {
    if voter == node.me {
        return node.gate.is_open();
    }
    let lost = |facts: &Facts| facts.rolled_back.is_some();
    node.view.borrow().get(&voter).is_some_and(|seen| seen.live && !seen.facts.as_ref().is_some_and(lost))
}

fn role(node: &Node, member: &Member) -> MemberRole {
    match (member.witness, node.consensus.status().voters.contains(&member.id)) {
        (true, _) => MemberRole::Witness,
        (false, true) => MemberRole::Voter,
        (false, false) => MemberRole::Learner,
    }
}

pub(super) fn standing(node: &Node, member: MemberId) -> NodeState {
    let live = member == node.me || node.view.borrow().get(&member).is_some_and(|seen| seen.live);
    match (live, lost(node, member)) {
        (true, _) if node.state().drained.contains(&member) => NodeState::Drained,
        (true, _) => NodeState::Up,
        (false, true) => NodeState::Down,
        (false, false) => NodeState::Suspect,
    }
}

/// Whether the owner holds `member` for lost: it says so itself, to the others in gossip.
fn lost(node: &Node, member: MemberId) -> bool {
    let Some(owner) = node.state().claim.as_ref().map(|claim| claim.member).filter(|owner| *owner != node.me) else {
        return node.down.borrow().contains_key(&member);
    };
    let view = node.view.borrow();
    let owner = view.get(&owner).filter(|seen| seen.live).and_then(|seen| seen.facts.as_ref());
    owner.is_some_and(|facts| facts.lost.contains(&member))
}

/// Every member with what gossip says of it.
pub fn list(node: &Node) -> Vec<NodeStatus> {
    node.state().members.values().map(|member| node_status(node, member)).collect()
}

fn facts(node: &Node, member: MemberId) -> Option<Facts> {
    node.view.borrow().get(&member).and_then(|seen| seen.facts.clone())
}

fn node_status(node: &Node, member: &Member) -> NodeStatus {
    let facts = facts(node, member.id);
    let state = standing(node, member.id);
    let (vm_service, reason) = match facts.as_ref().map(|facts| facts.vm_service.clone()) {
        _ if member.witness => (VmServiceState::None, None),
        _ if !matches!(state, NodeState::Up | NodeState::Drained) => {
            (VmServiceState::Stopped, Some("the node does not answer".to_owned()))
        }
        None => (VmServiceState::Stopped, Some("nothing has been heard of it yet".to_owned())),
        Some(service) => match service.state.as_str() {
            "running" => (VmServiceState::Running, None),
            "degraded" => (VmServiceState::Degraded, service.reason),
            "none" => (VmServiceState::None, None),
            _ => (VmServiceState::Stopped, service.reason),
        },
    };
    NodeStatus {
        node: member.node.clone(),
        id: member.id,
        role: role(node, member),
        state,
        vm_service,
        vm_service_reason: reason,
        settings_revision: facts.as_ref().filter(|_| !member.witness).map(|facts| facts.settings_revision),
        replicas: replicas_of(&node.state(), member.id),
        free_bytes: facts
            .filter(|_| !member.witness)
            .map(|facts| facts.storage.iter().map(|room| room.free_bytes).sum()),
        quarantine: flapping::known(node)
            .into_iter()
            .find(|(_, held)| held.member == member.id)
            .map(|(_, held)| NodeQuarantine { reason: held.reason(), until: held.until.map(Into::into) }),
    }
}

fn replicas_of(state: &State, member: MemberId) -> u32 {
    let count = state.replicas.values().filter(|replica| replica.receiver() == member).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn find(state: &State, name: &NodeName) -> Result<Member, Refusal> {
    let found = state.members.values().find(|member| member.node == *name);
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = state.members.values().map(|member| member.node.as_str()).collect();
        Refusal::not_found("node", name.as_str()).remedy(format!("the members are {}", known.join(", ")))
    })
}

/// One member.
pub fn show(node: &Node, name: &NodeName) -> Result<NodeDetail, Refusal> {
    let state = node.state();
    let member = find(&state, name)?;
    let facts = facts(node, member.id);
    let paths = |name| {
        node.config.storage.iter().find(|storage| member.id == node.me && storage.name == name).map(|s| s.path.clone())
    };
    let storage = facts.iter().flat_map(|facts| facts.storage.clone()).map(|room| StorageRoom {
        path: paths(room.name.clone()),
        name: room.name,
        free_bytes: room.free_bytes,
        fault: room.fault,
    });
    Ok(NodeDetail {
        status: node_status(node, &member),
        fqdn: member.fqdn.clone(),
        key: member.key.into(),
        address: member.control,
        data_address: member.data,
        version: facts.as_ref().map(|facts| facts.version.clone()),
        applied: facts.as_ref().map(|facts| facts.applied),
        storage: storage.collect(),
    })
}

/// Removes a member for good.
pub async fn remove(node: &Node, name: &NodeName) -> Result<NodeRemoved, Refusal> {
    let member = find(&node.state(), name)?;
    node.proposer.commit(Command::Remove(member.id)).await?;
    node.events.record(Happening::info("node_removed", format!("{name} is no member any more")).node(name));
    Ok(NodeRemoved { node: member.node, id: member.id })
}

/// Makes a join token.
pub async fn token_create(control: &Control, request: TokenCreate) -> Result<TokenCreated, Refusal> {
    let life = Duration::from_secs(ttl(request.ttl_seconds)?);
    let kind = TicketKind::Join { witness: request.witness, replaces: request.replaces };
    let (invitation, ticket) = join::invite(&control.node, kind, life).await?;
    Ok(TokenCreated {
        token: invitation::to_text(Purpose::Join, &invitation)?,
        expires_at: ticket.expires_at.into(),
        id: TokenId(ticket.id),
    })
}

/// The tokens and codes that have not expired.
pub fn token_list(node: &Node) -> Vec<TokenStatus> {
    let now = node.outside.clock.wall();
    let state = node.state();
    let live = state.tickets.values().filter(|ticket| ticket.expires_at > now);
    live.map(|ticket| {
        let (kind, replaces) = match &ticket.kind {
            TicketKind::Join { witness: true, replaces } => (TokenKind::JoinWitness, replaces.clone()),
            TicketKind::Join { witness: false, replaces } => (TokenKind::Join, replaces.clone()),
            TicketKind::Pair => (TokenKind::Pair, None),
        };
        TokenStatus {
            id: TokenId(ticket.id),
            kind,
            replaces,
            expires_at: ticket.expires_at.into(),
            used_by: ticket.used_by.map(Into::into),
        }
    })
    .collect()
}

/// Makes a token or code worthless.
pub async fn token_revoke(node: &Node, id: TokenId) -> Result<TokenRevoked, Refusal> {
    if !node.state().tickets.contains(&id.0) {
        return Err(Refusal::new(Class::NotFound, "not_found", format!("there is no token or code {id}"))
            .field("id")
            .remedy("`landfall token list` shows those that are left"));
    }
    node.proposer.commit(Command::RevokeTicket(id.0)).await?;
    Ok(TokenRevoked { id })
}
