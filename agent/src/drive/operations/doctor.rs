//! `doctor`: gathers what `decide::doctor` judges, from this node and within a bounded time.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use landfall_proto::Refusal;
use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Link;
use landfall_proto::id::{MemberId, NodeName, UnixMillis, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, Reach};
use landfall_proto::model::{Member, MemberList};
use landfall_store::State;
use tokio::time::{Instant, timeout_at};

use super::network::planned;
use super::{cap_address, clusters, vms};
use crate::decide::doctor::{ClusterFact, Facts, LineFact, NodeFact, RoomFact, findings};
use crate::decide::placement::Candidate;
use crate::decide::rotation_findings::RotationFact;
use crate::drive::control::Control;
use crate::drive::node::Node;
use crate::drive::reach::{self, Way};
use crate::drive::{flapping, rollback, sight};
use crate::surface::doctor::{DoctorReport, Level};
use crate::surface::vm::Health;
use crate::surface::wait::WaitSeconds;

/// How long it takes at most where nothing else is said: two handshakes that fail, one after the other, and a little.
pub const DEFAULT_SECONDS: u64 = 10;

/// Nodes that are tried at one time: each costs three connections.
const AT_ONCE: usize = 16;

/// How long another node may take to say what its clock reads.
const CLOCK_DEADLINE: Duration = Duration::from_secs(3);

/// How long another node may take to try this one: a handshake that fails takes three seconds.
const BACK_DEADLINE: Duration = Duration::from_secs(5);

/// What trying one other node gave.
struct Tried {
    lines: Vec<LineFact>,
    clock: Option<(String, i64)>,
    certificate: Option<(String, UnixMillis)>,
}

/// Looks at everything, for `wait` at most.
pub async fn examine(control: &Control, wait: Option<WaitSeconds>) -> Result<DoctorReport, Refusal> {
    let end = Instant::now() + wait.map_or(Duration::from_secs(DEFAULT_SECONDS), WaitSeconds::duration);
    let node = &control.node;
    let state = node.state();
    let mut facts = committed(node, &state)?;
    let dialled = cap_address::dial(node, &state, end);
    let (others, listed, dialled) =
        tokio::join!(try_all(node, &state, end), timeout_at(end, vms::list(control)), dialled);
    if let Some(fact) = &mut facts.cap_address {
        fact.dialled = dialled;
    }
    for (label, tried) in others {
        match tried {
            Some(tried) => {
                facts.lines.extend(tried.lines);
                facts.clocks.extend(tried.clock);
                facts.certificates.extend(tried.certificate);
            }
            None => facts.unfinished.push(label),
        }
    }
    match listed {
        Ok(listed) => {
            let worrying = |severity| matches!(severity, Health::Warning | Health::Critical);
            facts.vms = listed
                .into_iter()
                .map(|vm| (vm.name, vm.health_details.into_iter().filter(|reason| worrying(reason.severity)).collect()))
                .collect();
        }
        Err(_) => facts.unfinished.push("vm list".to_owned()),
    }
    let found = findings(&facts);
    Ok(DoctorReport {
        node: node.name.clone(),
        at: facts.now.into(),
        level: found.first().map_or(Level::Ok, |worst| worst.level),
        checks: facts.checks(),
        findings: found,
    })
}

/// What is committed, and what gossip says.
fn committed(node: &Node, state: &State) -> Result<Facts, Refusal> {
    let status = clusters::status(node)?;
    let live = sight::live(node);
    let is_live = |member: &MemberId| live.get(member).copied().unwrap_or_default();
    let voters = node.consensus.status().voters;
    let candidates = sight::candidates(node, VmId(uuid::Uuid::nil()));
    let identity = node.calls.endpoint(Alpn::Control).identity();
    let own = identity.certificate().and_then(|certificate| node.trust.view().expires_at(certificate));
    let facts_of = |member: MemberId| node.view.borrow().get(&member).and_then(|seen| seen.facts.clone());
    Ok(Facts {
        now: node.outside.clock.wall(),
        cluster: ClusterFact {
            cap: status.cap.to_string(),
            owned: status.owner.is_some(),
            quorate: status.quorate,
            voters: voters.len(),
            live_voters: voters.iter().filter(|voter| is_live(voter)).count(),
        },
        nodes: candidates
            .into_iter()
            .map(|candidate| {
                let behind = facts_of(candidate.member).is_some_and(|facts| facts.settings_revision < state.revision());
                node_fact(state, candidate, is_live, behind)
            })
            .collect(),
        rotation: status.ca.rotation.as_ref().map(|rotation| RotationFact {
            begun_at: rotation.begun_at.0,
            ends_by: rotation.ends_by.to_string(),
            nodes: rotation
                .waits_for_nodes
                .iter()
                .map(|name| (name.to_string(), answers(state, name, is_live)))
                .collect(),
            peers: rotation.waits_for_peers.iter().map(ToString::to_string).collect(),
        }),
        cap_address: cap_address::fact(node, state, status.owner.as_ref()),
        twins: state
            .members
            .values()
            .filter_map(|member| Some((member.node.to_string(), facts_of(member.id)?)))
            .flat_map(|(node, facts)| facts.twins.into_iter().map(move |twin| (node.clone(), twin)))
            .collect(),
        rolled_back: rollback::known(node),
        quarantined: flapping::known(node),
        farewells: state.farewells.iter().map(|((_, cap), row)| (row.name.to_string(), cap.clone())).collect(),
        certificates: own.map(|until| (node.name.to_string(), until)).into_iter().collect(),
        peers: state.peers.iter().map(|(cap, peer)| (cap.clone(), peer.confirmed_at)).collect(),
        left_static: state
            .replicas
            .values()
            .flat_map(|replica| planned(state, replica).into_iter().map(|plan| (replica.vm.name.to_string(), plan)))
            .flat_map(|(vm, plan)| {
                let adapter = plan.adapter.name.clone();
                plan.left_static().map(|family| (vm.clone(), adapter.clone(), family)).collect::<Vec<_>>()
            })
            .collect(),
        ..Facts::default()
    })
}

fn answers(state: &State, name: &NodeName, live: impl Fn(&MemberId) -> bool) -> bool {
    state.member_named(name).is_some_and(|member| live(&member.id))
}

fn node_fact(state: &State, candidate: Candidate, live: impl Fn(&MemberId) -> bool, behind: bool) -> NodeFact {
    let member = candidate.member;
    let service = candidate.vm_service_fault.filter(|_| !candidate.witness).map(|why| {
        let level = if why.starts_with("is degraded") { Level::Warning } else { Level::Critical };
        (level, why)
    });
    let rooms = candidate.rooms.into_iter().map(|room| RoomFact {
        held: state
            .replicas
            .values()
            .filter(|replica| replica.storage == room.name)
            .filter(|replica| replica.receiver() == member || replica.in_sync.contains(&member))
            .flat_map(|replica| &replica.vm.disks)
            .fold(0, |sum, disk| sum.saturating_add(disk.bytes)),
        name: room.name,
        free: room.free_bytes,
        promised: room.promised_bytes,
        fault: room.fault,
    });
    NodeFact {
        node: candidate.node,
        live: live(&member),
        vm_service: service,
        settings_behind: behind && !candidate.witness,
        rooms: rooms.collect(),
    }
}

/// Tries every other member and every peer's agents, several at a time; `None` for one that took too long.
async fn try_all(node: &Node, state: &State, end: Instant) -> Vec<(String, Option<Tried>)> {
    let own = state.member_list();
    let peers = state.peers.values().map(|peer| (&peer.list, true));
    let lists: Vec<(&MemberList, bool)> = own.iter().map(|list| (list, false)).chain(peers).collect();
    let others = lists.into_iter().flat_map(|(list, peer)| {
        list.members.iter().filter(move |member| peer || member.id != node.me).map(move |member| (list, member, peer))
    });
    let tries = others.map(|(list, member, peer)| async move {
        // Nodes of two clusters may have the same name.
        let label = if peer { member.fqdn.to_string() } else { member.node.to_string() };
        let tried = timeout_at(end, try_one(node, list, member, &label)).await.ok();
        (label, tried)
    });
    stream::iter(tries.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await
}

async fn try_one(node: &Node, list: &MemberList, member: &Member, label: &str) -> Tried {
    let way = |port| Way::to(&list.cap, member, port);
    let control = way(Alpn::Control);
    let talk = async {
        let (clock, asked) = (&node.outside.clock, node.outside.clock.now());
        let answer = node.calls.call(&control.target, Alpn::Control, &ControlRequest::Clock, CLOCK_DEADLINE).await;
        // The clock was read about half-way between question and answer.
        let half = u64::try_from(clock.now().since(asked).as_millis() / 2).unwrap_or(u64::MAX);
        let theirs = match answer {
            Ok(ControlAnswer::Clock(theirs)) => theirs,
            Ok(_) => return (Err("it gave an answer of another kind".to_owned()), None, None, None),
            Err(error) => return (Err(error.to_string()), None, None, None),
        };
        let ours = clock.wall().0.saturating_sub(half);
        let ahead = i64::try_from(i128::from(theirs.0) - i128::from(ours)).unwrap_or(i64::MAX);
        let link = node.calls.open_link(&control.target, Alpn::Control);
        let until = link.as_ref().and_then(Link::certificate).and_then(|leaf| node.trust.view().expires_at(&leaf));
        let mtu = match &link {
            Some(link) => Some(reach::settled_mtu(link).await),
            None => None,
        };
        let request = ControlRequest::ReachBack;
        let back = node.calls.call(&control.target, Alpn::Control, &request, BACK_DEADLINE).await;
        (Ok(mtu), Some(ahead), until, Some(back))
    };
    let data = way(Alpn::Data);
    let ((there, ahead, until, back), carried) = tokio::join!(talk, reach::dial(node, &data));
    let (me, own) = (node.name.as_str(), own_addresses(node));
    let line = |from: &str, to: &str, port, address: &str, outcome| LineFact {
        from: from.to_owned(),
        to: to.to_owned(),
        port,
        address: address.to_owned(),
        outcome,
    };
    let mut lines = vec![
        line(me, label, "control", &member.control.to_string(), there),
        line(me, label, "data", &member.data.to_string(), carried),
    ];
    match back {
        Some(Ok(ControlAnswer::ReachedBack { control, data })) => {
            for (port, reach, address) in [("control", control, &own.0), ("data", data, &own.1)] {
                let Reach { mtu, fault } = reach;
                lines.push(line(label, me, port, address, fault.map_or(Ok(mtu), Err)));
            }
        }
        Some(Ok(_)) => lines.push(line(label, me, "control", &own.0, Err("it could not be asked".to_owned()))),
        Some(Err(error)) => lines.push(line(label, me, "control", &own.0, Err(error.to_string()))),
        // It was not reached in the first place, which is told.
        None => {}
    }
    let label = || label.to_owned();
    Tried { lines, clock: ahead.map(|ahead| (label(), ahead)), certificate: until.map(|until| (label(), until)) }
}

/// What this node announces.
fn own_addresses(node: &Node) -> (String, String) {
    let state = node.state();
    let own = state.members.get(&node.me);
    own.map_or_else(Default::default, |own| (own.control.to_string(), own.data.to_string()))
}
