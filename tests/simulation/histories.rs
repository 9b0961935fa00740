//! What clients see while nodes fail: settings that are read, written and replaced, replicas that are placed and located,
//! at any agent at once. Every history has one order that explains it, in which no call comes before one that had ended.
//!
//! A client reads a setting where everything is applied that was committed when it asked; it locates with `at_least`, the
//! highest position that any client had been told of. An error, and an agent that dies, leave open whether the call took
//! effect.
//!
//! Where a replica is changes by Place, and by the owner when a node is lost. So each assignment that some node applied, or
//! some client was told of, is a call of its own without an answer; Place and Locate tell where the replica is, once it is
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_agent::drive::{broker, confirm};
use landfall_agent::surface::operations::{Caller, Operations};
use landfall_agent::surface::settings::SettingsSet;
use landfall_kit::sim::{SeededRandom, Weather};
use landfall_kit::wgl::{Entry, History, Model, Register, RegisterAnswer, RegisterCall, Verdict, check, check_keys};
use landfall_proto::id::{Epoch, Fingerprint, Fqdn, MemberId, Position, RequestId, Revision, VmId};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest, Place};
use landfall_proto::model::{AuthorizationEntry, CaLine, Command, DiskSpec, Frequency, MemberList, Peer, VmSpec};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tokio::time::{sleep, timeout};

use crate::running::Running;
use crate::seeds::each_seed;
use crate::vms::STORAGE;
use crate::world::{NODES, OWNER_DEADLINE, World};

/// The setting: any word will do, so that each value is written once.
const SETTING: &str = "default_storage_location";

/// Clients of the setting, and of the replicas; at most eight a key, since the search grows with the calls that overlap.
const SETTERS: u64 = 4;
const PLACERS: u64 = 6;

/// Replicas.
const VMS: u128 = 3;

/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long clients go on after the last fault.
const CALM: Duration = Duration::from_secs(10);

const PRIMARY: &str = "p-broker-cap.contoso.com";

/// Where a replica is: its epoch and node, by numbers.
type Home = (u64, u64);

/// What is asked of where a replica is.
#[derive(Clone, Copy, Debug)]
enum HomeCall {
    /// It goes there.
    Assign(Home),
    /// Where is it?
    Ask,
}

/// A replica's place: nowhere at first, then at one epoch after the other.
struct Homes;

impl Model for Homes {
    type State = Option<Home>;
    type Call = HomeCall;
    type Answer = Option<Home>;

    fn step(state: &Option<Home>, call: &HomeCall, answer: Option<&Option<Home>>) -> Option<Option<Home>> {
        match (call, answer) {
            (HomeCall::Assign(home), _) => state.is_none_or(|(epoch, _)| epoch < home.0).then_some(Some(*home)),
            (HomeCall::Ask, Some(told)) => (told == state).then_some(*state),
            (HomeCall::Ask, None) => Some(*state),
        }
    }
}

type Settings = History<(), RegisterCall, RegisterAnswer>;
type Places = History<VmId, HomeCall, Option<Home>>;

/// What all clients write down.
#[derive(Clone, Default)]
struct Books {
    settings: Settings,
    places: Places,
    /// Every assignment that was seen, by anybody.
    assigned: Arc<Mutex<BTreeMap<(VmId, u64), u64>>>,
    /// The highest position that anybody was told.
    position: Arc<Mutex<Position>>,
    values: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Books {
    fn saw(&self, vm: VmId, epoch: Epoch, member: MemberId) -> Home {
        let home = (epoch.0.number(), member.number());
        self.assigned.lock().unwrap().insert((vm, home.0), home.1);
        home
    }

    /// Notes every assignment that the agent of `place` applies, in each of its lives.
    async fn follow(self, running: Running, place: usize) {
        while !self.ended.load(Ordering::Relaxed) {
            let books = self.clone();
            let followed = running.ask(place, |agent| async move {
                let Some(membership) = agent.membership() else { return };
                let mut states = membership.control.node.consensus.watch_state();
                loop {
                    for replica in states.borrow_and_update().replicas.values() {
                        books.saw(replica.vm.id, replica.epoch, replica.receiver());
                    }
                    if states.changed().await.is_err() {
                        return;
                    }
                }
            });
            followed.await;
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// One client.
struct Client {
    number: u64,
    random: ChaCha12Rng,
    running: Running,
    books: Books,
    session: u128,
    sequence: u64,
    /// What it read last.
    read: Option<(u64, Revision)>,
    /// Where it was told last that each replica is.
    homes: BTreeMap<VmId, Epoch>,
}

impl Client {
    fn new(seed: u64, number: u64, running: Running, books: Books) -> Self {
        let random = ChaCha12Rng::from_seed(SeededRandom::named(seed, &format!("client {number}")).bytes::<32>());
        let (read, homes) = (None, BTreeMap::new());
        Self {
            number,
            random,
            running,
            books,
            session: (u128::from(number) << 64) | u128::from(seed),
            sequence: 0,
            read,
            homes,
        }
    }

    async fn run(mut self) {
        while !self.books.ended.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(self.random.random_range(50..400))).await;
            let place = self.random.random_range(0..NODES);
            match (self.number < SETTERS, self.random.random_range(0..10)) {
                (true, 0..5) => self.read(place).await,
                (true, 5..8) => self.write(place, None).await,
                (true, _) => self.write(place, self.read).await,
                (false, kind) => self.ask(place, kind < 4).await,
            }
        }
    }

    async fn read(&mut self, place: usize) {
        let ticket = self.books.settings.begin((), RegisterCall::Read);
        let read = self.running.ask(place, |agent| async move {
            let node = agent.membership()?.control.node.clone();
            confirm::is_current(&node).await.then(|| node.state())
        });
        if let Ok(Some(Some(state))) = timeout(PATIENCE, read).await {
            let value = state.settings_values().get(SETTING).map_or(0, |text| text[1..].parse().unwrap());
            self.read = Some((value, state.revision()));
            ticket.answered(RegisterAnswer::Value(value));
        }
    }

    /// Writes a value that nobody has written, in place of what it has read where that is given.
    async fn write(&mut self, place: usize, over: Option<(u64, Revision)>) {
        let value = self.books.values.fetch_add(1, Ordering::Relaxed) + 1;
        let call = over.map_or(RegisterCall::Write(value), |(old, _)| RegisterCall::Replace(old, value));
        let settings = [(SETTING.to_owned(), Some(format!("v{value}")))].into();
        let request = SettingsSet { settings, expect: over.map(|(_, revision)| revision), wait_seconds: None };
        let ticket = self.books.settings.begin((), call);
        let set = self.running.ask(place, |agent| async move {
            Box::pin(agent.settings_set(request, Caller { uid: 0, pid: None })).await
        });
        match timeout(PATIENCE, set).await {
            Ok(Some(Ok(_))) => ticket.answered(RegisterAnswer::Done),
            Ok(Some(Err(refusal))) if refusal.code == "revision_conflict" => ticket.answered(RegisterAnswer::Refused),
            _ => {}
        }
    }

    /// Places a replica, now and then away from where it is, or asks where one is.
    async fn ask(&mut self, place: usize, places: bool) {
        let vm = vm(self.random.random_range(0..VMS));
        let (id, at_least) = (vm.id, *self.books.position.lock().unwrap());
        let request = match places {
            true => {
                self.sequence += 1;
                let request = RequestId { session: self.session, sequence: self.sequence };
                let instead_of = self.homes.get(&id).copied().filter(|_| self.random.random_bool(0.3));
                let (frequency, recovery_points, lineage) = (Frequency::FiveMinutes, 0, None);
                BrokerRequest::Place(Box::new(Place { request, vm, frequency, recovery_points, instead_of, lineage }))
            }
            false => BrokerRequest::Locate { vm: id, at_least },
        };
        let ticket = self.books.places.begin(id, HomeCall::Ask);
        let asked = self.running.ask(place, |agent| async move {
            let node = agent.membership()?.control.node.clone();
            Some(Box::pin(broker::answer(&node, &PRIMARY.parse().unwrap(), request)).await)
        });
        match timeout(PATIENCE, asked).await {
            Ok(Some(Some(BrokerAnswer::Placed { at, .. } | BrokerAnswer::Located(at)))) => {
                let home = self.books.saw(id, at.epoch, at.member);
                self.homes.insert(id, at.epoch);
                let mut position = self.books.position.lock().unwrap();
                *position = (*position).max(at.position);
                ticket.answered(Some(home));
            }
            Ok(Some(Some(BrokerAnswer::Refused(refusal)))) if refusal.code == "no_replica" => ticket.answered(None),
            _ => {}
        }
    }
}

fn vm(number: u128) -> VmSpec {
    VmSpec {
        id: VmId(uuid::Uuid::from_u128(number + 1)),
        name: format!("VM {number}").parse().unwrap(),
        disks: vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 30 }],
        adapters: Vec::new(),
        launch: Default::default(),
    }
}

/// Lets the cluster know a primary: its nodes are nowhere, the clients ask in its name.
async fn pair(world: &World) {
    let cap: Fqdn = PRIMARY.parse().unwrap();
    let mut member = world.node(0).state().members.values().next().cloned().unwrap();
    member.key = Fingerprint([9; 32]);
    (member.control, member.data) = ("10.9.0.1:7443".parse().unwrap(), "10.9.0.1:7444".parse().unwrap());
    let list = MemberList { cap, position: Position::new(0, 1), members: vec![member], cap_addresses: Vec::new() };
    let peer = Peer {
        cluster: "Cluster-P".parse().unwrap(),
        ca: vec![7; 300],
        line: CaLine::of(vec![7; 300]),
        list,
        confirmed_at: Default::default(),
    };
    let entry = AuthorizationEntry {
        primary: PRIMARY.parse().unwrap(),
        storage: STORAGE.parse().unwrap(),
        trust_group: "T".parse().unwrap(),
    };
    for command in [Command::Pair { peer: Box::new(peer), ticket: None }, Command::Authorize(entry)] {
        Box::pin(world.node(0).proposer.commit(command)).await.unwrap();
    }
}

/// One fault after the other: nodes that are cut off, deaf, mute, that die, and weather.
async fn faults(world: &mut World, random: &mut ChaCha12Rng) {
    for _ in 0..5 {
        world.pass(Duration::from_millis(random.random_range(1_000..4_000))).await;
        let (at, kind) = (random.random_range(0..NODES), random.random_range(0..6));
        // The owner as often as all others together.
        let at = world.owner().filter(|_| random.random_bool(0.5)).unwrap_or(at);
        let lasts = Duration::from_millis(random.random_range(500..9_000));
        match kind {
            0 => world.isolate(at),
            1 => world.mute(at),
            2 => world.deafen(at),
            3 => world.net.set_weather(Weather::ROUGH),
            _ => world.kill(at).await,
        }
        world.pass(lasts).await;
        if kind > 3 {
            world.revive(at).await;
        }
        world.net.heal_all();
        world.net.set_weather(Weather::CALM);
        world.record.note("--", "healed");
    }
    world.until("an owner", OWNER_DEADLINE, |world| world.owner().is_some()).await;
}

/// The entries of every replica, with its assignments.
fn places(books: &Books) -> Vec<(VmId, Entry<HomeCall, Option<Home>>)> {
    let assigned = books.assigned.lock().unwrap();
    let assign = |((vm, epoch), member): (&(VmId, u64), &u64)| {
        (*vm, Entry { call: HomeCall::Assign((*epoch, *member)), began: 0, answer: None })
    };
    books.places.entries().into_iter().chain(assigned.iter().map(assign)).collect()
}

/// The calls of the setting without those that explain nothing: replacements that were refused, and changes without an
/// answer whose value nobody has seen. Each of these would double the search, and an order exists with them where one
/// exists without: what follows such a change is another write, or nothing.
fn seen(mut settings: Vec<Entry<RegisterCall, RegisterAnswer>>) -> Vec<Entry<RegisterCall, RegisterAnswer>> {
    let told = |entry: &Entry<RegisterCall, RegisterAnswer>| match (entry.call, &entry.answer) {
        (RegisterCall::Read, Some((RegisterAnswer::Value(value), _))) => Some(*value),
        (RegisterCall::Replace(old, _), _) => Some(old),
        _ => None,
    };
    settings.retain(|entry| !matches!(entry.answer, Some((RegisterAnswer::Refused, _))));
    let values: BTreeSet<u64> = settings.iter().filter_map(told).collect();
    settings.retain(|entry| match entry.call {
        RegisterCall::Write(value) | RegisterCall::Replace(_, value) => {
            entry.answer.is_some() || values.contains(&value)
        }
        RegisterCall::Read => entry.answer.is_some(),
    });
    settings
}

async fn histories(seed: u64) -> String {
    let mut world = World::hosting(seed, Weather::CALM).await;
    pair(&world).await;
    // Until each node has said that its VM service runs.
    world.pass(Duration::from_secs(5)).await;
    let books = Books::default();
    let mut clients = Vec::new();
    for number in 0..SETTERS + PLACERS {
        clients.push(tokio::spawn(Client::new(seed, number, world.running.clone(), books.clone()).run()));
    }
    for place in 0..NODES {
        tokio::spawn(books.clone().follow(world.running.clone(), place));
    }
    let mut random = ChaCha12Rng::from_seed(SeededRandom::named(seed, "faults").bytes::<32>());
    faults(&mut world, &mut random).await;
    world.pass(CALM).await;
    books.ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let settings = seen(books.settings.entries().into_iter().map(|(_, entry)| entry).collect());
    let places = places(&books);
    let lines = world.record.lines().join("\n");
    let verdict = check::<Register>(&settings);
    assert_eq!(verdict, Verdict::Linearizable, "seed {seed}: settings are not linearizable: {settings:#?}\n{lines}");
    let wrong = check_keys::<VmId, Homes>(places.clone());
    let shown: Vec<_> = places.iter().filter(|(vm, _)| wrong.contains_key(vm)).collect();
    assert!(wrong.is_empty(), "seed {seed}: where a replica is, is not linearizable: {wrong:?} {shown:#?}\n{lines}");
    let answered = |answers: usize, all: usize, least: usize| {
        assert!(answers >= least, "seed {seed}: {answers} of {all} calls were answered\n{lines}");
        format!("{answers} of {all} calls answered")
    };
    let asked = places.iter().filter(|(_, entry)| matches!(entry.call, HomeCall::Ask));
    let told = places.iter().filter(|(_, entry)| entry.answer.is_some()).count();
    let (asked, set) = (asked.count(), settings.iter().filter(|entry| entry.answer.is_some()).count());
    let summary = format!(
        "settings: {}; replicas: {}, {} assignments",
        answered(set, settings.len(), 150),
        answered(told, asked, 200),
        books.assigned.lock().unwrap().len()
    );
    world.record.note("--", &summary);
    println!("seed {seed}: {summary}");
    world.check();
    world.record.lines().join("\n")
}

#[test]
fn settings_places_and_locates_are_linearizable_whatever_fails() {
    each_seed("histories::settings_places_and_locates_are_linearizable_whatever_fails", 6, histories);
}
