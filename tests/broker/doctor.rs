//! `doctor` on real clusters: nothing is found where all is well; what is broken is found, from either side, in time.

use std::time::Duration;

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{LANDFALL, LONG, R_CAP, SLACK, WORK, join_up, primaries, quick, replicas, workload};

/// What doctor printed, and whether it took that for a failure.
fn doctor(node: &Node, timeout: &str) -> (Value, i32, Duration) {
    let answer = node.call(["doctor", "--timeout", timeout, "-o", "json"]);
    assert!(matches!(answer.code, Some(0 | 1)), "{answer}");
    (serde_json::from_str(&answer.stdout).unwrap(), answer.code.unwrap(), answer.took)
}

fn codes(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// Waits until doctor at `node` finds exactly this.
fn finds(node: &Node, expected: &[&str]) -> Value {
    eventually(LONG, &format!("doctor at {} to find {expected:?}", node.name()), || {
        let (report, code, _) = doctor(node, "15s");
        let right = codes(&report) == expected && code == i32::from(!expected.is_empty());
        if right { Ok(report) } else { Err(report.to_string()) }
    })
}

#[test]
fn a_doctor_finds_nothing_where_all_is_well_and_what_is_broken_from_either_side() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (r1, p1) = (r.first(), p.first());
    workload(WORK).adapter_list("addresses", &["10.1.0.5/16"]).create_in(&p1.vm_path()).unwrap();
    eventually(LONG, "the VM to be found", || p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string()));
    p1.cli(["vm", "enable", WORK, "--to", R_CAP, "--frequency", "30"]);

    let report = finds(r1, &["static_adapter"]);
    assert_eq!((&report["level"], &report["findings"][0]["about"]), (&"warning".into(), &WORK.into()), "{report}");
    assert!(report["findings"][0]["remedy"].as_str().unwrap().starts_with("landfall network set"), "{report}");
    r1.cli(["network", "map", "add", "10.1.0.0/16", "10.9.0.0/16"]);
    for node in [r1, p1] {
        let report = finds(node, &[]);
        assert_eq!(report["level"], "ok", "{report}");
        // Four ways to the other's only agent, among others.
        assert!(report["checks"].as_u64().unwrap() > 10, "{report}");
    }
    let text = r1.call(["doctor", "-o", "table"]);
    assert!(text.code == Some(0) && text.stdout.starts_with("ok: nothing is wrong"), "{text}");

    // An agent whose announced control address leads nowhere: itself reaches everybody, and nobody reaches it.
    let mut spec = quick("q1");
    spec.config.insert("advertise".to_owned(), "127.0.0.1:9".into());
    let q = Cluster::of(LANDFALL, "Cluster-Q", "q-broker-cap.contoso.test").spec(spec).start();
    join_up(&q, &r);
    let report = finds(q.first(), &["unreachable_control"]);
    let finding = &report["findings"][0];
    assert_eq!(
        (&report["level"], &finding["about"]),
        (&"critical".into(), &"r1.contoso.test -> q1".into()),
        "{report}"
    );
    assert!(finding["remedy"].as_str().unwrap().contains("127.0.0.1:9"), "{report}");
    let (report, code, _) = doctor(r1, "15s");
    assert_eq!((codes(&report), code), (vec!["unreachable_control"], 1), "{report}");
    r1.cli(["peer", "remove", "q-broker-cap.contoso.test"]);
    finds(r1, &[]);

    // One that is gone: found from here, within the time that is given.
    p1.lose();
    let (report, code, took) = doctor(r1, "8s");
    assert!(codes(&report).starts_with(&["unreachable_control", "unreachable_data"]) && code == 1, "{report}");
    assert!(report["findings"][0]["about"].as_str().unwrap().ends_with("-> p1.contoso.test"), "{report}");
    let (_, _, hurried) = doctor(r1, "1s");
    for (took, most) in [(took, 8), (hurried, 1)] {
        assert!(took < Duration::from_secs(most) + SLACK, "{took:?} of {most} s");
    }
}
