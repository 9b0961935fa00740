//! What one node must know before it can reach its cluster: names, addresses, folders.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_proto::id::{Fqdn, InterfaceName, NodeName, StorageName};
use landfall_proto::model::Timing;
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};

use crate::config::document::{Reader, Section};
use crate::config::{Fault, Faults};
use crate::drive::directory::service_socket;

#[cfg(test)]
mod tests;

/// The largest file that is read: a real one has forty lines.
const FILE_MAX: u64 = 1 << 20;
/// The most storage locations: each is probed every few seconds.
const STORAGE_MAX: usize = 64;
/// The longest path of a unix socket: `sockaddr_un` has 108 bytes, one of them the end.
const SOCKET_PATH_MAX: usize = 107;
/// Shortest and longest change set interval for tests, in milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=900_000;
/// How far apart points can be made to be for tests, in milliseconds; 0 is every change set.
const POINT_INTERVAL_MS: std::ops::RangeInclusive<u64> = 0..=900_000;
/// `[testing] lease_ms`: below it a heartbeat is too short for a busy machine, above it nobody waits.
const LEASE_MS: std::ops::RangeInclusive<u64> = 400..=60_000;

/// The file of one node, every value checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The node's name, unique in its cluster.
    pub node: NodeName,
    /// The name for its certificate, where it is not the node's name in the CAP's domain.
    pub fqdn: Option<Fqdn>,
    /// Where the agent keeps its log, keys and state.
    pub data_dir: PathBuf,
    /// Where the control endpoint listens.
    pub listen: SocketAddr,
    /// Where the data endpoint listens.
    pub data_listen: SocketAddr,
    /// What peers and primaries dial for control: never unspecified.
    pub advertise: SocketAddr,
    /// What they dial for data: never unspecified.
    pub data_advertise: SocketAddr,
    /// The interface that has the CAP's address while this node owns the CAP, where it is not the one that the cluster
    /// was founded with.
    pub cap_interface: Option<InterfaceName>,
    /// The local API's socket.
    pub socket: PathBuf,
    /// Whether the node only votes and stores the log.
    pub witness: bool,
    /// The VM service; every node but a witness has one.
    pub vm_service: Option<VmServiceConfig>,
    /// Where replicas can be stored, by unique name.
    pub storage: Vec<StorageConfig>,
    /// What only tests and the demo change.
    pub testing: Testing,
}

/// The `directory` VM service of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmServiceConfig {
    /// The folder whose folders are the VMs.
    pub path: PathBuf,
}

/// A storage location for replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// Its name, as authorization entries use it.
    pub name: StorageName,
    /// Its folder.
    pub path: PathBuf,
}

/// What only tests and the demo change. Printed when the agent starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Testing {
    /// Change sets are due this often, whatever the relationship says.
    pub interval: Option<Duration>,
    /// Change sets stay as points this far apart, whatever `point_interval` says; 0 makes each one a point.
    pub point_interval: Option<Duration>,
    /// This node tells no sender where a replica went, neither by notice nor by answer: they must ask the CAP.
    pub drop_moved_notices: bool,
    /// A cluster that is founded at this node has this lease for its life, and the clocks that go with it.
    pub lease: Option<Duration>,
}

impl Testing {
    /// The consensus clocks of a cluster that is founded at this node.
    pub fn timing(&self) -> Timing {
        let lease = self.lease.and_then(|lease| u64::try_from(lease.as_millis()).ok());
        lease.map_or(Timing::STANDARD, Timing::of_lease)
    }

    /// One line that says what is not as in production; `None` where everything is.
    pub fn notice(&self) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(interval) = self.interval {
            parts.push(format!("change sets are due every {} ms", interval.as_millis()));
        }
        if let Some(interval) = self.point_interval {
            parts.push(format!("change sets stay as points every {} ms", interval.as_millis()));
        }
        if self.drop_moved_notices {
            parts.push("notices of moved replicas are dropped".to_owned());
        }
        if let Some(lease) = self.lease {
            parts.push(format!("a cluster founded here has a lease of {} ms", lease.as_millis()));
        }
        (!parts.is_empty()).then(|| format!("[testing]: {}", parts.join("; ")))
    }
}

impl NodeConfig {
    /// Reads and checks `file`; every fault is told at once.
    pub fn load(file: &Path) -> Result<Self, Faults> {
        let unreadable = |why: String| {
            let refusal = Refusal::new(Class::Usage, "unreadable_file", why)
                .field("config")
                .remedy("give the path of a readable TOML file");
            Faults::new(file, vec![Fault { line: 1, refusal }])
        };
        let size = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?.len();
        if size > FILE_MAX {
            return Err(unreadable(format!("{size} bytes is more than a configuration can have ({FILE_MAX})")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(file, &text)
    }

    /// Checks `text`; `file` only names it in the faults.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Faults> {
        Reader::read(file, text, resolve)
    }
}

fn resolve(top: &Section<'_, '_>) -> Option<NodeConfig> {
    let node = required(top, "node", "give the node's short name, such as node = \"r1\"", |key| top.parsed(key));
    let fqdn = top.parsed("fqdn");
    let data_dir = required(top, "data_dir", "use data_dir = \"/var/lib/landfall\"", |key| top.absolute(key));
    let addresses = addresses(top);
    let socket = required(top, "socket", "use socket = \"/run/landfall/landfall.sock\"", |key| top.absolute(key));
    if let Some(socket) = &socket {
        check_socket(top, "socket", socket);
    }
    let witness = top.boolean("witness").unwrap_or(false);
    let cap_interface = top.parsed("cap_interface");
    if witness && top.has("cap_interface") {
        top.fault("cap_interface", "a witness never owns the CAP", "remove cap_interface, or set witness = false");
    }
    let vm_service = vm_service(top, witness);
    let storage = storage(top, witness, vm_service.as_ref());
    if let Some(data_dir) = &data_dir {
        let folders = storage.iter().map(|storage| ("a storage path", &storage.path));
        for (what, path) in folders.chain(vm_service.iter().map(|service| ("vm_service.path", &service.path))) {
            if data_dir.starts_with(path) {
                let problem = format!("{} lies within {what} {}", data_dir.display(), path.display());
                top.fault("data_dir", &problem, "keep the agent's own state apart from what VMs and replicas write");
            }
        }
    }
    let testing = testing(top);
    let (listen, data_listen, advertise, data_advertise) = addresses?;
    Some(NodeConfig {
        node: node?,
        fqdn,
        data_dir: data_dir?,
        listen,
        data_listen,
        advertise,
        data_advertise,
        cap_interface,
        socket: socket?,
        witness,
        vm_service,
        storage,
        testing,
    })
}

fn required<T>(
    section: &Section<'_, '_>,
    key: &'static str,
    remedy: &str,
    get: impl FnOnce(&'static str) -> Option<T>,
) -> Option<T> {
    if !section.has(key) {
        section.missing(key, remedy);
    }
    get(key)
}

fn address(top: &Section<'_, '_>, key: &'static str) -> Option<SocketAddr> {
    let text = top.text(key)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            let problem = format!("{} is not an address with a port", quoted(&text));
            top.fault(
                key,
                &problem,
                "use an IP address and a port from 1 to 65535, such as 10.0.0.11:7443 or [fd00::11]:7443",
            );
            None
        }
    }
}

fn dialable(top: &Section<'_, '_>, key: &'static str) -> Option<SocketAddr> {
    let address = address(top, key)?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        let problem = format!("'{address}' cannot be dialled");
        top.fault(key, &problem, "use the address under which the other nodes and the primaries reach this node");
        return None;
    }
    Some(address)
}

/// listen, data_listen, advertise, data_advertise.
fn addresses(top: &Section<'_, '_>) -> Option<(SocketAddr, SocketAddr, SocketAddr, SocketAddr)> {
    let listen = required(top, "listen", "use listen = \"0.0.0.0:7443\"", |key| address(top, key));
    let given_data = address(top, "data_listen");
    let given_advertise = dialable(top, "advertise");
    let given_data_advertise = dialable(top, "data_advertise");
    let listen = listen?;
    let data_listen = match (given_data, listen.port().checked_add(1)) {
        (Some(data), _) => data,
        (None, Some(port)) => SocketAddr::new(listen.ip(), port),
        (None, None) => {
            top.fault(
                "listen",
                &format!("'{listen}' leaves no next port for data"),
                "give data_listen, or a lower port",
            );
            return None;
        }
    };
    if data_listen.port() == listen.port() {
        let problem = format!("'{data_listen}' has the same port as listen '{listen}'");
        top.fault("data_listen", &problem, "control and data each need a port of their own");
    }
    let advertise = match given_advertise {
        Some(advertise) => advertise,
        None if top.has("advertise") => return None,
        None if listen.ip().is_unspecified() => {
            let remedy = format!("listen '{listen}' is every address: say which one the others dial");
            top.missing("advertise", &remedy);
            return None;
        }
        None => listen,
    };
    let data_advertise = given_data_advertise.unwrap_or(SocketAddr::new(advertise.ip(), data_listen.port()));
    if data_advertise == advertise && data_listen.port() != listen.port() {
        let problem = format!("'{data_advertise}' is also where advertise '{advertise}' leads");
        top.fault("data_advertise", &problem, "control and data each need an address of their own");
    }
    Some((listen, data_listen, advertise, data_advertise))
}

fn check_socket(section: &Section<'_, '_>, key: &str, socket: &Path) {
    let length = socket.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let problem = format!("the socket {} has {length} bytes in its path", socket.display());
        section.fault(key, &problem, &format!("unix sockets allow {SOCKET_PATH_MAX}: use a shorter folder"));
    }
}

fn vm_service(top: &Section<'_, '_>, witness: bool) -> Option<VmServiceConfig> {
    let section = top.section("vm_service");
    if witness {
        if section.is_some() {
            top.fault("vm_service", "a witness hosts no VM", "remove [vm_service], or set witness = false");
        }
        return None;
    }
    let Some(section) = section else {
        if !top.has("vm_service") {
            top.missing("vm_service", "add [vm_service] with kind = \"directory\" and a path, or set witness = true");
        }
        return None;
    };
    match required(&section, "kind", "use kind = \"directory\"", |key| section.text(key)).as_deref() {
        Some("libvirt") => section.fault("kind", "'libvirt' comes later", "use kind = \"directory\""),
        Some("directory") | None => {}
        Some(other) => section.fault("kind", &format!("{} is not allowed", quoted(other)), "use kind = \"directory\""),
    }
    let remedy = "give the folder of the VMs, such as path = \"/var/lib/landfall/vms\"";
    let path = required(&section, "path", remedy, |key| section.absolute(key));
    if let Some(path) = &path {
        check_socket(&section, "path", &service_socket(path));
    }
    section.finish();
    Some(VmServiceConfig { path: path? })
}

fn storage(top: &Section<'_, '_>, witness: bool, vms: Option<&VmServiceConfig>) -> Vec<StorageConfig> {
    let sections = top.sections("storage");
    if witness {
        if !sections.is_empty() {
            top.fault("storage", "a witness stores no replica", "remove [[storage]], or set witness = false");
        }
        return Vec::new();
    }
    if sections.len() > STORAGE_MAX {
        top.fault("storage", &format!("{} locations", sections.len()), &format!("use at most {STORAGE_MAX}"));
        return Vec::new();
    }
    let mut found: Vec<(StorageConfig, usize)> = Vec::new();
    for section in &sections {
        if section.boolean("shared") == Some(true) {
            section.fault("shared", "true comes later", "use false: two copies on two nodes replace shared storage");
        }
        let name = required(section, "name", "name it, such as name = \"default\"", |key| section.parsed(key));
        let path =
            required(section, "path", "give its folder, such as path = \"/srv/replicas\"", |key| section.absolute(key));
        section.finish();
        if let Some(path) = &path {
            check_apart(section, path, vms, &found);
        }
        let (Some(name), Some(path)) = (name, path) else { continue };
        match found.iter().find(|(other, _)| other.name == name) {
            Some((_, line)) => {
                section.fault(
                    "name",
                    &format!("'{name}' is taken by the storage on line {line}"),
                    "give each its own name",
                );
            }
            None => found.push((StorageConfig { name, path }, section.line_of("name"))),
        }
    }
    found.into_iter().map(|(storage, _)| storage).collect()
}

/// Replicas, VMs and other replicas must not lie within one another.
fn check_apart(
    section: &Section<'_, '_>,
    path: &Path,
    vms: Option<&VmServiceConfig>,
    others: &[(StorageConfig, usize)],
) {
    let others = others.iter().map(|(other, _)| (format!("storage '{}'", other.name), &other.path));
    for (what, other) in others.chain(vms.map(|vms| ("vm_service.path".to_owned(), &vms.path))) {
        let relation = match (path.starts_with(other), other.starts_with(path)) {
            (true, true) => "is also",
            (true, false) => "lies within",
            (false, true) => "contains",
            (false, false) => continue,
        };
        let problem = format!("{} {relation} {what} {}", path.display(), other.display());
        section.fault("path", &problem, "give each a folder of its own");
    }
}

fn testing(top: &Section<'_, '_>) -> Testing {
    let Some(section) = top.section("testing") else { return Testing::default() };
    let testing = Testing {
        interval: section.integer("interval_ms", INTERVAL_MS).map(Duration::from_millis),
        point_interval: section.integer("point_interval_ms", POINT_INTERVAL_MS).map(Duration::from_millis),
        drop_moved_notices: section.boolean("drop_moved_notices").unwrap_or(false),
        lease: section.integer("lease_ms", LEASE_MS).map(Duration::from_millis),
    };
    section.finish();
    testing
}
