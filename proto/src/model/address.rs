//! Addresses of a VM's adapters and the subnets that they are in. Values of these types are always well formed by
//! themselves; what must fit together (a gateway and its address) is checked by [`super::Addresses::check`].

use std::fmt;
pub use std::net::IpAddr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::adapter_addresses::{AddressFault, AddressList};
use crate::refusal::Refusal;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// The address as a number, highest bit first, in the lower bits.
fn number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        // A number of this family has no higher bits.
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// The bits below a prefix of `length`.
fn host_mask(family: Family, length: u8) -> u128 {
    match family.bits().saturating_sub(length) {
        128 => u128::MAX,
        bits => (1 << bits) - 1,
    }
}

/// Why no adapter can have this address; `None` where one can.
pub fn unusable(address: &IpAddr) -> Option<&'static str> {
    match address {
        address if address.is_unspecified() => Some("it stands for no address"),
        address if address.is_loopback() => Some("it is a loopback address"),
        address if address.is_multicast() => Some("it is a multicast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("it is in 0.0.0.0/8, which no host has"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("it is a broadcast or reserved address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("it is an IPv4 address written as IPv6"),
        _ => None,
    }
}

/// An address of an adapter together with its mask: `10.9.0.5/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    ip: IpAddr,
    length: u8,
}

impl HostAddress {
    /// Refused where no host can have the address under that mask.
    pub fn new(ip: IpAddr, length: u8) -> Result<Self, Refusal> {
        let text = format!("{ip}/{length}");
        let family = Family::of(&ip);
        let refuse = |why: &str, remedy: &str| {
            let (value, why, remedy) = (text.clone(), why.to_owned(), remedy.to_owned());
            Err(AddressFault { list: AddressList::Addresses, family, value, why, remedy }.refusal("address"))
        };
        if !(1..=family.bits()).contains(&length) {
            return refuse("no such mask", &format!("use a mask of 1 to {} bits", family.bits()));
        }
        if let Some(why) = unusable(&ip) {
            return refuse(why, "give an address that one host can have");
        }
        let (host, mask) = (number(&ip) & host_mask(family, length), host_mask(family, length));
        // Point-to-point subnets of one bit have neither (RFC 3021, RFC 6164).
        if mask > 1 && host == 0 {
            return refuse("it is the subnet's own address", "give the address of a host in that subnet");
        }
        if mask > 1 && host == mask && family == Family::Ipv4 {
            return refuse("it is the subnet's broadcast address", "give the address of a host in that subnet");
        }
        Ok(Self { ip, length })
    }

    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Bits of its mask.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(&self.ip)
    }

    /// The subnet that it is in.
    pub fn subnet(&self) -> Subnet {
        let family = self.family();
        let network = number(&self.ip) & !host_mask(family, self.length);
        Subnet { network: address(family, network), length: self.length }
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

/// `address/bits`, or `address/255.255.255.0` for IPv4.
fn split(field: &str, text: &str, example: &str) -> Result<(IpAddr, u8), Refusal> {
    let refuse = |remedy: &str| Refusal::invalid(field, text, remedy);
    let Some((address, mask)) = text.split_once('/') else {
        return Err(refuse(&format!("give it with its mask, such as {example}")));
    };
    let address: IpAddr = address.parse().map_err(|_| refuse(&format!("write it as {example}")))?;
    let plain = mask.bytes().all(|byte| byte.is_ascii_digit()) && mask.len() <= 3;
    if plain && let Ok(length) = mask.parse() {
        return Ok((address, length));
    }
    let dotted = mask.parse::<Ipv4Addr>().ok().filter(|_| address.is_ipv4());
    match dotted.map(|mask| (mask.to_bits().leading_ones(), mask.to_bits().count_ones())) {
        Some((leading, all)) if leading == all => Ok((address, leading as u8)),
        _ => Err(refuse(&format!("give a mask of whole leading bits, such as {example}"))),
    }
}

impl FromStr for HostAddress {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (ip, length) = split("address", text, "10.9.0.5/24 or fd00:9::5/64")?;
        Self::new(ip, length)
    }
}

/// A subnet: `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    network: IpAddr,
    length: u8,
}

impl Subnet {
    /// Refused where the address has bits below the mask, or the subnet holds no hosts' addresses.
    pub fn new(network: IpAddr, length: u8) -> Result<Self, Refusal> {
        let family = Family::of(&network);
        let text = format!("{network}/{length}");
        if !(1..=family.bits()).contains(&length) {
            let remedy = format!("use a mask of 1 to {} bits", family.bits());
            return Err(Refusal::invalid("subnet", &text, &remedy));
        }
        let below = number(&network) & host_mask(family, length);
        if below != 0 {
            let own = address(family, number(&network) & !host_mask(family, length));
            return Err(Refusal::invalid("subnet", &text, &format!("the subnet of that address is {own}/{length}")));
        }
        let subnet = Self { network, length };
        match unusable(&subnet.last()).or_else(|| unusable(&network)) {
            None => Ok(subnet),
            Some(_) => Err(Refusal::invalid("subnet", &text, "give a subnet of addresses that hosts can have")),
        }
    }

    /// Its lowest address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Bits of its mask.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(&self.network)
    }

    fn last(&self) -> IpAddr {
        let family = self.family();
        address(family, number(&self.network) | host_mask(family, self.length))
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: &IpAddr) -> bool {
        let family = self.family();
        Family::of(address) == family && number(address) & !host_mask(family, self.length) == number(&self.network)
    }

    /// Whether the two have an address in common: then one contains the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(&other.network) || other.contains(&self.network)
    }

    /// The address in this subnet that has the host bits of `from`.
    pub fn with_host_of(&self, from: &IpAddr) -> IpAddr {
        let family = self.family();
        address(family, number(&self.network) | (number(from) & host_mask(family, self.length)))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl FromStr for Subnet {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (network, length) = split("subnet", text, "10.1.0.0/16 or fd00:1::/48")?;
        Self::new(network, length)
    }
}

/// Text for people, an address and a number on the wire.
macro_rules! serialized {
    ($($kind:ident { $address:ident }),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match serializer.is_human_readable() {
                    true => serializer.collect_str(self),
                    false => (self.$address, self.length).serialize(serializer),
                }
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
                }
                let (address, length) = <(IpAddr, u8)>::deserialize(deserializer)?;
                Self::new(address, length).map_err(D::Error::custom)
            }
        }
    )*};
}

serialized! { HostAddress { ip }, Subnet { network } }

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostAddress {
        text.parse().unwrap()
    }

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn refused<T: FromStr<Err = Refusal> + fmt::Debug>(text: &str, word: &str) {
        let refusal = text.parse::<T>().unwrap_err();
        let told = refusal.to_string();
        assert!(told.contains(text) && told.contains(word) && refusal.remedy.is_some(), "{text}: {told}");
    }

    #[test]
    fn an_address_comes_with_its_mask_and_is_one_that_a_host_can_have() {
        for (text, shown) in [
            ("10.9.0.5/24", "10.9.0.5/24"),
            ("10.9.0.5/255.255.255.0", "10.9.0.5/24"),
            ("10.9.0.4/31", "10.9.0.4/31"),
            ("10.9.0.4/32", "10.9.0.4/32"),
            ("fd00:9::5/64", "fd00:9::5/64"),
            ("fd00:9:0:0:ffff:ffff:ffff:ffff/64", "fd00:9::ffff:ffff:ffff:ffff/64"),
            ("fd00::/127", "fd00::/127"),
        ] {
            assert_eq!(host(text).to_string(), shown);
        }
        for (text, word) in [
            ("10.9.0.5", "mask"),
            ("10.9.0.5/", "mask"),
            ("10.9.0.5/0", "1 to 32"),
            ("10.9.0.5/33", "1 to 32"),
            ("10.9.0.5/+24", "mask"),
            ("10.9.0.5/255.0.255.0", "whole leading bits"),
            ("fd00::5/255.255.255.0", "whole leading bits"),
            ("fd00::5/129", "1 to 128"),
            ("10.9.0/24", "write it as"),
            ("10.9.0.0/24", "subnet's own"),
            ("10.9.0.255/24", "broadcast"),
            ("fd00:9::/64", "subnet's own"),
            ("127.0.0.1/8", "loopback"),
            ("::1/128", "loopback"),
            ("224.0.0.1/24", "multicast"),
            ("ff02::1/64", "multicast"),
            ("255.255.255.255/32", "broadcast"),
            ("0.0.0.0/8", "no address"),
            ("0.1.2.3/8", "0.0.0.0/8"),
            ("::ffff:10.0.0.1/120", "written as IPv6"),
        ] {
            refused::<HostAddress>(text, word);
        }
    }

    #[test]
    fn a_subnet_has_no_host_bits() {
        assert_eq!(subnet("10.1.0.0/16").to_string(), "10.1.0.0/16");
        assert_eq!(subnet("fd00:1::/48").to_string(), "fd00:1::/48");
        for (text, word) in [
            ("10.1.0.5/16", "10.1.0.0/16"),
            ("10.1.0.0", "mask"),
            ("0.0.0.0/0", "1 to 32"),
            ("224.0.0.0/4", "hosts can have"),
            ("127.0.0.0/8", "hosts can have"),
            ("128.0.0.0/1", "hosts can have"),
            ("ff00::/8", "hosts can have"),
            ("fd00:1::1/48", "fd00:1::/48"),
        ] {
            refused::<Subnet>(text, word);
        }
        assert!(subnet("10.1.0.0/16").overlaps(&subnet("10.1.5.0/24")));
        assert!(!subnet("10.1.0.0/16").overlaps(&subnet("10.2.0.0/16")));
        assert!(!subnet("10.1.0.0/16").contains(&"fd00::1".parse().unwrap()));
    }

    #[test]
    fn host_bits_are_kept() {
        let moved = |to: &str, from: &str| subnet(to).with_host_of(&from.parse().unwrap()).to_string();
        assert_eq!(moved("10.9.0.0/16", "10.1.7.5"), "10.9.7.5");
        assert_eq!(moved("10.9.0.128/25", "10.1.7.5"), "10.9.0.133");
        assert_eq!(moved("fd00:9::/48", "fd00:1:0:7::5"), "fd00:9:0:7::5");
        assert_eq!(moved("192.0.2.7/32", "10.1.7.5"), "192.0.2.7");
    }
}
