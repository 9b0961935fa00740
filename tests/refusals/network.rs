//! Failover addresses that no adapter can have.

use landfall_kit::process::{Node, VmFolder, eventually, pair};

use crate::{SOON, cluster, mistyped, refused};

const SET: [&str; 5] = ["network", "set", "web", "--adapter", "eth0"];

fn set<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SET[..], more].concat()
}

fn adapters(node: &Node) -> serde_json::Value {
    node.cli(["network", "show", "web"])["adapters"].clone()
}

#[test]
fn failover_addresses_and_rules_of_subnets() {
    let r = cluster("R", &["r1"]).start();
    let p = cluster("P", &["p1"]).start();
    let (r1, p1) = (r.first(), p.first());
    let vm = VmFolder::new("web").disk("vda", 2 << 20, 1);
    let vm = vm.adapter("eth0", "synthetic", "52:54:00:aa:bb:01").adapter("old", "legacy", "52:54:00:aa:bb:02");
    vm.create_in(&p1.vm_path()).unwrap();
    eventually(SOON, "the VM to be found", || {
        let shown = p1.try_cli(["vm", "show", "web"]).map_err(|failure| failure.to_string())?;
        if shown["fault"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
    let map = |from, to| ["network", "map", "add", from, to];
    refused(r1, map("10.1.0.0/16", "10.9.0.0/16"), (2, "no_peer", "peer"));
    pair(&p, &r);
    r1.cli(["settings", "set", "replication_enabled=true"]);

    // Before replication is enabled: at the one side the VM is known, at the other it is not.
    refused(p1, set(&["--ipv4", "10.9.0.5/24"]), (3, "not_replicated", "vm"));
    refused(p1, ["network", "show", "web"], (3, "not_replicated", "vm"));
    refused(r1, set(&["--ipv4", "10.9.0.5/24"]), (4, "not_found", "vm"));
    p1.cli(["vm", "enable", "web", "--to", r.cap(), "--frequency", "30", "--timeout", "60s"]);

    // What is no address at all is told by the command line itself.
    for (flag, value) in [
        ("--ipv4", "10.9.0.5"),
        ("--ipv4", "10.9.0.0/24"),
        ("--ipv4", "10.9.0.255/24"),
        ("--ipv4", "127.0.0.1/8"),
        ("--ipv4", "224.0.0.1/24"),
        ("--ipv4", "fd00::5/64"),
        ("--ipv6", "10.9.0.5/24"),
        ("--gateway", "10.9.0.1/24"),
        ("--dns", "dns.contoso.com"),
    ] {
        mistyped(r1, set(&[flag, value]), value);
    }
    let six: Vec<String> = (1..=6).map(|last| format!("10.9.0.{last}")).collect();
    let six: Vec<&str> = six.iter().flat_map(|gateway| ["--gateway", gateway]).collect();
    for (more, expected) in [
        ([&["--ipv4", "10.9.0.55/24"][..], &six].concat(), (2, "invalid_value", "gateway")),
        (vec!["--ipv4", "10.9.0.5/24", "--gateway", "10.8.0.1"], (2, "invalid_value", "gateway")),
        (vec!["--ipv4", "10.9.0.5/24", "--gateway", "fd00:9::1"], (2, "invalid_value", "gateway")),
        (vec!["--ipv6", "fd00:9::5/64", "--dns", "10.9.0.53"], (2, "invalid_value", "dns")),
        (vec!["--ipv4", "10.9.0.5/24", "--ipv4", "10.9.0.5/16"], (2, "invalid_value", "ipv4")),
    ] {
        refused(r1, set(&more), expected);
    }
    let adapter = |name| ["network", "set", "web", "--adapter", name, "--ipv4", "10.9.0.5/24"];
    let unknown = refused(r1, adapter("eth9"), (4, "not_found", "adapter"));
    assert!(unknown.remedy.unwrap().contains("eth0 (52:54:00:aa:bb:01)"));
    let legacy = refused(r1, adapter("old"), (3, "legacy_adapter", "adapter"));
    assert!(legacy.message.contains("legacy"), "{legacy}");
    refused(r1, ["network", "clear", "web", "--adapter", "eth9"], (4, "not_found", "adapter"));
    refused(r1, ["network", "show", "nobody"], (4, "not_found", "vm"));

    mistyped(r1, map("10.1.0.5/16", "10.9.0.0/16"), "10.1.0.5/16");
    mistyped(r1, map("10.1.0.0", "10.9.0.0/16"), "10.1.0.0");
    refused(r1, map("10.1.0.0/16", "10.9.0.0/24"), (2, "invalid_value", "to"));
    refused(r1, map("10.1.0.0/16", "fd00::/16"), (2, "invalid_value", "to"));
    let elsewhere = ["network", "map", "add", "10.1.0.0/16", "10.9.0.0/16", "--peer", "x.contoso.test"];
    refused(r1, elsewhere, (4, "not_found", "peer"));
    r1.cli(map("10.1.0.0/16", "10.9.0.0/16"));
    refused(r1, map("10.1.0.0/16", "10.8.0.0/16"), (3, "rule_exists", "from"));
    refused(r1, map("10.2.0.0/16", "10.9.0.0/16"), (3, "rules_overlap", "to"));
    refused(r1, map("10.1.5.0/24", "10.9.6.0/24"), (3, "rules_overlap", "to"));
    refused(r1, ["network", "map", "remove", "10.2.0.0/16"], (4, "not_found", "from"));

    let adapters = adapters(r1);
    assert!(adapters[0]["set"]["addresses"].as_array().unwrap().is_empty(), "nothing was set by any of this");
    assert_eq!(r1.cli(["network", "map", "list"]).as_array().unwrap().len(), 1);
}
