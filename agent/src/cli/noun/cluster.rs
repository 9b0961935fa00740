//! `landfall cluster`.

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::{ClusterName, Fqdn, InterfaceName, NodeName};
use landfall_proto::model::HostAddress;

use crate::cli::amount::{Waiting, timeout};
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, Table, or_dash, word};
use crate::surface::WaitSeconds;
use crate::surface::ca::{CaStatus, ClusterRotateCa, ClusterRotation};
use crate::surface::cap_address::CapAddressStatus;
use crate::surface::cluster::{
    ClusterInit, ClusterJoin, ClusterLeave, ClusterLeft, ClusterRecover, ClusterRecovered, ClusterStatus,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Founds a cluster with this agent as its only member.
    Init {
        /// The cluster's display name: letters, digits, dots, hyphens, underscores. Example: --name Cluster-R
        #[arg(long, value_name = "NAME")]
        name: ClusterName,
        /// The name of its client access point, which primaries replicate to. Example: --cap r-broker-cap.contoso.com
        #[arg(long, value_name = "FQDN")]
        cap: Fqdn,
        /// An address of the client access point that moves with its owner, with its mask; one of IPv4, one of IPv6.
        /// Example: --cap-address 10.0.0.50/24,fd00::50/64
        #[arg(long, value_name = "ADDRESS/BITS", value_delimiter = ',', num_args = 1, requires = "cap_interface")]
        cap_address: Vec<HostAddress>,
        /// The interface that has that address at the owner; a node's file can name another one (cap_interface).
        /// Example: --cap-interface eth0
        #[arg(long, value_name = "INTERFACE", num_args = 1, requires = "cap_address")]
        cap_interface: Option<InterfaceName>,
    },
    /// Makes this agent a member of a cluster. Repeating it after a lost answer is safe.
    Join {
        /// What `landfall token create` printed there; `-` reads it from standard input, which keeps it out of `ps`.
        token: String,
    },
    /// The cluster as this agent sees it.
    Status,
    /// Begins the cluster's next life with this node alone: the last resort where a majority is gone for good. The other
    /// members can only join anew, and what only they know is lost. Refused while the cluster can decide, or another member
    /// answers.
    Recover {
        /// Is sure that every other member is off for good, and that what is given up is given up. Default: off.
        #[arg(long)]
        yes: bool,
        /// Only says what would be given up, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
    },
    /// Has a new CA take the present one's place: its key is made and handed to the nodes that issue, every node takes a
    /// certificate of it, peers follow by the old one's word, and then the old one is retired. Nothing stops meanwhile.
    RotateCa {
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
        /// Ends the rotation that is under way now, without the nodes and peers that have not followed; it ends so by itself
        /// after 7 days. Default: off.
        #[arg(long)]
        finish: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Takes this node out of its cluster: moves its replicas and the CAP away, has it removed, and sets its state aside. The
    /// agent waits for init or join then. Refused where the cluster would lose something by it.
    Leave {
        /// Leaves though the cluster loses its quorum or the only copy of a replica by it, and does not wait for anything to
        /// be moved away. Default: off. Example: --force
        #[arg(long)]
        force: bool,
        /// How long its replicas may take to be moved away (s, m, h, d). Default: 1h. Example: --timeout 10m
        #[arg(long, value_name = "DURATION", value_parser = timeout)]
        timeout: Option<WaitSeconds>,
    },
}

/// How long `cluster leave` waits for replicas to be moved away where no time is given, and for the removal.
const LEAVE_SECONDS: u64 = 3660;

/// How long `cluster rotate-ca` waits for its end where no time is given.
const ROTATE_SECONDS: u64 = 60;

/// How long `cluster recover` may take: silent members are asked, and what this node does is ended first.
const RECOVER_SECONDS: u64 = 60;

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    let answer = match verb {
        Verb::Init { name, cap, cap_address, cap_interface } => {
            let init = ClusterInit { name, cap, cap_address, cap_interface };
            session.ask(Method::POST, "/v1/cluster", Some(&init), None, "founding").await?
        }
        Verb::Join { token } => {
            let token = session.console().secret(token)?;
            session.ask(Method::POST, "/v1/cluster/join", Some(&ClusterJoin { token }), None, "joining").await?
        }
        Verb::Status => return session.read::<ClusterStatus>("/v1/cluster").await,
        Verb::Recover { yes, dry_run } => {
            let request = ClusterRecover { yes, dry_run };
            let patience = WaitSeconds::try_from(RECOVER_SECONDS).ok();
            let answer =
                session.ask(Method::POST, "/v1/cluster/recover", Some(&request), patience, "recovering").await?;
            return session.print::<ClusterRecovered>(&answer);
        }
        Verb::RotateCa { dry_run, finish, waiting } => {
            let wait = waiting.or(ROTATE_SECONDS);
            let request = ClusterRotateCa { dry_run, finish, wait_seconds: wait };
            let patience = wait.or_else(|| WaitSeconds::try_from(ROTATE_SECONDS).ok());
            let answer =
                session.ask(Method::POST, "/v1/cluster/rotate-ca", Some(&request), patience, "rotating the CA").await?;
            return session.print::<ClusterRotation>(&answer);
        }
        Verb::Leave { force, timeout } => {
            let request = ClusterLeave { force, wait_seconds: timeout };
            let patience = timeout.or_else(|| WaitSeconds::try_from(LEAVE_SECONDS).ok());
            let answer = session.ask(Method::POST, "/v1/cluster/leave", Some(&request), patience, "leaving").await?;
            return session.print::<ClusterLeft>(&answer);
        }
    };
    session.print::<ClusterStatus>(&answer)
}

impl Shown for ClusterLeft {
    fn text(&self) -> String {
        Facts::default()
            .fact("node", &self.node)
            .fact("has left", &self.cluster)
            .fact("its state is in", self.set_aside.display())
            .each("warning", &self.warnings)
            .text()
    }
}

/// The CAs, a line each.
fn ca_facts(facts: Facts, ca: &CaStatus) -> Facts {
    let Some(rotation) = &ca.rotation else { return facts.fact("ca", ca.present) };
    let names = |nodes: &[NodeName]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let caps = |peers: &[Fqdn]| peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    facts
        .fact("ca, old", ca.present)
        .fact("ca, new", rotation.next)
        .fact("rotation begun", rotation.begun_at)
        .fact("ends by", rotation.ends_by)
        .fact("new certificate", names(&rotation.renewed))
        .fact("waits for nodes", names(&rotation.waits_for_nodes))
        .fact("peers that followed", caps(&rotation.followed))
        .fact("waits for peers", caps(&rotation.waits_for_peers))
}

impl Shown for ClusterRotation {
    fn text(&self) -> String {
        let missed: Vec<String> = self.missed.iter().map(ToString::to_string).collect();
        let facts =
            Facts::default().fact("cluster", &self.cluster).fact("done", if self.rotated { "yes" } else { "no" });
        ca_facts(facts, &self.ca)
            .fact("without the new key", if missed.is_empty() { "-".to_owned() } else { missed.join(", ") })
            .each("given up", &self.given_up)
            .text()
    }
}

impl Shown for ClusterRecovered {
    fn text(&self) -> String {
        let removed: Vec<String> = self.removed.iter().map(ToString::to_string).collect();
        let blocked: Vec<String> = self.blockers.iter().map(|blocker| blocker.message.clone()).collect();
        Facts::default()
            .fact("node", &self.node)
            .fact("cluster", &self.cluster)
            .fact("recovered", if self.recovered { "yes" } else { "no" })
            .fact("life", self.incarnation)
            .fact("no members any more", removed.join(", "))
            .each("given up", &self.lost)
            .each("next", &self.next)
            .each("blocked", &blocked)
            .text()
    }
}

impl Shown for ClusterStatus {
    fn text(&self) -> String {
        let facts = Facts::default()
            .fact("cluster", &self.cluster)
            .fact("cap", &self.cap)
            .fact("node", &self.node)
            .fact("role", word(&self.role))
            .fact("owner", or_dash(self.owner.as_ref()))
            .fact("term", or_dash(self.term))
            .each("cap address", self.cap_address.iter().flat_map(CapAddressStatus::lines))
            .fact("quorate", if self.quorate { "yes" } else { "no" })
            .fact("settings revision", self.settings_revision)
            .fact("tolerates losses", self.tolerates_losses);
        let facts = ca_facts(facts, &self.ca).each("warning", &self.warnings);
        let mut table = Table::new(["NODE", "ID", "ROLE", "STATE", "ADDRESS"]);
        for member in &self.members {
            let (id, address) = (member.id.to_string(), member.address.to_string());
            table.row([member.node.to_string(), id, word(&member.role), word(&member.state), address]);
        }
        format!("{}\n{}", facts.text(), table.text())
    }
}
