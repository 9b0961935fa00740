//! Who may replicate, where a replica goes, and which settings everybody has.

use std::time::{Duration, Instant};

use landfall_agent::drive::attach::Remote;
use landfall_agent::drive::directory::service_socket;
use landfall_agent::vm_service::VmService;
use landfall_kit::process::{Cluster, eventually};
use landfall_proto::id::VmId;
use serde_json::Value;

use crate::stage::{
    LONG, P_CAP, R_CAP, SOON, WORK, enable, entry, found, goes_on, holder, join_up, newest, number, primaries, put,
    replicas, service_has, text, workload,
};

/// Places while one VM service stands still. At random it would be taken with a chance of 1 - 2^-20.
const SMALL: u64 = 20;

#[test]
fn a_primary_is_authorized_placed_where_the_vm_service_runs_and_stopped_with_its_entry() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    r.first().cli(["authorization", "remove", P_CAP]);
    let vm = workload(WORK);
    put(&vm, p.first());
    unauthorized_is_refused(&p, &r);
    r.first().cli(["authorization", "add", P_CAP, "--storage", "default", "--trust-group", "T1"]);
    placed_and_registered(&p, &r, vm.uuid());
    let stopped = stopped_service_is_seen_and_avoided(&p, &r);
    wait_names_the_stopped_service(&r, &stopped);
    removing_the_entry_stops_replication(&p, &r);
}

fn unauthorized_is_refused(p: &Cluster, r: &Cluster) {
    let before = p.first().cli(["vm", "show", WORK]);
    let failure = p.first().try_cli(["vm", "enable", WORK, "--to", R_CAP]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, "unauthorized_primary"), "{failure}");
    assert_eq!(failure.field.as_deref(), Some("primary"));
    assert!(failure.message.contains(P_CAP), "{failure}");
    assert!(failure.remedy.unwrap().contains(&format!("landfall authorization add {P_CAP}")));
    assert_eq!(p.first().cli(["vm", "show", WORK])["state"], before["state"]);
    assert_eq!(r.first().cli(["vm", "list"]), Value::Array(Vec::new()));
}

fn placed_and_registered(p: &Cluster, r: &Cluster, uuid: uuid::Uuid) {
    let enabled = enable(p.first(), WORK);
    let at = holder(r.first(), WORK);
    assert_eq!(enabled["replica_host"], at.as_str());
    let shown = p.first().cli(["vm", "show", WORK]);
    for node in r.nodes().iter().map(|node| node.name()).filter(|node| *node != at) {
        let reason = text(&entry(&shown["passed_over"], node)["reason"]);
        let expected = if node == "rw" { "witness" } else { "not drawn" };
        assert!(reason.contains(expected), "{node}: {reason}");
    }
    let replica = r.first().cli(["vm", "show", WORK]);
    assert_eq!((&replica["role"], &replica["vm_state"]), (&"replica".into(), &"stopped".into()));
    assert_eq!(replica["trust_group"], "T1");
    assert_eq!(replica["adapters"][0]["mac"], "52:54:00:aa:bb:01");

    let node = r.node(&at);
    let file = node.vm_path().join(uuid.to_string()).join("vm.toml");
    let registered: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    assert_eq!(registered["role"].as_str(), Some("replica"));
    assert_eq!(registered["uuid"].as_str(), Some(uuid.to_string().as_str()));
    assert_eq!(registered["adapter"][0]["mac"].as_str(), Some("52:54:00:aa:bb:01"));
    let service = Remote::new(service_socket(&node.vm_path()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refusal = runtime.block_on(service.start(VmId(uuid))).unwrap_err();
    assert_eq!(refusal.code, "vm_is_replica", "{refusal}");
}

/// Returns the node whose VM service is stopped now.
fn stopped_service_is_seen_and_avoided(p: &Cluster, r: &Cluster) -> String {
    let stopped = r.node(&holder(r.first(), WORK));
    let other = r.data_nodes().find(|node| node.name() != stopped.name()).unwrap();
    stopped.stop_vm_service();
    let begun = Instant::now();
    for seen_by in [other, stopped] {
        eventually(LONG, "the stopped VM service to be seen", || {
            let seen = entry(&seen_by.cli(["node", "list"]), stopped.name());
            if seen["vm_service"] == "stopped" { Ok(()) } else { Err(seen.to_string()) }
        });
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6) + super::stage::SLACK, "seen only after {took:?}");

    for number in 0..SMALL {
        let vm = landfall_kit::process::VmFolder::new(&format!("small-{number}")).disk("vda", 1 << 20, number);
        vm.create_in(&p.first().vm_path()).unwrap();
        found(p.first(), vm.name());
        p.first().cli(["vm", "enable", vm.name(), "--to", R_CAP, "--frequency", "30"]);
        assert_eq!(holder(r.first(), vm.name()), other.name());
        let shown = p.first().cli(["vm", "show", vm.name()]);
        let reason = text(&entry(&shown["passed_over"], stopped.name())["reason"]);
        assert!(reason.contains("VM service is stopped"), "{reason}");
    }
    stopped.name().to_owned()
}

fn wait_names_the_stopped_service(r: &Cluster, stopped: &str) {
    let node = r.node(stopped);
    let other = r.data_nodes().find(|node| node.name() != stopped).unwrap();
    let before = number(&other.cli(["settings", "show"])["revision"]);
    let failure = other.try_cli(["settings", "set", "--timeout", "2s", "maximum_active_transfers=5"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (1, "timed_out"), "{failure}");
    assert!(failure.message.contains(&format!("{stopped} (")), "{failure}");
    assert!(!failure.message.contains(&format!("{} (", other.name())), "{failure}");
    other.cli(["settings", "set", "apply_vm_limit=7"]);
    let revision = number(&other.cli(["settings", "show"])["revision"]);
    assert!(revision > before);
    service_has(other, revision);

    node.continue_vm_service();
    service_has(node, revision);
    eventually(LONG, "the VM service to be back", || {
        let seen = entry(&other.cli(["node", "list"]), stopped);
        if seen["vm_service"] == "running" { Ok(()) } else { Err(seen.to_string()) }
    });
    let all = other.cli(["settings", "set", "--timeout", "120s", "maximum_active_transfers=3"]);
    service_has(node, number(&all["revision"]));
    let file = std::fs::read_to_string(node.vm_path().join(".landfall/settings.json")).unwrap();
    let applied: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(
        (&applied["settings"]["apply_vm_limit"], &applied["settings"]["maximum_active_transfers"]),
        (&"7".into(), &"3".into())
    );
}

fn removing_the_entry_stops_replication(p: &Cluster, r: &Cluster) {
    goes_on(r.first(), WORK);
    let removed = r.first().cli(["authorization", "remove", P_CAP]);
    let mut named: Vec<String> = removed["stopped"].as_array().unwrap().iter().map(|vm| text(&vm["name"])).collect();
    named.sort();
    let mut enabled: Vec<String> = (0..SMALL).map(|number| format!("small-{number}")).collect();
    enabled.push(WORK.to_owned());
    enabled.sort();
    assert_eq!(named, enabled);
    for (side, node) in [("replica", r.first()), ("primary", p.first())] {
        eventually(SOON, &format!("the {side}'s side to say that replication stopped"), || {
            let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
            let told = shown["health_reasons"].to_string() + &shown["fault"].to_string();
            let stopped = shown["health"] == "critical" && told.contains("uthori");
            if stopped { Ok(()) } else { Err(shown.to_string()) }
        });
    }
    let last = newest(r.first(), WORK).unwrap();
    r.first().cli(["authorization", "add", P_CAP, "--storage", "default", "--trust-group", "T1"]);
    let point = eventually(LONG, "replication to go on", || match newest(r.first(), WORK) {
        Ok(point) if point > last => Ok(point),
        other => Err(format!("{other:?}")),
    });
    // What was stopped in between was not acknowledged: the numbers go on where they stood.
    assert!(point <= last + 3, "{last} to {point}");
}
