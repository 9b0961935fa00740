//! A program that has a node's own key and certificate and speaks the protocols by hand: what other software could do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfall_agent::drive::enrolment::{Enrolment, Papers};
use landfall_kit::process::{Node, VmFolder};
use landfall_proto::alpn::Alpn;
use landfall_proto::calls::Calls;
use landfall_proto::endpoint::{Endpoint, Role, Target};
use landfall_proto::frame;
use landfall_proto::id::{Epoch, Fqdn, SenderEpoch, VmId};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest};
use landfall_proto::message::ca::News;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::message::data::{Hello, Welcome};
use landfall_proto::model::DiskSpec;
use landfall_proto::seam::Outside;
use landfall_proto::tls::Identity;
use landfall_proto::trust::{ClusterTrust, Trust, TrustView};
use landfall_store::files::DiskFiles;

/// For one call or frame.
const DEADLINE: Duration = Duration::from_secs(20);

/// The endpoints of a node's double.
pub struct Intruder {
    runtime: tokio::runtime::Runtime,
    calls: Calls,
    cap: Fqdn,
}

impl Intruder {
    /// Takes the identity of `node` out of its data folder, and trusts the cluster of `other` as `node` does.
    pub fn as_node(node: &Node, other: &Node) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let outside = Outside::machine();
        let (papers, enrolment, own) = cluster_of(node);
        let (_, _, theirs) = cluster_of(other);
        let cap = theirs.cap.clone();
        let key = Arc::new(papers.key(outside.random.as_ref()).unwrap());
        let identity = Identity::member(key, &enrolment.certificate, &enrolment.line.first).unwrap();
        let trust = Trust::new(TrustView { own: Some(own), peers: vec![theirs] });
        let bind = |role| {
            let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
            Endpoint::bind(&outside, role, any, trust.clone(), identity.clone()).unwrap()
        };
        let calls = Calls::new(bind(Role::Control), bind(Role::Data));
        drop(_inside);
        Self { runtime, calls, cap }
    }

    /// What `node`, and nobody else, answers to one question of a primary.
    pub fn asks(&self, node: &Node, request: &BrokerRequest) -> BrokerAnswer {
        let target = Target { cap: self.cap.clone(), address: node.address().parse().unwrap(), key: None };
        self.runtime.block_on(self.calls.call(&target, Alpn::Broker, request, DEADLINE)).expect("an answer")
    }

    /// Whether `node` answers this double as a member of its own cluster.
    pub fn probes(&self, node: &Node) -> Result<(), String> {
        let target = Target { cap: self.cap.clone(), address: node.address().parse().unwrap(), key: None };
        let call = self.calls.call(&target, Alpn::Control, &ControlRequest::Probe, DEADLINE);
        match self.runtime.block_on(call) {
            Ok(ControlAnswer::Alive { .. }) => Ok(()),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// As [`Intruder::probes`], with a connection of its own.
    pub fn probes_anew(&self, node: &Node) -> Result<(), String> {
        self.calls.drop_where(|_| true);
        self.probes(node)
    }

    /// What `node` answers to this double's word on its cluster.
    pub fn tells(&self, node: &Node, news: News) -> ControlAnswer {
        let target = Target { cap: self.cap.clone(), address: node.address().parse().unwrap(), key: None };
        let request = ControlRequest::Members(Box::new(news));
        self.runtime.block_on(self.calls.call(&target, Alpn::Control, &request, DEADLINE)).expect("an answer")
    }

    /// What `node` answers to a sender of `vm` that believes in the assignment `epoch`.
    pub fn opens(&self, node: &Node, vm: &VmFolder, epoch: Epoch) -> Welcome {
        self.tries(node, vm, epoch).unwrap()
    }

    /// As [`Intruder::opens`]; an error where the node takes no such session, or ends it without an answer.
    pub fn tries(&self, node: &Node, vm: &VmFolder, epoch: Epoch) -> Result<Welcome, String> {
        let mut address: SocketAddr = node.address().parse().unwrap();
        // The kit's nodes listen for data on the next port.
        address.set_port(address.port() + 1);
        let hello = Hello::Send {
            vm: VmId(vm.uuid()),
            epoch,
            sender_epoch: SenderEpoch::from_number(u64::MAX >> 1),
            disks: vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 20 }],
            known: Vec::new(),
        };
        self.runtime.block_on(async {
            let target = Target { cap: self.cap.clone(), address, key: None };
            let opened = self.calls.open(&target, Alpn::Data, DEADLINE).await;
            let mut session = opened.map_err(|error| error.to_string())?;
            let most = Alpn::Data.frame_max();
            frame::send(&mut session.send, &hello, most).await.map_err(|error| error.to_string())?;
            let welcome = tokio::time::timeout(DEADLINE, frame::receive(&mut session.receive, most)).await;
            welcome.expect("an answer in time").map_err(|error| error.to_string())
        })
    }
}

/// What `node` keeps of itself, and of its cluster.
pub fn cluster_of(node: &Node) -> (Papers, Enrolment, ClusterTrust) {
    let papers = Papers::new(Arc::new(DiskFiles::open(&node.data_dir()).unwrap()));
    let enrolment = papers.enrolment(&node.name().parse().unwrap()).unwrap().expect("the node is a member");
    let list = papers.members().unwrap().unwrap_or_else(|| enrolment.members.clone());
    let trust = ClusterTrust { cap: enrolment.found.cap.clone(), cas: enrolment.line.trusted(), list };
    (papers, enrolment, trust)
}
