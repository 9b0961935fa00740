//! A data folder is put back from a copy: its node says so and votes no more, nothing that was acknowledged is lost, and the
//! remedy that it names works. A folder that nobody touched raises no alarm.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{LONG, SOON, findings, number, owner, replicas, text};

/// How long nobody may own the CAP where only a node that was rolled back could help to elect: several elections.
const NOBODY_FOR: Duration = Duration::from_secs(15);

#[test]
fn a_node_whose_data_folder_was_put_back_does_not_vote_and_joins_anew() {
    let r = replicas().node("r1").node("r2").node("r3").start();
    restarts_raise_no_alarm(&r);
    let lead = r.node(&owner(r.first()));
    let others: Vec<&Node> = r.data_nodes().filter(|node| node.name() != lead.name()).collect();
    let [victim, third] = others[..] else { panic!("three nodes") };

    let aside = victim.folder().join("data.copy");
    victim.end_agent();
    copy(&victim.data_dir(), &aside);
    victim.start();
    victim.wait_ready();
    let settings = set(lead, 10..30);
    has(victim, &settings);
    victim.kill_agent();
    std::fs::remove_dir_all(victim.data_dir()).unwrap();
    copy(&aside, &victim.data_dir());

    for start in 0..2 {
        victim.start();
        victim.wait_ready();
        says_so_everywhere(&r, victim, start == 0);
        if start == 0 {
            victim.kill_agent();
        }
    }
    without_it_nobody_owns(lead, victim, third, &settings);

    // As told.
    let remedy = warning(victim, victim.name()).unwrap();
    assert!(remedy.contains("cluster leave --force") && remedy.contains(&format!("--replaces {}", victim.name())));
    victim.cli(["cluster", "leave", "--force"]);
    let members = lead.cli(["cluster", "status"])["members"].clone();
    let listed = members.as_array().into_iter().flatten().any(|member| member["node"] == victim.name());
    let plain = ["token", "create", "--replaces", victim.name()];
    let token = text(&lead.cli(plain.into_iter().take(if listed { 4 } else { 2 }))["token"]);
    victim.cli(["cluster", "join", &token]);
    r.wait_formed();
    eventually(LONG, "three voters", || {
        let status = victim.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
        if status["role"] == "voter" { Ok(()) } else { Err(status.to_string()) }
    });
    has(victim, &settings);
    assert_eq!(warning(lead, victim.name()), None);
    third.lose();
    owner(lead);
    victim.cli(["settings", "set", "--timeout", "120s", "apply_vm_limit=6"]);
}

/// One after the other, and all at once, killed and told to end.
fn restarts_raise_no_alarm(r: &Cluster) {
    let settings = set(r.first(), 4..8);
    for node in r.data_nodes() {
        node.restart_agent();
        owner(node);
    }
    r.data_nodes().for_each(Node::kill_agent);
    r.data_nodes().for_each(Node::start);
    r.data_nodes().for_each(Node::wait_ready);
    r.wait_formed();
    for node in r.data_nodes() {
        has(node, &settings);
        for about in r.data_nodes() {
            assert_eq!(warning(node, about.name()), None);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Sets a setting, over and over; what then is acknowledged.
fn set(node: &Node, values: std::ops::Range<u32>) -> Value {
    for value in values {
        node.cli(["settings", "set", &format!("maximum_active_transfers={value}")]);
    }
    node.cli(["settings", "show"])
}

fn has(node: &Node, settings: &Value) {
    eventually(LONG, &format!("{} to have the settings", node.name()), || {
        let shown = node.try_cli(["settings", "show"]).map_err(|failure| failure.to_string())?;
        if number(&shown["revision"]) >= number(&settings["revision"]) { Ok(()) } else { Err(shown.to_string()) }
    });
    assert_eq!(node.cli(["settings", "show"])["settings"], settings["settings"]);
}

/// What `cluster status` at `node` says of `about` having been rolled back.
fn warning(node: &Node, about: &str) -> Option<String> {
    let status = node.cli(["cluster", "status"]);
    let warnings = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    warnings.map(str::to_owned).find(|text| text.contains(&format!("the data folder of {about} was rolled back")))
}

fn says_so_everywhere(r: &Cluster, victim: &Node, first: bool) {
    for node in r.data_nodes() {
        eventually(SOON, &format!("{} to say that {} was rolled back", node.name(), victim.name()), || {
            warning(node, victim.name()).ok_or_else(|| node.cli(["cluster", "status"]).to_string())
        });
    }
    let events = victim.events();
    let told: Vec<&Value> = events.iter().filter(|event| event["kind"] == "rolled_back").collect();
    assert!(told.len() == 1 && told[0]["severity"] == "critical", "{events:?}");
    if first {
        let found = findings(r.first(), &["rolled_back"]).unwrap();
        let finding = found.first().expect("doctor names it");
        assert_eq!((&finding["level"], &finding["about"]), (&"critical".into(), &victim.name().into()));
    }
}

/// `third` is gone: the node that was rolled back would make a majority, and does not.
fn without_it_nobody_owns(lead: &Node, victim: &Node, third: &Node, settings: &Value) {
    third.lose();
    let nobody = |node: &Node| {
        let status = node.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
        if status["owner"].is_null() { Ok(()) } else { Err(status.to_string()) }
    };
    for node in [lead, victim] {
        eventually(SOON, &format!("{} to know no owner", node.name()), || nobody(node));
    }
    let since = Instant::now();
    while since.elapsed() < NOBODY_FOR {
        for node in [lead, victim] {
            nobody(node).unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let failure = lead.try_cli(["settings", "set", "--timeout", "1s", "apply_vm_limit=5"]).unwrap_err();
    assert_eq!(failure.exit, 5, "{failure}");
    third.start();
    third.wait_ready();
    for node in [lead, third] {
        assert_ne!(owner(node), victim.name());
    }
    assert_eq!(lead.cli(["settings", "show"])["settings"], third.cli(["settings", "show"])["settings"]);
    assert_eq!(lead.cli(["settings", "show"])["settings"], settings["settings"]);
}
