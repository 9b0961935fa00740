//! Failover addresses: what an adapter has where this cluster brings its VM up.

use std::net::IpAddr;

use landfall_proto::id::{Fqdn, VmId};
use landfall_proto::model::{AdapterKind, Addresses, Family, HostAddress, NetworkRule, Subnet};
use serde::{Deserialize, Serialize};

use crate::surface::vm::VmRole;

/// `network set`. Families that are not named stay as they are; one that is, is replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSet {
    /// The adapter, by name or hardware address.
    pub adapter: String,
    /// Its addresses, each with its mask.
    #[serde(default)]
    pub addresses: Vec<HostAddress>,
    /// Its gateways, each in the subnet of an address.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Its name servers.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
}

/// `network clear`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkClear {
    /// The adapter, by name or hardware address.
    pub adapter: String,
    /// The families; both where none is given.
    #[serde(default)]
    pub families: Vec<Family>,
}

/// `network map add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkMapAdd {
    /// The peer's CAP; the only peer where there is one.
    #[serde(default)]
    pub peer: Option<Fqdn>,
    /// The subnet at the peer.
    pub from: Subnet,
    /// The subnet here, of the same length.
    pub to: Subnet,
}

/// `network map remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkMapRemove {
    /// The peer's CAP; the only one that has such a rule where none is given.
    #[serde(default)]
    pub peer: Option<Fqdn>,
    /// The subnet at the peer.
    pub from: Subnet,
}

/// A row of `network map list`.
pub type NetworkMapRule = NetworkRule;

/// Why an adapter would have an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// It was set here for this adapter.
    Setting,
    /// A rule of subnets makes it of the primary's.
    Rule,
    /// The primary has it, and nothing here says otherwise.
    Primary,
    /// Nobody says: the guest keeps what it has, or asks for some.
    Unknown,
}

/// What an adapter would have in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyPreview {
    /// Where that comes from.
    pub source: AddressSource,
    /// Its addresses.
    pub addresses: Vec<HostAddress>,
    /// Its gateways.
    pub gateways: Vec<IpAddr>,
    /// Its name servers.
    pub dns: Vec<IpAddr>,
    /// The source as a sentence.
    pub reason: String,
}

/// One adapter of `network show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterNetwork {
    /// Its name.
    pub adapter: String,
    /// How it is emulated: a legacy one is given no addresses.
    pub kind: AdapterKind,
    /// Its hardware address.
    pub mac: String,
    /// What the VM has now, as its file says.
    pub now: Addresses,
    /// What was set here.
    pub set: Addresses,
    /// What it would have in IPv4 if this cluster brought the VM up now.
    pub ipv4: FamilyPreview,
    /// The same in IPv6.
    pub ipv6: FamilyPreview,
}

/// `network show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The VM.
    pub uuid: VmId,
    /// Its name.
    pub name: String,
    /// Its part in this cluster: of a replica it is about a failover, of a primary about the way home.
    pub role: VmRole,
    /// The cluster whose subnets the rules are about.
    pub peer: Fqdn,
    /// Its adapters.
    pub adapters: Vec<AdapterNetwork>,
    /// What an administrator should look at.
    pub warnings: Vec<String>,
}
