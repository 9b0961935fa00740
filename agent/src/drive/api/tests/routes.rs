//! Each route reaches its operation with what was sent; whatever is wrong has one form.

use landfall_proto::{Class, Refusal};
use serde_json::json;

use super::*;
use crate::surface::samples;

#[tokio::test]
async fn every_route_reaches_its_operation() {
    let served = Served::start();
    let report = serde_json::to_value(samples::vm_service_status()).unwrap();
    let enable = json!({
        "to": "r-broker-cap.contoso.com", "frequency_seconds": 30, "recovery_points": 4,
        "start_at": "2026-11-22T18:30:00.000Z", "limit": "0.5", "exclude": ["vdb"], "wait_seconds": 60,
    });
    let entry = json!({"primary": "*.contoso.com", "storage": "default", "trust_group": "T1"});
    let init = json!({
        "name": "Cluster-R", "cap": "r-broker-cap.contoso.com", "cap_address": ["10.0.0.50/24"], "cap_interface": "eth0",
    });
    let diff = json!({"from": 4, "to": 5, "limit": 10});
    let seed = json!({"action": "import", "dir": "/tmp/seed", "wait_seconds": null});
    let export = json!({"point": 5, "dir": "/tmp/out", "wait_seconds": null});
    let network = json!({"adapter": "eth0", "addresses": ["10.9.0.5/24"], "gateways": [], "dns": []});
    let clear = json!({"adapter": "eth0", "families": ["ipv4"]});
    let rule = json!({"peer": "p.contoso.com", "from": "10.1.0.0/16", "to": "10.9.0.0/16"});
    let verify = json!({"point": 5, "wait_seconds": null});
    let none = Value::Null;
    let routes = [
        ("GET", "/v1/cluster", none.clone(), "cluster_status", none.clone()),
        ("POST", "/v1/cluster", init.clone(), "cluster_init", init),
        (
            "POST",
            "/v1/cluster/leave",
            json!({"force": true}),
            "cluster_leave",
            json!({"force": true, "wait_seconds": null}),
        ),
        (
            "POST",
            "/v1/cluster/recover",
            json!({"yes": true}),
            "cluster_recover",
            json!({"yes": true, "dry_run": false}),
        ),
        (
            "POST",
            "/v1/cluster/rotate-ca",
            json!({"dry_run": true, "wait_seconds": 9}),
            "cluster_rotate_ca",
            json!({"dry_run": true, "finish": false, "wait_seconds": 9}),
        ),
        ("POST", "/v1/cluster/join", json!({"token": "t"}), "cluster_join", json!({"token": "t"})),
        ("GET", "/v1/tokens", none.clone(), "token_list", none.clone()),
        (
            "POST",
            "/v1/tokens",
            json!({"witness": true, "ttl_seconds": 60, "replaces": "r2"}),
            "token_create",
            json!({"witness": true, "ttl_seconds": 60, "replaces": "r2"}),
        ),
        ("DELETE", "/v1/tokens/000000000000001f", none.clone(), "token_revoke", json!("000000000000001f")),
        ("GET", "/v1/nodes", none.clone(), "node_list", none.clone()),
        ("GET", "/v1/nodes/R1", none.clone(), "node_show", json!("r1")),
        ("DELETE", "/v1/nodes/r1?wait_seconds=9", none.clone(), "node_remove", json!(["r1", 9])),
        ("POST", "/v1/nodes/r1/drain?wait_seconds=9", none.clone(), "node_drain", json!(["r1", 9])),
        ("POST", "/v1/nodes/r1/restore", none.clone(), "node_restore", json!("r1")),
        ("GET", "/v1/broker", none.clone(), "broker_status", none.clone()),
        ("POST", "/v1/broker/move", json!({"to": "r2"}), "broker_move", json!({"to": "r2"})),
        ("GET", "/v1/settings", none.clone(), "settings_show", none.clone()),
        ("GET", "/v1/settings/history", none.clone(), "settings_history", none.clone()),
        ("GET", "/v1/authorizations", none.clone(), "authorization_list", none.clone()),
        ("POST", "/v1/authorizations", entry.clone(), "authorization_add", entry),
        ("DELETE", "/v1/authorizations/*.contoso.com", none.clone(), "authorization_remove", json!("*.contoso.com")),
        ("GET", "/v1/peers", none.clone(), "peer_list", none.clone()),
        ("POST", "/v1/peers", json!({"code": "c"}), "peer_accept", json!({"code": "c", "wait_seconds": null})),
        ("POST", "/v1/peers/invite", none.clone(), "peer_invite", json!({"ttl_seconds": null})),
        ("DELETE", "/v1/peers/p.contoso.com", none.clone(), "peer_remove", json!("p.contoso.com")),
        ("GET", "/v1/vms", none.clone(), "vm_list", none.clone()),
        ("GET", "/v1/vms/a%2Fb%20%C3%A9", none.clone(), "vm_show", json!("a/b é")),
        ("GET", "/v1/vms/a/location", none.clone(), "vm_locate", json!("a")),
        ("PUT", "/v1/vms/a/replication", enable.clone(), "vm_enable", json!(["a", enable])),
        (
            "PATCH",
            "/v1/vms/a/replication",
            json!({"limit": "5"}),
            "vm_set",
            json!(["a", {"frequency_seconds": null, "recovery_points": null, "limit": "5"}]),
        ),
        ("DELETE", "/v1/vms/a/replication", none.clone(), "vm_disable", json!(["a", null])),
        ("POST", "/v1/vms/a/move", json!({"to": "r2"}), "vm_move", json!(["a", {"to": "r2", "wait_seconds": null}])),
        ("POST", "/v1/vms/a/pause", none.clone(), "vm_pause", json!("a")),
        ("POST", "/v1/vms/a/resume", none.clone(), "vm_resume", json!("a")),
        ("POST", "/v1/vms/a/resync", none.clone(), "vm_resync", json!("a")),
        ("DELETE", "/v1/vms/a/statistics", none.clone(), "vm_reset_statistics", json!("a")),
        ("GET", "/v1/vms/a/points", none.clone(), "point_list", json!("a")),
        ("POST", "/v1/vms/a/points/diff", diff.clone(), "point_diff", json!(["a", diff])),
        ("POST", "/v1/vms/a/seed", seed.clone(), "vm_seed", json!(["a", seed])),
        ("POST", "/v1/vms/a/points/verify", verify.clone(), "point_verify", json!(["a", verify])),
        ("POST", "/v1/vms/a/points/export", export.clone(), "point_export", json!(["a", export])),
        ("GET", "/v1/vms/a/network", none.clone(), "network_show", json!("a")),
        ("PUT", "/v1/vms/a/network", network.clone(), "network_set", json!(["a", network])),
        ("POST", "/v1/vms/a/network/clear", clear.clone(), "network_clear", json!(["a", clear])),
        ("GET", "/v1/doctor?wait_seconds=30", none.clone(), "doctor", json!(30)),
        ("GET", "/v1/network/map", none.clone(), "network_map_list", none.clone()),
        ("POST", "/v1/network/map", rule.clone(), "network_map_add", rule.clone()),
        (
            "POST",
            "/v1/network/map/remove",
            json!({"from": "10.1.0.0/16"}),
            "network_map_remove",
            json!({"peer": null, "from": "10.1.0.0/16"}),
        ),
        ("PUT", "/v1/vm-service/applied", json!({"revision": 7}), "vm_service_applied", json!({"revision": 7})),
        ("PUT", "/v1/vm-service/status", report.clone(), "vm_service_status", report),
    ];
    for (method, path, body, operation, arguments) in routes {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = served.ask(method, path, &body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        assert_eq!(served.fake.take(), [(operation, arguments)], "{method} {path}");
    }
    assert_eq!(served.ask("GET", "/v1/vms/a", "").await.1, serde_json::to_value(samples::vm_detail()).unwrap());
    assert_eq!(served.ask("PUT", "/v1/vm-service/applied", r#"{"revision": 7}"#).await.1, Value::Null);
    served.stop().await;
}

#[tokio::test]
async fn a_change_of_settings_knows_who_asked() {
    let served = Served::start();
    let body = r#"{"settings": {"replication_enabled": true, "node_down_after": null}, "expect": 11}"#;
    assert_eq!(served.ask("PATCH", "/v1/settings", body).await.0, 200);
    let request = json!({
        "settings": {"replication_enabled": "true", "node_down_after": null}, "expect": 11, "wait_seconds": null,
    });
    let us = (rustix::process::geteuid().as_raw(), std::process::id());
    assert_eq!(served.fake.take(), [("settings_set", json!([request, us.0, us.1]))]);
    served.stop().await;
}

#[tokio::test]
async fn the_class_of_a_refusal_is_the_status_of_its_answer() {
    let served = Served::start();
    let classes = [
        (Class::Failed, 500, "failed"),
        (Class::Usage, 400, "usage"),
        (Class::Refused, 409, "refused"),
        (Class::NotFound, 404, "not_found"),
        (Class::Unreachable, 503, "unreachable"),
    ];
    for (class, status, word) in classes {
        let refusal = Refusal::new(class, "some_code", "what happened").field("epoch").remedy("ask again");
        *served.fake.refusal.lock().unwrap() = Some(refusal);
        let expected = json!({"error": {
            "class": word, "code": "some_code", "message": "what happened", "field": "epoch", "remedy": "ask again",
        }});
        assert_eq!(served.ask("GET", "/v1/nodes", "").await, (status, expected));
    }
    served.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named_and_nothing_is_asked() {
    let served = Served::start();
    // method, path, body, status, code, field, a word of the message or the remedy
    let wrong = [
        ("GET", "/v1/nothing", "", 404, "no_such_route", None, "/v1/nothing"),
        ("GET", "/", "", 404, "no_such_route", None, "docs/api.md"),
        ("GET", "/v1/vms/a/b/c", "", 404, "no_such_route", None, "/v1/vms/a/b/c"),
        ("PUT", "/v1/cluster", "", 405, "wrong_method", None, "does not take PUT"),
        ("POST", "/v1/cluster", "{", 400, "invalid_body", None, "EOF"),
        ("POST", "/v1/cluster", "", 400, "invalid_body", Some("name"), "missing field `name`"),
        ("POST", "/v1/cluster/join", r#"{"token": "a"} {}"#, 400, "invalid_body", None, "trailing"),
        ("POST", "/v1/cluster/join", r#"{"tokn": "a"}"#, 400, "invalid_body", Some("tokn"), "unknown field `tokn`"),
        ("POST", "/v1/tokens", r#"{"ttl_seconds": "1h"}"#, 400, "invalid_body", Some("ttl_seconds"), "1h"),
        ("POST", "/v1/tokens", r#"{"replaces": "../x"}"#, 400, "invalid_body", Some("replaces"), "'../x'"),
        ("PUT", "/v1/vms/a/replication", r#"{"to": "10.0.0.1"}"#, 400, "invalid_body", Some("to"), "CAP's name"),
        ("PATCH", "/v1/settings", r#"{"settings": {"a": []}}"#, 400, "invalid_body", Some("settings"), "a: '[]'"),
        ("GET", "/v1/vms/%FF", "", 400, "invalid_path", None, "UTF-8"),
        ("GET", "/v1/nodes/a_b", "", 400, "invalid_value", Some("node"), "'a_b'"),
        ("DELETE", "/v1/tokens/12", "", 400, "invalid_value", Some("id"), "16 hex digits"),
        ("DELETE", "/v1/authorizations/p*.x.com", "", 400, "invalid_value", Some("primary"), "first label"),
        ("DELETE", "/v1/nodes/r1?wait=5", "", 400, "unknown_parameter", Some("wait"), "takes wait_seconds"),
        ("DELETE", "/v1/nodes/r1?wait_seconds=0", "", 400, "invalid_value", Some("wait_seconds"), "1 second"),
        ("GET", "/v1/settings/watch?from=x", "", 400, "invalid_value", Some("from"), "whole number"),
        ("GET", "/v1/settings/watch?from=1&from=2", "", 400, "invalid_value", Some("from"), "once"),
        ("GET", "/v1/events?recent=1001", "", 400, "invalid_value", Some("recent"), "0 to 1000"),
        ("GET", "/v1/events?follow=maybe", "", 400, "invalid_value", Some("follow"), "true or false"),
    ];
    for (method, path, body, status, code, field, word) in wrong {
        let (got, answer) = served.ask(method, path, body).await;
        let error = &answer["error"];
        assert_eq!(
            (got, error["code"].as_str(), error["field"].as_str()),
            (status, Some(code), field),
            "{path}: {answer}"
        );
        assert!(error.to_string().contains(word), "{path}: {answer}");
        for part in ["class", "code", "message", "field", "remedy"] {
            assert!(error.get(part).is_some(), "{path}: no {part}");
        }
        assert_eq!(served.fake.take(), [], "{method} {path}");
    }
    served.stop().await;
}
