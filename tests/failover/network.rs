//! Failover addresses: what the guest of a test, an unplanned and a planned failover is told, and what becomes of it.
//!
//! The guest prints its `vm.toml` and the seed that it was started with, as they were when it started.

use std::fs;
use std::path::Path;

use landfall_kit::process::{Node, VmFolder, eventually};
use serde_json::Value;

use crate::stage::{LONG, WORK, at_step, failover, goes_on, replicated_vm, run_images, workload};

/// Prints what a guest can read of its addresses: the seed's files are plain text within the image.
const READ: &str = "cat vm.toml; echo; echo started as ${LANDFALL_FAILOVER:-primary}; \
    if [ -n \"$LANDFALL_SEED\" ]; then LC_ALL=C tr -cd '[:print:]\\n' < \"$LANDFALL_SEED\"; fi; echo; echo read";

const NONE: [&str; 0] = [];

/// What the guest printed in the folder of its VM at a node at its `start`th start, once it has read all. Its output is
/// appended to.
fn read_by_guest(node: &Node, vm: &str, start: usize) -> String {
    eventually(LONG, &format!("the guest of {vm} to have read"), || {
        let text = fs::read_to_string(node.vm_path().join(vm).join("stdout.log")).map_err(|error| error.to_string())?;
        let starts: Vec<&str> = text.split("\nread\n").collect();
        if starts.len() > start { Ok(starts[start - 1].to_owned()) } else { Err(text) }
    })
}

fn holds(text: &str, expected: &[&str]) {
    for line in expected {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

fn instance(text: &str) -> String {
    let id = text.split("instance-id: \"").nth(1).and_then(|rest| rest.split('"').next());
    id.unwrap_or_else(|| panic!("no instance id in\n{text}")).to_owned()
}

fn vm_file(node: &Node, vm: &str) -> toml::Table {
    let text = fs::read_to_string(node.vm_path().join(vm).join("vm.toml")).unwrap();
    text.parse().unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn texts(file: &toml::Table, adapter: usize, key: &str) -> Vec<String> {
    let list = file["adapter"][adapter].get(key).and_then(|list| list.as_array());
    list.into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn network(node: &Node, arguments: &[&str]) -> Value {
    node.cli(["network"].into_iter().chain(arguments.iter().copied()))
}

fn vm() -> VmFolder {
    workload(READ)
        .adapter_list("addresses", &["10.1.7.5/24", "fd00:1::5/64"])
        .adapter_list("gateways", &["10.1.7.1"])
        .adapter_list("dns", &["10.1.0.53", "192.0.2.53"])
        .adapter("backup", "legacy", "52:54:00:aa:bb:02")
}

#[test]
fn a_failed_over_guest_is_told_its_addresses_once_and_again_at_the_next_failover() {
    let vm = vm();
    let uuid = vm.uuid().to_string();
    let (r, p, folder) = replicated_vm(&["r1"], &vm);
    let (r1, p1) = (r.first(), p.first());
    let shown = network(r1, &["show", WORK]);
    assert_eq!(shown["adapters"][0]["ipv4"]["source"], "primary", "{shown}");
    assert_eq!(shown["warnings"].as_array().unwrap().len(), 2, "two families are static: {shown}");
    network(r1, &["map", "add", "10.1.0.0/16", "10.9.0.0/16"]);
    network(r1, &["map", "add", "10.1.200.0/24", "192.0.2.0/24", "--peer", p.cap()]);
    let shown = network(r1, &["set", WORK, "--adapter", "52:54:00:AA:BB:01", "--ipv6", "fd00:9::77/64"]);
    let [ipv4, ipv6] = ["ipv4", "ipv6"].map(|family| &shown["adapters"][0][family]);
    assert_eq!((&ipv4["source"], &ipv4["addresses"][0]), (&"rule".into(), &"10.9.7.5/24".into()), "{shown}");
    assert_eq!((&ipv6["source"], &ipv6["addresses"][0]), (&"setting".into(), &"fd00:9::77/64".into()), "{shown}");
    let plan = failover(r1, &["test", WORK, "--dry-run"]).unwrap();
    assert!(plan["steps"].to_string().contains("adapter 'eth0' has 10.9.7.5/24, by a rule"), "{plan}");

    // A test has the same addresses, an instance of its own, and leaves nothing.
    let begun = failover(r1, &["test", WORK, "--timeout", "50s"]).unwrap();
    let test_uuid = begun["run_vm"].as_str().unwrap().to_owned();
    let test = read_by_guest(r1, &test_uuid, 1);
    let told = [
        "started as test",
        "connected = false",
        "macaddress: \"52:54:00:aa:bb:01\"",
        "\"10.9.7.5/24\"",
        "via: \"10.9.7.1\"",
        "\"10.9.0.53\"",
        "\"192.0.2.53\"",
        "\"fd00:9::77/64\"",
        "ssh_deletekeys: false",
        "local-hostname: \"virtualmachine-workload\"",
    ];
    holds(&test, &told);
    failover(r1, &["test", WORK, "--stop", "--timeout", "50s"]).unwrap();
    eventually(LONG, "the test's images to be gone", || run_images(r1, "test").is_empty());
    assert!(!r1.vm_path().join(&test_uuid).exists());

    // For real.
    p1.lose();
    failover(r1, &["unplanned", WORK, "--yes", "--timeout", "50s"]).unwrap();
    let real = read_by_guest(r1, &uuid, 1);
    holds(&real, &[&["started as real", "role = \"failed_over\""], &told[2..]].concat());
    assert_ne!(instance(&real), instance(&test));
    let file = vm_file(r1, &uuid);
    assert_eq!(texts(&file, 0, "addresses"), ["10.9.7.5/24", "fd00:9::77/64"]);
    assert_eq!(texts(&file, 1, "addresses"), NONE, "a legacy one has what the primary's has");
    let seed = file["seed"]["path"].as_str().unwrap().to_owned();
    assert!(Path::new(&seed).starts_with(r1.storage_path()), "{seed}");

    // What is set now is for the next one; this one stays as it was started, whatever becomes of the agent.
    let before = fs::read(&seed).unwrap();
    network(r1, &["set", WORK, "--adapter", "eth0", "--ipv4", "10.7.0.5/24", "--gateway", "10.7.0.1"]);
    r1.restart_agent();
    at_step(r1, "running");
    assert_eq!((vm_file(r1, &uuid), fs::read(&seed).unwrap()), (file, before));

    failover(r1, &["cancel", WORK, "--timeout", "50s"]).unwrap();
    let file = vm_file(r1, &uuid);
    assert_eq!(texts(&file, 0, "addresses"), ["10.1.7.5/24", "fd00:1::5/64"], "it is the replica of the primary again");
    assert!(!file.contains_key("seed") && !Path::new(&seed).exists());

    // At home it was never told anything; its process was lost with the node, so that it is off there now.
    p1.start();
    p1.wait_ready();
    assert!(!fs::read_to_string(folder.join("stdout.log")).unwrap().contains("instance-id"), "no seed at home");
    goes_on(r1);
    network(r1, &["clear", WORK, "--adapter", "eth0", "--ipv6"]);
    failover(p1, &["planned", WORK, "--yes", "--timeout", "55s"]).unwrap();
    at_step(r1, "running");
    let planned = read_by_guest(r1, &uuid, 2);
    holds(&planned, &["\"10.7.0.5/24\"", "via: \"10.7.0.1\"", "\"fd00:1::5/64\""]);
    assert!(!planned.contains("10.9.7.5"), "{planned}");
    assert!(![instance(&test), instance(&real)].contains(&instance(&planned)));
}

#[test]
fn a_guest_that_is_to_keep_its_addresses_is_told_nothing() {
    let vm = vm();
    let uuid = vm.uuid().to_string();
    let (r, p, _) = replicated_vm(&["r1"], &vm);
    let (r1, p1) = (r.first(), p.first());
    // The primary's own cluster has its own, for the way home, which no failover here uses.
    network(p1, &["set", WORK, "--adapter", "eth0", "--ipv4", "10.1.7.99/24"]);
    network(r1, &["set", WORK, "--adapter", "eth0", "--ipv4", "10.9.7.5/24"]);
    network(r1, &["clear", WORK, "--adapter", "eth0"]);
    p1.lose();
    failover(r1, &["unplanned", WORK, "--yes", "--timeout", "50s"]).unwrap();
    let read = read_by_guest(r1, &uuid, 1);
    holds(&read, &["started as real", "addresses = [\"10.1.7.5/24\", \"fd00:1::5/64\"]"]);
    assert!(!read.contains("instance-id") && !vm_file(r1, &uuid).contains_key("seed"), "{read}");
}
