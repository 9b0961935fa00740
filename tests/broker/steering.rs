//! Who owns the CAP and what a node holds, as an operator wants it.

use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{LONG, SOON, WORK, check, enable, entry, export, goes_on, holder, join_up, number, owner};
use crate::stage::{primaries, put, replicas, text, workload};

/// How often it is moved: each time back and forth by one of the agents.
const MOVES: usize = 6;

/// How long nobody may act: far below what an election takes (3 to 3.5 s), on a machine with other work.
const GAP_MAX_MS: u64 = 1_500;

#[test]
fn the_cap_moves_at_once_and_only_to_whom_can_own_it() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let at = r.first();
    let mut gaps = Vec::new();
    for round in 0..MOVES {
        let (old, status) = (owner(at), at.cli(["broker", "status"]));
        let next = r.data_nodes().find(|node| node.name() != old).unwrap();
        // At any agent: the witness, too.
        let moved = r.nodes()[round % 3].cli(["broker", "move", next.name()]);
        assert_eq!(moved["owner"], next.name());
        assert!(number(&moved["term"]) > number(&status["term"]), "{moved} {status}");
        gaps.push(number(&moved["gap_ms"]));
        assert_eq!(owner(next), next.name());
    }
    gaps.sort_unstable();
    println!("nobody acted for {gaps:?} ms at most");
    assert!(gaps[MOVES / 2] < GAP_MAX_MS, "{gaps:?}");

    let refused = |to: &str| at.try_cli(["broker", "move", to]).unwrap_err();
    assert_eq!((refused("rw").exit, refused("rw").code.as_str()), (3, "witness"));
    assert_eq!((refused("r9").exit, refused("r9").code.as_str()), (4, "not_found"));
    let present = owner(at);
    let other = r.data_nodes().find(|node| node.name() != present).unwrap();
    at.cli(["node", "drain", other.name()]);
    assert_eq!((refused(other.name()).exit, refused(other.name()).code.as_str()), (3, "drained"));
    at.cli(["node", "restore", other.name()]);
    // To itself: done already.
    assert_eq!(at.cli(["broker", "move", &present])["gap_ms"], 0);
    other.lose();
    let asker = r.node(&present);
    let down = eventually(SOON, "the dead node to be refused", || {
        let failure = asker.try_cli(["broker", "move", other.name()]).unwrap_err();
        if failure.code == "node_down" { Ok(failure) } else { Err(failure.to_string()) }
    });
    assert_eq!(down.exit, 3);
    assert_eq!(owner(asker), present, "what is refused changes nothing");
}

#[test]
fn an_owner_that_is_told_to_stop_hands_over_first() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let old = r.node(&owner(r.first()));
    let next = r.data_nodes().find(|node| node.name() != old.name()).unwrap();
    let begun = Instant::now();
    let status = old.end_agent();
    let ended = begun.elapsed();
    let seen = next.cli(["broker", "status"]);
    println!("ended with {status} after {ended:?}; then {seen}");
    assert!(status.success());
    assert_eq!(seen["owner"], next.name(), "at the moment at which the process is gone: {seen}");
    old.start();
    old.wait_ready();
    r.wait_formed();
    assert_eq!(owner(old), next.name(), "its return disturbs nobody");
    assert_eq!(old.cli(["broker", "status"])["term"], seen["term"]);
}

fn state(at: &Node, node: &str) -> Value {
    entry(&at.cli(["node", "list"]), node)["state"].clone()
}

/// Two VMs on a cluster of three; their holders.
fn two_vms(p: &Cluster, r: &Cluster) -> [&'static str; 2] {
    join_up(p, r);
    let names = [WORK, "Second"];
    for name in names {
        put(&workload(name), p.first());
        enable(p.first(), name);
        goes_on(r.first(), name);
    }
    names
}

#[test]
fn a_drained_node_is_emptied_and_gets_nothing_until_it_is_restored() {
    let r = replicas().node("r1").node("r2").node("r3").start();
    let p = primaries(&["p1"]).start();
    let names = two_vms(&p, &r);
    let r1 = r.first();
    // All of it at the owner: the CAP and both replicas have to go.
    let drained = owner(r1);
    for name in names {
        if holder(r1, name) != drained {
            r1.cli(["vm", "move", name, "--to", &drained, "--timeout", "60s"]);
        }
    }
    let other = r.nodes().iter().find(|node| node.name() != drained).unwrap();
    let done = other.cli(["node", "drain", &drained, "--timeout", "90s"]);
    assert_eq!((done["remaining"].clone(), done["owner"].clone()), (Value::Array(vec![]), Value::Bool(false)));
    assert_eq!(state(other, &drained), "drained");
    assert_ne!(owner(other), drained);
    for name in names {
        assert_ne!(holder(other, name), drained);
        assert_eq!(entry(&other.cli(["node", "list"]), &drained)["replicas"], 0);
        goes_on(other, name);
        let folder = r.folder().join(format!("drained-{name}"));
        export(other, name, None, &folder).unwrap();
        check(other, &folder);
    }
    let refused = other.try_cli(["vm", "move", WORK, "--to", &drained]).unwrap_err();
    assert_eq!((refused.exit, refused.code.as_str()), (3, "drained"));
    assert!(refused.remedy.unwrap().contains("node restore"));
    assert_eq!(other.cli(["node", "restore", &drained])["state"], "up");
    other.cli(["vm", "move", WORK, "--to", &drained, "--timeout", "60s"]);
    assert_eq!(holder(other, WORK), drained);
}

#[test]
fn what_a_drained_node_keeps_is_named_with_the_reason() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    goes_on(r.first(), WORK);
    let (holder_at, at) = (holder(r.first(), WORK), r.first());
    let other = r.data_nodes().find(|node| node.name() != holder_at).unwrap().name().to_owned();
    at.cli(["node", "drain", &other]);
    let failure = at.try_cli(["node", "drain", &holder_at, "--timeout", "60s"]).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (1, "not_empty"), "{failure}");
    let message = failure.message;
    assert!(message.contains(WORK) && message.contains("is drained") && message.contains("witness"), "{message}");
    // It goes as soon as it can.
    at.cli(["node", "restore", &other]);
    eventually(LONG, "the replica to go", || holder(at, WORK) == other);
    assert_eq!(text(&at.cli(["node", "drain", &holder_at])["node"]), holder_at);
}

fn members(at: &Node) -> Vec<String> {
    at.cli(["node", "list"]).as_array().into_iter().flatten().map(|member| text(&member["node"])).collect()
}

#[test]
fn a_node_leaves_with_everything_moved_away_and_may_join_again() {
    let r = replicas().node("r1").node("r2").node("r3").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    goes_on(r.first(), WORK);
    // The one with the replica, and with the CAP, too.
    let leaving = r.node(&holder(r.first(), WORK));
    if owner(r.first()) != leaving.name() {
        r.first().cli(["broker", "move", leaving.name()]);
    }
    let stays = r.nodes().iter().find(|node| node.name() != leaving.name()).unwrap();
    let id = entry(&stays.cli(["node", "list"]), leaving.name())["id"].clone();
    let left = leaving.cli(["cluster", "leave", "--timeout", "90s"]);
    let aside = std::path::PathBuf::from(text(&left["set_aside"]));
    assert!(aside.starts_with(leaving.data_dir()) && aside.join("store").is_dir(), "{left}");
    assert!(!leaving.data_dir().join("enrolment").exists());
    let none = leaving.try_cli(["cluster", "status"]).unwrap_err();
    assert_eq!((none.exit, none.code.as_str()), (3, "no_cluster"));
    eventually(SOON, "the others to list it no more", || !members(stays).contains(&leaving.name().to_owned()));
    assert_ne!(owner(stays), leaving.name());
    assert_ne!(holder(stays, WORK), leaving.name());
    goes_on(stays, WORK);
    // As it is now, and after its agent has been started anew: it waits for init or join.
    leaving.restart_agent();
    let token = text(&stays.cli(["token", "create"])["token"]);
    leaving.cli(["cluster", "join", &token]);
    r.wait_formed();
    assert_ne!(entry(&stays.cli(["node", "list"]), leaving.name())["id"], id, "an id is never used again");
    let folder = r.folder().join("after-the-return");
    export(stays, WORK, None, &folder).unwrap();
    check(stays, &folder);

    let refused = p.first().try_cli(["cluster", "leave"]).unwrap_err();
    assert_eq!((refused.exit, refused.code.as_str()), (3, "last_node"), "{refused}");
    assert!(refused.remedy.unwrap().contains("data_dir"));
    let lost = r.nodes().iter().find(|node| node.name() != stays.name()).unwrap();
    lost.lose();
    eventually(SOON, "the death to be noticed", || state(stays, lost.name()) != "up");
    let refused = stays.try_cli(["cluster", "leave"]).unwrap_err();
    assert_eq!((refused.exit, refused.code.as_str()), (3, "vote_needed"), "{refused}");
    assert!(members(stays).contains(&stays.name().to_owned()), "what is refused changes nothing");
    assert_eq!(state(stays, stays.name()), "up", "it is not drained either");
}
fn voters(at: &Node) -> Vec<String> {
    let list = at.cli(["node", "list"]);
    let votes = list.as_array().into_iter().flatten().filter(|member| member["role"] == "voter");
    votes.map(|member| text(&member["node"])).collect()
}

#[test]
fn a_voter_that_is_gone_for_long_is_replaced_and_returns_as_a_learner() {
    let r = replicas().node("r1").node("r2").node("r3").node("r4").start();
    let at = r.first();
    at.cli(["settings", "set", "node_down_after=2s"]);
    let three = eventually(LONG, "three voters", || match voters(at) {
        voters if voters.len() == 3 => Ok(voters),
        voters => Err(format!("{voters:?}")),
    });
    let votes = |node: &&Node| three.contains(&node.name().to_owned());
    let learner = r.nodes().iter().find(|node| !votes(node)).unwrap();
    let present = owner(at);
    let asker = r.node(&present);
    let gone = r.nodes().iter().find(|node| votes(node) && node.name() != present).unwrap();
    gone.lose();
    eventually(LONG, "the learner to vote instead", || {
        let voters = voters(asker);
        let replaced = voters.contains(&learner.name().to_owned()) && !voters.contains(&gone.name().to_owned());
        if replaced && voters.len() == 3 { Ok(()) } else { Err(format!("{voters:?}")) }
    });
    let term = asker.cli(["broker", "status"])["term"].clone();
    gone.start();
    gone.wait_ready();
    r.wait_formed();
    eventually(SOON, "its return", || state(asker, gone.name()) == "up");
    // For longer than one that answers has to wait until it may be made a voter.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let voters = voters(asker);
        assert!(!voters.contains(&gone.name().to_owned()), "{voters:?}");
    }
    assert_eq!(asker.cli(["broker", "status"])["term"], term, "nobody was disturbed");
}
