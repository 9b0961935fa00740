//! What each command asks of the agent, and the JSON that it prints.

use serde::Serialize;
use serde_json::{Value, json};

use super::*;
use crate::surface::samples;

fn shape<T: Serialize>(shape: T) -> Value {
    serde_json::to_value(shape).unwrap()
}

/// A command line, its operation, what that is asked with, and what is printed.
type Ask = (&'static str, &'static str, Value, Value);

fn reads() -> Vec<Ask> {
    let none = || Value::Null;
    vec![
        ("cluster status", "cluster_status", none(), shape(samples::cluster_status())),
        ("token list", "token_list", none(), json!([shape(samples::token_status())])),
        ("node list", "node_list", none(), json!([shape(samples::node_status())])),
        ("node show r1", "node_show", json!("r1"), shape(samples::node_detail())),
        ("broker status", "broker_status", none(), shape(samples::broker_status())),
        ("settings show", "settings_show", none(), shape(samples::settings())),
        ("settings history", "settings_history", none(), json!([shape(samples::settings_revision())])),
        ("authorization list", "authorization_list", none(), json!([shape(samples::authorization())])),
        ("peer list", "peer_list", none(), json!([shape(samples::peer_status())])),
        ("vm list", "vm_list", none(), json!([shape(samples::vm_status())])),
        ("vm show web", "vm_show", json!("web"), shape(samples::vm_detail())),
        ("vm locate web", "vm_locate", json!("web"), shape(samples::location())),
        ("failover status web", "failover_status", json!("web"), shape(samples::failover_status())),
        ("network show web", "network_show", json!("web"), shape(samples::network_status())),
        ("network map list", "network_map_list", none(), json!([shape(samples::network_rule())])),
        ("point list web", "point_list", json!("web"), json!([shape(samples::point())])),
    ]
}

fn cluster_changes() -> Vec<Ask> {
    let (cluster, token) = (shape(samples::cluster_status()), shape(samples::token_created()));
    let init = |address: &[&str], interface: Option<&str>| {
        json!({
            "name": "Cluster-R", "cap": "r-broker-cap.contoso.com", "cap_address": address, "cap_interface": interface,
        })
    };
    let both = init(&["10.0.0.50/24", "fd00::50/64"], Some("eth0"));
    let plain = json!({"witness": false, "ttl_seconds": null, "replaces": null});
    let witness = json!({"witness": true, "ttl_seconds": 900, "replaces": "r2"});
    let (id, removed) = (json!("000000000000001f"), json!({"node": "r1", "id": 1}));
    let entry = |group| json!({"primary": "p.contoso.com", "storage": "default", "trust_group": group});
    let deauthorized = json!({"primary": "*.contoso.com", "stopped": [shape(samples::named_vm())]});
    let code = json!({"code": "lfp1.secret", "expires_at": "2025-11-22T18:42:41.250Z"});
    let (accept, peer) = (json!({"code": "C", "wait_seconds": null}), shape(samples::peer_status()));
    let leave = |force: bool, wait: Option<u64>| json!({"force": force, "wait_seconds": wait});
    let unpaired = json!({"cap": "p.contoso.com", "stopped": []});
    vec![
        (
            "cluster init --name Cluster-R --cap r-broker-cap.contoso.com",
            "cluster_init",
            init(&[], None),
            cluster.clone(),
        ),
        (
            "cluster init --name Cluster-R --cap r-broker-cap.contoso.com --cap-address 10.0.0.50/24,fd00::50/64 \
             --cap-interface eth0",
            "cluster_init",
            both,
            cluster.clone(),
        ),
        ("cluster join T", "cluster_join", json!({"token": "T"}), cluster),
        ("token create", "token_create", plain, token.clone()),
        ("token create --witness --ttl 15m --replaces r2", "token_create", witness, token),
        ("token revoke 000000000000001f", "token_revoke", id.clone(), json!({"id": id})),
        ("cluster leave", "cluster_leave", leave(false, None), shape(samples::cluster_left())),
        ("cluster leave --force --timeout 2m", "cluster_leave", leave(true, Some(120)), shape(samples::cluster_left())),
        (
            "cluster recover --yes",
            "cluster_recover",
            json!({"yes": true, "dry_run": false}),
            shape(samples::cluster_recovered()),
        ),
        (
            "cluster recover --dry-run",
            "cluster_recover",
            json!({"yes": false, "dry_run": true}),
            shape(samples::cluster_recovered()),
        ),
        (
            "cluster rotate-ca --finish --timeout 2m",
            "cluster_rotate_ca",
            json!({"dry_run": false, "finish": true, "wait_seconds": 120}),
            shape(samples::cluster_rotation()),
        ),
        ("node drain r2", "node_drain", json!(["r2", null]), shape(samples::node_drained())),
        ("node drain r2 --wait", "node_drain", json!(["r2", 3600]), shape(samples::node_drained())),
        ("node restore r2", "node_restore", json!("r2"), shape(samples::node_drained())),
        ("broker move r2", "broker_move", json!({"to": "r2"}), shape(samples::broker_moved())),
        ("node remove r1", "node_remove", json!(["r1", null]), removed.clone()),
        ("node remove r1 --wait", "node_remove", json!(["r1", 60]), removed),
        ("authorization add p.contoso.com", "authorization_add", entry("DEFAULT"), entry("DEFAULT")),
        ("authorization add P.contoso.com --trust-group T1", "authorization_add", entry("T1"), entry("T1")),
        ("authorization remove *.contoso.com", "authorization_remove", json!("*.contoso.com"), deauthorized),
        ("peer invite --ttl 1d", "peer_invite", json!({"ttl_seconds": 86400}), code),
        ("peer accept C", "peer_accept", accept, peer),
        ("peer remove p.contoso.com", "peer_remove", json!("p.contoso.com"), unpaired),
    ]
}

fn vm_changes() -> Vec<Ask> {
    let enable = |frequency, points, start: Option<&str>, wait: Option<u64>| {
        let mut request = json!({"to": "r-broker-cap.contoso.com", "frequency_seconds": frequency});
        request["recovery_points"] = json!(points);
        request["start_at"] = json!(start);
        request["limit"] = json!(null);
        request["exclude"] = json!([]);
        request["wait_seconds"] = json!(wait);
        json!(["web", request])
    };
    let hand_over = |wait: Option<u64>| json!(["web", {"to": "r2", "wait_seconds": wait}]);
    let seed = |action| json!(["web", {"action": action, "dir": "/tmp/out", "wait_seconds": null}]);
    let export = |point: Option<u64>, wait: Option<u64>| json!(["web", {"point": point, "dir": "/tmp/out", "wait_seconds": wait}]);
    let verify = |point: Option<u64>, wait: Option<u64>| json!(["web", {"point": point, "wait_seconds": wait}]);
    let (vm, at, exported) = (shape(samples::vm_detail()), shape(samples::location()), shape(samples::exported()));
    vec![
        ("vm enable web --to r-broker-cap.contoso.com", "vm_enable", enable(300, 0, None, None), vm.clone()),
        (
            "vm enable web --to r-broker-cap.contoso.com --frequency 30 --recovery-points 24 --timeout 2h",
            "vm_enable",
            enable(30, 24, None, Some(7200)),
            vm.clone(),
        ),
        (
            "vm enable web --to r-broker-cap.contoso.com --start 2026-11-22T18:30:00Z",
            "vm_enable",
            enable(300, 0, Some("2026-11-22T18:30:00.000Z"), None),
            vm.clone(),
        ),
        (
            "vm set web --limit 0.50 --frequency 900 --recovery-points 3",
            "vm_set",
            json!(["web", {"frequency_seconds": 900, "recovery_points": 3, "limit": "0.5"}]),
            vm.clone(),
        ),
        ("vm pause web", "vm_pause", json!("web"), vm.clone()),
        ("vm resume web", "vm_resume", json!("web"), vm.clone()),
        ("vm resync web", "vm_resync", json!("web"), vm.clone()),
        ("vm reset-statistics web", "vm_reset_statistics", json!("web"), vm),
        ("vm disable web", "vm_disable", json!(["web", null]), shape(samples::disabled())),
        ("vm move web --to r2", "vm_move", hand_over(None), at.clone()),
        ("vm move web --to r2 --wait", "vm_move", hand_over(Some(900)), at.clone()),
        ("vm move web --to r2 --wait --timeout 30s", "vm_move", hand_over(Some(30)), at),
        (
            "point diff web 4 5",
            "point_diff",
            json!(["web", {"from": 4, "to": 5, "limit": 100}]),
            shape(samples::difference()),
        ),
        ("vm seed export web /tmp/out", "vm_seed", seed("export"), shape(samples::seeded())),
        ("vm seed import web /tmp/out", "vm_seed", seed("import"), shape(samples::seeded())),
        ("point export web /tmp/out", "point_export", export(None, None), exported.clone()),
        ("point export web --point 5 /tmp/out --timeout 1m", "point_export", export(Some(5), Some(60)), exported),
        ("point verify web", "point_verify", verify(None, None), shape(samples::proof())),
        ("point verify web --point 5 --wait", "point_verify", verify(Some(5), Some(10_800)), shape(samples::proof())),
    ]
}

fn failovers() -> Vec<Ask> {
    let asked = |action: &str, more: Value| {
        let mut request = json!({
            "action": action, "point": null, "name": null, "yes": false, "force": false, "skip_verify": false, "keep": null,
            "branch": null, "dry_run": false, "wait_seconds": null,
        });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!(["web", request])
    };
    let (status, plan) = (shape(samples::failover_status()), shape(samples::failover_plan()));
    let ask = |line, request, printed: &Value| (line, "failover", request, printed.clone());
    vec![
        ask("failover test web --point 3", asked("test", json!({"point": 3})), &status),
        ask("failover test web --wait", asked("test", json!({"wait_seconds": 900})), &status),
        ask("failover test web --stop --timeout 5s", asked("stop_test", json!({"wait_seconds": 5})), &status),
        ask("failover planned web --yes", asked("planned", json!({"yes": true})), &status),
        ask("failover planned web --dry-run", asked("planned", json!({"dry_run": true})), &plan),
        ask(
            "failover unplanned web --name web --force",
            asked("unplanned", json!({"name": "web", "force": true})),
            &status,
        ),
        ask(
            "failover unplanned web --point 3 --dry-run",
            asked("unplanned", json!({"point": 3, "dry_run": true})),
            &plan,
        ),
        ask("failover complete web --dry-run", asked("complete", json!({"dry_run": true})), &plan),
        ask("failover complete web", asked("complete", json!({})), &status),
        ask("failover reverse web", asked("reverse", json!({})), &status),
        ask("failover reverse web --dry-run", asked("reverse", json!({"dry_run": true})), &plan),
        ask(
            "failover resolve web --keep there --yes",
            asked("resolve", json!({"keep": "there", "yes": true})),
            &status,
        ),
        ask(
            "failover discard web --branch 0d0d --yes",
            asked("discard", json!({"branch": "0d0d", "yes": true})),
            &status,
        ),
        ask("failover cancel web --wait", asked("cancel", json!({"wait_seconds": 60})), &status),
    ]
}

fn networks() -> Vec<Ask> {
    let (status, rule) = (shape(samples::network_status()), shape(samples::network_rule()));
    let set = json!({
        "adapter": "eth0", "addresses": ["10.9.0.5/24", "fd00:9::5/64"], "gateways": ["10.9.0.1"], "dns": ["10.9.0.53"],
    });
    let clear = |families: Value| json!(["web", {"adapter": "eth0", "families": families}]);
    let (from, to, peer) = ("10.1.0.0/16", "10.9.0.0/16", "p.contoso.com");
    let add = json!({"peer": null, "from": from, "to": to});
    let remove = json!({"peer": peer, "from": from});
    vec![
        (
            "network set web --adapter eth0 --ipv4 10.9.0.5/24 --ipv6 fd00:9::5/64 --gateway 10.9.0.1 --dns 10.9.0.53",
            "network_set",
            json!(["web", set]),
            status.clone(),
        ),
        ("network clear web --adapter eth0", "network_clear", clear(json!([])), status.clone()),
        ("network clear web --adapter eth0 --ipv6", "network_clear", clear(json!(["ipv6"])), status),
        ("network map add 10.1.0.0/16 10.9.0.0/16", "network_map_add", add, rule.clone()),
        ("network map remove 10.1.0.0/16 --peer p.contoso.com", "network_map_remove", remove, rule),
    ]
}

#[test]
fn every_command_asks_its_operation_and_prints_its_shape() {
    let agent = Agent::start();
    for (line, operation, arguments, printed) in
        [reads(), cluster_changes(), vm_changes(), failovers(), networks()].concat()
    {
        let done = agent.ask(&[&line.split(' ').collect::<Vec<_>>()[..], &["-o", "json"]].concat());
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{line}");
        assert_eq!(agent.fake.take(), [(operation, arguments)], "{line}");
        assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap(), printed, "{line}");
        assert_eq!(done.out.lines().count(), 1, "one line: {line}");
    }
}

#[test]
fn a_doctor_that_finds_something_prints_it_and_fails() {
    let agent = Agent::start();
    let done = agent.ask(&["doctor", "-o", "json"]);
    assert_eq!((done.code, done.err.as_str()), (1, ""));
    assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap(), shape(samples::doctor_report()));
    let done = agent.ask(&["doctor", "--timeout", "30s", "-o", "table"]);
    assert!(done.code == 1 && done.out.lines().count() == 2 && done.out.contains("open UDP to"), "{done:?}");
    assert_eq!(agent.fake.take(), [("doctor", json!(10)), ("doctor", json!(30))]);
}

#[test]
fn settings_are_set_together_and_an_empty_value_is_the_default() {
    let agent = Agent::start();
    let done = agent.ask(&["settings", "set", "--expect", "11", "--wait", "a=x=y", "b=", "c=true"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let calls = agent.fake.take();
    let expected = json!({"settings": {"a": "x=y", "b": null, "c": "true"}, "expect": 11, "wait_seconds": 60});
    assert_eq!((calls[0].0, &calls[0].1[0]), ("settings_set", &expected));
    let twice = agent.ask(&["settings", "set", "a=1", "a=2"]);
    assert!(twice.code == 2 && twice.err.contains("given twice"), "{twice:?}");
    assert_eq!(agent.fake.take(), []);
}

#[test]
fn a_name_that_no_route_could_hold_arrives_as_it_is() {
    let agent = Agent::start();
    let name = "Büro 7 #1?%2F+&";
    assert_eq!(agent.ask(&["vm", "locate", name]).code, 0);
    assert_eq!(agent.fake.take(), [("vm_locate", json!(name))]);
}

#[test]
fn a_folder_is_named_from_where_the_command_runs() {
    let agent = Agent::start();
    assert_eq!(agent.ask(&["point", "export", "web", "out"]).code, 0);
    let dir = std::env::current_dir().unwrap().join("out");
    assert_eq!(agent.fake.take()[0].1[1]["dir"], json!(dir));
}

#[test]
fn a_secret_can_come_from_standard_input() {
    let agent = Agent::start();
    let done = landfall(Reader::Script, "  lf1.abc  \nmore\n", &agent.at(&["cluster", "join", "-"]));
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(agent.fake.take(), [("cluster_join", json!({"token": "lf1.abc"}))]);
    let none = landfall(Reader::Script, "", &agent.at(&["peer", "accept", "-"]));
    assert_eq!((none.code, agent.fake.take().len()), (2, 0));
}
