//! Admitting nodes and pairing clusters: both sides of `landfall-join/1`.

use std::net::SocketAddr;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::ca_fingerprint;
use landfall_proto::certificate;
use landfall_proto::close::Close;
use landfall_proto::endpoint::Endpoint;
use landfall_proto::id::{Fqdn, UnixMillis};
use landfall_proto::invitation;
use landfall_proto::message::join::{Ask, INVITATION_AGENTS, Invitation, JoinAnswer, JoinRequest, Welcome};
use landfall_proto::model::{CapAddress, Command, Outcome, Peer, Ticket, TicketKind};
use landfall_proto::{Class, Refusal, frame};
use quinn::Connection;
use tokio::time::Instant;

use crate::drive::enrolment::Papers;
use crate::drive::events::Happening;
use crate::drive::members::issuers;
use crate::drive::node::Node;
use crate::drive::propose::{COMMIT_DEADLINE, no_quorum};
use crate::drive::renewal;

/// How long one agent may take to answer a join: a commit and a failover of the owner fit.
const JOIN_DEADLINE: Duration = Duration::from_secs(20);

/// Agents followed from one answer to the next before giving up: an invitation names three, each may name others.
const HOPS_MAX: usize = 8;

/// Answers one join request that came over `connection`.
pub async fn answer(node: &Node, papers: &Papers, connection: &Connection, request: JoinRequest) -> JoinAnswer {
    match admit(node, papers, connection, request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let why = format!("a request to join or pair: {refusal}");
            node.events.refuse("join_refused", &connection.remote_address().ip().to_string(), &why);
            JoinAnswer::Refused(refusal)
        }
    }
}

async fn admit(
    node: &Node,
    papers: &Papers,
    connection: &Connection,
    request: JoinRequest,
) -> Result<JoinAnswer, Refusal> {
    let state = node.state();
    let ticket = state.tickets.get(&request.ticket).cloned().ok_or_else(unknown_ticket)?;
    if !invitation::is_proven(connection, ticket.id, &ticket.secret, &request.proof)? {
        return Err(unknown_ticket());
    }
    match (request.ask, &ticket.kind) {
        (Ask::Member { node: name, fqdn, public_key, control, data, witness }, TicketKind::Join { .. }) => {
            let TicketKind::Join { witness: invited, .. } = ticket.kind else { return Err(unknown_ticket()) };
            if witness != invited {
                return Err(witness_mismatch(invited));
            }
            let Some(authority) = papers.authority(state.ca.line.newest())? else {
                let others = issuers(&state, node.me).map(|member| member.control);
                return Ok(JoinAnswer::Elsewhere(others.collect()));
            };
            let cap = state.cap().ok_or_else(no_quorum)?;
            let fqdn = fqdn.unwrap_or_else(|| cap.sibling(&name));
            let key = certificate::fingerprint(&public_key);
            let command =
                Command::Join { ticket: ticket.id, key, node: name.clone(), fqdn: fqdn.clone(), control, data };
            let (outcome, position) = node.proposer.commit(command).await?;
            let Outcome::Joined(member) = outcome else {
                return Err(Refusal::new(Class::Failed, "protocol", "joining gave an answer of another kind"));
            };
            let state = node.proposer.applied(position, Instant::now() + COMMIT_DEADLINE).await?;
            let certificate = renewal::issue(node, &authority, &fqdn, member, &public_key)?;
            let told = format!("{name} joined as member {member}");
            node.events.record(Happening::info("member_joined", told).node(&name));
            Ok(JoinAnswer::Member(Box::new(Welcome {
                member,
                certificate,
                found: state.found.clone().ok_or_else(no_quorum)?,
                members: state.member_list().ok_or_else(no_quorum)?,
                line: state.ca.line.clone(),
                ca_keys: if witness { Vec::new() } else { papers.keys(&state.ca.line)? },
            })))
        }
        (Ask::Pair { peer }, TicketKind::Pair) => {
            let key = ca_fingerprint(&peer.ca);
            let cap = peer.list.cap.clone();
            let command = Command::Pair { peer, ticket: Some((ticket.id, key)) };
            node.proposer.commit(command).await?;
            node.events.record(Happening::info("peer_paired", format!("paired with {cap}")).with("cap", &cap));
            Ok(JoinAnswer::Paired(Box::new(own_record(node)?)))
        }
        _ => {
            Err(Refusal::new(Class::Usage, "wrong_ticket", "a join token joins a node, a pairing code pairs a cluster")
                .remedy("use `landfall cluster join` with a token, `landfall peer accept` with a code"))
        }
    }
}

/// This cluster as a peer records it.
pub fn own_record(node: &Node) -> Result<Peer, Refusal> {
    let state = node.state();
    let found = state.found.clone().ok_or_else(no_quorum)?;
    let list = state.member_list().ok_or_else(no_quorum)?;
    let line = state.ca.line.clone();
    Ok(Peer { cluster: found.cluster, ca: found.ca, line, list, confirmed_at: node.outside.clock.wall() })
}

/// Makes a ticket and the invitation that carries its secret.
pub async fn invite(node: &Node, kind: TicketKind, ttl: Duration) -> Result<(Invitation, Ticket), Refusal> {
    let random = &node.outside.random;
    let mut secret = [0; 32];
    random.fill(&mut secret);
    let mut id = [0; 8];
    random.fill(&mut id);
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let expires_at = UnixMillis(node.outside.clock.wall().0.saturating_add(ttl_ms));
    let ticket = Ticket { id: u64::from_le_bytes(id), secret, kind, expires_at, used_by: None };
    node.proposer.commit(Command::AddTicket(ticket.clone())).await?;
    let state = node.state();
    let found = state.found.as_ref().ok_or_else(no_quorum)?;
    let invitation = Invitation {
        ticket: ticket.id,
        secret,
        ca: ca_fingerprint(state.ca.line.newest()),
        cap: found.cap.clone(),
        agents: invited_agents(node),
        expires_at,
    };
    Ok((invitation, ticket))
}

/// The agents that an invitation names: this one first, then the CAP's own addresses, which stay true when every node has
/// gone, then data nodes before witnesses.
fn invited_agents(node: &Node) -> Vec<SocketAddr> {
    let state = node.state();
    let mut members: Vec<_> = state.members.values().collect();
    members.sort_by_key(|member| (member.id != node.me, member.witness, member.id));
    let mut agents: Vec<SocketAddr> = members.iter().map(|member| member.control).collect();
    let cap = state.found.iter().filter_map(|found| found.cap_address.as_ref()).flat_map(CapAddress::sockets);
    agents.splice(1.min(agents.len())..1.min(agents.len()), cap);
    agents.truncate(INVITATION_AGENTS);
    agents
}

/// Asks the agents of an invitation, one after the other, until one admits or all have refused.
pub async fn ask(endpoint: &Endpoint, invitation: &Invitation, ask: &Ask) -> Result<JoinAnswer, Refusal> {
    let mut agents: Vec<SocketAddr> = invitation.agents.clone();
    let mut asked: Vec<SocketAddr> = Vec::new();
    let mut last = Refusal::new(Class::Unreachable, "nobody_answers", "no agent of the invitation answers")
        .remedy("check that this node reaches the addresses that the other cluster's agents advertise (UDP)");
    while let Some(agent) = agents.iter().find(|agent| !asked.contains(agent)).copied() {
        if asked.len() >= HOPS_MAX {
            break;
        }
        asked.push(agent);
        match ask_one(endpoint, agent, invitation, ask).await {
            Ok(JoinAnswer::Elsewhere(others)) => agents.extend(others),
            Ok(JoinAnswer::Refused(refusal)) if !refusal.is_retryable() => return Err(refusal),
            Ok(JoinAnswer::Refused(refusal)) => last = refusal,
            Ok(answer) => return Ok(answer),
            Err(error) => {
                last = Refusal::new(Class::Unreachable, "nobody_answers", format!("{agent}: {error}")).remedy(
                    "check that this node reaches the addresses that the other cluster's agents advertise (UDP), and \
                     that the clocks agree",
                );
            }
        }
    }
    Err(last)
}

/// Asks one agent, proving on this connection that the invitation's secret is known.
async fn ask_one(
    endpoint: &Endpoint,
    agent: SocketAddr,
    invitation: &Invitation,
    ask: &Ask,
) -> Result<JoinAnswer, Refusal> {
    let link = endpoint.dial_join(agent, &invitation.cap, invitation.ca).await?;
    let proof = invitation::proof(link.connection(), invitation.ticket, &invitation.secret)?;
    let request = JoinRequest { ticket: invitation.ticket, proof, ask: ask.clone() };
    let lost = |error: &dyn std::fmt::Display| Refusal::new(Class::Unreachable, "nobody_answers", error.to_string());
    let (mut send, mut receive) = link.connection().open_bi().await.map_err(|error| lost(&error))?;
    let most = Alpn::Join.frame_max();
    let answer = frame::exchange(&mut send, &mut receive, &request, most, JOIN_DEADLINE).await;
    link.close(Close::Done, "done");
    answer.map_err(|error| lost(&error))
}

/// A wrong ticket and a wrong proof are told alike: whoever guesses learns nothing.
fn unknown_ticket() -> Refusal {
    Refusal::new(
        Class::Refused,
        "unknown_token",
        "this cluster knows no such token or code, or it was revoked or has expired",
    )
    .field("token")
    .remedy("make a new one: `landfall token create`, or `landfall peer invite`")
}

fn witness_mismatch(invited: bool) -> Refusal {
    let message = match invited {
        true => "the token admits a witness, this node's file says witness = false",
        false => "the token admits a node that hosts VMs, this node's file says witness = true",
    };
    Refusal::new(Class::Refused, "witness_mismatch", message)
        .field("witness")
        .remedy("change the node's file, or make a token with or without --witness")
}

/// What a joining node is known as before it has a name in a certificate.
pub fn fqdn_of(cap: &Fqdn, configured: Option<&Fqdn>, node: &landfall_proto::id::NodeName) -> Fqdn {
    configured.cloned().unwrap_or_else(|| cap.sibling(node))
}
