//! Being a member: the parts that an enrolled agent runs, wired together.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Calls;
use landfall_proto::endpoint::{Target, TurnedAway};
use landfall_proto::id::MemberId;
use landfall_proto::message::join::Welcome;
use landfall_proto::model::{Command, Found, Proposal};
use landfall_proto::seam::Outside;
use landfall_proto::trust::{Trust, TrustView};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use landfall_store::consensus::{self, Consensus};
use landfall_store::kv::{Health, Kv};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::config::NodeConfig;
use crate::decide::twins::Twin;
use crate::drive::cap_address::host::Hosts;
use crate::drive::cap_address::{self, CapAddressKeeper};
use crate::drive::confirm::Confirmed;
use crate::drive::control::Control;
use crate::drive::enrolment::{Enrolment, Papers};
use crate::drive::events::{Events, Happening};
use crate::drive::exclusion::Exclusion;
use crate::drive::failover::{Failover, rights};
use crate::drive::gossip::{GOSSIP_INTERVAL, Gossip, GossipInbox, GossipLinks, Greeting, own_words};
use crate::drive::loss::DownSince;
use crate::drive::node::Node;
use crate::drive::owner::Owner;
use crate::drive::propose::Proposer;
use crate::drive::raft_wire::RaftWire;
use crate::drive::receive::Receiver;
use crate::drive::replicas::Replicas;
use crate::drive::rollback::{self, Gate};
use crate::drive::senders::Senders;
use crate::drive::serve::{self, Services};
use crate::drive::vm_side::VmSide;
use crate::drive::{
    believing, copies, draining, farewells, flapping, group, handover, leftovers, loss, owner, peers, renewal,
    rotation, twins,
};

/// The pause before gossip that ended by itself is begun again.
const GOSSIP_RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What a membership stands on.
pub struct Ground {
    /// The node's file.
    pub config: Arc<NodeConfig>,
    /// Time, randomness, network, cryptography.
    pub outside: Outside,
    /// The files of its identity.
    pub papers: Papers,
    /// Its endpoints.
    pub calls: Calls,
    /// Whom certificates are believed.
    pub trust: Trust,
    /// Its VM service.
    pub vms: VmSide,
    /// What happened lately.
    pub events: Events,
    /// The consensus store.
    pub kv: Arc<dyn Kv>,
    /// The interfaces that the CAP's address is held on.
    pub hosts: Arc<dyn Hosts>,
    /// Whether it was founded or has joined just now, and so has nothing that it could have lost.
    pub new: bool,
}

impl Ground {
    /// The node's part in holding the CAP's own address.
    async fn cap_address(&self, found: &Found) -> Result<Option<Arc<CapAddressKeeper>>, Refusal> {
        let Self { hosts, outside, config, events, .. } = self;
        let (hosts, clock, events) = (hosts.as_ref(), Arc::clone(&outside.clock), events.clone());
        let keeping = cap_address::Ground { hosts, clock, lease: found.timing.lease(), config, events };
        CapAddressKeeper::of(keeping, found.cap_address.clone()).await
    }
}

fn control_of(node: &Node, papers: &Papers) -> Control {
    let (replicas, senders) = (Replicas::new(node.clone()), Senders::new(node.clone()));
    let failover = Failover::new(node.clone(), replicas.clone(), senders.clone());
    Control { node: node.clone(), replicas, senders, failover, papers: papers.clone() }
}

async fn consensus_of(
    enrolment: &Enrolment,
    kv: Arc<dyn Kv>,
    wire: RaftWire,
    outside: &Outside,
) -> Result<Consensus, Refusal> {
    let (me, timing, wire) = (enrolment.member, enrolment.found.timing, Arc::new(wire));
    let (clock, random) = (Arc::clone(&outside.clock), Arc::clone(&outside.random));
    let opened = Consensus::open(consensus::Ground { kv, me, timing, wire, clock, random }).await;
    opened.map_err(|error| Refusal::new(Class::Failed, "consensus", error.to_string()))
}

/// This node as a member, with all that it runs. Dropping it ends its tasks.
pub struct Membership {
    /// What it was enrolled with.
    pub enrolment: Enrolment,
    /// The node's handles, its replicas and its senders.
    pub control: Control,
    kv: Arc<dyn Kv>,
    tasks: Mutex<JoinSet<()>>,
    broken: watch::Sender<Option<Refusal>>,
}

impl Membership {
    /// Starts everything that a member does.
    pub async fn take_up(ground: Ground, enrolment: Enrolment) -> Result<Self, Refusal> {
        // Before consensus begins: a left-over address is gone before this node votes again.
        let cap_address = ground.cap_address(&enrolment.found).await?;
        let Ground { config, outside, papers, calls, trust, vms, events, kv, new, .. } = ground;
        let (me, timing) = (enrolment.member, enrolment.found.timing);
        let remembered = believing::at_first(&trust, &papers, &enrolment)?;
        let wire = RaftWire::new(calls.clone(), remembered.clone());
        let (health, store) = (kv.health(), Arc::clone(&kv));
        let consensus = consensus_of(&enrolment, kv, wire.clone(), &outside).await?;
        let gate = Gate::new(new, &consensus);
        let down = watch::Sender::new(DownSince::new());
        let owner = Owner::new(me, config.witness, timing.lease(), consensus.clone(), Arc::clone(&outside.clock));
        let proposer = Proposer::new(me, consensus.clone(), owner.clone(), calls.clone(), &outside, down.subscribe());
        let (view, seen) = watch::channel(Arc::default());
        let twins = watch::Sender::new(Vec::new());
        let node = Node {
            me,
            name: enrolment.node.clone(),
            config,
            outside,
            consensus,
            owner,
            proposer,
            calls,
            trust,
            view: seen,
            down: down.subscribe(),
            vms,
            twins: twins.subscribe(),
            registered: watch::Sender::new(Arc::default()),
            cap_address,
            events,
            known: Arc::new(ArcSwap::from_pointee(enrolment.line.clone())),
            exclusion: Exclusion::default(),
            gate,
            quarantines: Default::default(),
            since: Instant::now(),
        };
        renewal::know_the_time(&node);
        let control = control_of(&node, &papers);
        let Control { replicas, senders, failover, .. } = control.clone();
        let membership = Self {
            enrolment,
            control: control.clone(),
            kv: store,
            tasks: Mutex::default(),
            broken: watch::Sender::new(None),
        };
        let confirmed = Confirmed::new(Arc::clone(&node.outside.clock), timing.lease());
        let receiver = Receiver::new(node.clone(), replicas.clone(), confirmed.clone());
        let gossip = GossipInbox::new(Arc::clone(&node.outside.clock));
        let services = Services { control, gossip: gossip.clone(), receiver: receiver.clone(), papers: papers.clone() };
        membership.run(renewal::run(node.clone(), papers.clone()));
        membership.run(believing::follow_lists(node.clone(), wire, papers));
        membership.run(found(node.clone(), membership.enrolment.found.clone()));
        membership.run(rollback::ask_after_start(node.clone(), remembered));
        membership.run(watch_disk(node.clone(), health, membership.broken.clone()));
        membership.own(&node, down);
        membership.look_out(&node, twins);
        membership.run(gossiping(node.clone(), gossip, view));
        membership.run(confirmed.run(node.clone()));
        membership.act(&node, replicas.clone().run());
        membership.act(&node, senders.run());
        membership.act(&node, failover.run());
        membership.act(&node, handover::run(node.clone(), replicas.clone()));
        membership.act(&node, receiver.settle_held());
        membership.act(&node, leftovers::run(node.clone(), replicas));
        membership.run(serve::accept(node.calls.endpoint(Alpn::Control).clone(), services.clone()));
        membership.run(serve::accept(node.calls.endpoint(Alpn::Data).clone(), services));
        Ok(membership)
    }

    /// Runs what belongs to owning the CAP, and to standing for it.
    fn own(&self, node: &Node, down: watch::Sender<DownSince>) {
        self.run(node.owner.clone().run());
        self.run(owner::stand_when_due(node.clone()));
        self.run(cap_address::keep(node.clone()));
        self.run(group::keep_in_step(node.clone()));
        self.run(loss::watch_over(node.clone(), down));
        self.run(peers::keep_fresh(node.clone()));
        self.run(rotation::keep(node.clone()));
        self.run(farewells::keep(node.clone()));
        self.run(copies::owner::keep(node.clone()));
        self.run(draining::keep(node.clone()));
        self.run(rights::settle(node.clone()));
    }

    /// Runs what watches over those who call.
    fn look_out(&self, node: &Node, twins: watch::Sender<Vec<Twin>>) {
        self.run(twins::watch_over(node.clone(), twins));
        self.run(flapping::watch_over(node.clone()));
        self.run(turned_away(node.clone(), Alpn::Control));
        self.run(turned_away(node.clone(), Alpn::Data));
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Runs what acts by the committed state: not before that is as new as it was when this node stopped. An operator's
    /// pause, or that a replica is held elsewhere, may be in the last entries of the log, which count only once a leader
    /// has said so.
    fn act(&self, node: &Node, task: impl Future<Output = ()> + Send + 'static) {
        let consensus = node.consensus.clone();
        self.run(async move {
            consensus.caught_up().await;
            task.await;
        });
    }

    /// Why this node cannot go on being a member; pending as long as it can.
    pub async fn broken(&self) -> Refusal {
        let mut broken = self.broken.subscribe();
        loop {
            if let Some(refusal) = broken.borrow_and_update().clone() {
                return refusal;
            }
            if broken.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether its certificate has ended, or may be of a CA that the others have retired, so that nobody talks to this node.
    pub fn has_lapsed(&self) -> bool {
        let node = &self.control.node;
        renewal::has_lapsed(node) || !owner::hears(node)
    }

    /// Goes on with the certificate that `welcome` brings; refused where that is another member's.
    pub fn come_back(&self, papers: &Papers, welcome: Welcome) -> Result<(), Refusal> {
        if welcome.member != self.enrolment.member || welcome.found != self.enrolment.found {
            let message = format!("the token is another cluster's: this node is of {}", self.enrolment.found.cluster);
            return Err(Refusal::new(Class::Refused, "other_cluster", message)
                .field("token")
                .remedy("make the token at a node of that cluster; to leave it, set the node's data_dir aside"));
        }
        let node = &self.control.node;
        renewal::come_back(node, papers, welcome)?;
        // The state that this node has applied may be older than what it was told.
        let own = node.trust.view().own.clone();
        if let Some(own) = own {
            let own = believing::own_trust(&self.enrolment.found, &node.cas(), own.list);
            node.trust.set(TrustView { own: Some(own), peers: node.trust.view().peers.clone() });
        }
        Ok(())
    }

    /// The consensus store.
    pub fn store(&self) -> Arc<dyn Kv> {
        Arc::clone(&self.kv)
    }

    /// The state with which the cluster's next life would begin at this node: with everything that its log has.
    pub async fn foresee(&self) -> Result<Arc<State>, Refusal> {
        let foreseen = consensus::foresee(self.store(), self.enrolment.member).await;
        foreseen.map_err(|error| Refusal::new(Class::Failed, "consensus", error.to_string()).field("data_dir"))
    }

    /// Ends the tasks and the consensus, in that order: what is acknowledged is durable already.
    pub async fn stop(&self) {
        if let Some(keeper) = &self.control.node.cap_address
            && let Err(refusal) = keeper.give_up().await
        {
            tracing::error!(%refusal, "stopping with the CAP's address");
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        self.control.replicas.close_all().await;
        self.control.node.consensus.shutdown().await;
    }
}

/// Makes sure, at the founder, that the cluster's first command is committed, also after a crash in between.
async fn found(node: Node, found: Found) {
    if node.me != Found::FOUNDER {
        return;
    }
    while node.state().found.is_none() {
        if node.consensus.status().last_log.is_none()
            && let Err(error) = node.consensus.found(BTreeSet::from([node.me])).await
        {
            tracing::debug!(%error, "the consensus group was not begun");
        }
        if node.consensus.status().is_leader {
            let command = Command::Found(Box::new(found.clone()));
            let proposal = Proposal { request: None, at: node.outside.clock.wall(), term: None, command };
            match node.consensus.propose(proposal).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "the cluster's first command was not committed"),
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// After one failed sync the node must not vote or own: what it would promise might not last (R8).
async fn watch_disk(node: Node, mut health: watch::Receiver<Health>, broken: watch::Sender<Option<Refusal>>) {
    let failed = health.wait_for(|health| matches!(health, Health::Poisoned(_))).await;
    let Ok(failed) = failed.map(|health| format!("{:?}", *health)) else { return };
    let told = format!("this node's store failed: it no longer votes ({failed})");
    node.events.record(Happening::critical("store_failed", told.clone()).node(&node.name));
    node.consensus.set_heartbeats(false);
    node.consensus.shutdown().await;
    broken.send_replace(Some(
        Refusal::new(Class::Failed, "store_failed", told)
            .field("data_dir")
            .remedy("free room on that file system, or mend it, and start the agent again"),
    ));
}

/// Runs gossip: publishes what this node is, and keeps the view.
async fn gossiping(node: Node, inbox: GossipInbox, view: watch::Sender<Arc<super::gossip::View>>) {
    // Of two lives the later one counts, also on a board that begins in 1970 each time.
    let started = node.trust.time(node.outside.clock.wall());
    loop {
        let state = node.state();
        let Some(cap) = state.cap().cloned() else {
            let mut states = node.consensus.watch_state();
            if states.wait_for(|state| state.cap().is_some()).await.is_err() {
                return;
            }
            continue;
        };
        let (targets, follow) = watch::channel(Arc::new(targets(&state)));
        let links = GossipLinks::new(node.calls.clone(), follow);
        let address = state.members.get(&node.me).map_or(node.config.advertise, |member| member.control);
        match Gossip::start(&cap, node.me, address, started, links, inbox.clone()).await {
            Ok(gossip) => take_part(&node, &gossip, &targets, &view).await,
            Err(refusal) => tracing::error!(%refusal, "gossip"),
        }
        sleep(GOSSIP_RESTART_PAUSE).await;
    }
}

async fn take_part(
    node: &Node,
    gossip: &Gossip,
    targets: &watch::Sender<Arc<BTreeMap<std::net::SocketAddr, Target>>>,
    view: &watch::Sender<Arc<super::gossip::View>>,
) {
    let (mut look, mut greeting) = (node.rhythm(GOSSIP_INTERVAL), Greeting::default());
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = gossip.ended() => return,
        }
        let state = node.state();
        let fresh = self::targets(&state);
        let new: Vec<_> = fresh.keys().filter(|address| !targets.borrow().contains_key(address)).copied().collect();
        if **targets.borrow() != fresh {
            targets.send_replace(Arc::new(fresh));
        }
        new.into_iter().for_each(|address| gossip.greet(address));
        gossip.keep_in_touch(&mut greeting, state.members.values().filter(|member| member.id != node.me));
        gossip.publish(&own_words(node, &state)).await;
        let members: BTreeSet<MemberId> = state.members.keys().copied().collect();
        gossip.refresh(&members).await;
        let seen = gossip.watch().borrow().clone();
        if *view.borrow() != seen {
            view.send_replace(seen);
        }
    }
}

fn targets(state: &State) -> BTreeMap<std::net::SocketAddr, Target> {
    let Some(cap) = state.cap() else { return BTreeMap::new() };
    let target = |member: &landfall_proto::model::Member| {
        let target = Target { cap: cap.clone(), address: member.control, key: Some(member.key) };
        (member.control, target)
    };
    state.members.values().map(target).collect()
}

/// Tells whom the endpoint that speaks `alpn` has turned away.
async fn turned_away(node: Node, alpn: Alpn) {
    let endpoint = node.calls.endpoint(alpn).clone();
    loop {
        let TurnedAway { remote, who, why } = endpoint.turned_away().await;
        let who = who.unwrap_or_else(|| remote.ip().to_string());
        node.events.refuse("connection_refused", &who, &format!("{why} (from {remote})"));
    }
}
