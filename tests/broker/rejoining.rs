//! Nodes that come back: long after everybody else went on, or with nothing left. And a watcher that does not read.

use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::{Value, json};

use crate::api::Api;
use crate::stage::{LANDFALL, LONG, R_CAP, SOON, number, replicas, text};

/// Commits that the absent node misses: a snapshot is made every 1,000, and 200 entries are kept behind it.
const MISSED: u64 = 2_000;
/// Who makes them.
const WRITERS: u64 = 8;

#[test]
fn a_node_comes_back_after_compaction_and_after_it_was_wiped() {
    let r = replicas().node("r1").node("r2").node("r3").start();
    missed_two_thousand_commits(&r);
    wiped_and_replaced(&r);
}

fn missed_two_thousand_commits(r: &Cluster) {
    let [r1, r2, r3] = ["r1", "r2", "r3"].map(|name| r.node(name));
    r3.lose();
    crate::stage::owner(r1);
    let from = number(&r1.cli(["settings", "show"])["revision"]);
    let mut unread = Api::at(r2);
    unread.open_stream(&format!("/v1/settings/watch?from={from}"));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || write_many(r1, writer));
        }
    });
    println!("{MISSED} settings committed in {:?}", begun.elapsed());
    let now = r1.cli(["settings", "show"]);
    let revision = number(&now["revision"]);
    assert!(revision >= from + MISSED, "a commit each");
    eventually(SOON, "the watcher's own node to have them", || {
        number(&r2.cli(["settings", "show"])["revision"]) == revision
    });
    told_all_or_to_resync(&mut unread, revision, &now["settings"]["maximum_active_transfers"]);

    r3.start();
    r3.wait_ready();
    eventually(LONG, "the returned node to catch up", || {
        let shown = r3.try_cli(["settings", "show"]).map_err(|failure| failure.to_string())?;
        if shown["revision"] == revision { Ok(()) } else { Err(shown["revision"].to_string()) }
    });
    for read in [["settings", "show"], ["settings", "history"], ["authorization", "list"]] {
        assert_eq!(r3.cli(read), r1.cli(read));
    }
    crate::stage::service_has(r3, revision);
    r.wait_formed();
    r3.cli(["settings", "set", "--timeout", "120s", "apply_vm_limit=5"]);
}

/// Every value differs from the last one's, whoever set that: each commit is a change.
fn write_many(node: &Node, writer: u64) {
    let mut api = Api::at(node);
    let own = 1024 / WRITERS;
    for turn in 0..MISSED / WRITERS {
        let value = 1 + writer * own + turn % own;
        let (status, answer) =
            api.ask("PATCH", "/v1/settings", &json!({"settings": {"maximum_active_transfers": value}}));
        assert_eq!(status, 200, "{answer}");
    }
}

/// Reads a stream that was not read until now to its newest event, `newest`, which leaves `value`.
fn told_all_or_to_resync(stream: &mut Api, newest: u64, value: &Value) {
    const KEY: &str = "maximum_active_transfers";
    let (mut reached, mut changes, mut resyncs) = (0, 0, 0);
    let mut last: Option<Value> = None;
    while reached < newest {
        let (name, data) = stream.next_event();
        let revision = match name.as_str() {
            "change" => {
                assert_eq!((&data["key"], &data["more"]), (&KEY.into(), &false.into()));
                // Each value follows from the one before: nothing is missing and nothing comes twice.
                assert!(last.is_none_or(|last| last == data["old"]), "a gap before {data}");
                last = Some(data["new"].clone());
                changes += 1;
                number(&data["revision"])
            }
            "resync" => {
                let (name, all) = stream.next_event();
                assert_eq!(name, "settings", "{all}");
                assert!(number(&all["revision"]) >= number(&data["from"]), "{data} {all}");
                last = Some(all["settings"][KEY].clone());
                resyncs += 1;
                number(&all["revision"])
            }
            other => panic!("{other}: {data}"),
        };
        assert!(revision > reached, "revisions only grow: {reached}, {revision}");
        reached = revision;
    }
    assert_eq!(last.map(|last| last.as_str().map(str::to_owned)), Some(Some(value.to_string())));
    assert!(resyncs > 0 || changes == MISSED, "{changes} changes without a resync");
    println!("the unread stream got {changes} changes and was told to resync {resyncs} times");
}

fn wiped_and_replaced(r: &Cluster) {
    let [r1, r2, r3] = ["r1", "r2", "r3"].map(|name| r.node(name));
    let shown = |node: &Node| node.cli(["node", "show", "r3"]);
    let old = shown(r1);
    // Only a voter stands for election: its ghost must have been one, by its own log.
    eventually(LONG, "r3 to vote", || {
        let status = r3.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
        if status["role"] == "voter" { Ok(()) } else { Err(status.to_string()) }
    });
    r3.lose();
    let aside = r3.folder().join("data.aside");
    std::fs::rename(r3.data_dir(), &aside).unwrap();
    std::fs::create_dir(r3.data_dir()).unwrap();
    r3.start();
    r3.wait_ready();
    assert_eq!(r3.try_cli(["cluster", "status"]).unwrap_err().code, "no_cluster");

    let plain = text(&r1.cli(["token", "create"])["token"]);
    let failure = r3.try_cli(["cluster", "join", &plain]).unwrap_err();
    assert_eq!(
        (failure.exit, failure.code.as_str(), failure.field.as_deref()),
        (3, "name_taken", Some("node")),
        "{failure}"
    );
    assert!(failure.remedy.unwrap().contains("--replaces r3"));
    let token = text(&r1.cli(["token", "create", "--replaces", "r3"])["token"]);
    r3.cli(["cluster", "join", &token]);
    r.wait_formed();
    let new = eventually(SOON, "the new member to be seen", || {
        let new = r2.try_cli(["node", "show", "r3"]).map_err(|failure| failure.to_string())?;
        if new["id"] != old["id"] { Ok(new) } else { Err(new.to_string()) }
    });
    assert!(number(&new["id"]) > number(&old["id"]), "ids are never used again");
    assert_ne!(new["key"], old["key"]);
    r3.cli(["settings", "set", "--timeout", "120s", "apply_vm_limit=6"]);

    old_identity_is_refused(r, &aside);
    assert_eq!(shown(r1)["id"], new["id"]);
    assert_eq!(r1.cli(["settings", "show"]), r3.cli(["settings", "show"]));
}

/// Starts an agent on the data folder that was set aside: it has the old certificate, key and log.
fn old_identity_is_refused(r: &Cluster, aside: &std::path::Path) {
    let data = toml::Value::from(aside.to_string_lossy().into_owned());
    let ghost = Cluster::of(LANDFALL, "ghost", R_CAP)
        .node("r3")
        .each(|spec| _ = spec.config.insert("data_dir".to_owned(), data.clone()))
        .create();
    let ghost = ghost.first();
    ghost.start();
    ghost.wait_ready();
    let before = r.first().cli(["settings", "show"]);
    let failure = ghost.try_cli(["settings", "set", "apply_vm_limit=66"]).unwrap_err();
    // It does not stand for election, since nobody hears it: it still asks the owner that it knows, which turns it away.
    let codes = ["no_quorum", "owner_unreachable"];
    assert!(failure.exit == 5 && codes.contains(&failure.code.as_str()), "{failure}");
    let status = ghost.cli(["cluster", "status"]);
    assert_eq!((&status["owner"], &status["quorate"]), (&Value::Null, &false.into()), "{status}");
    assert_eq!(r.first().cli(["settings", "show"]), before);
    let still = r.first().cli(["cluster", "status"]);
    assert_eq!(
        (still["quorate"].as_bool(), still["members"].as_array().map(Vec::len)),
        (Some(true), Some(3)),
        "{still}"
    );
    // Nor does its knocking cost the others their owner.
    let term = r.first().cli(["broker", "status"])["term"].clone();
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(3) {
        assert_eq!(r.node("r2").cli(["broker", "status"])["term"], term);
    }
}
