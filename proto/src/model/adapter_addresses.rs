//! What one adapter has in a network, and whether its parts fit together.

use serde::{Deserialize, Serialize};

use super::address::{Family, HostAddress, IpAddr, unusable};
use crate::refusal::Refusal;

/// What one adapter has, both families together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<HostAddress>,
    /// Its default gateways.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// The name servers that it asks.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
}

/// Which list of [`Addresses`] is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressList {
    /// The addresses.
    Addresses,
    /// The gateways.
    Gateways,
    /// The name servers.
    Dns,
}

/// What is wrong with [`Addresses`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressFault {
    /// Where.
    pub list: AddressList,
    /// The family it is about.
    pub family: Family,
    /// Which value.
    pub value: String,
    /// Why it cannot be.
    pub why: String,
    /// What would be right.
    pub remedy: String,
}

impl AddressFault {
    /// As a refusal, in which the list has the name that the user gave it.
    pub fn refusal(&self, field: &str) -> Refusal {
        let Self { value, why, remedy, .. } = self;
        let refusal = Refusal::invalid(field, value, remedy);
        Refusal { message: format!("{}: {why}", refusal.message), ..refusal }
    }
}

impl Addresses {
    /// The most addresses of one adapter and family: Hyper-V takes several only through WMI and names no bound.
    pub const ADDRESSES_MAX: usize = 8;
    /// The most gateways of one adapter and family: Hyper-V's five.
    pub const GATEWAYS_MAX: usize = 5;
    /// The most name servers of one adapter and family: a resolver asks no more than three.
    pub const DNS_MAX: usize = 3;

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.gateways.is_empty() && self.dns.is_empty()
    }

    /// Whether an address of `family` is among them.
    pub fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|address| address.family() == family)
    }

    /// The part of one family.
    #[must_use]
    pub fn of(&self, family: Family) -> Self {
        let same = |address: &&IpAddr| Family::of(address) == family;
        Self {
            addresses: self.addresses.iter().filter(|address| address.family() == family).copied().collect(),
            gateways: self.gateways.iter().filter(same).copied().collect(),
            dns: self.dns.iter().filter(same).copied().collect(),
        }
    }

    /// Adds what `other` has behind what is here.
    pub fn extend(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.gateways.extend(other.gateways);
        self.dns.extend(other.dns);
    }

    /// Whether the parts fit together; the first that does not.
    pub fn check(&self) -> Result<(), AddressFault> {
        Family::BOTH.into_iter().try_for_each(|family| self.of(family).check_family(family))
    }

    fn check_family(&self, family: Family) -> Result<(), AddressFault> {
        let fault = |list, value: String, why: &str, remedy: &str| {
            Err(AddressFault { list, family, value, why: why.to_owned(), remedy: remedy.to_owned() })
        };
        for (list, count, most) in [
            (AddressList::Addresses, self.addresses.len(), Self::ADDRESSES_MAX),
            (AddressList::Gateways, self.gateways.len(), Self::GATEWAYS_MAX),
            (AddressList::Dns, self.dns.len(), Self::DNS_MAX),
        ] {
            if count > most {
                let remedy = format!("give at most {most} of one family");
                return fault(list, format!("{count} values"), "there are too many", &remedy);
            }
        }
        for (at, address) in self.addresses.iter().enumerate() {
            if self.addresses[..at].iter().any(|other| other.ip() == address.ip()) {
                return fault(AddressList::Addresses, address.to_string(), "it is given twice", "give each once");
            }
        }
        for (list, values) in [(AddressList::Gateways, &self.gateways), (AddressList::Dns, &self.dns)] {
            for (at, value) in values.iter().enumerate() {
                if values[..at].contains(value) {
                    return fault(list, value.to_string(), "it is given twice", "give each once");
                }
                if let Some(why) = unusable(value) {
                    return fault(list, value.to_string(), why, "give an address that one host can have");
                }
                if self.addresses.is_empty() {
                    let remedy = format!("give an {family} address with its mask as well");
                    return fault(list, value.to_string(), "there is no address of its family", &remedy);
                }
            }
        }
        for gateway in &self.gateways {
            if self.addresses.iter().any(|address| address.ip() == *gateway) {
                return fault(
                    AddressList::Gateways,
                    gateway.to_string(),
                    "it is the adapter's own address",
                    "give the address of the router in its subnet",
                );
            }
            if !self.reaches(gateway) {
                let subnets: Vec<String> = self.addresses.iter().map(|address| address.subnet().to_string()).collect();
                let remedy = format!("give a router's address in {}", subnets.join(" or "));
                return fault(
                    AddressList::Gateways,
                    gateway.to_string(),
                    "it is in the subnet of no address of the adapter",
                    &remedy,
                );
            }
        }
        Ok(())
    }

    /// Whether a gateway is on the link: in the subnet of an address, as a host of it, or link-local.
    fn reaches(&self, gateway: &IpAddr) -> bool {
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let in_subnet = |address: &HostAddress| {
            address.subnet().contains(gateway) && HostAddress::new(*gateway, address.length()).is_ok()
        };
        link_local || self.addresses.iter().any(in_subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostAddress {
        text.parse().unwrap()
    }

    fn given(addresses: &[&str], gateways: &[&str], dns: &[&str]) -> Addresses {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Addresses {
            addresses: addresses.iter().map(|text| host(text)).collect(),
            gateways: ips(gateways),
            dns: ips(dns),
        }
    }

    #[test]
    fn what_belongs_together_is_checked_together() {
        let good = given(
            &["10.9.0.5/24", "10.9.1.5/24", "fd00:9::5/64"],
            &["10.9.0.1", "fe80::1"],
            &["10.9.0.53", "192.0.2.53", "fd00::53"],
        );
        assert_eq!(good.check(), Ok(()));
        let six: Vec<String> = (1..=6).map(|last| format!("10.9.0.{last}")).collect();
        let six: Vec<&str> = six.iter().map(String::as_str).collect();
        let nine: Vec<String> = (1..=9).map(|last| format!("10.9.0.{last}/24")).collect();
        let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
        for (bad, list, word) in [
            (given(&["10.9.0.55/24"], &six, &[]), AddressList::Gateways, "too many"),
            (given(&nine, &[], &[]), AddressList::Addresses, "too many"),
            (given(&["10.9.0.55/24"], &[], &six[..4]), AddressList::Dns, "too many"),
            (given(&["10.9.0.5/24", "10.9.0.5/16"], &[], &[]), AddressList::Addresses, "twice"),
            (given(&["10.9.0.5/24"], &["10.9.0.1", "10.9.0.1"], &[]), AddressList::Gateways, "twice"),
            (given(&["10.9.0.5/24"], &["10.8.0.1"], &[]), AddressList::Gateways, "subnet of no address"),
            (given(&["10.9.0.5/24"], &["10.9.0.255"], &[]), AddressList::Gateways, "subnet of no address"),
            (given(&["10.9.0.5/24"], &["10.9.0.5"], &[]), AddressList::Gateways, "own address"),
            (given(&["10.9.0.5/24"], &["fd00:9::1"], &[]), AddressList::Gateways, "no address of its family"),
            (given(&["fd00:9::5/64"], &[], &["10.9.0.53"]), AddressList::Dns, "no address of its family"),
            (given(&["10.9.0.5/24"], &[], &["127.0.0.1"]), AddressList::Dns, "loopback"),
            (given(&["10.9.0.5/24"], &["224.0.0.1"], &[]), AddressList::Gateways, "multicast"),
        ] {
            let fault = bad.check().unwrap_err();
            assert!(fault.list == list && fault.why.contains(word) && !fault.remedy.is_empty(), "{fault:?}");
        }
        assert_eq!(good.of(Family::Ipv6), given(&["fd00:9::5/64"], &["fe80::1"], &["fd00::53"]));
    }
}
