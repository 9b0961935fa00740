//! One value of every shape of `network`.

use landfall_proto::model::{AdapterKind, Addresses, NetworkRule};

use super::{name, vm};
use crate::surface::network::*;
use crate::vm_service::VmRole;

fn addresses(address: &str, gateway: &str) -> Addresses {
    Addresses {
        addresses: vec![name(address)],
        gateways: vec![gateway.parse().unwrap()],
        dns: vec![gateway.parse().unwrap()],
    }
}

pub fn network_status() -> NetworkStatus {
    let Addresses { addresses: here, gateways, dns } = addresses("10.9.0.5/16", "10.9.0.1");
    let ipv4 = FamilyPreview {
        source: AddressSource::Rule,
        addresses: here,
        gateways,
        dns,
        reason: "10.9.0.0/16 stands here for 10.1.0.0/16 of p-broker-cap.contoso.com".to_owned(),
    };
    let ipv6 = FamilyPreview {
        source: AddressSource::Setting,
        addresses: vec![name("fd00:9::5/64")],
        gateways: vec![],
        dns: vec![],
        reason: "set here for this adapter".to_owned(),
    };
    NetworkStatus {
        uuid: vm(),
        name: "VirtualMachine_Workload".to_owned(),
        role: VmRole::Replica,
        peer: name("p-broker-cap.contoso.com"),
        adapters: vec![AdapterNetwork {
            adapter: "eth0".to_owned(),
            kind: AdapterKind::Synthetic,
            mac: "52:54:00:aa:bb:01".to_owned(),
            now: addresses("10.1.0.5/16", "10.1.0.1"),
            set: Addresses { addresses: vec![name("fd00:9::5/64")], ..Addresses::default() },
            ipv4,
            ipv6,
        }],
        warnings: vec!["adapter 'eth9' has addresses here, but the VM has no such adapter any more".to_owned()],
    }
}

pub fn network_rule() -> NetworkRule {
    NetworkRule { peer: name("p-broker-cap.contoso.com"), from: name("10.1.0.0/16"), to: name("10.9.0.0/16") }
}
