//! A cluster of agents on this machine.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::eventually::eventually;
use super::guardian::Guardian;
use super::node::{Node, NodeSpec};

/// How many members vote at least, where there are as many.
const VOTERS: usize = 3;
/// How long a cluster may take until every member sees every other.
const FORM_MAX: Duration = Duration::from_secs(60);

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    binary: std::path::PathBuf,
    name: String,
    cap: String,
    nodes: Vec<NodeSpec>,
    init: Vec<String>,
}

impl ClusterBuilder {
    /// A node that hosts VMs. The first one founds the cluster.
    #[must_use]
    pub fn node(self, name: &str) -> Self {
        self.spec(NodeSpec::new(name))
    }

    /// A witness.
    #[must_use]
    pub fn witness(self, name: &str) -> Self {
        self.spec(NodeSpec::witness(name))
    }

    /// A node with a file or an environment of its own.
    #[must_use]
    pub fn spec(mut self, spec: NodeSpec) -> Self {
        self.nodes.push(spec);
        self
    }

    /// Changes every node named so far.
    #[must_use]
    pub fn each(mut self, change: impl FnMut(&mut NodeSpec)) -> Self {
        self.nodes.iter_mut().for_each(change);
        self
    }

    /// Further arguments of `cluster init`.
    #[must_use]
    pub fn init<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.init.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Makes the folders and files of the nodes; starts no agent.
    pub fn create(self) -> Cluster {
        let mark = Uuid::new_v4().simple().to_string();
        let folder = tempfile::Builder::new().prefix("lf-").tempdir().expect("a temporary folder");
        let guardian = Guardian::watch(&mark).expect("a shell");
        let create = |spec| Node::create(&self.binary, folder.path(), &mark, spec);
        let nodes = self.nodes.into_iter().map(create).collect();
        Cluster { name: self.name, cap: self.cap, init: self.init, nodes, _guardian: guardian, folder }
    }

    /// Starts every agent and forms the cluster.
    pub fn start(self) -> Cluster {
        let cluster = self.create();
        cluster.start_agents();
        cluster.form();
        cluster
    }
}

/// A cluster of a running test. Dropping it kills everything it started and removes its files; where the test has
/// failed, it first shows the end of every log.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    cap: String,
    init: Vec<String>,
    // Dropped in this order: processes, then the guardian, which sweeps once more, then the files.
    nodes: Vec<Node>,
    _guardian: Guardian,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// A cluster called `name` with the client access point `cap`, of agents from `binary`: in a test of the product
    /// `env!("CARGO_BIN_EXE_landfall")`.
    pub fn of(binary: impl AsRef<Path>, name: &str, cap: &str) -> ClusterBuilder {
        ClusterBuilder {
            binary: binary.as_ref().to_owned(),
            name: name.to_owned(),
            cap: cap.to_owned(),
            nodes: Vec::new(),
            init: Vec::new(),
        }
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client access point's name.
    pub fn cap(&self) -> &str {
        &self.cap
    }

    /// The folder of every node's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The nodes, in the order they were named.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes that host VMs.
    pub fn data_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_witness())
    }

    /// The node called `name`.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).unwrap_or_else(|| panic!("no node {name} in {}", self.name))
    }

    /// The node that founds the cluster.
    #[track_caller]
    pub fn first(&self) -> &Node {
        self.data_nodes().next().expect("a cluster has a node that hosts VMs")
    }

    /// Starts every agent that does not run, and waits until all answer.
    pub fn start_agents(&self) {
        self.nodes.iter().for_each(Node::start);
        self.nodes.iter().for_each(Node::wait_ready);
    }

    /// `cluster init` at the first node, `cluster join` at the others, each with a token of its own; returns once every
    /// member lists all of them.
    pub fn form(&self) {
        let first = self.first();
        let mut init = vec!["cluster", "init", "--name", &self.name, "--cap", &self.cap];
        init.extend(self.init.iter().map(String::as_str));
        first.cli(init);
        for node in self.nodes.iter().filter(|node| node.name() != first.name()) {
            let mut create = vec!["token", "create"];
            if node.is_witness() {
                create.push("--witness");
            }
            let created = first.cli(create);
            let token = created["token"].as_str().unwrap_or_else(|| panic!("no token in {created}"));
            node.cli(["cluster", "join", token]);
        }
        self.wait_formed();
    }

    /// Waits until every running member has a quorum, lists all nodes of this harness, and three of them vote.
    pub fn wait_formed(&self) {
        for node in self.nodes.iter().filter(|node| node.agent_id().is_some()) {
            eventually(FORM_MAX, &format!("{} to see all of {}", node.name(), self.name), || {
                let status = node.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
                let listed: Vec<&str> = members(&status).collect();
                let missing: Vec<&str> =
                    self.nodes.iter().map(Node::name).filter(|name| !listed.contains(name)).collect();
                // A member votes once it has been up for a while: until then the loss of another may be one too many.
                let voting = roles(&status).filter(|role| ["voter", "witness"].contains(role)).count();
                let enough = voting >= self.nodes.len().min(VOTERS);
                match (status["quorate"].as_bool(), missing.as_slice(), enough) {
                    (Some(true), [], true) => Ok(()),
                    (quorate, missing, _) => {
                        Err(format!("quorate {quorate:?}, not listed {missing:?}, {voting} members vote"))
                    }
                }
            });
        }
    }

    /// The owner that a node's `broker status` names; `None` where there is none, or nobody answers there.
    pub fn owner_seen_by(&self, node: &str) -> Option<String> {
        let status = self.node(node).try_cli(["broker", "status"]).ok()?;
        status["owner"].as_str().map(str::to_owned)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("\n=== the end of the log of {} ({})\n{}", node.name(), self.name, node.log_tail());
            }
        }
    }
}

fn roles(status: &Value) -> impl Iterator<Item = &str> {
    status["members"].as_array().into_iter().flatten().filter_map(|member| member["role"].as_str())
}

fn members(status: &Value) -> impl Iterator<Item = &str> {
    status["members"].as_array().into_iter().flatten().filter_map(|member| member["node"].as_str())
}
