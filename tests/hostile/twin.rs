//! A clone of a node: the same key, from another address, while the node lives.

use landfall_kit::process::{Cluster, Node, eventually};
use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Target;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use std::time::Duration;

use crate::double::Double;
use crate::{LONG, cluster};

#[test]
fn a_key_that_is_live_at_two_addresses_raises_an_alarm_and_its_removal_shuts_both_out() {
    let r: Cluster = cluster("R", &["r1", "r2", "r3"]).start();
    let [r1, r2, r3] = ["r1", "r2", "r3"].map(|name| r.node(name));
    let critical = |node: &Node| {
        let answer = node.call(["doctor", "-o", "json"]);
        let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
        let found = report["findings"].as_array().cloned().unwrap_or_default();
        found.into_iter().find(|finding| finding["code"] == "identity_twice")
    };
    // The node's own address, to which it comes back after a death: no alarm.
    r3.restart_agent();
    r3.wait_ready();
    assert!(critical(r1).is_none());

    let clone = Double::of(r3, r1, "127.0.0.1:0".parse().unwrap());
    let target = Target { cap: clone.other.clone(), address: r1.address().parse().unwrap(), key: None };
    let asks = || {
        let call = clone.calls.call(&target, Alpn::Control, &ControlRequest::Probe, Duration::from_secs(5));
        clone.runtime.block_on(call)
    };
    let finding = eventually(LONG, "the alarm", || {
        assert!(matches!(asks(), Ok(ControlAnswer::Alive { .. })), "a member's key opens what a member may ask");
        // Any node tells what one of them hears.
        critical(r2).ok_or("no finding")
    });
    assert!(finding["level"] == "critical" && finding["about"] == "r3", "{finding}");
    assert!(finding["remedy"].as_str().unwrap().contains("landfall node remove r3"), "{finding}");
    let event = r1.events().into_iter().find(|event| event["kind"] == "identity_twice");
    let event = event.expect("an event at the node that hears it").to_string();
    assert!(event.contains("\"critical\"") && event.contains(r3.address().as_str()), "{event}");

    // The remedy: the key is shut out, whoever has it.
    r3.kill_agent();
    eventually(LONG, "the removal", || r1.try_cli(["node", "remove", "r3"]).map_err(|failure| failure.to_string()));
    eventually(LONG, "the clone to be out", || match asks() {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    });
}
