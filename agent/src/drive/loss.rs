//! Looking after silent nodes, as the owner: asking, convicting, and giving their replicas a new home.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::alpn::Alpn;
use landfall_proto::id::MemberId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest, StagingFaults};
use landfall_proto::model::{Command, Replica};
use landfall_proto::seam::Time;
use landfall_store::State;
use tokio::sync::watch;

use crate::decide::node_loss::{self, Nodes, Patience, Rehome, Unable, Watch};
use crate::decide::placement::{self, Standing, Wish};
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::drive::notices::Notices;
use crate::drive::{broker, control, peers, sight};

/// How often the owner looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a direct probe may take, and a probe on the owner's behalf.
const PROBE_DEADLINE: Duration = Duration::from_millis(1_000);

/// How often each live receiver is asked whether it can still stage.
const STORAGE_INTERVAL: Duration = Duration::from_secs(2);

/// What separates this choice from every other one of an owner.
const DRAW: &str = "landfall 2026 new home draw";

/// The nodes that the owner holds for dead, for whoever shows or needs it.
pub type DownSince = BTreeMap<MemberId, Time>;

/// Watches over the members for as long as this agent owns the CAP.
pub async fn watch_over(node: Node, down: watch::Sender<DownSince>) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut watch = Watch::default();
    let mut storage = Storage::default();
    let notices = Notices::default();
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            watch = Watch::default();
            storage = Storage::default();
            down.send_if_modified(|down| !std::mem::take(down).is_empty());
            node.owning().await;
            continue;
        }
        let state = node.state();
        let settings = state.resolved_settings();
        let live = sight::live(&node);
        let due = watch.tick(node.outside.clock.now(), &live, settings.node_down_after);
        let asked = due.iter().map(|suspect| ask(&node, *suspect, &live));
        for (suspect, reached) in due.iter().zip(join_all(asked).await) {
            watch.probed(node.outside.clock.now(), *suspect, reached);
        }
        publish(&node, &state, &watch, &down);
        storage.ask(&node, &state, &live).await;
        let patience =
            Patience { down_after: settings.node_down_after, without_copy: settings.rehome_without_copy_after };
        let nodes = Nodes {
            up: live.iter().filter(|(_, live)| **live).map(|(member, _)| *member).collect(),
            down: down.borrow().clone(),
            unable: storage.unable.clone(),
            quarantined: node.quarantines.held().into_keys().collect(),
        };
        // One that is failed over stays: its node, however silent, may run it. One whose disks are still to be taken in stays
        // where these are.
        let stays = |vm| state.promotions.contains(vm) || state.returns.contains(vm);
        for replica in state.replicas.values().filter(|replica| !stays(&replica.vm.id)) {
            let now = node.outside.clock.now();
            if let Some(rehome) = node_loss::rehome(replica, &nodes, patience, now) {
                carry_out(&node, &state, replica, rehome, &notices).await;
            }
        }
    }
}

/// Whether anybody reaches `suspect`: this node, or up to two others for it.
async fn ask(node: &Node, suspect: MemberId, live: &BTreeMap<MemberId, bool>) -> bool {
    let state = node.state();
    let direct = control::probe(node, suspect);
    let proxies = node_loss::proxies(node.me, suspect, live);
    let others = proxies.into_iter().filter_map(|proxy| control_target(&state, proxy)).map(|target| async move {
        let request = ControlRequest::ProbeFor(suspect);
        let call = node.calls.call(&target, Alpn::Control, &request, PROBE_DEADLINE);
        matches!(call.await, Ok(ControlAnswer::Reached(true)))
    });
    let (direct, others) = tokio::join!(direct, join_all(others));
    direct || others.contains(&true)
}

fn publish(node: &Node, state: &State, watch: &Watch, down: &watch::Sender<DownSince>) {
    let fresh: DownSince =
        state.members.keys().filter_map(|member| Some((*member, watch.down_since(*member)?))).collect();
    down.send_if_modified(|down| {
        for member in fresh.keys().filter(|member| !down.contains_key(member)) {
            if let Some(member) = state.members.get(member) {
                let told = format!("{} is held for lost: nobody reaches it", member.node);
                node.events.record(Happening::critical("node_down", told).node(&member.node));
            }
        }
        let changed = *down != fresh;
        *down = fresh.clone();
        changed
    });
}

/// What receivers that answer cannot stage, and since when.
#[derive(Default)]
struct Storage {
    asked: Option<Time>,
    unable: BTreeMap<MemberId, Unable>,
}

impl Storage {
    async fn ask(&mut self, node: &Node, state: &State, live: &BTreeMap<MemberId, bool>) {
        let now = node.outside.clock.now();
        if self.asked.is_some_and(|at| now.since(at) < STORAGE_INTERVAL) {
            return;
        }
        self.asked = Some(now);
        let receivers: std::collections::BTreeSet<MemberId> =
            with_copies(state).filter(|member| live.get(member) == Some(&true)).collect();
        let answers = receivers.iter().map(|member| staging_faults(node, state, *member));
        for (member, faults) in receivers.iter().zip(join_all(answers).await) {
            let unable = self.unable.entry(*member).or_default();
            let before = unable.clone();
            unable.heard(&faults, now);
            for (storage, why) in faults.storage.iter().filter(|(name, _)| !before.storage.contains_key(name)) {
                tracing::warn!(%member, %storage, why, "a receiver cannot store anything");
            }
            for (vm, why) in faults.replicas.iter().filter(|(vm, _)| !before.replicas.contains_key(vm)) {
                tracing::warn!(%member, %vm, why, "a receiver cannot stage a replica");
            }
        }
        self.unable.retain(|member, _| receivers.contains(member));
    }
}

/// The members that receive replicas or have copies of them.
fn with_copies(state: &State) -> impl Iterator<Item = MemberId> {
    state.replicas.values().flat_map(|replica| replica.in_sync.iter().copied().chain([replica.receiver()]))
}

/// What `member` says that it cannot stage. One that does not answer is gossip's business, not this one's.
async fn staging_faults(node: &Node, state: &State, member: MemberId) -> StagingFaults {
    let Some(target) = control_target(state, member) else { return StagingFaults::default() };
    match node.calls.call(&target, Alpn::Control, &ControlRequest::Probe, PROBE_DEADLINE).await {
        Ok(ControlAnswer::Alive { faults }) => faults,
        _ => StagingFaults::default(),
    }
}

async fn carry_out(node: &Node, state: &State, replica: &Replica, rehome: Rehome, notices: &Notices) {
    let (vm, epoch) = (replica.vm.id, replica.epoch);
    let command = match rehome {
        Rehome::Assign(to) => Command::Assign { vm, epoch, to },
        Rehome::Seed { instead_of } => match new_home(node, state, replica, instead_of) {
            Some(to) => Command::Seed { vm, epoch, to },
            None => return,
        },
    };
    let Some(term) = node.owner.acting() else { return };
    match node.proposer.commit_here(None, term, command).await {
        Ok((Ok(_), position)) => {
            let Ok(state) = node.proposer.applied(position, tokio::time::Instant::now() + PROBE_DEADLINE).await else {
                return;
            };
            let Some(replica) = state.replicas.get(&vm) else { return };
            let Ok(at) = broker::location(&state, replica) else { return };
            let told = match rehome {
                Rehome::Assign(_) => format!("the replica of {} is taken over by {}", replica.vm.name, at.node),
                Rehome::Seed { .. } => format!(
                    "the replica of {} has no copy that answers: {} is filled from the primary",
                    replica.vm.name, at.node
                ),
            };
            node.events.record(Happening::warning("replica_rehomed", told).vm(vm).node(&at.node));
            if !node.config.testing.drop_moved_notices {
                // Beside this loop: one that waits for a silent peer would be late, and then accuse no one.
                let (node, primary) = (node.clone(), replica.primary.clone());
                let announced = Arc::clone(&state);
                let sent = notices.send(async move {
                    peers::announce_moved(&node, &announced, &primary, peers::moved(vm, at)).await;
                });
                if !sent {
                    tracing::info!(%vm, "too many notices are under way: the primary asks the CAP instead");
                }
            }
        }
        Ok((Err(refusal), _)) | Err(refusal) => tracing::info!(%vm, %refusal, "re-homing not committed"),
    }
}

/// A node that can be filled: drawn like a new placement, from the same candidates.
fn new_home(node: &Node, state: &State, replica: &Replica, instead_of: MemberId) -> Option<MemberId> {
    let mut candidates = sight::candidates(node, replica.vm.id);
    for candidate in &mut candidates {
        if candidate.member == instead_of {
            candidate.standing = Standing::Down;
        }
    }
    let bytes = replica.vm.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.bytes));
    let wish = Wish { storage: replica.storage.clone(), bytes, except: Some(instead_of), even_quarantined: true };
    let (chosen, passed_over) = placement::choose(&candidates, &wish, sight::draw(state, replica.vm.id, DRAW));
    if chosen.is_none() {
        tracing::warn!(vm = %replica.vm.id, ?passed_over, "no node can be filled");
    }
    chosen
}
