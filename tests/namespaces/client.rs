//! A client that knows the CAP's address: it knocks there with a new connection all the time, and places and locates through
//! the product's broker client. It places through another one as well, which knows the agents' own addresses instead.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use landfall_agent::drive::join;
use landfall_proto::alpn::Alpn;
use landfall_proto::authority::Authority;
use landfall_proto::calls::Calls;
use landfall_proto::certificate::NodeKey;
use landfall_proto::client::{BrokerClient, Wish};
use landfall_proto::close::Close;
use landfall_proto::endpoint::{Endpoint, Role, Target};
use landfall_proto::id::{Fqdn, MemberId, Position, VmId};
use landfall_proto::invitation::{Purpose, from_text};
use landfall_proto::message::join::{Ask, JoinAnswer};
use landfall_proto::model::{CaLine, DiskSpec, Frequency, Member, MemberList, Peer, VmSpec};
use landfall_proto::seam::Outside;
use landfall_proto::tls::Identity;
use landfall_proto::trust::{Caller, ClusterTrust, Trust, TrustView};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::net;

/// The client's CAP.
pub const CAP: &str = "asker.contoso.test";
/// How long a question may take on a machine with other work: an owner's death, its successor's claim, and the address's
/// way there. What the longest took is printed.
const DEADLINE: Duration = crate::LONG;
/// How long one knock may take.
const KNOCK: Duration = Duration::from_millis(250);
/// The pause between two knocks, and between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// What came of asking.
#[derive(Default)]
struct Told {
    /// When a new connection to the address was made, and which node was there.
    knocks: Vec<(Instant, String)>,
    /// How often one to the IPv6 address was.
    knocks_six: usize,
    /// When a question was asked, and how long its answer took.
    located: Vec<(Instant, Duration)>,
    placed: Vec<(Instant, Duration)>,
    placed_by_agents: Vec<(Instant, Duration)>,
    failures: Vec<String>,
}

/// The client; it stops when it is dropped.
pub struct Client {
    told: Arc<Mutex<Told>>,
    asks: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How often something was done, and how long its answers took at most.
pub struct Count {
    pub times: usize,
    pub longest: Duration,
}

impl Client {
    /// Pairs with the cluster that made `code`, from `namespace`, and knocks at `at`. [`Client::ask`] begins the rest.
    pub fn start(namespace: String, code: String, at: SocketAddr, agents: Vec<SocketAddr>) -> Self {
        let (told, asks, stop) =
            (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (paired, is_paired) = mpsc::channel();
        let (to, may_ask, until) = (Arc::clone(&told), Arc::clone(&asks), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            net::enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (control, calls, broker) = pair(&code, at).await;
                let by_agents = BrokerClient::new(calls, broker.cap().clone(), agents);
                paired.send(()).expect("the test waits");
                let target = Target { cap: broker.cap().clone(), address: at, key: None };
                tokio::join!(
                    knock(&control, &target, &to, &until),
                    locate(&broker, &to, &may_ask, &until),
                    place(&broker, &to, |told| &mut told.placed, &may_ask, &until),
                    place(&by_agents, &to, |told| &mut told.placed_by_agents, &may_ask, &until)
                );
            });
        });
        is_paired.recv_timeout(crate::LONG).expect("the client to pair");
        Self { told, asks, stop, thread: Some(thread) }
    }

    /// Begins to place and locate: the client is authorized now.
    pub fn ask(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    /// When somebody else than `node` answered a knock after `since`.
    pub fn answered_by_another(&self, node: &str, since: Instant) -> Option<(String, Instant)> {
        let told = self.told.lock().unwrap();
        let other = |(at, who): &&(Instant, String)| *at >= since && who != node;
        told.knocks.iter().find(other).map(|(at, who)| (who.clone(), *at))
    }

    /// When a Place that was sent to the address after `since` was answered.
    pub fn placed(&self, since: Instant) -> Option<Instant> {
        first(&self.told.lock().unwrap().placed, since)
    }

    /// When a Place that was sent to the agents after `since` was answered.
    pub fn placed_by_agents(&self, since: Instant) -> Option<Instant> {
        first(&self.told.lock().unwrap().placed_by_agents, since)
    }

    /// Fails where a question was never answered; how many were.
    #[track_caller]
    pub fn check(&self) -> (Count, Count) {
        let told = self.told.lock().unwrap();
        assert!(told.failures.is_empty(), "questions through the address failed: {:?}", told.failures);
        assert!(told.knocks_six > 10, "the IPv6 address answered {} times", told.knocks_six);
        let count = |answers: &[(Instant, Duration)]| Count {
            times: answers.len(),
            longest: answers.iter().map(|(_, took)| *took).max().unwrap_or_default(),
        };
        (count(&told.placed), count(&told.located))
    }
}

fn first(answers: &[(Instant, Duration)], since: Instant) -> Option<Instant> {
    answers.iter().find(|(asked, _)| *asked >= since).map(|(asked, took)| *asked + *took)
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

async fn knock(endpoint: &Endpoint, target: &Target, told: &Mutex<Told>, stop: &AtomicBool) {
    let six = Target { address: "[fd78::50]:7443".parse().expect("an address"), ..target.clone() };
    let mut round = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(Ok(link)) = timeout(KNOCK, endpoint.dial(target, Alpn::Broker)).await {
            let caller = link.caller();
            let who = match &*caller {
                Caller::PeerNode { member, .. } => member.node.to_string(),
                other => format!("{other:?}"),
            };
            told.lock().unwrap().knocks.push((Instant::now(), who));
            link.close(Close::Done, "only knocked");
        }
        round += 1;
        if round.is_multiple_of(16)
            && let Ok(Ok(link)) = timeout(KNOCK, endpoint.dial(&six, Alpn::Broker)).await
        {
            told.lock().unwrap().knocks_six += 1;
            link.close(Close::Done, "only knocked");
        }
        sleep(PAUSE).await;
    }
}

async fn locate(broker: &BrokerClient, told: &Mutex<Told>, asks: &AtomicBool, stop: &AtomicBool) {
    let mut vm = None;
    while !stop.load(Ordering::Relaxed) {
        sleep(PAUSE).await;
        if !asks.load(Ordering::Relaxed) {
            continue;
        }
        let asked = Instant::now();
        let answer = match vm {
            Some(vm) => broker.locate(vm, Position::default(), DEADLINE).await.map(drop),
            None => {
                let wish = wish();
                vm = Some(wish.vm.id);
                broker.place(wish, DEADLINE).await.map(drop)
            }
        };
        let mut told = told.lock().unwrap();
        match answer {
            Ok(()) => told.located.push((asked, asked.elapsed())),
            Err(refusal) => told.failures.push(format!("locate: {refusal}")),
        }
    }
}

async fn place(
    broker: &BrokerClient,
    told: &Mutex<Told>,
    placed: fn(&mut Told) -> &mut Vec<(Instant, Duration)>,
    asks: &AtomicBool,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        sleep(PAUSE * 10).await;
        if !asks.load(Ordering::Relaxed) {
            continue;
        }
        let (asked, wish) = (Instant::now(), wish());
        let id = wish.vm.id;
        let answer = broker.place(wish, DEADLINE).await;
        let took = asked.elapsed();
        // What was placed goes again, so that the cluster stays small.
        let removed = broker.remove(id, DEADLINE).await;
        let mut told = told.lock().unwrap();
        match answer.map(drop).and(removed.map(drop)) {
            Ok(()) => placed(&mut told).push((asked, took)),
            Err(refusal) => told.failures.push(format!("place: {refusal}")),
        }
    }
}

fn wish() -> Wish {
    let id = VmId(Uuid::new_v4());
    let name = format!("asked-{id}").parse().expect("a name");
    let disks = vec![DiskSpec { target: "vda".parse().expect("a target"), bytes: 1 << 20 }];
    let vm = VmSpec { id, name, disks, adapters: Vec::new(), launch: Default::default() };
    Wish { vm, frequency: Frequency::HalfMinute, recovery_points: 0, instead_of: None, lineage: None }
}

/// A node of a cluster of its own, with a certificate of its own CA, paired as any cluster is. It is no agent: nobody
/// calls it, since it lives in the clients' network alone.
async fn pair(code: &str, at: SocketAddr) -> (Endpoint, Calls, BrokerClient) {
    let outside = Outside::machine();
    let cap: Fqdn = CAP.parse().expect("a name");
    let authority = Authority::found(&cap, &*outside.random, &*outside.clock).expect("a CA");
    let (id, key) = (MemberId::from_number(1), Arc::new(NodeKey::generate(&*outside.random).expect("a key")));
    let fqdn = cap.sibling(&"a1".parse().expect("a name"));
    let certificate = authority.issue(&fqdn, id, key.public_key(), &*outside.random, &*outside.clock);
    let identity = Identity::member(Arc::clone(&key), &certificate.expect("a certificate"), authority.certificate());
    let (trust, any) = (Trust::default(), SocketAddr::from(([0_u16; 8], 0)));
    let identity = identity.expect("a matching certificate");
    let bind = |role| Endpoint::bind(&outside, role, any, trust.clone(), identity.clone()).expect("a port");
    let (control, data) = (bind(Role::Control), bind(Role::Data));
    let own = SocketAddr::from(([127, 0, 0, 1], 9));
    let member = Member {
        id,
        node: "a1".parse().expect("a name"),
        fqdn,
        key: key.fingerprint(),
        control: own,
        data: own,
        witness: false,
    };
    let list = MemberList { cap: cap.clone(), position: id.0, members: vec![member], cap_addresses: Vec::new() };
    let own = ClusterTrust { cap, cas: vec![authority.certificate().to_vec()], list: list.clone() };
    trust.set(TrustView { own: Some(own.clone()), peers: Vec::new() });
    let cluster = "Asker".parse().expect("a name");
    let ca = authority.certificate().to_vec();
    let peer = Peer { cluster, ca: ca.clone(), line: CaLine::of(ca), list, confirmed_at: outside.clock.wall() };
    let mut invitation = from_text(Purpose::Pair, code).expect("a pairing code");
    assert!(invitation.agents.contains(&at), "the invitation names the CAP's address: {:?}", invitation.agents);
    invitation.agents = vec![at];
    let answer = join::ask(&control, &invitation, &Ask::Pair { peer: Box::new(peer) }).await;
    let JoinAnswer::Paired(r) = answer.expect("a cluster that pairs") else { panic!("not paired") };
    assert!(r.list.cap_addresses.contains(&at), "the member list has it: {:?}", r.list.cap_addresses);
    let theirs = ClusterTrust { cap: r.list.cap.clone(), cas: r.line.trusted(), list: r.list.clone() };
    trust.set(TrustView { own: Some(own), peers: vec![theirs] });
    let calls = Calls::new(control.clone(), data);
    (control, calls.clone(), BrokerClient::new(calls, r.list.cap.clone(), vec![at]))
}
