//! The address of a client access point: what moves from owner to owner, on which interface, and the port there.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::address::{Family, HostAddress, IpAddr};
use crate::id::InterfaceName;
use crate::refusal::Refusal;

/// What every node must know to hold the CAP's address, fixed at `cluster init`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct CapAddress {
    addresses: Vec<HostAddress>,
    interface: InterfaceName,
    port: u16,
}

#[derive(Serialize, Deserialize)]
struct Unchecked {
    addresses: Vec<HostAddress>,
    interface: InterfaceName,
    port: u16,
}

/// Where to give it, as refusals name it.
const FIELD: &str = "cap_address";

impl CapAddress {
    /// Addresses of one CAP at most: one of each family.
    pub const MAX: usize = 2;

    /// Refused where a family comes twice, where there is no address, and where nobody could dial one.
    pub fn new(addresses: Vec<HostAddress>, interface: InterfaceName, port: u16) -> Result<Self, Refusal> {
        let all = || addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        if addresses.is_empty() {
            return Err(Refusal::invalid(FIELD, "", "give an address with its mask, such as 10.0.0.50/24"));
        }
        for family in Family::BOTH {
            if addresses.iter().filter(|address| address.family() == family).count() > 1 {
                let remedy = format!("give one {family} address at most, such as 10.0.0.50/24,fd00::50/64");
                return Err(Refusal::invalid(FIELD, &all(), &remedy));
            }
        }
        if let Some(address) = addresses.iter().find(|address| is_link_local(&address.ip())) {
            let remedy = "give an address that is not link-local: primaries could not dial this one";
            return Err(Refusal::invalid(FIELD, &address.to_string(), remedy));
        }
        if port == 0 {
            return Err(Refusal::invalid("listen", "0", "give a fixed port: the CAP's address is dialled there"));
        }
        Ok(Self { addresses, interface, port })
    }

    /// The addresses, one of each family at most.
    pub fn addresses(&self) -> &[HostAddress] {
        &self.addresses
    }

    /// The interface that has it on every node whose file names no other one.
    pub fn interface(&self) -> &InterfaceName {
        &self.interface
    }

    /// The control port at which the owner answers there.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What clients dial.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().map(|address| SocketAddr::new(address.ip(), self.port))
    }

    /// Whether `ip` is one of them; IPv4 may be written as IPv6, as sockets of both families do.
    pub fn has(&self, ip: &IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.addresses.iter().any(|address| address.ip() == ip)
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

impl TryFrom<Unchecked> for CapAddress {
    type Error = Refusal;
    fn try_from(Unchecked { addresses, interface, port }: Unchecked) -> Result<Self, Refusal> {
        Self::new(addresses, interface, port)
    }
}

impl From<CapAddress> for Unchecked {
    fn from(CapAddress { addresses, interface, port }: CapAddress) -> Self {
        Self { addresses, interface, port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str]) -> Result<CapAddress, Refusal> {
        let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        CapAddress::new(addresses, "eth0".parse()?, 7443)
    }

    #[test]
    fn one_address_of_each_family_that_somebody_can_dial() {
        let both = of(&["10.0.0.50/24", "fd00::50/64"]).unwrap();
        let dialled: Vec<String> = both.sockets().map(|socket| socket.to_string()).collect();
        assert_eq!(dialled, ["10.0.0.50:7443", "[fd00::50]:7443"]);
        assert!(both.has(&"::ffff:10.0.0.50".parse().unwrap()) && !both.has(&"10.0.0.51".parse().unwrap()));
        for (bad, value) in [
            (&[][..], ""),
            (&["10.0.0.50/24", "10.0.1.50/24"], "10.0.0.50/24,10.0.1.50/24"),
            (&["fd00::50/64", "10.0.0.5/24", "fd01::50/64"], "fd01::50/64"),
            (&["fe80::50/64"], "fe80::50/64"),
            (&["169.254.0.5/16"], "169.254.0.5/16"),
        ] {
            let refusal = of(bad).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some("cap_address"), "{refusal}");
            assert!(refusal.message.contains(value) && refusal.remedy.is_some(), "{refusal}");
        }
        for bad in ["224.0.0.1/24", "127.0.0.1/8", "0.0.0.0/8", "10.0.0.0/24", "10.0.0.255/24", "::1/128", "10.0.0.5"] {
            assert!(of(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_break_the_rules_are_no_address() {
        let twice = Unchecked {
            addresses: vec!["10.0.0.5/24".parse().unwrap(), "10.0.0.6/24".parse().unwrap()],
            interface: "eth0".parse().unwrap(),
            port: 7443,
        };
        let bytes = crate::codec::encode(&twice).unwrap();
        assert!(crate::codec::decode::<CapAddress>(&bytes).is_err());
        let good = of(&["10.0.0.50/24"]).unwrap();
        assert_eq!(crate::codec::decode::<CapAddress>(&crate::codec::encode(&good).unwrap()).unwrap(), good);
    }
}
