//! `landfall cluster`.

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::{ClusterName, Fqdn, InterfaceName};
use landfall_proto::model::HostAddress;

use crate::cli::amount::timeout;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, Table, or_dash, word};
use crate::surface::WaitSeconds;
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
            .fact("tolerates losses", self.tolerates_losses)
            .each("warning", &self.warnings);
        let mut table = Table::new(["NODE", "ID", "ROLE", "STATE", "ADDRESS"]);
        for member in &self.members {
            let (id, address) = (member.id.to_string(), member.address.to_string());
            table.row([member.node.to_string(), id, word(&member.role), word(&member.state), address]);
        }
        format!("{}\n{}", facts.text(), table.text())
    }
}
