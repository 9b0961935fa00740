//! A program that has a node's own key and certificate: a clone of it, or what a member that has gone bad could do.

use std::net::SocketAddr;
use std::sync::Arc;

use landfall_agent::drive::enrolment::{Enrolment, Papers};
use landfall_kit::process::Node;
use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Calls;
use landfall_proto::certificate::NodeKey;
use landfall_proto::endpoint::{Endpoint, Role, Target};
use landfall_proto::id::{Fqdn, MemberId};
use landfall_proto::model::MemberList;
use landfall_proto::seam::Outside;
use landfall_proto::tls::Identity;
use landfall_proto::trust::{ClusterTrust, Trust, TrustView};
use landfall_store::files::DiskFiles;

/// The endpoints of a node's double.
pub struct Double {
    pub runtime: tokio::runtime::Runtime,
    pub calls: Calls,
    pub me: MemberId,
    /// The name in its certificate.
    pub own_name: String,
    /// The CAP of the cluster that it talks to.
    pub other: Fqdn,
    /// Its own cluster's members.
    pub list: MemberList,
}

impl Double {
    /// Takes the identity of `node` out of its data folder and listens at `control`; it talks to the cluster of `other`.
    pub fn of(node: &Node, other: &Node, control: SocketAddr) -> Self {
        let (papers, enrolment, own) = cluster_of(node);
        let (_, _, theirs) = cluster_of(other);
        let (list, cap) = (own.list.clone(), theirs.cap.clone());
        let key = Arc::new(papers.key(Outside::machine().random.as_ref()).unwrap());
        let identity = Identity::member(key, &enrolment.certificate, &enrolment.line.first).unwrap();
        let own_name = identity.leaf().unwrap().fqdn.to_string();
        let peers = if theirs.cap == own.cap { Vec::new() } else { vec![theirs] };
        let (runtime, calls) = endpoints(&identity, TrustView { own: Some(own), peers }, control);
        Self { runtime, calls, me: enrolment.member, own_name, other: cap, list }
    }

    /// A node that belongs to no cluster, and knows that of `other` all the same.
    pub fn stranger(other: &Node) -> Self {
        let (_, enrolment, theirs) = cluster_of(other);
        let (list, cap) = (theirs.list.clone(), theirs.cap.clone());
        let key = Arc::new(NodeKey::generate(Outside::machine().random.as_ref()).unwrap());
        let view = TrustView { own: None, peers: vec![theirs] };
        let (runtime, calls) = endpoints(&Identity::stranger(key), view, "127.0.0.1:0".parse().unwrap());
        Self { runtime, calls, me: enrolment.member, own_name: String::new(), other: cap, list }
    }

    /// The id of the member called `name`.
    pub fn member(&self, name: &str) -> MemberId {
        self.list.members.iter().find(|member| member.node.as_str() == name).expect("a member").id
    }

    /// A connection to `node`.
    pub fn link(&self, node: &Node, alpn: Alpn) -> landfall_proto::endpoint::Link {
        let target = Target { cap: self.other.clone(), address: node.address().parse().unwrap(), key: None };
        self.runtime.block_on(self.calls.link(&target, alpn)).expect("a connection")
    }
}

fn endpoints(identity: &Identity, view: TrustView, control: SocketAddr) -> (tokio::runtime::Runtime, Calls) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (outside, trust) = (Outside::machine(), Trust::new(view));
    let calls = {
        let _inside = runtime.enter();
        let bind = |role, at| Endpoint::bind(&outside, role, at, trust.clone(), identity.clone()).expect("a free port");
        Calls::new(bind(Role::Control, control), bind(Role::Data, "127.0.0.1:0".parse().unwrap()))
    };
    (runtime, calls)
}

pub fn cluster_of(node: &Node) -> (Papers, Enrolment, ClusterTrust) {
    let papers = Papers::new(Arc::new(DiskFiles::open(&node.data_dir()).unwrap()));
    let enrolment = papers.enrolment(&node.name().parse().unwrap()).unwrap().expect("the node is a member");
    let list = papers.members().unwrap().unwrap_or_else(|| enrolment.members.clone());
    let trust = ClusterTrust { cap: enrolment.found.cap.clone(), cas: enrolment.line.trusted(), list };
    (papers, enrolment, trust)
}
