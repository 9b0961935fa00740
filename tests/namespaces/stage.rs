//! Three agents behind one address, a client and an auditor.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, Node, NodeSpec, eventually};

use crate::auditor::{Audited, Auditor};
use crate::client::{self, Client};
use crate::net::{CLIENTS, Net};
use crate::{LANDFALL, LONG};

/// The nodes.
pub const NODES: [&str; 3] = ["r1", "r2", "r3"];
/// Where clients are.
pub const OUTSIDE: &str = "c1";
/// A machine that has nothing to do with the cluster.
pub const INTRUDER: &str = "x1";
/// The address, as it is given.
pub const ADDRESS: &str = "10.78.0.50/24";
const PORT: u16 = 7443;
const CAP: &str = "r-broker-cap.contoso.test";

/// The stage. Its parts are dropped in this order: the network last.
pub struct Stage {
    pub client: Client,
    pub auditor: Auditor,
    pub r: Cluster,
    pub net: Net,
}

impl Stage {
    /// Forms the cluster, and lets auditor and client begin.
    pub fn set() -> Self {
        let net = Net::new(&[&NODES[..], &[OUTSIDE, INTRUDER]].concat());
        let r = NODES.iter().fold(Cluster::of(LANDFALL, "Cluster-R", CAP), |r, node| r.spec(spec(&net, node)));
        let both = format!("{ADDRESS},fd78::50/64");
        let r = r.init(["--cap-address", &both, "--cap-interface", CLIENTS]).start();
        r.first().cli(["settings", "set", "replication_enabled=true", "copies=1", "--wait"]);
        let audited =
            NODES.map(|name| Audited { name: name.to_owned(), namespace: net.of(name), socket: r.node(name).socket() });
        let at: SocketAddr = format!("10.78.0.50:{PORT}").parse().expect("an address");
        let auditor = Auditor::start(&audited, [at.ip(), "fd78::50".parse().expect("an address")]);
        eventually(LONG, "somebody to have the address", || auditor.holders().first().cloned());
        let invited = r.first().cli(["peer", "invite"]);
        let code = invited["code"].as_str().expect("a pairing code").to_owned();
        let agents = NODES.map(|name| format!("{}:{PORT}", net.address(name)).parse().expect("an address")).to_vec();
        let client = Client::start(net.of(OUTSIDE), code, at, agents);
        r.first().cli(["authorization", "add", client::CAP, "--storage", "default"]);
        client.ask();
        let stage = Self { client, auditor, r, net };
        stage.whole();
        stage
    }

    /// Waits until every agent answers, one of them has the address and says so, and the client's questions are answered;
    /// the holder.
    pub fn whole(&self) -> &Node {
        self.r.start_agents();
        self.r.wait_formed();
        let holder = eventually(LONG, "one holder that every node names", || {
            let holders = self.auditor.holders();
            let [holder] = &holders[..] else { return Err(format!("holders: {holders:?}")) };
            for node in self.r.nodes() {
                let status = node.try_cli(["broker", "status"]).map_err(|failure| failure.to_string())?;
                let named = (status["owner"].as_str(), status["cap_address"]["holder"].as_str());
                if named != (Some(holder), Some(holder)) || status["address"] != "10.78.0.50" {
                    return Err(format!("{}: {status}", node.name()));
                }
            }
            Ok(holder.clone())
        });
        let now = Instant::now();
        eventually(LONG, "a Place through the address", || self.client.placed(now));
        match self.auditor.holders() == [holder.as_str()] {
            true => self.r.node(&holder),
            // A busy machine has just had another elected.
            false => self.whole(),
        }
    }

    /// Waits until another node than `old` has the address, and answers there; how long each took since `since`.
    pub fn elsewhere(&self, old: &str, since: Instant) -> Moved {
        let what = format!("another node than {old} to have the address");
        let (holder, held) = eventually(LONG, &what, || self.auditor.taken_by_another(old, since));
        let what = format!("another node than {old} to answer at the address");
        let (_, answered) = eventually(LONG, &what, || self.client.answered_by_another(old, since));
        let placed = eventually(LONG, "a Place through the address", || self.client.placed(since));
        let by_agents = eventually(LONG, "a Place through any agent", || self.client.placed_by_agents(since));
        Moved {
            holder,
            held: held - since,
            answered: answered - since,
            placed: placed - since,
            placed_by_agents: by_agents - since,
        }
    }
}

/// How long it took until an address was elsewhere.
pub struct Moved {
    /// Who has it now.
    pub holder: String,
    /// Until the kernel of another node had it.
    pub held: Duration,
    /// Until another node answered a new connection.
    pub answered: Duration,
    /// Until a Place that was sent after the fault was answered through it.
    pub placed: Duration,
    /// Until one was that was sent to the agents' own addresses.
    pub placed_by_agents: Duration,
}

fn spec(net: &Net, node: &str) -> NodeSpec {
    let mut spec = NodeSpec::new(node);
    spec.within = ["ip", "netns", "exec", &net.of(node)].map(str::to_owned).to_vec();
    spec.config.insert("listen".to_owned(), format!("[::]:{PORT}").into());
    spec.config.insert("advertise".to_owned(), format!("{}:{PORT}", net.address(node)).into());
    spec
}
