//! `settings`, `authorization` and `peer`: what this cluster accepts, and from whom.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Endpoint;
use landfall_proto::id::{Fqdn, PrimaryPattern, Revision};
use landfall_proto::invitation::{self, Purpose};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::message::join::{Ask, JoinAnswer};
use landfall_proto::model::{Command, Member, Outcome, Peer, TicketKind};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use landfall_store::feed::{Notice, Watcher};
use landfall_store::settings::{self, DECLARATIONS, Declaration, Shown};
use landfall_store::state::SettingsChange;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::decide::peer_list;
use crate::drive::events::Happening;
use crate::drive::join;
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::drive::propose::no_quorum;
use crate::surface::authorization::{Authorization, AuthorizationRemoved};
use crate::surface::operations::{Caller, Stream};
use crate::surface::peer::{PeerAccept, PeerInvite, PeerInvited, PeerMember, PeerRemoved, PeerStatus};
use crate::surface::settings::{SettingChange, Settings, SettingsEvent, SettingsRevision, SettingsSet};
use crate::surface::token::ttl;
use crate::surface::vm::{Health, NamedVm};
use crate::surface::wait::{WaitSeconds, timed_out};
use crate::vm_service::SettingsView;

/// How long one node is asked at a time whether its VM service has a revision.
const ASK_DEADLINE: Duration = Duration::from_secs(6);

/// The pause before a node that has not applied them, or did not answer, is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Every setting.
pub fn settings_show(node: &Node) -> Settings {
    shown(&node.state())
}

/// Every setting that has a value, as a VM service takes it.
fn plain(state: &State) -> SettingsView {
    let values = state.settings_values();
    let value =
        |declaration: &Declaration| Some((declaration.key.to_owned(), settings::effective(values, declaration.key)?));
    SettingsView { revision: state.revision(), settings: DECLARATIONS.iter().filter_map(value).collect() }
}

fn shown(state: &State) -> Settings {
    let value = |(key, shown): (&str, Shown)| {
        let value = match shown {
            Shown::Flag(flag) => Value::Bool(flag),
            Shown::Count(count) => Value::from(count),
            Shown::Text(text) => Value::String(text),
            Shown::Nothing => Value::Null,
        };
        (key.to_owned(), value)
    };
    let settings = settings::show(state.settings_values()).into_iter().map(value).collect();
    Settings { revision: state.revision(), settings }
}

/// Changes settings; with a wait, answers when every live node's VM service has them, or names those that have not.
pub async fn settings_set(node: &Node, request: SettingsSet, caller: Caller) -> Result<Settings, Refusal> {
    let by = format!("{caller} at {}", node.name);
    let command = Command::Set { changes: request.settings, expect: request.expect, by };
    let (outcome, _) = node.proposer.commit(command).await?;
    let Outcome::Set(revision) = outcome else {
        return Err(Refusal::new(Class::Failed, "protocol", "setting gave an answer of another kind"));
    };
    if let Some(wait) = request.wait_seconds {
        everywhere(node, revision, wait).await?;
    }
    Ok(shown(&node.state()))
}

/// Waits until the VM service of every live node has acknowledged `revision`. Each is asked directly: gossip only shows.
async fn everywhere(node: &Node, revision: Revision, wait: WaitSeconds) -> Result<(), Refusal> {
    let deadline = Instant::now() + wait.duration();
    let state = node.state();
    let data_nodes: Vec<Member> = state.members.values().filter(|member| !member.witness).cloned().collect();
    let asked = data_nodes.iter().map(|member| has_applied(node, member, revision, deadline));
    let missing: Vec<String> = data_nodes
        .iter()
        .zip(join_all(asked).await)
        .filter_map(|(member, outcome)| outcome.err().map(|why| format!("{} ({why})", member.node)))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(timed_out(
            &format!("the settings are committed at revision {revision}"),
            &format!("these nodes' VM services have not applied them: {}", missing.join(", ")),
            wait,
        )),
    }
}

/// Whether `member` says in time that its VM service has `revision`.
async fn has_applied(node: &Node, member: &Member, revision: Revision, deadline: Instant) -> Result<(), String> {
    if member.id == node.me {
        let mut reported = node.vms.watch();
        let done = reported.wait_for(|reported| reported.applied >= revision);
        return match timeout_at(deadline, done).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(node.vms.standing().fault().unwrap_or_else(|| "it has not acknowledged them".to_owned())),
        };
    }
    let ask = |left: Duration| {
        let (node, member) = (node.clone(), member.id);
        async move {
            let target = control_target(&node.state(), member)?;
            let request = ControlRequest::AwaitSettings(revision);
            let asked = node.calls.call(&target, Alpn::Control, &request, left).await;
            Some(asked.map_err(|error| error.to_string()))
        }
    };
    let live = || node.view.borrow().get(&member.id).is_some_and(|seen| seen.live);
    until_applied(ask, live, deadline).await
}

/// Asks a node until it says that it has applied, or the time is up. `ask` gives `None` once it is no member any more.
/// Only a node that cannot be reached and is not held for live either is not waited for.
async fn until_applied<F: Future<Output = Option<Result<ControlAnswer, String>>>>(
    ask: impl Fn(Duration) -> F,
    live: impl Fn() -> bool,
    deadline: Instant,
) -> Result<(), String> {
    let mut why = "it does not answer".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(ASK_DEADLINE);
        if left.is_zero() {
            return Err(why);
        }
        match ask(left).await {
            None | Some(Ok(ControlAnswer::Done)) => return Ok(()),
            Some(Ok(ControlAnswer::Refused(refusal))) => why = refusal.message,
            Some(Ok(_)) => why = "it gave an answer of another kind".to_owned(),
            Some(Err(_)) if !live() => return Ok(()),
            Some(Err(error)) => why = error,
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// The revisions that are remembered, oldest first.
pub fn settings_history(node: &Node) -> Vec<SettingsRevision> {
    let state = node.state();
    let revision = |change: &SettingsChange| {
        let changes = change.changes.iter().map(|(key, (old, new))| SettingChange {
            key: key.clone(),
            old: old.clone(),
            new: new.clone(),
        });
        SettingsRevision::new(change.revision, changes.collect(), change.by.clone(), change.at.into())
    };
    state.settings.history.iter().map(revision).collect()
}

/// The settings as they change, from `from` on; a watcher that names no revision begins with a snapshot.
pub fn settings_watch(node: &Node, from: Option<Revision>) -> Stream<SettingsEvent> {
    let state = node.state();
    let (begins_at, first) = match from {
        Some(from) => (from, VecDeque::new()),
        None => (state.revision(), VecDeque::from([SettingsEvent::Settings(plain(&state))])),
    };
    let watching =
        Watching { node: node.clone(), watcher: node.consensus.settings_feed().watch(begins_at), ready: first };
    stream::unfold(watching, |mut watching| async move {
        let event = watching.next().await?;
        Some((Ok(event), watching))
    })
    .boxed()
}

struct Watching {
    node: Node,
    watcher: Watcher,
    /// What is to be told before the feed is asked again: at most one revision's changes.
    ready: VecDeque<SettingsEvent>,
}

impl Watching {
    async fn next(&mut self) -> Option<SettingsEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.watcher.next().await.ok()? {
                Notice::Changed(changed) => {
                    let revision = changed.revision;
                    let mut changes = vec![changed];
                    changes.extend(self.watcher.rest());
                    let changes = changes
                        .into_iter()
                        .map(|change| SettingChange { key: change.key, old: change.old, new: change.new })
                        .collect();
                    self.ready.extend(SettingsEvent::of_revision(revision, changes));
                }
                Notice::Resync { from } => {
                    self.ready.push_back(SettingsEvent::Resync { from });
                    self.ready.push_back(SettingsEvent::Settings(plain(&self.node.state())));
                }
            }
        }
    }
}

/// The authorization table, by primary.
pub fn authorization_list(node: &Node) -> Vec<Authorization> {
    node.state().authorization.values().cloned().map(Into::into).collect()
}

/// Adds an entry, or replaces the one with the same primary.
pub async fn authorization_add(node: &Node, entry: Authorization) -> Result<Authorization, Refusal> {
    node.proposer.commit(Command::Authorize(entry.clone().into())).await?;
    let told = format!("{} may replicate into '{}'", entry.primary, entry.storage);
    node.events.record(Happening::info("authorization_added", told).with("primary", &entry.primary));
    Ok(entry)
}

/// Removes an entry, and says which VMs' replication that stopped.
pub async fn authorization_remove(node: &Node, primary: PrimaryPattern) -> Result<AuthorizationRemoved, Refusal> {
    let before = node.state();
    let (outcome, _) = node.proposer.commit(Command::Deauthorize(primary.clone())).await?;
    let stopped = match outcome {
        Outcome::Stopped(vms) => vms,
        _ => Vec::new(),
    };
    let stopped: Vec<NamedVm> = stopped
        .into_iter()
        .filter_map(|vm| before.replicas.get(&vm))
        .map(|replica| NamedVm { uuid: replica.vm.id, name: replica.vm.name.to_string() })
        .collect();
    let told = format!("{primary} may no longer replicate here; {} replications stopped", stopped.len());
    node.events.record(Happening::warning("authorization_removed", told).with("primary", &primary));
    Ok(AuthorizationRemoved { primary, stopped })
}

/// Makes a pairing code.
pub async fn peer_invite(node: &Node, request: PeerInvite) -> Result<PeerInvited, Refusal> {
    let life = Duration::from_secs(ttl(request.ttl_seconds)?);
    let (invitation, ticket) = join::invite(node, TicketKind::Pair, life).await?;
    Ok(PeerInvited { code: invitation::to_text(Purpose::Pair, &invitation)?, expires_at: ticket.expires_at.into() })
}

/// Pairs with the cluster that made a code.
pub async fn peer_accept(node: &Node, endpoint: &Endpoint, request: PeerAccept) -> Result<PeerStatus, Refusal> {
    let invitation = invitation::from_text(Purpose::Pair, &request.code)?;
    if node.state().cap() == Some(&invitation.cap) {
        return Err(Refusal::new(Class::Refused, "own_code", "the code was made by this cluster itself")
            .field("code")
            .remedy("give it at the other cluster"));
    }
    let own = join::own_record(node)?;
    let answer = join::ask(endpoint, &invitation, &Ask::Pair { peer: Box::new(own) }).await?;
    let JoinAnswer::Paired(peer) = answer else {
        return Err(Refusal::new(Class::Failed, "protocol", "pairing gave an answer of another kind"));
    };
    let cap = peer.list.cap.clone();
    node.proposer.commit(Command::Pair { peer, ticket: None }).await?;
    node.events.record(Happening::info("peer_paired", format!("paired with {cap}")).with("cap", &cap));
    let state = node.state();
    let peer = state.peers.get(&cap).ok_or_else(no_quorum)?;
    Ok(peer_status(node, peer))
}

/// The peers, by CAP.
pub fn peer_list(node: &Node) -> Vec<PeerStatus> {
    node.state().peers.values().map(|peer| peer_status(node, peer)).collect()
}

fn peer_status(node: &Node, peer: &Peer) -> PeerStatus {
    let refusal = peer_list::refusal(peer, node.outside.clock.wall());
    PeerStatus {
        cap: peer.list.cap.clone(),
        cluster: peer.cluster.clone(),
        health: if refusal.is_some() { Health::Warning } else { Health::Normal },
        health_reasons: refusal.into_iter().map(|refusal| refusal.message).collect(),
        ca_key: landfall_proto::authority::ca_fingerprint(peer.line.newest()).into(),
        position: peer.list.position,
        confirmed_at: peer.confirmed_at.into(),
        members: peer
            .list
            .members
            .iter()
            .map(|member| PeerMember { node: member.node.clone(), address: member.control, witness: member.witness })
            .collect(),
    }
}

/// Forgets a peer and says which VMs' replication that stopped.
pub async fn peer_remove(node: &Node, cap: Fqdn) -> Result<PeerRemoved, Refusal> {
    let before = node.state();
    let (outcome, _) = node.proposer.commit(Command::Unpair(cap.clone())).await?;
    let stopped = match outcome {
        Outcome::Stopped(vms) => vms,
        _ => Vec::new(),
    };
    let name = |vm| {
        let name = before.replicas.get(&vm).map(|replica| &replica.vm.name);
        name.or_else(|| before.primaries.get(&vm).map(|primary| &primary.vm.name)).map(ToString::to_string)
    };
    let stopped = stopped.into_iter().map(|vm| NamedVm { uuid: vm, name: name(vm).unwrap_or_default() }).collect();
    node.events.record(Happening::warning("peer_removed", format!("no longer paired with {cap}")).with("cap", &cap));
    Ok(PeerRemoved { cap, stopped })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    /// What a wait says of a node that fails every call and is held for live for the first `live` of them.
    async fn fails_every_call(live: u32) -> (Result<(), String>, u32) {
        let calls = Cell::new(0);
        let ask = |left: Duration| {
            calls.set(calls.get() + 1);
            async move {
                sleep(left.min(Duration::from_millis(1))).await;
                Some(Err("no answer".to_owned()))
            }
        };
        let applied = until_applied(ask, || calls.get() <= live, Instant::now() + WAIT).await;
        (applied, calls.get())
    }

    #[tokio::test]
    async fn a_node_that_is_held_for_live_and_fails_every_call_is_missing() {
        let (applied, calls) = fails_every_call(u32::MAX).await;
        assert_eq!(applied, Err("no answer".to_owned()));
        assert!(calls > 3, "it was asked to the end: {calls}");
    }

    #[tokio::test]
    async fn a_node_that_nobody_holds_for_live_is_not_waited_for() {
        assert_eq!(fails_every_call(0).await, (Ok(()), 1));
        assert_eq!(fails_every_call(4).await, (Ok(()), 5), "a dead node is waited for until gossip says so");
    }

    #[tokio::test]
    async fn a_node_that_refuses_is_asked_again_and_one_that_left_is_not_waited_for() {
        let calls = Cell::new(0);
        let ask = |_: Duration| {
            calls.set(calls.get() + 1);
            let refusal = Refusal::new(Class::Failed, "not_applied", "not yet");
            std::future::ready((calls.get() < 3).then_some(Ok(ControlAnswer::Refused(refusal))))
        };
        assert_eq!(until_applied(ask, || true, Instant::now() + WAIT).await, Ok(()));
        assert_eq!(calls.get(), 3);
    }
}
