//! The CAP's owner and its own address.

use landfall_proto::id::Term;

use super::{at, name};
use crate::surface::broker::BrokerStatus;
use crate::surface::cap_address::CapAddressStatus;

pub fn cap_address() -> CapAddressStatus {
    CapAddressStatus {
        addresses: vec!["10.0.0.50/24".parse().unwrap(), "fd00::50/64".parse().unwrap()],
        port: 7443,
        interface: name("eth0"),
        holder: Some(name("r1")),
        fault: None,
        foreign: None,
    }
}

pub fn broker_status() -> BrokerStatus {
    BrokerStatus {
        cap: name("r-broker-cap.contoso.com"),
        owner: Some(name("r1")),
        owner_since: Some(at()),
        term: Some(Term::from_number(3)),
        address: Some("10.0.0.50".parse().unwrap()),
        cap_address: Some(cap_address()),
    }
}
