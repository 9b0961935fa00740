//! Some nodes on one simulated network, and what can be done to them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use landfall_agent::config::{NodeConfig, Testing};
use landfall_agent::drive::attach::Link;
use landfall_agent::drive::cap_address::host::MachineHosts;
use landfall_agent::drive::node::Node;
use landfall_agent::surface::cluster::ClusterJoin;
use landfall_agent::surface::operations::Operations;
use landfall_agent::surface::token::TokenCreate;
use landfall_agent::vm_service::VmService;
use landfall_agent::{Agent, Seams};
use landfall_kit::sim::{SeededRandom, Share, SimClock, SimNet, Weather, seeded_crypto};
use landfall_proto::model::Timing;
use landfall_proto::seam::Outside;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::audit::Audit;
use crate::disk::{DiskCopy, SimDisk};
use crate::record::Record;
use crate::running::Running;
use crate::vms::SimVms;

/// How many nodes most worlds have.
pub const NODES: usize = 3;

/// R9: once faults stop there is one owner within 4 L + 2 s.
pub const OWNER_DEADLINE: Duration = Duration::from_secs(10);

/// How long founding a cluster and bringing two nodes in may take.
const SETUP_DEADLINE: Duration = Duration::from_secs(60);

/// How long the sockets of a stopped agent may stay bound, for the goodbyes of its connections.
const UNBIND_DEADLINE: Duration = Duration::from_secs(30);

/// The step in which conditions are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What the nodes' clocks gain in a million: a machine's clock may be off by a thousandth either way (decide/lease.rs).
/// The founder's is slow: it believes in its lease for longest.
const SKEW_PPM: [i64; 3] = [-1000, 0, 1000];

/// One node: its agent comes and goes, the rest stays.
struct Place {
    name: String,
    address: IpAddr,
    clock: Arc<SimClock>,
    disk: SimDisk,
    lives: u32,
    witness: bool,
    vms: Option<Arc<SimVms>>,
    /// What attaches the VM service to the agent.
    link: Option<JoinHandle<()>>,
    agent: Option<Agent>,
}

/// The nodes, their network and what is noted of them.
pub struct World {
    pub net: SimNet,
    pub record: Record,
    pub audit: Audit,
    pub running: Running,
    start: Instant,
    seed: u64,
    places: Vec<Place>,
    /// The lease of the cluster that is founded.
    pub timing: Timing,
    /// The storage of nodes that keep replicas.
    _storage: Option<tempfile::TempDir>,
}

impl World {
    /// Three nodes without agents. To be made inside of the simulation: its time starts now.
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self::of(NODES, seed, weather)
    }

    /// So many nodes without agents.
    fn of(nodes: usize, seed: u64, weather: Weather) -> Self {
        let place = |at: usize| Place {
            name: format!("r{}", at + 1),
            address: Ipv4Addr::new(10, 0, 0, at as u8 + 1).into(),
            clock: Arc::new(SimClock::with_skew(SKEW_PPM[at % SKEW_PPM.len()])),
            disk: SimDisk::new(),
            lives: 0,
            witness: false,
            vms: None,
            link: None,
            agent: None,
        };
        let (net, audit) = (SimNet::new(seed, weather), Audit::default());
        tokio::spawn(audit.clone().run());
        let places = (0..nodes).map(place).collect();
        let (record, running, start) = (Record::new(), Running::default(), Instant::now());
        Self { net, record, audit, running, start, seed, places, timing: Timing::STANDARD, _storage: None }
    }

    /// So many agents, all of them voters, `r1` the owner, and no replicas on any.
    pub async fn founded_of(nodes: usize, seed: u64, weather: Weather) -> Self {
        let mut world = Self::of(nodes, seed, weather);
        Box::pin(world.found()).await;
        world
    }

    /// As [`World::founded`], and each node has a VM service and keeps replicas.
    pub async fn hosting(seed: u64, weather: Weather) -> Self {
        let mut world = Self::new(seed, weather);
        let storage = tempfile::tempdir().unwrap();
        for place in &mut world.places {
            let folder = storage.path().join(&place.name);
            std::fs::create_dir(&folder).unwrap();
            place.vms = Some(Arc::new(SimVms::new(folder)));
        }
        world._storage = Some(storage);
        Box::pin(world.found()).await;
        world
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.places.len()
    }

    /// Three agents, all of them voters, and `r1` the owner.
    pub async fn founded(seed: u64, weather: Weather) -> Self {
        let mut world = Self::new(seed, weather);
        Box::pin(world.found()).await;
        world
    }

    /// As [`World::founded`], but the last node is a witness.
    pub async fn with_witness(seed: u64, weather: Weather) -> Self {
        let mut world = Self::new(seed, weather);
        world.places[NODES - 1].witness = true;
        Box::pin(world.found()).await;
        world
    }

    /// A token for a node at its place.
    pub async fn token(&self, from: usize, at: usize) -> String {
        let wish = TokenCreate { witness: self.places[at].witness, ..TokenCreate::default() };
        Box::pin(self.agent(from).token_create(wish)).await.unwrap().token
    }

    /// Starts the agents, founds a cluster at `r1` and joins the others through the join protocol.
    pub async fn found(&mut self) {
        for at in 0..self.nodes() {
            Box::pin(self.start(at)).await;
        }
        self.found_alone(0).await;
        self.until("an owner", SETUP_DEADLINE, |world| world.audit.acting().is_some()).await;
        self.join_others().await;
    }

    /// Joins every node but `r1` to its cluster, and waits until all of them vote.
    pub async fn join_others(&mut self) {
        for at in 1..self.nodes() {
            let token = self.token(0, at).await;
            Box::pin(self.agent(at).clone().cluster_join(ClusterJoin { token })).await.unwrap();
            self.follow(at);
        }
        self.until("as many voters as nodes", SETUP_DEADLINE, |world| {
            (0..world.nodes()).all(|at| {
                let (node, nodes) = (world.node(at), world.nodes());
                let status = node.consensus.status();
                status.voters.len() == nodes && !status.changing && node.state().members.values().count() == nodes
            })
        })
        .await;
    }

    /// Founds a cluster at a node that runs, with nobody else in it.
    pub async fn found_alone(&self, at: usize) {
        let (name, cap) = ("Cluster-R".parse().unwrap(), "r-broker-cap.contoso.com".parse().unwrap());
        Box::pin(self.agent(at).found(name, cap, None)).await.unwrap();
        self.follow(at);
    }

    /// Starts the agent of a node on the disk that it has.
    pub async fn start(&mut self, at: usize) {
        let (config, seams) = self.ground(at);
        let service = self.places[at].vms.clone().map(|vms| vms as Arc<dyn VmService>);
        let agent = Box::pin(Agent::start(config, seams, service)).await.unwrap();
        self.settle_in(at, agent);
    }

    /// Starts the agents of two nodes at the same moment.
    pub async fn start_in_step(&mut self, [one, other]: [usize; 2]) {
        let ((a, b), (c, d)) = (self.ground(one), self.ground(other));
        let (first, second) =
            futures_util::future::join(Box::pin(Agent::start(a, b, None)), Box::pin(Agent::start(c, d, None))).await;
        self.settle_in(one, first.unwrap());
        self.settle_in(other, second.unwrap());
    }

    /// What the next life of a node gets.
    fn ground(&mut self, at: usize) -> (NodeConfig, Seams) {
        let (net, seed) = (self.net.clone(), self.seed);
        let place = &mut self.places[at];
        place.lives += 1;
        let life = format!("{} life {}", place.name, place.lives);
        let mut crypto_seed = [0; 8];
        crypto_seed.copy_from_slice(&SeededRandom::named(seed, &format!("{life} tls")).bytes::<8>());
        let outside = Outside {
            clock: place.clock.clone(),
            random: Arc::new(SeededRandom::named(seed, &life)),
            net: net.node(place.address),
            crypto: seeded_crypto(u64::from_le_bytes(crypto_seed)),
        };
        let seams = Seams { outside, storage: Arc::new(place.disk.clone()), hosts: Arc::new(MachineHosts) };
        let testing = Testing { lease: Some(self.timing.lease()), ..Testing::default() };
        let storage = place.vms.iter().map(|vms| vms.storage()).collect();
        (NodeConfig { witness: place.witness, testing, storage, ..config(&place.name, place.address) }, seams)
    }

    fn settle_in(&mut self, at: usize, agent: Agent) {
        let place = &mut self.places[at];
        self.record.note(&place.name, "started");
        let is_member = agent.membership().is_some();
        if let Some(vms) = place.vms.clone() {
            let link = Link::new(vms, Arc::new(agent.clone()));
            place.link = Some(tokio::spawn(async move { link.run().await }));
        }
        self.running.set(at, Some(agent.clone()));
        place.agent = Some(agent);
        if is_member {
            self.follow(at);
        }
    }

    /// A node stands still for `time`: nothing of it runs, and then its clocks show how late it is.
    pub fn stand_still(&self, at: usize, time: Duration) {
        self.record.note(&self.places[at].name, format!("stood still for {time:?}"));
        self.places[at].clock.stand_still(time);
    }

    /// Has the disk of a node take no write any more, or take them again.
    pub fn hang_disk(&self, at: usize, hangs: bool) {
        self.record.note(&self.places[at].name, if hangs { "its disk hangs" } else { "its disk works again" });
        self.places[at].disk.hang(hangs);
    }

    /// Sets the date of a node off by `millis` from the simulation's; its other clock does not notice.
    pub fn set_date(&self, at: usize, millis: i64) {
        self.record.note(&self.places[at].name, format!("the date is off by {millis} ms"));
        self.places[at].clock.set_wall_offset(millis);
    }

    /// Kills a node: its network goes first, so that nobody hears a goodbye, then its agent, then what its disk had not
    /// synced.
    pub async fn kill(&mut self, at: usize) {
        self.isolate(at);
        let place = &mut self.places[at];
        self.record.note(&place.name, "killed");
        self.audit.forget(&place.name);
        self.running.set(at, None);
        if let Some(link) = place.link.take() {
            link.abort();
        }
        if let Some(agent) = place.agent.take() {
            agent.stop().await;
        }
        place.disk.cut_power();
    }

    /// Starts a node that was killed, still cut off, once the sockets of its last life are free.
    pub async fn revive_alone(&mut self, at: usize) {
        let (net, address) = (self.net.clone(), self.places[at].address);
        self.until("free sockets", UNBIND_DEADLINE, |_| is_free(&net, address)).await;
        Box::pin(self.start(at)).await;
    }

    /// What the disk of a node has.
    pub fn copy_disk(&self, at: usize) -> DiskCopy {
        self.places[at].disk.copy()
    }

    /// Puts a copy in the place of what the disk of a node that was killed has.
    pub fn put_back(&self, at: usize, copy: DiskCopy) {
        self.record.note(&self.places[at].name, "its disk is put back from a copy");
        self.places[at].disk.put_back(copy);
    }

    /// Starts a node that was killed, once the sockets of its last life are free, with its network back.
    pub async fn revive(&mut self, at: usize) {
        let (net, address) = (self.net.clone(), self.places[at].address);
        self.until("free sockets", UNBIND_DEADLINE, |_| is_free(&net, address)).await;
        self.heal(&[at]);
        Box::pin(self.start(at)).await;
    }

    /// Mends every way between the nodes that run, and to those of `further`. A killed one stays cut off: what is left of
    /// its sockets would answer.
    pub fn heal(&self, further: &[usize]) {
        self.net.heal_all();
        let dead = (0..self.nodes()).filter(|at| self.places[*at].agent.is_none() && !further.contains(at));
        dead.for_each(|at| self.net.partition(&[self.address(at)], &self.others(at)));
    }

    /// Cuts every way between a node and the others.
    pub fn isolate(&self, at: usize) {
        self.record.note(&self.places[at].name, "cut off");
        self.net.partition(&[self.address(at)], &self.others(at));
    }

    /// Cuts the way between two nodes.
    pub fn sever(&self, one: usize, other: usize) {
        self.record.note(&self.places[one].name, format!("cut off from {}", self.places[other].name));
        self.net.cut(self.address(one), self.address(other));
    }

    /// Nobody hears a node any more; it still hears everybody.
    pub fn mute(&self, at: usize) {
        self.record.note(&self.places[at].name, "muted");
        self.others(at).into_iter().for_each(|other| self.net.cut_one_way(self.address(at), other));
    }

    /// A node hears nobody any more; everybody still hears it.
    pub fn deafen(&self, at: usize) {
        self.record.note(&self.places[at].name, "deafened");
        self.others(at).into_iter().for_each(|other| self.net.cut_one_way(other, self.address(at)));
    }

    /// Gives a node only a share of a processor.
    pub fn throttle(&self, at: usize, share: Share) {
        self.record.note(&self.places[at].name, "is slow from here on");
        self.net.throttle(self.address(at), share);
    }

    fn others(&self, at: usize) -> Vec<IpAddr> {
        (0..self.nodes()).filter(|other| *other != at).map(|other| self.address(other)).collect()
    }

    fn address(&self, at: usize) -> IpAddr {
        self.places[at].address
    }

    /// The agent of a node that runs.
    pub fn agent(&self, at: usize) -> &Agent {
        self.places[at].agent.as_ref().expect("the agent runs")
    }

    /// A node that is a member.
    pub fn node(&self, at: usize) -> Node {
        self.agent(at).membership().expect("the node is a member").control.node.clone()
    }

    /// The place of the node that acts as owner now.
    pub fn owner(&self) -> Option<usize> {
        let name = self.audit.acting()?;
        self.places.iter().position(|place| place.name == name)
    }

    fn follow(&self, at: usize) {
        let (name, node) = (self.places[at].name.clone(), self.node(at));
        self.audit.watch(&name, node.owner.clone());
        tokio::spawn(self.audit.clone().follow(self.start, node.owner.clone()));
        tokio::spawn(self.record.clone().follow(name, node));
    }

    /// Lets `time` pass.
    pub async fn pass(&self, time: Duration) {
        sleep(time).await;
    }

    /// Waits until `condition` holds; fails the test with the record where it does not in time. Returns how long it took.
    pub async fn until(&self, what: &str, deadline: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !condition(self) {
            if begun.elapsed() > deadline {
                panic!("seed {}: no {what} within {deadline:?}\n{}", self.seed, self.record.lines().join("\n"));
            }
            sleep(LOOK).await;
        }
        begun.elapsed()
    }

    /// Waits until a node other than `than` acts as the owner.
    pub async fn another_owner(&self, than: usize) -> Duration {
        self.until("other owner", OWNER_DEADLINE, |world| world.owner().is_some_and(|owner| owner != than)).await
    }

    /// Fails the test where R1 was broken.
    pub fn check(&self) {
        let faults = self.audit.faults();
        assert!(faults.is_empty(), "seed {}: {faults:#?}\n{}", self.seed, self.record.lines().join("\n"));
    }

    /// Everything that happened: the events, then every datagram.
    pub fn trace(&self) -> String {
        let trace = self.net.trace();
        let mut text = self.record.lines().join("\n");
        text.push_str(&format!("\n{} datagrams, {} bytes, {}\n", trace.count(), trace.bytes(), trace.digest()));
        for datagram in trace.datagrams() {
            text.push_str(&format!("{datagram}\n"));
        }
        text
    }
}

fn is_free(net: &SimNet, address: IpAddr) -> bool {
    use landfall_proto::seam::Net;
    [CONTROL, DATA].into_iter().all(|port| net.node(address).bind(SocketAddr::new(address, port)).is_ok())
}

const CONTROL: u16 = 7443;
const DATA: u16 = 7444;

fn config(name: &str, address: IpAddr) -> NodeConfig {
    let (control, data) = (SocketAddr::new(address, CONTROL), SocketAddr::new(address, DATA));
    NodeConfig {
        node: name.parse().unwrap(),
        fqdn: None,
        data_dir: PathBuf::from("/simulated").join(name),
        listen: control,
        data_listen: data,
        advertise: control,
        data_advertise: data,
        cap_interface: None,
        socket: PathBuf::from("/simulated").join(name).join("socket"),
        witness: false,
        vm_service: None,
        storage: Vec::new(),
        testing: Testing::default(),
    }
}
