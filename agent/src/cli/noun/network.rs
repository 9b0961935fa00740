//! `landfall network`.

use std::net::IpAddr;

use clap::Subcommand;
use hyper::Method;
use landfall_proto::Refusal;
use landfall_proto::id::Fqdn;
use landfall_proto::model::{Addresses, Family, HostAddress, NetworkRule, Subnet};

use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, Table, joined, word};
use crate::surface::network::{
    FamilyPreview, NetworkClear, NetworkMapAdd, NetworkMapRemove, NetworkMapRule, NetworkSet, NetworkStatus,
};
use crate::surface::vm::VmSelector;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// What each adapter of a VM would have if this cluster brought the VM up now, and why.
    Show {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Gives a synthetic adapter its failover addresses at this cluster. A family that is given is replaced as a whole.
    Set {
        /// Its UUID or name.
        vm: VmSelector,
        /// The adapter, by name or hardware address. Example: --adapter eth0
        #[arg(long, value_name = "ADAPTER")]
        adapter: String,
        /// An IPv4 address with its mask; may be given again. Example: --ipv4 10.9.0.5/24
        #[arg(long, value_name = "ADDRESS/BITS", value_parser = ipv4, required_unless_present = "ipv6")]
        ipv4: Vec<HostAddress>,
        /// An IPv6 address with its prefix; may be given again. Example: --ipv6 fd00:9::5/64
        #[arg(long, value_name = "ADDRESS/BITS", value_parser = ipv6)]
        ipv6: Vec<HostAddress>,
        /// A default gateway of either family, in the subnet of an address; up to five a family. Example: --gateway 10.9.0.1
        #[arg(long, value_name = "ADDRESS", value_parser = ip)]
        gateway: Vec<IpAddr>,
        /// A name server of either family; up to three a family. Example: --dns 10.9.0.53
        #[arg(long, value_name = "ADDRESS", value_parser = ip)]
        dns: Vec<IpAddr>,
    },
    /// Takes failover addresses away from an adapter: it then has what rules or the primary give it.
    Clear {
        /// Its UUID or name.
        vm: VmSelector,
        /// The adapter, by name or hardware address. Example: --adapter eth0
        #[arg(long, value_name = "ADAPTER")]
        adapter: String,
        /// Only the IPv4 ones. Default: both families.
        #[arg(long)]
        ipv4: bool,
        /// Only the IPv6 ones. Default: both families.
        #[arg(long)]
        ipv6: bool,
    },
    /// Which subnet here stands for which of a peer's.
    Map {
        #[command(subcommand)]
        verb: MapVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MapVerb {
    /// The rules of all peers.
    List,
    /// Adds a rule: an address in FROM at the peer becomes the one with the same host bits in TO here.
    Add {
        /// The subnet at the peer. Example: 10.1.0.0/16
        from: Subnet,
        /// The subnet here, with as long a mask. Example: 10.9.0.0/16
        to: Subnet,
        /// The peer's CAP. Default: the only peer. Example: --peer p-broker-cap.contoso.com
        #[arg(long, value_name = "CAP")]
        peer: Option<Fqdn>,
    },
    /// Removes a rule.
    Remove {
        /// The subnet at the peer, as the list has it.
        from: Subnet,
        /// The peer's CAP. Default: the only one that has the rule. Example: --peer p-broker-cap.contoso.com
        #[arg(long, value_name = "CAP")]
        peer: Option<Fqdn>,
    },
}

fn host(family: Family, text: &str) -> Result<HostAddress, Refusal> {
    let address: HostAddress = text.parse()?;
    if address.family() == family {
        return Ok(address);
    }
    Err(Refusal::invalid(&family.to_string(), text, &format!("give it with --{}", address.family())))
}

fn ipv4(text: &str) -> Result<HostAddress, Refusal> {
    host(Family::Ipv4, text)
}

fn ipv6(text: &str) -> Result<HostAddress, Refusal> {
    host(Family::Ipv6, text)
}

fn ip(text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| Refusal::invalid("address", text, "use an address such as 10.9.0.1 or fd00:9::1, no mask"))
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    let answer = match verb {
        Verb::Show { vm } => {
            return session.read::<NetworkStatus>(&route(&["vms", &vm.to_string(), "network"])).await;
        }
        Verb::Map { verb } => return map(verb, session).await,
        Verb::Set { vm, adapter, ipv4, ipv6, gateway, dns } => {
            let addresses = ipv4.into_iter().chain(ipv6).collect();
            let request = NetworkSet { adapter, addresses, gateways: gateway, dns };
            let path = route(&["vms", &vm.to_string(), "network"]);
            session.ask(Method::PUT, &path, Some(&request), None, "setting").await?
        }
        Verb::Clear { vm, adapter, ipv4, ipv6 } => {
            let chosen = [(ipv4, Family::Ipv4), (ipv6, Family::Ipv6)];
            let families = chosen.into_iter().filter_map(|(asked, family)| asked.then_some(family)).collect();
            let request = NetworkClear { adapter, families };
            let path = route(&["vms", &vm.to_string(), "network", "clear"]);
            session.ask(Method::POST, &path, Some(&request), None, "clearing").await?
        }
    };
    session.print::<NetworkStatus>(&answer)
}

async fn map(verb: MapVerb, session: &mut Session<'_>) -> Result<(), Ended> {
    let answer = match verb {
        MapVerb::List => return session.read::<Vec<NetworkMapRule>>("/v1/network/map").await,
        MapVerb::Add { from, to, peer } => {
            let request = NetworkMapAdd { peer, from, to };
            session.ask(Method::POST, "/v1/network/map", Some(&request), None, "adding").await?
        }
        MapVerb::Remove { from, peer } => {
            let request = NetworkMapRemove { peer, from };
            session.ask(Method::POST, "/v1/network/map/remove", Some(&request), None, "removing").await?
        }
    };
    session.print::<NetworkMapRule>(&answer)
}

impl Shown for NetworkRule {
    fn text(&self) -> String {
        vec![self.clone()].text()
    }
}

impl Shown for Vec<NetworkRule> {
    fn text(&self) -> String {
        let mut table = Table::new(["PEER", "SUBNET THERE", "SUBNET HERE"]);
        for rule in self {
            table.row([rule.peer.to_string(), rule.from.to_string(), rule.to.to_string()]);
        }
        table.text()
    }
}

impl Shown for NetworkStatus {
    fn text(&self) -> String {
        let mut text = Facts::default()
            .fact("uuid", self.uuid)
            .fact("name", &self.name)
            .fact("role", word(&self.role))
            .fact("peer", &self.peer)
            .each("warning", &self.warnings)
            .text();
        let mut table = Table::new(["ADAPTER", "MAC", "FAMILY", "NOW", "ADDRESSES", "GATEWAYS", "DNS", "WHY"]);
        for adapter in &self.adapters {
            for (family, preview) in [(Family::Ipv4, &adapter.ipv4), (Family::Ipv6, &adapter.ipv6)] {
                let Addresses { addresses: now, .. } = adapter.now.of(family);
                let FamilyPreview { addresses, gateways, dns, reason, source: _ } = preview;
                table.row([
                    adapter.adapter.clone(),
                    adapter.mac.clone(),
                    family.to_string(),
                    joined(&now),
                    joined(addresses),
                    joined(gateways),
                    joined(dns),
                    reason.clone(),
                ]);
            }
        }
        text.push('\n');
        text + &table.text()
    }
}
