//! The JSON of failover addresses.

use serde_json::json;

use super::{golden, samples};
use crate::surface::network::*;

#[test]
fn failover_addresses_and_rules() {
    golden(
        &samples::network_status(),
        &json!({
            "uuid": samples::VM, "name": "VirtualMachine_Workload", "role": "replica",
            "peer": "p-broker-cap.contoso.com",
            "adapters": [{
                "adapter": "eth0", "kind": "synthetic", "mac": "52:54:00:aa:bb:01",
                "now": {"addresses": ["10.1.0.5/16"], "gateways": ["10.1.0.1"], "dns": ["10.1.0.1"]},
                "set": {"addresses": ["fd00:9::5/64"], "gateways": [], "dns": []},
                "ipv4": {
                    "source": "rule", "addresses": ["10.9.0.5/16"], "gateways": ["10.9.0.1"], "dns": ["10.9.0.1"],
                    "reason": "10.9.0.0/16 stands here for 10.1.0.0/16 of p-broker-cap.contoso.com",
                },
                "ipv6": {
                    "source": "setting", "addresses": ["fd00:9::5/64"], "gateways": [], "dns": [],
                    "reason": "set here for this adapter",
                },
            }],
            "warnings": ["adapter 'eth9' has addresses here, but the VM has no such adapter any more"],
        }),
    );
    golden(
        &samples::network_rule(),
        &json!({"peer": "p-broker-cap.contoso.com", "from": "10.1.0.0/16", "to": "10.9.0.0/16"}),
    );
}

#[test]
fn requests_refuse_what_no_adapter_can_have() {
    let set: NetworkSet = serde_json::from_value(json!({"adapter": "eth0", "addresses": ["10.9.0.5/24"]})).unwrap();
    assert_eq!((set.addresses.len(), set.gateways.len(), set.dns.len()), (1, 0, 0));
    for (bad, says) in [
        (json!({"adapter": "eth0", "addresses": ["10.9.0.5"]}), "with its mask"),
        (json!({"adapter": "eth0", "addresses": ["127.0.0.1/8"]}), "loopback"),
        (json!({"adapter": "eth0", "addresses": [], "gateway": []}), "unknown field `gateway`"),
        (json!({"addresses": ["10.9.0.5/24"]}), "missing field `adapter`"),
    ] {
        let error = serde_json::from_value::<NetworkSet>(bad.clone()).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
    }
    let bad = json!({"from": "10.1.0.5/16", "to": "10.9.0.0/16"});
    let error = serde_json::from_value::<NetworkMapAdd>(bad).unwrap_err().to_string();
    assert!(error.contains("10.1.0.0/16"), "{error}");
}
