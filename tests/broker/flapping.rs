//! A node whose agent ends again and again is left alone, every node says why and until when, and an operator ends it.

use landfall_kit::process::{Node, VmFolder, eventually};
use serde_json::Value;

use crate::stage::{LONG, R_CAP, WORK, entry, findings, found, holder, join_up, owner, primaries, replicas, text};

/// Losses that make a node one that comes and goes (`landfall_agent::decide::flapping`).
const LOSSES: usize = landfall_agent::decide::flapping::LOSSES;

/// What `asked` lists of `node`.
fn listed(asked: &Node, node: &Node) -> Result<Value, String> {
    let list = asked.try_cli(["node", "list"]).map_err(|failure| failure.to_string())?;
    Ok(entry(&list, node.name()))
}

/// Waits until `asked` sees, or has lost, `node`.
fn is(asked: &Node, node: &Node, up: bool) {
    eventually(LONG, &format!("{} to see {} up: {up}", asked.name(), node.name()), || {
        let seen = listed(asked, node)?;
        if (seen["state"] == "up") == up && (seen["state"] == "down") != up { Ok(()) } else { Err(seen.to_string()) }
    });
}

#[test]
fn a_node_that_comes_and_goes_gets_nothing_new_until_an_operator_vouches_for_it() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let (r1, it, rw, p1) = (r.node("r1"), r.node("r2"), r.node("rw"), p.first());
    r1.cli(["settings", "set", "node_down_after=2s"]);
    assert_eq!(owner(r1), "r1");

    for loss in 1..=LOSSES {
        assert_eq!(listed(r1, it).unwrap()["quarantine"], Value::Null, "before loss {loss}");
        it.kill_agent();
        is(r1, it, false);
        it.start();
        it.wait_ready();
        is(r1, it, true);
    }
    let held = |asked: &Node| match listed(asked, it)? {
        seen if seen["quarantine"]["until"].is_string() => Ok(seen),
        seen => Err(seen.to_string()),
    };
    // Also at a node that has counted nothing of its own: the one that it is about.
    for asked in [r1, rw, it] {
        let seen = eventually(LONG, "the quarantine to be told", || held(asked));
        assert_eq!(seen["state"], "up", "{seen}");
        let reason = text(&seen["quarantine"]["reason"]);
        assert!(reason.contains(&format!("was lost {LOSSES} times within 10 minutes")), "{reason}");
        let shown = asked.cli(["node", "show", it.name()]);
        assert_eq!(shown["quarantine"]["reason"], seen["quarantine"]["reason"], "{shown}");
        let table = asked.call(["node", "show", it.name()]);
        assert!(table.stdout.contains("quarantined") && table.stdout.contains("until"), "{table}");
        assert!(asked.call(["node", "list"]).stdout.contains("quarantined: it was lost"), "{}", asked.name());
    }
    let found_there = findings(rw, &["node_quarantined"]).unwrap();
    assert!(found_there.len() == 1 && found_there[0]["about"] == it.name(), "{found_there:?}");
    assert!(text(&found_there[0]["remedy"]).contains("landfall node restore r2"), "{found_there:?}");
    assert!(r1.events().iter().any(|event| event["kind"] == "node_quarantined" && event["node"] == it.name()));

    // Several draws: chance alone would take it for one of them, but for one time in thirty-two.
    for turn in 0..5 {
        let name = format!("{WORK}-{turn}");
        VmFolder::new(&name).disk("vda", 1 << 20, 1).create_in(&p1.vm_path()).unwrap();
        found(p1, &name);
        let shown = p1.cli(["vm", "enable", &name, "--to", R_CAP, "--frequency", "900"]);
        assert_eq!(holder(r1, &name), "r1");
        let reason = text(&entry(&shown["passed_over"], it.name())["reason"]);
        assert!(reason.contains("is quarantined: it was lost"), "{reason}");
    }

    rw.cli(["node", "restore", it.name()]);
    for asked in [r1, rw, it] {
        eventually(LONG, "the quarantine to end", || match listed(asked, it)? {
            seen if seen["quarantine"].is_null() => Ok(()),
            seen => Err(seen.to_string()),
        });
    }
    assert_eq!(findings(r1, &["node_quarantined"]), Ok(Vec::new()));
    r1.cli(["settings", "set", "copies=2"]);
    eventually(LONG, "it to get a copy", || {
        let shown = r1.try_cli(["vm", "show", &format!("{WORK}-0")]).map_err(|failure| failure.to_string())?;
        let copies = shown["in_sync"].as_array().map(Vec::len);
        if copies == Some(2) { Ok(()) } else { Err(shown.to_string()) }
    });
}
