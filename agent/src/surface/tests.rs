//! The JSON of every shape, word for word: a renamed field breaks somebody's script, and fails here first.

use landfall_proto::id::{Revision, VmId};
use landfall_proto::{Class, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::surface::vm::VmSelector;

mod doctor;
mod network;

/// The JSON of `shape`, which must read back as the same shape.
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(shape: &T, expected: &Value) {
    let text = serde_json::to_string(shape).unwrap();
    assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), expected, "{}", std::any::type_name::<T>());
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), shape);
}

fn merged(mut into: Value, more: Value) -> Value {
    let (Some(into_map), Value::Object(more)) = (into.as_object_mut(), more) else { panic!("objects only") };
    into_map.extend(more);
    into
}

#[test]
fn cluster_and_broker() {
    let address = json!({
        "addresses": ["10.0.0.50/24", "fd00::50/64"], "port": 7443, "interface": "eth0", "holder": "r1", "fault": null,
        "foreign": null,
    });
    golden(
        &samples::cluster_status(),
        &json!({
            "cluster": "Cluster-R", "cap": "r-broker-cap.contoso.com", "node": "r1", "role": "voter", "owner": "r1",
            "term": 3, "quorate": true, "settings_revision": 12,
            "members": [
                {"node": "r1", "id": 1, "role": "voter", "state": "up", "address": "10.0.0.11:7443"},
                {"node": "rw", "id": 9, "role": "witness", "state": "suspect", "address": "10.0.0.13:7443"},
            ],
            "ca": {"present": "ab".repeat(32), "rotation": null}, "cap_address": address, "tolerates_losses": 0, "warnings": ["two voters survive no loss: add a witness"],
        }),
    );
    let rotation = json!({
        "next": "cd".repeat(32), "begun_at": "2025-11-22T18:42:41.250Z", "ends_by": "2025-11-29T18:42:41.250Z",
        "renewed": ["r1"], "waits_for_nodes": ["rw"], "followed": [], "waits_for_peers": ["p-broker-cap.contoso.com"],
    });
    golden(
        &samples::cluster_rotation(),
        &json!({
            "cluster": "Cluster-R", "rotated": true, "ca": {"present": "ab".repeat(32), "rotation": rotation},
            "missed": [], "given_up": [],
        }),
    );
    golden(
        &samples::broker_status(),
        &json!({
            "cap": "r-broker-cap.contoso.com", "owner": "r1", "owner_since": "2025-11-22T18:42:41.250Z", "term": 3,
            "address": "10.0.0.50", "cap_address": address,
        }),
    );
}

fn node_row() -> Value {
    json!({
        "node": "r1", "id": 1, "role": "voter", "state": "up", "vm_service": "degraded",
        "vm_service_reason": "storage 'default' is full", "settings_revision": 12, "replicas": 2,
        "free_bytes": 5_368_709_120_u64, "quarantine": null,
    })
}

#[test]
fn nodes() {
    golden(&samples::node_status(), &node_row());
    let more = json!({
        "fqdn": "r1.contoso.com", "key": "ab".repeat(32), "address": "10.0.0.11:7443",
        "data_address": "10.0.0.11:7444", "version": "0.1.0", "applied": 40,
        "storage": [{"name": "default", "path": "/srv/replicas", "free_bytes": 5_368_709_120_u64, "fault": null}],
    });
    golden(&samples::node_detail(), &merged(node_row(), more));
}

#[test]
fn settings_their_history_and_their_feed() {
    golden(
        &samples::settings(),
        &json!({"revision": 12, "settings": {
            "apply_disk_limit": 4, "default_storage_location": null, "node_down_after": "5s",
            "replication_enabled": true,
        }}),
    );
    golden(
        &samples::settings_revision(),
        &json!({
            "revision": 12, "settings": {"default_storage_location": null, "replication_enabled": "true"},
            "changes": [
                {"key": "default_storage_location", "old": "old", "new": null},
                {"key": "replication_enabled", "old": "false", "new": "true"},
            ],
            "who": "root at r1", "when": "2025-11-22T18:42:41.250Z",
        }),
    );
    let events: Vec<_> = settings::SettingsEvent::of_revision(Revision::from_number(12), samples::changes()).collect();
    golden(
        &events,
        &json!([
            {
                "event": "change", "key": "default_storage_location", "old": "old", "new": null, "revision": 12,
                "more": true,
            },
            {"event": "change", "key": "replication_enabled", "old": "false", "new": "true", "revision": 12, "more": false},
        ]),
    );
    assert_eq!(
        events.iter().map(|event| event.completes()).collect::<Vec<_>>(),
        [None, Some(Revision::from_number(12))]
    );
    golden(
        &settings::SettingsEvent::Settings(samples::settings_view()),
        &json!({
            "event": "settings", "revision": 12, "settings": {"node_down_after": "5s", "replication_enabled": "true"},
        }),
    );
    let resync = settings::SettingsEvent::Resync { from: Revision::from_number(12) };
    golden(&resync, &json!({"event": "resync", "from": 12}));
}

#[test]
fn a_setting_may_be_given_as_what_show_prints() {
    let typed = json!({"settings": {"a": true, "b": 4, "c": "5s", "d": null}});
    let set: settings::SettingsSet = serde_json::from_value(typed).unwrap();
    let texts: Vec<_> = set.settings.values().map(Option::as_deref).collect();
    assert_eq!(texts, [Some("true"), Some("4"), Some("5s"), None]);
    let bad = serde_json::from_value::<settings::SettingsSet>(json!({"settings": {"a": [1]}})).unwrap_err();
    assert!(bad.to_string().contains("a: '[1]' is not allowed"), "{bad}");
}

#[test]
fn authorizations_peers_and_tokens() {
    let entry = json!({"primary": "p-broker-cap.contoso.com", "storage": "default", "trust_group": "T1"});
    golden(&samples::authorization(), &entry);
    golden(
        &authorization::AuthorizationRemoved {
            primary: samples::authorization().primary,
            stopped: vec![samples::named_vm()],
        },
        &json!({
            "primary": "p-broker-cap.contoso.com",
            "stopped": [{"uuid": samples::VM, "name": "VirtualMachine_Workload"}],
        }),
    );
    golden(
        &samples::peer_status(),
        &json!({
            "cap": "p-broker-cap.contoso.com", "cluster": "Cluster-P", "health": "normal", "health_reasons": [],
            "ca_key": "01".repeat(32), "position": 7, "confirmed_at": "2025-11-22T18:42:41.250Z",
            "members": [{"node": "p1", "address": "10.0.1.11:7443", "witness": false}],
        }),
    );
    golden(
        &peer::PeerInvited { code: "lfp1.secret".to_owned(), expires_at: samples::at() },
        &json!({"code": "lfp1.secret", "expires_at": "2025-11-22T18:42:41.250Z"}),
    );
    golden(
        &samples::token_created(),
        &json!({"token": "lf1.secret", "expires_at": "2025-11-22T18:42:41.250Z", "id": "000000000000001f"}),
    );
    golden(
        &samples::token_status(),
        &json!({
            "id": "000000000000001f", "kind": "join_witness", "replaces": "r2",
            "expires_at": "2025-11-22T18:42:41.250Z", "used_by": null,
        }),
    );
}

fn vm_row() -> Value {
    json!({
        "uuid": samples::VM, "name": "VirtualMachine_Workload", "role": "replica", "state": "replicating",
        "health": "warning", "health_reasons": ["the newest point is 200 s old"],
        "health_details": [{
            "code": "point_late", "severity": "warning", "message": "the newest point is 200 s old",
            "command": format!("landfall vm show {}", samples::VM),
        }],
        "connection_point": "p-broker-cap.contoso.com", "primary_host": "p1.contoso.com",
        "replica_cluster": "r-broker-cap.contoso.com", "replica_host": "r2.contoso.com", "in_sync": ["r1", "r2"],
        "epoch": 31, "consistency": "crash", "last_point_at": "2025-11-22T18:42:41.250Z", "lag_seconds": 14,
        "recoverable_rpo_seconds": 14, "sent_bytes": 3_145_728, "wire_bytes": 1_200_000,
    })
}

#[test]
fn vms_and_points() {
    golden(&samples::vm_status(), &vm_row());
    let more = json!({
        "vm_state": "stopped", "frequency_seconds": 30, "testing_interval_ms": 200, "recovery_points": 4,
        "storage": "default", "trust_group": "T1", "sender_epoch": 8,
        "disks": [{"target": "vda", "bytes": 4_294_967_296_u64}],
        "adapters": [{
            "name": "eth0", "kind": "synthetic", "mac": "52:54:00:aa:bb:01",
            "network": {"addresses": [], "gateways": [], "dns": []},
        }],
        "activity": "waiting", "freeze": "stopped", "frozen_micros": 1500, "source": "index", "missed_cycles": 0,
        "fault": {
            "class": "unreachable", "code": "unreachable", "message": "r2 does not answer", "field": null,
            "remedy": null,
        },
        "sent_point": {"point": 6, "taken_at": "2025-11-22T18:42:41.250Z"},
        "durable_point": {"point": 5, "taken_at": "2025-11-22T18:42:41.250Z"},
        "verified_point": {"point": 5, "taken_at": "2025-11-22T18:42:41.250Z"},
        "pending_bytes": 8192, "clock_skew_ms": -12,
        "statistics": {
            "since": "2025-11-22T18:42:41.250Z", "until": "2025-11-22T18:42:41.250Z", "cycles": 40, "missed": 1,
            "failures": 2, "sent_bytes": 3_145_728, "sent_bytes_max": 1_048_576, "sent_bytes_average": 78_643,
            "latency_max_ms": 2100, "latency_average_ms": 310,
        },
        "paused_since": null, "starts_at": null, "excluded_disks": ["vdb"],
        "bandwidth_limit": "08:00-18:00=5, else=unlimited", "limited_to_kbit": 5000,
        "compared": {
            "code": "new_sender", "message": "this node has not sent the VM before", "at": "2025-11-22T18:42:41.250Z",
        },
        "moving_to": null, "copies_wanted": null, "copying_to": null, "rivals": [], "passed_over": [{"node": "r1", "reason": "not drawn"}],
    });
    golden(&samples::vm_detail(), &merged(vm_row(), more));
    golden(&samples::location(), &json!({"uuid": samples::VM, "node": "r2", "address": "10.0.0.12:7444", "epoch": 31}));
    golden(
        &samples::point(),
        &json!({
            "point": 5, "taken_at": "2025-11-22T18:42:41.250Z", "consistency": "off", "bytes": 65536,
            "root": "cd".repeat(32), "copies": ["r1", "r2"], "damaged_at": [], "verified_at": null, "state": "listed", "stays": true,
        }),
    );
    golden(
        &samples::proof(),
        &json!({
            "uuid": samples::VM, "point": 5, "root": "cd".repeat(32), "bytes": 4_294_967_296_u64,
            "read_bytes": 4_294_967_296_u64, "verified_at": "2025-11-22T18:42:41.250Z", "repaired": null,
            "copies": [
                {
                    "node": "r1", "read_bytes": 4_294_967_296_u64, "verified_at": "2025-11-22T18:42:41.250Z",
                    "repaired": null, "fault": null,
                },
                {
                    "node": "r2", "read_bytes": 4_294_967_296_u64, "verified_at": "2025-11-22T18:42:41.250Z",
                    "repaired": "disk vda, bytes 0 to 65536, out of the copy on r1", "fault": null,
                },
            ],
        }),
    );
    golden(
        &samples::exported(),
        &json!({
            "uuid": samples::VM, "point": 5, "root": "cd".repeat(32),
            "files": [{"target": "vda", "path": "/tmp/out/vda.raw", "bytes": 4_294_967_296_u64, "root": "ab".repeat(32)}],
        }),
    );
}

#[test]
fn a_difference_of_points() {
    golden(
        &samples::difference(),
        &json!({
            "uuid": samples::VM, "from": 4, "to": 5,
            "disks": [{
                "target": "vda", "from_bytes": 4_294_967_296_u64, "to_bytes": 4_294_967_296_u64,
                "differing_bytes": 12_288, "ranges": [{"offset": 4096, "bytes": 8192}], "left_out": 1,
            }],
        }),
    );
}

#[test]
fn a_seed() {
    golden(
        &samples::seeded(),
        &json!({
            "uuid": samples::VM, "action": "import", "node": "r1", "taken_at": "2025-11-22T18:42:41.250Z",
            "files": [{"target": "vda", "path": "/tmp/out/vda.raw", "bytes": 4_294_967_296_u64, "root": "ab".repeat(32)}],
        }),
    );
}

#[test]
fn events_and_what_a_vm_service_tells() {
    golden(
        &samples::event(),
        &json!({
            "id": 7, "at": "2025-11-22T18:42:41.250Z", "severity": "warning", "kind": "owner_changed", "node": "r1",
            "vm": null, "message": "r1 owns r-broker-cap.contoso.com", "fields": {"term": "3"},
        }),
    );
    golden(
        &samples::vm_service_status(),
        &json!({
            "state": "running", "reason": null, "pid": 4242,
            "storage": [{"name": "default", "path": "/srv/replicas", "free_bytes": 5_368_709_120_u64, "fault": null}],
            "vms": [{
                "vm": {
                    "id": samples::VM, "name": "VirtualMachine_Workload", "disks": [{"target": "vda", "bytes": 4096}],
                    "adapters": [], "launch": {"command": [], "images": []},
                },
                "role": "primary", "state": "running", "run": 9, "stopped_only": false,
                "images": [{"target": "vda", "path": "/vms/a/disk.raw", "format": "raw", "bytes": 4096}],
                "fault": {
                    "class": "not_found", "code": "not_found", "message": "there is no image 'vda'", "field": "image",
                    "remedy": null,
                },
            }],
        }),
    );
}

#[test]
fn a_failure_keeps_its_class_both_ways() {
    let refusal = Refusal::new(Class::Refused, "stale_epoch", "epoch 3 is old").field("epoch").remedy("ask again");
    let failure = Failure::from(refusal.clone());
    golden(
        &failure,
        &json!({"error": {
            "class": "refused", "code": "stale_epoch", "message": "epoch 3 is old", "field": "epoch",
            "remedy": "ask again",
        }}),
    );
    assert_eq!(Refusal::from(failure), refusal);
}

#[test]
fn requests_have_defaults_and_refuse_what_they_do_not_know() {
    let enable: vm::VmEnable = serde_json::from_value(json!({"to": "R-broker-cap.contoso.com"})).unwrap();
    assert_eq!(
        serde_json::to_value(enable).unwrap(),
        json!({
            "to": "r-broker-cap.contoso.com", "frequency_seconds": 300, "recovery_points": 0, "exclude": [],
            "start_at": null, "limit": null, "wait_seconds": null,
        })
    );
    for (bad, says) in [
        (json!({"to": "r.contoso.com", "frequency_seconds": 31}), "30, 300 or 900"),
        (json!({"to": "r.contoso.com", "recovery_points": 25}), "0 to 24"),
        (json!({"to": "r.contoso.com", "wait_seconds": 0}), "1 second to 7 days"),
        (json!({"to": "r.contoso.com", "limit": "0"}), "pause it instead"),
        (json!({"to": "r.contoso.com", "limit": "08:00-18:00=5, 12:00-13:00=1"}), "overlap"),
        (json!({"to": "r.contoso.com", "start_at": "+8h"}), "RFC 3339"),
        (json!({"to": "r.contoso.com", "frequency": 30}), "unknown field `frequency`"),
        (json!({"to": "not a name"}), "fully qualified"),
        (json!({"to": "10.0.0.11"}), "certificates prove names"),
    ] {
        let error = serde_json::from_value::<vm::VmEnable>(bad.clone()).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
    }
}

#[test]
fn a_vm_is_found_by_uuid_first_and_by_a_name_that_only_one_has() {
    let id = |n: u128| VmId(uuid::Uuid::from_u128(n));
    let trap = id(1).to_string();
    let vms = [(id(1), "a"), (id(2), "b"), (id(3), "b"), (id(4), trap.as_str())];
    let find = |text: &str| text.parse::<VmSelector>().unwrap().resolve(vms);
    assert_eq!(find("a").unwrap(), id(1));
    assert_eq!(find(&trap).unwrap(), id(1), "a name cannot hide an identity");
    assert_eq!(find(&id(3).to_string().to_uppercase()).unwrap(), id(3));
    let refusal = find("b").unwrap_err();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::Usage, "ambiguous_name"));
    assert!(refusal.message.contains(&id(2).to_string()) && refusal.message.contains(&id(3).to_string()));
    assert_eq!(find("c").unwrap_err().class, Class::NotFound);
    assert!("".parse::<VmSelector>().is_err());
}

#[test]
fn a_time_reads_back_and_one_that_is_none_is_refused() {
    assert_eq!("2025-11-22T18:42:41.25Z".parse::<Utc>().unwrap(), samples::at());
    for bad in ["yesterday", "1960-01-01T00:00:00Z", ""] {
        assert!(bad.parse::<Utc>().is_err(), "{bad}");
    }
}

#[test]
fn failovers() {
    golden(
        &samples::failover_status(),
        &json!({
            "uuid": samples::VM, "name": "VirtualMachine_Workload", "kind": "unplanned", "step": "running",
            "right_to_run": false, "promotion": "0f".repeat(16), "point": 41,
            "point_verified_at": "2025-11-22T18:42:41.250Z", "started_at": "2025-11-22T18:42:41.250Z",
            "loss_seconds": 12, "loss_bytes": 4096, "node": "r1", "run_vm": samples::VM, "parent": null,
            "branch": {
                "promotion": "0e".repeat(16), "at": "r-broker-cap.contoso.com", "point": 40,
                "since": "2025-11-22T18:42:41.250Z", "keep": null,
            },
            "branches": ["0d".repeat(16)], "test": false, "fault": null,
        }),
    );
    golden(
        &samples::failover_plan(),
        &json!({
            "uuid": samples::VM, "name": "VirtualMachine_Workload", "action": "unplanned", "point": 41,
            "taken_at": "2025-11-22T18:42:41.250Z", "verified_at": null, "node": "r1", "loss_seconds": 12, "loss_bytes": 4096,
            "command": ["./guest", "disk.raw"], "steps": ["start the VM"],
            "warnings": ["p-broker-cap.contoso.com does not answer"],
            "blockers": [{"class": "refused", "code": "primary_runs", "message": "it runs", "field": null, "remedy": null}],
        }),
    );
}
