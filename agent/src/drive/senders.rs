//! The VMs that this node sends: claiming and releasing the role, and one [`Sender`] for each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use landfall_proto::alpn::Alpn;
use landfall_proto::client::{BrokerClient, Wish};
use landfall_proto::id::{Fqdn, VmId};
use landfall_proto::message::broker::Location;
use landfall_proto::message::control::{ControlAnswer, ControlRequest, SenderFigures, Traffic};
use landfall_proto::model::{Command, Frequency, Primary, VmSpec};
use landfall_proto::{Class, Refusal};
use landfall_store::state::State;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::decide::sender::{self, Step};
use crate::drive::changes::Changes;
use crate::drive::enrolment::SENDERS_FOLDER;
use crate::drive::events::Happening;
use crate::drive::limits::Limits;
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::drive::propose::SENDER_NOT_DOWN;
use crate::drive::reshape::Unfollowed;
use crate::drive::send::Sender;
use crate::drive::send::capture::Workshop;
use crate::drive::tally::{Tallies, Tally};
use crate::drive::transfers::Transfers;
use crate::surface::vm::PassedOver;

/// How often roles are looked at without being told of a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long another node may take to tell what it has sent of a VM.
const FIGURES_DEADLINE: Duration = Duration::from_secs(3);

/// How long a question to a CAP on a user's behalf may take.
const BROKER_DEADLINE: Duration = Duration::from_secs(20);

/// The senders of this node.
#[derive(Clone)]
pub struct Senders {
    node: Node,
    running: Arc<Mutex<BTreeMap<VmId, Running>>>,
    claiming: Arc<Mutex<BTreeSet<VmId>>>,
    passed_over: Arc<Mutex<BTreeMap<VmId, Vec<PassedOver>>>>,
    unfollowed: Unfollowed,
    transfers: Transfers,
    copies: Transfers,
    limits: Limits,
    /// Of each VM that was sent from here: a sender that follows another must take turns with what that left running.
    workshops: Arc<Mutex<BTreeMap<VmId, Workshop>>>,
    tallies: Tallies,
}

struct Running {
    primary: Primary,
    task: AbortHandle,
    figures: watch::Receiver<SenderFigures>,
    heard: watch::Sender<Option<Location>>,
    hurry: Arc<Notify>,
    nudge: Arc<Notify>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Senders {
    /// No sender yet; [`Senders::run`] starts them.
    pub fn new(node: Node) -> Self {
        let settings = node.state().resolved_settings();
        let transfers = Transfers::new(settings.maximum_active_transfers);
        let copies = Transfers::new(settings.maximum_initial_copies);
        let tallies = Tallies::default();
        Self {
            node,
            running: Arc::default(),
            claiming: Arc::default(),
            passed_over: Arc::default(),
            unfollowed: Unfollowed::default(),
            transfers,
            copies,
            limits: Limits::default(),
            workshops: Arc::default(),
            tallies,
        }
    }

    /// Keeps roles and senders in step with the committed state and with what the VM service lists.
    pub async fn run(self) {
        let mut changes = Changes::at(&self.node, LOOK_INTERVAL);
        while changes.next().await.is_some() {
            let state = self.node.state();
            let settings = state.resolved_settings();
            self.transfers.set_limit(settings.maximum_active_transfers);
            self.copies.set_limit(settings.maximum_initial_copies);
            self.limits.look(&state, self.node.outside.clock.as_ref());
            self.settle_roles(&state);
            self.settle_senders(&state);
            self.settle_shapes(&state);
            self.tallies.roll(&self.node, &state);
        }
    }

    /// This node.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Whether nothing is being committed about a VM, from now until [`Senders::end_step`].
    pub(super) fn begin_step(&self, vm: VmId) -> bool {
        lock(&self.claiming).insert(vm)
    }

    /// What could not be followed of how VMs changed.
    pub(super) fn unfollowed(&self) -> &Unfollowed {
        &self.unfollowed
    }

    pub(super) fn end_step(&self, vm: VmId) {
        lock(&self.claiming).remove(&vm);
    }

    /// Commits what this node's part has become, each VM in a task of its own: a commit may take as long as a failover.
    fn settle_roles(&self, state: &State) {
        let now = self.node.outside.clock.now();
        let view = self.node.view.borrow().clone();
        for primary in state.primaries.values() {
            let vm = primary.vm.id;
            let Some(here) = self.node.vms.here(vm) else { continue };
            // Only a hint: the owner replaces it by its own judgement before it commits.
            let silent = primary.sender.is_some_and(|sender| !view.get(&sender).is_some_and(|seen| seen.live));
            let Some(step) = sender::next(primary, self.node.me, here, silent, now) else { continue };
            if !lock(&self.claiming).insert(vm) {
                continue;
            }
            let down_after = state.resolved_settings().node_down_after;
            let otherwise = sender::overruled(primary, self.node.me, here, down_after, now).filter(|_| silent);
            let (this, primary) = (self.clone(), primary.clone());
            tokio::spawn(async move {
                this.settle_role(&primary, step, otherwise).await;
                lock(&this.claiming).remove(&vm);
            });
        }
    }

    /// Commits `step` of this node in sending a VM, and `otherwise` where the owner does not hold the present sender for down.
    async fn settle_role(&self, primary: &Primary, step: Step, otherwise: Option<Step>) {
        let (vm, name) = (primary.vm.id, &primary.vm.name);
        let commit = |step| {
            let command = match step {
                Step::Claim { down } => {
                    Command::ClaimSender { vm, member: self.node.me, epoch: primary.sender_epoch, down }
                }
                Step::Release => Command::ReleaseSender { vm, member: self.node.me },
            };
            self.node.proposer.commit(command)
        };
        let committed = match (commit(step).await, otherwise) {
            (Err(refusal), Some(otherwise)) if refusal.code == SENDER_NOT_DOWN => commit(otherwise).await,
            (committed, _) => committed,
        };
        match committed {
            Ok(_) => {
                let sends = self.node.state().primaries.get(&vm).is_some_and(|now| now.sender == Some(self.node.me));
                let told = match step {
                    Step::Claim { .. } if sends => format!("this node sends {name} now"),
                    Step::Claim { .. } => format!("{name} is here as well as at the node that sends it"),
                    Step::Release => format!("{name} is not here any more: its sender role is released"),
                };
                self.node.events.record(Happening::info("sender_role", told).vm(vm).node(&self.node.name));
            }
            Err(refusal) => tracing::info!(%vm, ?step, %refusal, "sender role not committed"),
        }
    }

    /// Starts the senders that this node should run, and ends the others.
    fn settle_senders(&self, state: &State) {
        let mut running = lock(&self.running);
        // What a sender has said of itself outlives it, where only its instructions have changed.
        let mut ended = BTreeMap::new();
        running.retain(|vm, sender| {
            let same = state.primaries.get(vm).is_some_and(|primary| {
                // A limit is followed in the middle of a session.
                let limit = sender.primary.limit.clone();
                Primary { limit, ..primary.clone() } == sender.primary
            });
            if !same || sender.task.is_finished() {
                ended.insert(*vm, sender.figures.borrow().clone());
            }
            !ended.contains_key(vm)
        });
        for primary in state.primaries.values() {
            let vm = primary.vm.id;
            let released = state.departures.get(&vm).is_some_and(|departure| departure.state.released().is_some());
            let free =
                primary.rivals.is_empty() && primary.stopped.is_none() && !released && !state.rivals.contains(&vm);
            let mine = primary.sender == Some(self.node.me) && free;
            if !mine {
                running.remove(&vm);
                continue;
            }
            if !running.contains_key(&vm) && matches!(self.node.vms.here(vm), Some(Some(_))) {
                match self.start(state, primary, ended.remove(&vm)) {
                    Ok(sender) => drop(running.insert(vm, sender)),
                    Err(refusal) => tracing::warn!(%vm, %refusal, "sender not started"),
                }
            }
        }
    }

    fn start(&self, state: &State, primary: &Primary, before: Option<SenderFigures>) -> Result<Running, Refusal> {
        let broker = self.broker(state, &primary.to)?;
        let before = before.filter(|before| before.epoch == primary.sender_epoch).unwrap_or_default();
        let first = SenderFigures {
            epoch: primary.sender_epoch,
            activity: "starting".to_owned(),
            testing_interval_ms: self.node.config.testing.interval.map(|interval| interval.as_millis() as u64),
            fault: None,
            in_flight: None,
            ..before
        };
        let (figures, shown) = watch::channel(first);
        let (heard, hearing) = watch::channel(None);
        let hurry = Arc::new(Notify::new());
        let nudge = Arc::new(Notify::new());
        let tally = self.tallies.of(primary);
        self.ask_what_was_sent(state, primary.vm.id, &tally);
        let sender = Sender {
            node: self.node.clone(),
            primary: primary.clone(),
            broker,
            workshop: self.workshop(primary.vm.id),
            figures,
            heard: hearing,
            hurry: Arc::clone(&hurry),
            transfers: self.transfers.clone(),
            copies: self.copies.clone(),
            pace: self.limits.pace(primary, self.node.outside.clock.as_ref()),
            nudge: Arc::clone(&nudge),
            tally,
        };
        tracing::info!(vm = %primary.vm.name, to = %primary.to, epoch = %primary.sender_epoch, "sending");
        let task = tokio::spawn(sender.run()).abort_handle();
        Ok(Running { primary: primary.clone(), task, figures: shown, heard, nudge, hurry })
    }

    fn workshop(&self, vm: VmId) -> Workshop {
        lock(&self.workshops).entry(vm).or_insert_with(|| Workshop::new(self.folder(vm))).clone()
    }

    fn folder(&self, vm: VmId) -> PathBuf {
        self.node.config.data_dir.join(SENDERS_FOLDER).join(vm.to_string())
    }

    /// A client of the broker at `to`, which must be a peer.
    fn broker(&self, state: &State, to: &Fqdn) -> Result<BrokerClient, Refusal> {
        let peer = state.peers.get(to).ok_or_else(|| {
            Refusal::new(Class::NotFound, "unknown_peer", format!("this cluster is not paired with {to}"))
                .field("to")
                .remedy("pair first: landfall peer invite there, landfall peer accept CODE here")
        })?;
        let agents = peer.list.dialled().collect();
        Ok(BrokerClient::new(self.node.calls.clone(), to.clone(), agents))
    }

    /// Takes in that a peer says where a replica is now. Only a hint: the receiver there checks epochs.
    pub fn moved(&self, from: &Fqdn, vm: VmId, to: Location) {
        let running = lock(&self.running);
        if let Some(sender) = running.get(&vm).filter(|sender| sender.primary.to == *from) {
            let told = format!("{from} says that {} receives {} now", to.node, sender.primary.vm.name);
            let event = Happening::info("replica_moved", told).vm(vm).node(&self.node.name).with("epoch", &to.epoch);
            let newer = sender.heard.send_if_modified(|heard| {
                let newer = heard.as_ref().is_none_or(|heard| heard.epoch < to.epoch);
                if newer {
                    *heard = Some(to);
                }
                newer
            });
            if newer {
                self.node.events.record(event);
            }
        }
    }

    /// Lets the next change set of a VM be taken at once.
    pub fn hurry(&self, vm: VmId) {
        if let Some(sender) = lock(&self.running).get(&vm) {
            sender.hurry.notify_one();
        }
    }

    /// Takes in that a peer goes on taking what it had paused: the sender need not wait for its next try.
    pub fn resumed(&self, from: &Fqdn, vm: VmId) {
        if let Some(sender) = lock(&self.running).get(&vm).filter(|sender| sender.primary.to == *from) {
            sender.nudge.notify_one();
            let told = format!("{from} goes on taking {}, which was paused there", sender.primary.vm.name);
            self.node.events.record(Happening::info("replica_resumed", told).vm(vm).node(&self.node.name));
        }
    }

    /// What this node knows of a VM as its sender.
    pub fn figures(&self, vm: VmId) -> Option<SenderFigures> {
        let mut figures = lock(&self.running).get(&vm).map(|sender| sender.figures.borrow().clone())?;
        figures.fault = figures.fault.map(|fault| self.unfollowed.behind(vm, fault));
        let traffic = self.tallies.sent(vm);
        let limited_to_kbit = self.limits.now(vm).map(|bytes| bytes / 125);
        Some(SenderFigures { statistics: self.tallies.statistics(vm), traffic, limited_to_kbit, ..figures })
    }

    /// What this node has sent of a VM since its replication was enabled, whether or not it is its sender now.
    pub async fn traffic(&self, vm: VmId) -> Traffic {
        match self.node.state().primaries.get(&vm) {
            Some(primary) => self.tallies.traffic(primary, self.folder(vm)).await,
            None => Traffic::default(),
        }
    }

    /// Asks the other nodes, once, what they have sent of the VM of a sender that begins here.
    fn ask_what_was_sent(&self, state: &State, vm: VmId, tally: &Tally) {
        let others = state.members.values().filter(|member| !member.witness && member.id != self.node.me);
        let targets: Vec<_> = others.filter_map(|member| control_target(state, member.id)).collect();
        let (calls, tally) = (self.node.calls.clone(), tally.clone());
        tokio::spawn(async move {
            let asked = targets.iter().map(|target| async {
                match calls.call(target, Alpn::Control, &ControlRequest::Figures(vm), FIGURES_DEADLINE).await {
                    Ok(ControlAnswer::Figures(figures)) => figures.traffic,
                    _ => Traffic::default(),
                }
            });
            let sent = join_all(asked).await.into_iter().fold(Traffic::default(), Traffic::and);
            tally.sent_elsewhere(sent);
        });
    }

    /// Counts the statistics of a VM that this node sends from zero.
    pub fn reset_statistics(&self, vm: VmId) -> Result<(), Refusal> {
        if !lock(&self.running).contains_key(&vm) {
            return Err(Refusal::new(Class::Failed, "not_the_sender", "this node does not send the VM")
                .field("vm")
                .remedy("see `landfall vm show` for the node that does"));
        }
        self.tallies.reset(vm, self.node.outside.clock.wall());
        Ok(())
    }

    /// Why the other nodes were not taken when the VM was last placed from this node.
    pub fn passed_over(&self, vm: VmId) -> Vec<PassedOver> {
        lock(&self.passed_over).get(&vm).cloned().unwrap_or_default()
    }

    /// Places the replica of a VM that is about to be enabled.
    pub async fn place(
        &self,
        to: &Fqdn,
        vm: &VmSpec,
        frequency: Frequency,
        recovery_points: u8,
    ) -> Result<Location, Refusal> {
        let broker = self.broker(&self.node.state(), to)?;
        let lineage = self.node.state().lineage(vm.id);
        let wish = Wish { vm: vm.clone(), frequency, recovery_points, instead_of: None, lineage };
        let (at, passed_over) = broker.place(wish, BROKER_DEADLINE).await?;
        let told = passed_over.into_iter().map(|node| PassedOver { node: node.node, reason: node.reason }).collect();
        lock(&self.passed_over).insert(vm.id, told);
        Ok(at)
    }

    /// Asks a primary's CAP where the replica is.
    pub async fn locate(&self, primary: &Primary) -> Result<Location, Refusal> {
        let broker = self.broker(&self.node.state(), &primary.to)?;
        broker.locate(primary.vm.id, broker.position(), BROKER_DEADLINE).await
    }

    /// Tells a primary's CAP that the relationship is over.
    pub async fn give_up(&self, primary: &Primary) -> Result<(), Refusal> {
        self.broker(&self.node.state(), &primary.to)?.remove(primary.vm.id, BROKER_DEADLINE).await.map(drop)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
