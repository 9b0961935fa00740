//! Network namespaces on two bridges: the nodes' own network (`eth0`), and the clients' (`cap0`).

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The interface of the nodes' own network.
pub const OWN: &str = "eth0";
/// The interface of the clients' network, which has the CAP's address.
pub const CLIENTS: &str = "cap0";
/// A link-layer address that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

/// The namespaces of a test; removed when it is dropped.
pub struct Net {
    prefix: String,
    nodes: Vec<String>,
}

/// Whether namespaces can be made here.
pub fn works() -> bool {
    let name = format!("lf{}-try", std::process::id());
    let ip = |arguments: &[&str]| Command::new("ip").args(arguments).output().is_ok_and(|done| done.status.success());
    let works = ip(&["netns", "add", &name]) && ip(&["-n", &name, "link", "add", "name", "try", "type", "bridge"]);
    ip(&["netns", "del", &name]);
    works
}

impl Net {
    /// One namespace for each of `nodes`, and one for the bridges.
    pub fn new(nodes: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("lf{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self { prefix, nodes: nodes.iter().map(|node| (*node).to_owned()).collect() };
        ip(&["netns", "add", &net.bridges()]);
        for (bridge, _) in WIRES {
            ip(&["-n", &net.bridges(), "link", "add", "name", bridge, "type", "bridge"]);
            ip(&["-n", &net.bridges(), "link", "set", bridge, "up"]);
        }
        for node in nodes {
            ip(&["netns", "add", &net.of(node)]);
            ip(&["-n", &net.of(node), "link", "set", "lo", "up"]);
            for (_, interface) in WIRES {
                net.connect(node, interface);
            }
        }
        net
    }

    /// The namespace of `node`.
    pub fn of(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    fn bridges(&self) -> String {
        self.of("br")
    }

    fn number(&self, node: &str) -> usize {
        11 + self.nodes.iter().position(|other| other == node).expect("a node of this network")
    }

    /// The address of `node` in the nodes' own network.
    pub fn address(&self, node: &str) -> String {
        format!("10.77.0.{}", self.number(node))
    }

    /// Gives `node` an interface, plugged in and with its addresses.
    pub fn connect(&self, node: &str, interface: &str) {
        let (name, port, number) = (self.of(node), port(node, interface), self.number(node));
        ip(&[
            "link",
            "add",
            "name",
            interface,
            "netns",
            &name,
            "type",
            "veth",
            "peer",
            "name",
            &port,
            "netns",
            &self.bridges(),
        ]);
        let subnet = if interface == OWN { 77 } else { 78 };
        ip(&["-n", &name, "addr", "add", &format!("10.{subnet}.0.{number}/24"), "dev", interface]);
        ip(&["-n", &name, "addr", "add", &format!("fd{subnet}::{number}/64"), "dev", interface, "nodad"]);
        ip(&["-n", &name, "link", "set", interface, "up"]);
        self.plug(node, interface);
        ip(&["-n", &self.bridges(), "link", "set", &port, "up"]);
    }

    /// Takes the interface away.
    pub fn remove(&self, node: &str, interface: &str) {
        ip(&["-n", &self.of(node), "link", "del", interface]);
    }

    /// Puts the plug in.
    pub fn plug(&self, node: &str, interface: &str) {
        let bridge = WIRES.iter().find(|(_, other)| *other == interface).expect("an interface").0;
        ip(&["-n", &self.bridges(), "link", "set", &port(node, interface), "master", bridge]);
    }

    /// Pulls the plug at the far end: nothing passes, and the node's own carrier stays.
    pub fn unplug(&self, node: &str, interface: &str) {
        ip(&["-n", &self.bridges(), "link", "set", &port(node, interface), "nomaster"]);
    }

    /// Switches the node's interface off or on.
    pub fn set(&self, node: &str, interface: &str, state: &str) {
        ip(&["-n", &self.of(node), "link", "set", interface, state]);
    }

    /// What `node` sends in the nodes' own network goes nowhere, and what is sent to it arrives.
    pub fn mute(&self, node: &str) {
        for other in self.nodes.iter().filter(|other| *other != node) {
            let to = self.address(other);
            ip(&["-n", &self.of(node), "neigh", "replace", &to, "lladdr", NOBODY, "dev", OWN, "nud", "permanent"]);
        }
    }

    /// Ends [`Net::mute`].
    pub fn unmute(&self, node: &str) {
        for other in self.nodes.iter().filter(|other| *other != node) {
            ip(&["-n", &self.of(node), "neigh", "del", &self.address(other), "dev", OWN]);
        }
    }

    /// Adds or deletes an address by hand.
    pub fn claim(&self, node: &str, verb: &str, address: &str) {
        ip(&["-n", &self.of(node), "addr", verb, address, "dev", CLIENTS]);
    }
}

/// Each bridge, and the interfaces that are plugged into it.
const WIRES: [(&str, &str); 2] = [("own", OWN), ("clients", CLIENTS)];

/// The far end of a node's interface.
fn port(node: &str, interface: &str) -> String {
    format!("{node}.{interface}")
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().expect("iproute2");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {}: {told}", arguments.join(" "));
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.nodes.iter().map(|node| self.of(node)).chain([self.bridges()]) {
            drop(Command::new("ip").args(["netns", "del", &name]).output());
        }
    }
}

/// Moves the calling thread into a namespace.
pub fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).expect("root");
}
