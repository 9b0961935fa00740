//! What a cluster decides while some of its voters are gone, stand still, or were all away.

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::Value;

use crate::stage::{LONG, P_CAP, R_CAP, SOON, WORK, join_up, number, owner, primaries, replicas, text};

#[test]
fn two_nodes_and_a_witness_decide_without_any_one_and_never_without_two() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    landfall_kit::process::VmFolder::new(WORK).disk("vda", 1 << 20, 1).create_in(&p.first().vm_path()).unwrap();
    crate::stage::found(p.first(), WORK);
    p.first().cli(["vm", "enable", WORK, "--to", R_CAP, "--frequency", "30", "--timeout", "120s"]);
    any_one_may_be_gone(&r);
    a_stopped_owner_does_not_act_on_its_old_term(&r);
    two_lost_of_three_leave_no_quorum(&r);
    all_killed_and_started_again(&r);
}

fn back(cluster: &Cluster, node: &Node) {
    node.start();
    node.wait_ready();
    cluster.wait_formed();
}

fn any_one_may_be_gone(r: &Cluster) {
    for (number_of, lost) in r.nodes().iter().enumerate() {
        lost.lose();
        for at in r.nodes().iter().filter(|node| node.name() != lost.name()) {
            let value = format!("apply_vm_limit={}", 10 * number_of + usize::from(at.is_witness()) + 1);
            eventually(LONG, &format!("{} to commit without {}", at.name(), lost.name()), || {
                at.try_cli(["settings", "set", &value])
            });
        }
        back(r, lost);
    }
}

fn a_stopped_owner_does_not_act_on_its_old_term(r: &Cluster) {
    let old = r.node(&owner(r.first()));
    let other = r.data_nodes().find(|node| node.name() != old.name()).unwrap();
    let term = number(&old.cli(["broker", "status"])["term"]);
    old.stop_agent();
    std::thread::scope(|scope| {
        // Waits in the old owner's socket while it stands still, and is the first thing that it reads.
        let late = scope.spawn(|| old.try_cli(["settings", "set", "monitoring_interval=24h"]));
        eventually(LONG, "another owner", || {
            let status = other.try_cli(["broker", "status"]).map_err(|failure| failure.to_string())?;
            let taken = status["owner"].as_str().is_some_and(|owner| owner != old.name());
            if taken && number(&status["term"]) > term { Ok(()) } else { Err(status.to_string()) }
        });
        let meanwhile = eventually(LONG, "the new owner to commit", || {
            other.try_cli(["settings", "set", "monitoring_interval=48h"])
        });
        old.continue_agent();
        let late = late.join().unwrap().expect("the late command is committed by the new owner");
        assert!(number(&late["revision"]) > number(&meanwhile["revision"]), "{late} {meanwhile}");
        assert_eq!(late["settings"]["monitoring_interval"], "24h");
    });
    let status = eventually(LONG, "the old owner to follow", || {
        let status = old.try_cli(["broker", "status"]).map_err(|failure| failure.to_string())?;
        let follows = status["owner"].is_string() && status["term"].as_u64().is_some_and(|seen| seen > term);
        if follows { Ok(status) } else { Err(status.to_string()) }
    });
    eventually(SOON, "both to agree", || {
        other.cli(["broker", "status"]) == status || old.cli(["broker", "status"]) == other.cli(["broker", "status"])
    });
    assert_eq!(old.cli(["settings", "history"]), other.cli(["settings", "history"]));
}

fn two_lost_of_three_leave_no_quorum(r: &Cluster) {
    let owner = owner(r.first());
    let left = r.data_nodes().find(|node| node.name() != owner).unwrap();
    let before = left.cli(["settings", "show"]);
    r.nodes().iter().filter(|node| node.name() != left.name()).for_each(Node::lose);
    for write in [vec!["settings", "set", "apply_vm_limit=99"], vec!["authorization", "remove", P_CAP]] {
        let failure = left.try_cli(write).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (5, "no_quorum"), "{failure}");
        assert!(failure.remedy.unwrap().contains("voters"));
    }
    assert_eq!(left.cli(["settings", "show"]), before);
    assert_eq!(left.cli(["authorization", "list"])[0]["primary"], P_CAP);
    assert!(left.cli(["vm", "locate", WORK])["node"].is_string());
    eventually(SOON, "the one that is left to say that nobody owns", || {
        let status = left.cli(["cluster", "status"]);
        if status["owner"].is_null() && status["quorate"] == false { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(left.cli(["broker", "status"])["owner"], Value::Null);
    for node in r.nodes() {
        node.start();
        node.wait_ready();
    }
    r.wait_formed();
    // What was refused may not come to life later.
    assert_eq!(left.cli(["settings", "show"])["settings"], before["settings"]);
}

fn all_killed_and_started_again(r: &Cluster) {
    let token = text(&r.first().cli(["token", "create", "--ttl", "2h"])["id"]);
    let kept = |node: &Node| {
        let read = |arguments: &[&'static str]| node.cli(arguments.iter().copied());
        let members: Vec<Value> =
            r.nodes().iter().map(|member| node.cli(["node", "show", member.name()])["id"].clone()).collect();
        let rest = [
            read(&["settings", "show"]),
            read(&["settings", "history"]),
            read(&["authorization", "list"]),
            read(&["token", "list"]),
            read(&["vm", "locate", WORK]),
            read(&["peer", "list"])[0]["ca_key"].clone(),
        ];
        (members, rest)
    };
    let before = kept(r.first());
    assert!(before.1[3].to_string().contains(&token));
    r.nodes().iter().for_each(Node::lose);
    r.start_agents();
    r.wait_formed();
    for node in r.nodes() {
        owner(node);
        assert_eq!(kept(node), before, "{}", node.name());
    }
    r.first().cli(["settings", "set", "apply_vm_limit=100"]);
}
