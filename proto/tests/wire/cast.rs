//! Clusters and agents for the tests: real endpoints on loopback, seeded keys, a wall clock that can be set.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::authority::Authority;
use landfall_proto::calls::Calls;
use landfall_proto::certificate::NodeKey;
use landfall_proto::close::Close;
use landfall_proto::endpoint::{Endpoint, Link, Role, Target};
use landfall_proto::frame;
use landfall_proto::id::{Fqdn, MemberId, NodeName, Position, UnixMillis};
use landfall_proto::machine::{MachineClock, SeededRandom};
use landfall_proto::model::{Member, MemberList};
use landfall_proto::seam::{Clock, Outside, Time};
use landfall_proto::tls::Identity;
use landfall_proto::trust::{Caller, ClusterTrust, Trust, TrustView};

/// How long any step may take before the test fails.
pub const LIMIT: Duration = Duration::from_secs(10);

/// 2026-11-22, in milliseconds.
pub const TODAY: u64 = 1_795_305_600_000;

/// A day.
pub const DAY: u64 = 24 * 3600 * 1000;

/// The machine's monotonic clock, and a wall clock that stands where it was set.
#[derive(Debug)]
pub struct SetClock(pub AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Time {
        MachineClock.now()
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::Relaxed))
    }
}

/// Waits for `future`, and fails rather than hang.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it takes too long")
}

/// Waits until `condition` holds, and fails rather than hang.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn outside(seed: u64) -> (Outside, Arc<SetClock>) {
    let clock = Arc::new(SetClock(AtomicU64::new(TODAY)));
    let machine = Outside::machine();
    (Outside { clock: clock.clone(), random: Arc::new(SeededRandom::new(seed)), ..machine }, clock)
}

pub fn fqdn(text: &str) -> Fqdn {
    text.parse().unwrap()
}

/// A cluster: its CA and its list, ids and names given by the tests.
pub struct Cluster {
    pub cap: Fqdn,
    pub authority: Authority,
    pub list: MemberList,
    seed: u64,
}

impl Cluster {
    pub fn found(letter: &str, seed: u64) -> Self {
        let cap = fqdn(&format!("{letter}-broker-cap.contoso.com"));
        let (outside, _) = outside(seed);
        let authority = Authority::found(&cap, &*outside.random, &*outside.clock).unwrap();
        let list = MemberList {
            cap: cap.clone(),
            position: Position::default(),
            members: Vec::new(),
            cap_addresses: Vec::new(),
        };
        Self { cap, authority, list, seed }
    }

    pub fn trust(&self) -> ClusterTrust {
        ClusterTrust {
            cap: self.cap.clone(),
            cas: vec![self.authority.certificate().to_vec()],
            list: self.list.clone(),
        }
    }

    /// An agent with a certificate of this cluster, running, not on the list yet.
    pub fn unlisted(&self, node: &str, id: u64) -> Agent {
        let (outside, clock) = outside(self.seed * 1000 + id);
        let node: NodeName = node.parse().unwrap();
        let name = self.cap.sibling(&node);
        let key = Arc::new(NodeKey::generate(&*outside.random).unwrap());
        let id = MemberId::from_number(id);
        let leaf = self.authority.issue(&name, id, key.public_key(), &*outside.random, &*outside.clock).unwrap();
        let identity = Identity::member(Arc::clone(&key), &leaf, self.authority.certificate()).unwrap();
        let own = Some(self.trust());
        let agent = Agent::start(outside, clock, Trust::new(TrustView { own, peers: Vec::new() }), identity);
        let (control, data) = (agent.control.local_address().unwrap(), agent.data.local_address().unwrap());
        let member = Member { id, node, fqdn: name, key: key.fingerprint(), control, data, witness: false };
        Agent { member: Some(member), leaf, ..agent }
    }

    /// An agent on the list. Other agents hear of it from [`Cluster::tell`].
    pub fn member(&mut self, node: &str, id: u64) -> Agent {
        let agent = self.unlisted(node, id);
        self.list.members.push(agent.member().clone());
        self.list.position = self.list.position.max(Position::new(0, id));
        agent
    }

    /// Removes a member, as of a later position.
    pub fn remove(&mut self, id: u64, position: u64) {
        self.list.members.retain(|member| member.id != MemberId::from_number(id));
        self.list.position = Position::new(0, position);
    }

    /// Gives `agent` of this cluster the present list, and the given peers'.
    pub fn tell(&self, agent: &Agent, peers: &[&Self]) {
        let peers = peers.iter().map(|peer| peer.trust()).collect();
        agent.trust.set(TrustView { own: Some(self.trust()), peers });
    }
}

/// A running agent's network.
pub struct Agent {
    pub outside: Outside,
    pub clock: Arc<SetClock>,
    pub trust: Trust,
    pub control: Endpoint,
    pub data: Endpoint,
    pub calls: Calls,
    pub leaf: Vec<u8>,
    member: Option<Member>,
}

impl Agent {
    pub fn start(outside: Outside, clock: Arc<SetClock>, trust: Trust, identity: Identity) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let control = Endpoint::bind(&outside, Role::Control, any, trust.clone(), identity.clone()).unwrap();
        let data = Endpoint::bind(&outside, Role::Data, any, trust.clone(), identity).unwrap();
        let calls = Calls::new(control.clone(), data.clone());
        Self { outside, clock, trust, control, data, calls, leaf: Vec::new(), member: None }
    }

    /// An agent that belongs to no cluster.
    pub fn stranger(seed: u64) -> Self {
        let (outside, clock) = outside(seed);
        let key = Arc::new(NodeKey::generate(&*outside.random).unwrap());
        Self::start(outside, clock, Trust::default(), Identity::stranger(key))
    }

    pub fn member(&self) -> &Member {
        self.member.as_ref().expect("a stranger has no member record")
    }

    /// How others dial it.
    pub fn target(&self, cap: &Fqdn, alpn: Alpn) -> Target {
        let member = self.member();
        let address = if alpn == Alpn::Data { member.data } else { member.control };
        Target { cap: cap.clone(), address, key: Some(member.key) }
    }

    /// How many connections it has with the node of that name.
    pub fn links_of(&self, node: &str) -> usize {
        let all = self.control.links().into_iter().chain(self.data.links());
        all.filter(|link| link.caller().member().is_some_and(|member| member.node.as_str() == node)).count()
    }

    /// Answers every request on both endpoints with who asked.
    pub fn serve(&self) {
        serve(self.control.clone());
        serve(self.data.clone());
    }

    /// Asks `other` of cluster `cap` who this agent is to it.
    pub async fn who_am_i(&self, other: &Self, cap: &Fqdn, alpn: Alpn) -> Result<String, String> {
        let answer: Result<String, _> = self.calls.call(&other.target(cap, alpn), alpn, &"who am I", LIMIT).await;
        answer.map_err(|error| error.to_string())
    }
}

pub fn serve(endpoint: Endpoint) {
    tokio::spawn(async move {
        while let Ok(link) = endpoint.accept().await {
            tokio::spawn(answer(link));
        }
    });
}

async fn answer(link: Link) {
    while let Ok((mut send, mut receive)) = link.connection().accept_bi().await {
        let max = link.alpn().frame_max();
        match frame::receive::<String, _>(&mut receive, max).await {
            Ok(_) => {
                frame::send(&mut send, &label(&link.caller()), max).await.ok();
                send.finish().ok();
            }
            Err(error) => link.close(Close::Protocol, &error.to_string()),
        }
    }
}

/// A caller in one word and its name.
pub fn label(caller: &Caller) -> String {
    match caller {
        Caller::Member { member } => format!("member {}", member.node),
        Caller::PeerNode { cap, member } => format!("peer {} of {cap}", member.node),
        Caller::Unlisted { fqdn, .. } => format!("unlisted {fqdn}"),
        Caller::Stranger { .. } => "stranger".to_owned(),
    }
}
