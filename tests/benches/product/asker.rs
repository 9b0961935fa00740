//! A cluster of clients: nodes with certificates of their own CA, paired with R as any cluster is, that only ask.
//!
//! An agent keeps few connections of one identity, so many connections come from many nodes. The nodes are no agents:
//! each is a pair of endpoints and the product's broker client, so that nothing but the questions costs time here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfall_agent::drive::join;
use landfall_proto::alpn::Alpn;
use landfall_proto::authority::{Authority, ca_fingerprint};
use landfall_proto::calls::Calls;
use landfall_proto::certificate::NodeKey;
use landfall_proto::client::{BrokerClient, Wish};
use landfall_proto::endpoint::{Endpoint, Role};
use landfall_proto::frame;
use landfall_proto::id::{Fqdn, MemberId, NodeName, Position, VmId};
use landfall_proto::invitation::{Purpose, from_text};
use landfall_proto::limits::CONNECTIONS_PER_IDENTITY;
use landfall_proto::message::control::{ControlAnswer, ControlRequest, News};
use landfall_proto::message::join::{Ask, JoinAnswer};
use landfall_proto::model::{CaLine, DiskSpec, Frequency, Member, MemberList, Peer, VmSpec};
use landfall_proto::seam::Outside;
use landfall_proto::tls::Identity;
use landfall_proto::trust::{ClusterTrust, Trust, TrustView};
use uuid::Uuid;

/// The most connections that a row asks over.
pub const CONNECTIONS: usize = 64;
/// How long a question may take: longer than an owner's death and its successor's claim.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The clients' cluster.
pub struct Asker {
    list: MemberList,
    nodes: Vec<(Endpoint, Endpoint)>,
    r: Peer,
}

impl Asker {
    /// Makes the cluster and pairs it with the one that made `code`.
    pub async fn pair(code: &str) -> Self {
        let outside = Outside::machine();
        let cap: Fqdn = "asker.contoso.test".parse().expect("a name");
        let authority = Authority::found(&cap, &*outside.random, &*outside.clock).expect("a CA");
        let trust = Trust::default();
        let (mut members, mut nodes) = (Vec::new(), Vec::new());
        for number in 1..=CONNECTIONS.div_ceil(CONNECTIONS_PER_IDENTITY) as u64 {
            let (member, endpoints) = node(&outside, &authority, &trust, number);
            members.push(member);
            nodes.push(endpoints);
        }
        let list = MemberList {
            cap: cap.clone(),
            position: Position::new(0, members.len() as u64),
            members,
            cap_addresses: Vec::new(),
        };
        let own = ClusterTrust { cap, cas: vec![authority.certificate().to_vec()], list: list.clone() };
        trust.set(TrustView { own: Some(own.clone()), peers: Vec::new() });
        let cluster = "Asker".parse().expect("a name");
        let ca = authority.certificate().to_vec();
        let peer = Peer {
            cluster,
            ca: ca.clone(),
            line: CaLine::of(ca),
            list: list.clone(),
            confirmed_at: outside.clock.wall(),
        };
        let invitation = from_text(Purpose::Pair, code).expect("a pairing code");
        let answer = join::ask(&nodes[0].0, &invitation, &Ask::Pair { peer: Box::new(peer) }).await;
        let JoinAnswer::Paired(r) = answer.expect("a cluster that pairs") else { panic!("not paired") };
        let theirs = ClusterTrust { cap: r.list.cap.clone(), cas: r.line.trusted(), list: r.list.clone() };
        trust.set(TrustView { own: Some(own), peers: vec![theirs] });
        let line = CaLine::of(authority.certificate().to_vec());
        let news = News { list: list.clone(), line, follows: ca_fingerprint(r.line.newest()) };
        for (control, _) in &nodes {
            tokio::spawn(serve(control.clone(), news.clone()));
        }
        Self { list, nodes, r: *r }
    }

    /// The clients' CAP.
    pub fn cap(&self) -> &Fqdn {
        &self.list.cap
    }

    /// The control addresses of R's agents.
    pub fn agents(&self) -> Vec<SocketAddr> {
        self.r.list.members.iter().map(|member| member.control).collect()
    }

    /// `count` clients of `agents`, each with connections of its own.
    pub fn clients(&self, count: usize, agents: &[SocketAddr]) -> Vec<BrokerClient> {
        let nodes = self.nodes.iter().cycle().take(count);
        nodes
            .map(|(control, data)| {
                let calls = Calls::new(control.clone(), data.clone());
                BrokerClient::new(calls, self.r.list.cap.clone(), agents.to_vec())
            })
            .collect()
    }
}

/// A wish for a replica of a VM that nobody else has.
pub fn wish() -> Wish {
    let id = VmId(Uuid::new_v4());
    let name = format!("asked-{id}").parse().expect("a name");
    let disks = vec![DiskSpec { target: "vda".parse().expect("a target"), bytes: 1 << 20 }];
    let vm = VmSpec { id, name, disks, adapters: Vec::new(), launch: Default::default() };
    Wish { vm, frequency: Frequency::HalfMinute, recovery_points: 0, instead_of: None, lineage: None }
}

fn node(outside: &Outside, authority: &Authority, trust: &Trust, number: u64) -> (Member, (Endpoint, Endpoint)) {
    let node: NodeName = format!("a{number}").parse().expect("a name");
    let fqdn = authority.cap().sibling(&node);
    let (id, key) = (MemberId::from_number(number), NodeKey::generate(&*outside.random).expect("a key"));
    let key = Arc::new(key);
    let certificate = authority.issue(&fqdn, id, key.public_key(), &*outside.random, &*outside.clock);
    let identity = Identity::member(Arc::clone(&key), &certificate.expect("a certificate"), authority.certificate());
    let identity = identity.expect("a matching certificate");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let bind = |role| Endpoint::bind(outside, role, any, trust.clone(), identity.clone()).expect("a free port");
    let (control, data) = (bind(Role::Control), bind(Role::Data));
    let address = |endpoint: &Endpoint| endpoint.local_address().expect("a bound socket");
    let (at, data_at) = (address(&control), address(&data));
    let member = Member { id, node, fqdn, key: key.fingerprint(), control: at, data: data_at, witness: false };
    (member, (control, data))
}

/// Answers R's owner, which tells its list to every peer and wants the peer's own.
async fn serve(endpoint: Endpoint, news: News) {
    while let Ok(link) = endpoint.accept().await {
        let news = news.clone();
        tokio::spawn(async move {
            while let Ok((mut send, mut receive)) = link.connection().accept_bi().await {
                let most = Alpn::Control.frame_max();
                let asked = frame::receive::<ControlRequest, _>(&mut receive, most).await;
                let answer = match asked {
                    Ok(ControlRequest::Members(_)) => ControlAnswer::Members(Box::new(news.clone())),
                    _ => ControlAnswer::Done,
                };
                frame::send(&mut send, &answer, most).await.ok();
                send.finish().ok();
            }
        });
    }
}
