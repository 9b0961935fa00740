//! `landfall node`.

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::NodeName;

use crate::cli::amount::{Waiting, bytes, query};
use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, Table, or_dash, printable, word};
use crate::surface::node::{NodeDetail, NodeDrained, NodeRemoved, NodeStatus};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Every member, with what gossip says of it.
    List,
    /// One member.
    Show {
        /// Its name. Example: landfall node show r1
        node: NodeName,
    },
    /// Gives a node no new replicas, and moves those that it has to other nodes, one after the other; the CAP, too. VMs that
    /// run there stay.
    Drain {
        /// Its name. Example: landfall node drain r2 --wait
        node: NodeName,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Ends a drain, and the quarantine of a node that came and went: the node may get new replicas. Those that were moved
    /// away stay where they are.
    Restore {
        /// Its name. Example: landfall node restore r2
        node: NodeName,
    },
    /// Removes a member for good: its key is refused from now on, and its replicas get other holders.
    Remove {
        /// Its name. Example: landfall node remove r2 --wait
        node: NodeName,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// How long `node drain --wait` waits where no time is given: a node's replicas are copied over the cluster's own network.
const DRAIN_SECONDS: u64 = 3600;

/// How long `--wait` waits for the other nodes where no time is given.
const WAIT_SECONDS: u64 = 60;

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::List => session.read::<Vec<NodeStatus>>("/v1/nodes").await,
        Verb::Show { node } => session.read::<NodeDetail>(&route(&["nodes", node.as_str()])).await,
        Verb::Remove { node, waiting } => {
            let wait = waiting.or(WAIT_SECONDS);
            let path = route(&["nodes", node.as_str()]) + &query(wait);
            let answer = session.ask(Method::DELETE, &path, None::<&()>, wait, "removing").await?;
            session.print::<NodeRemoved>(&answer)
        }
        Verb::Drain { node, waiting } => {
            let wait = waiting.or(DRAIN_SECONDS);
            let path = route(&["nodes", node.as_str(), "drain"]) + &query(wait);
            let answer = session.ask(Method::POST, &path, None::<&()>, wait, "moving replicas away").await?;
            session.print::<NodeDrained>(&answer)
        }
        Verb::Restore { node } => {
            let path = route(&["nodes", node.as_str(), "restore"]);
            let answer = session.ask(Method::POST, &path, None::<&()>, None, "restoring").await?;
            session.print::<NodeDrained>(&answer)
        }
    }
}

impl Shown for NodeDrained {
    fn text(&self) -> String {
        let facts = Facts::default()
            .fact("node", &self.node)
            .fact("id", self.id)
            .fact("state", word(&self.state))
            .fact("owns the cap", if self.owner { "yes" } else { "no" })
            .fact("replicas left", self.remaining.len());
        let mut table = Table::new(["NAME", "UUID", "STAYS BECAUSE"]);
        for replica in &self.remaining {
            let why = replica.stays.as_ref().map(|why| printable(why));
            table.row([printable(&replica.name), replica.uuid.to_string(), or_dash(why)]);
        }
        match self.remaining.as_slice() {
            [] => facts.text(),
            _ => format!("{}\n{}", facts.text(), table.text()),
        }
    }
}

impl Shown for NodeRemoved {
    fn text(&self) -> String {
        format!("{} (id {}) is no member any more\n", self.node, self.id)
    }
}

impl Shown for Vec<NodeStatus> {
    fn text(&self) -> String {
        let mut table =
            Table::new(["NODE", "ID", "ROLE", "STATE", "VM SERVICE", "SETTINGS", "REPLICAS", "FREE", "REASON"]);
        for node in self {
            table.row([
                node.node.to_string(),
                node.id.to_string(),
                word(&node.role),
                word(&node.state),
                word(&node.vm_service),
                or_dash(node.settings_revision),
                node.replicas.to_string(),
                or_dash(node.free_bytes.map(bytes)),
                or_dash(reasons(node)),
            ]);
        }
        table.text()
    }
}

/// Why the node is not as it should be.
fn reasons(node: &NodeStatus) -> Option<String> {
    let held = node.quarantine.as_ref().map(|held| format!("quarantined: it {}", held.reason));
    let all: Vec<String> = node.vm_service_reason.iter().cloned().chain(held).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

impl Shown for NodeDetail {
    fn text(&self) -> String {
        let status = &self.status;
        let facts = Facts::default()
            .fact("node", &status.node)
            .fact("id", status.id)
            .fact("fqdn", &self.fqdn)
            .fact("key", self.key)
            .fact("address", self.address)
            .fact("data address", self.data_address)
            .fact("role", word(&status.role))
            .fact("state", word(&status.state))
            .fact("version", or_dash(self.version.as_ref()))
            .fact("applied", or_dash(self.applied))
            .fact("settings revision", or_dash(status.settings_revision))
            .fact("vm service", word(&status.vm_service))
            .each("reason", &status.vm_service_reason)
            .each("quarantined", status.quarantine.iter().map(|held| format!("it {}", held.reason)))
            .each("until", status.quarantine.iter().filter_map(|held| held.until.as_ref()))
            .fact("replicas", status.replicas)
            .fact("free", or_dash(status.free_bytes.map(bytes)));
        let mut table = Table::new(["STORAGE", "FREE", "PATH", "FAULT"]);
        for room in &self.storage {
            let path = room.path.as_ref().map(|path| path.display().to_string());
            table.row([room.name.to_string(), bytes(room.free_bytes), or_dash(path), or_dash(room.fault.as_ref())]);
        }
        match self.storage.as_slice() {
            [] => facts.text(),
            _ => format!("{}\n{}", facts.text(), table.text()),
        }
    }
}
