//! The CA of the replicas' cluster is rotated while a VM is replicated there: nothing stops, whoever is there follows, and
//! whoever is not is named, and follows later.

use landfall_kit::process::{Cluster, Node, eventually};
use serde_json::{Value, json};

use crate::intruder::Intruder;
use crate::stage::{
    LANDFALL, LONG, R_CAP, SOON, WORK, check, enable, export, findings, goes_on, join_up, named_primaries, owner,
    primaries, put, replicas, text, workload,
};

const Q_CAP: &str = "q-broker-cap.contoso.test";

/// The CA under which `node`'s cluster believes the cluster `cap`.
pub fn pinned(node: &Node, cap: &str) -> Result<Value, String> {
    let peers = node.try_cli(["peer", "list"]).map_err(|failure| failure.to_string())?;
    let peer = peers.as_array().into_iter().flatten().find(|peer| peer["cap"] == cap);
    peer.map(|peer| peer["ca_key"].clone()).ok_or_else(|| peers.to_string())
}

/// The cluster's CAs, as `node` says.
pub fn ca(node: &Node) -> Result<Value, String> {
    Ok(node.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?["ca"].clone())
}

/// Waits until `node`'s cluster believes the cluster `cap` under `ca`.
pub fn follows(node: &Node, cap: &str, ca: &Value) {
    eventually(LONG, &format!("{} to follow {cap} to {ca}", node.name()), || match pinned(node, cap)? {
        now if now == *ca => Ok(()),
        now => Err(now.to_string()),
    });
}

#[test]
fn a_rotation_of_the_ca_stops_nothing_and_survives_the_death_of_any_agent() {
    let r = replicas().node("r1").node("r2").node("r3").witness("rw").start();
    let p = primaries(&["p1", "p2"]).start();
    let q = named_primaries("Cluster-Q", Q_CAP, &["q1"]).start();
    join_up(&p, &r);
    landfall_kit::process::pair(&q, &r);
    let (p1, r1, rw, q1) = (p.first(), r.first(), r.node("rw"), q.first());
    let vm = workload(WORK);
    put(&vm, p1);
    enable(p1, WORK);
    goes_on(r1, WORK);
    let before = ca(r1).unwrap();
    let old = before["present"].clone();
    assert_eq!((pinned(p1, R_CAP), &before["rotation"]), (Ok(old.clone()), &Value::Null));
    // Made before the rotation, used after it.
    let token = text(&r1.cli(["token", "create"])["token"]);
    let double = Intruder::as_node(r.node("r2"), r1);
    double.probes(r1).expect("a certificate of the old CA counts");
    // One member and one peer are not there.
    rw.lose();
    q1.lose();

    let next = begin(&r, &old);
    killed_meanwhile(&r, &p, &next);
    goes_on(r1, WORK);
    follows(p1, R_CAP, &next);
    waits_for_those_who_are_away(&r, &next);
    double.probes(r1).expect("both count until the end");

    let done = r.node("r3").cli(["cluster", "rotate-ca", "--finish", "--wait"]);
    assert_eq!((&done["ca"]["present"], &done["ca"]["rotation"]), (&next, &Value::Null), "{done}");
    assert_eq!(done["given_up"].as_array().map(Vec::len), Some(2), "{done}");
    let refused = eventually(SOON, "the old certificate to be refused", || match double.probes(r1) {
        Err(refused) => Ok(refused),
        Ok(()) => Err("answered".to_owned()),
    });
    let again = double.probes_anew(r1);
    assert!(again.is_err(), "refused first ({refused}), then answered");
    let before = goes_on(r1, WORK);
    follows(p1, R_CAP, &next);
    follows(p.node("p2"), R_CAP, &next);

    the_peer_comes_back(q1, &next);
    the_witness_comes_back(&r);
    an_old_token_still_joins(&r, &token);
    assert!(goes_on(r1, WORK) > before);
    let folder = r.folder().join("after-the-rotation");
    export(r1, WORK, None, &folder).unwrap();
    check(r1, &folder);
    another_one_ends_by_itself(&r, &p, &q, &next);
    assert!(goes_on(r1, WORK) > before);
}

/// Begins at an agent that does not own the CAP; the new CA.
fn begin(r: &Cluster, old: &Value) -> Value {
    let owner = owner(r.first());
    let other = r.data_nodes().find(|node| node.name() != owner).unwrap();
    let refused = other.try_cli(["cluster", "rotate-ca", "--finish"]).unwrap_err();
    assert_eq!((refused.exit, refused.code.as_str()), (3, "no_rotation"), "{refused}");
    let plan = other.cli(["cluster", "rotate-ca", "--dry-run"]);
    assert_eq!((&plan["rotated"], &plan["missed"]), (&json!(false), &json!([])), "{plan}");
    let begun = other.cli(["cluster", "rotate-ca"]);
    assert_eq!((&begun["rotated"], &begun["ca"]["present"]), (&json!(true), old), "{begun}");
    let refused = other.try_cli(["cluster", "rotate-ca"]).unwrap_err();
    assert_eq!((refused.exit, refused.code.as_str()), (3, "rotation_under_way"), "{refused}");
    begun["ca"]["rotation"]["next"].clone()
}

/// The owner is killed in the middle, and then each other node that hosts VMs; so are the primaries' agents.
fn killed_meanwhile(r: &Cluster, p: &Cluster, next: &Value) {
    let first = owner(r.first());
    r.node(&first).kill_agent();
    r.node(&first).restart_agent();
    for node in r.data_nodes().filter(|node| node.name() != first).chain(p.nodes()) {
        node.kill_agent();
        node.restart_agent();
    }
    for node in r.data_nodes() {
        node.wait_ready();
        eventually(LONG, &format!("{} to have a certificate of the new CA", node.name()), || {
            let ca = ca(node)?;
            let rotation = &ca["rotation"];
            let renewed = rotation["renewed"].as_array().is_some_and(|nodes| nodes.contains(&json!(node.name())));
            if renewed && rotation["next"] == *next { Ok(()) } else { Err(ca.to_string()) }
        });
    }
}

fn waits_for_those_who_are_away(r: &Cluster, next: &Value) {
    let r1 = r.first();
    let status = eventually(LONG, "everybody who is there to have followed", || {
        let ca = ca(r1)?;
        let rotation = &ca["rotation"];
        let waits = (&rotation["waits_for_nodes"], &rotation["waits_for_peers"]);
        if waits == (&json!(["rw"]), &json!([Q_CAP])) { Ok(ca) } else { Err(ca.to_string()) }
    });
    assert_eq!(status["rotation"]["next"], *next);
    let failure = r1.try_cli(["cluster", "rotate-ca", "--dry-run"]).unwrap_err();
    assert_eq!(failure.code, "rotation_under_way", "{failure}");
    let found = eventually(LONG, "the doctor to name them", || {
        let found = findings(r1, &["ca_rotation_node", "ca_rotation_peer"])?;
        let mut named: Vec<_> = found.iter().map(|finding| (text(&finding["code"]), text(&finding["about"]))).collect();
        named.sort();
        let away = [("ca_rotation_node", "rw"), ("ca_rotation_peer", Q_CAP)];
        if named == away.map(|(code, about)| (code.to_owned(), about.to_owned())) {
            Ok(found)
        } else {
            Err(format!("{found:?}"))
        }
    });
    assert!(json!(found).to_string().contains("rotate-ca --finish"), "{found:?}");
}

/// It was stopped from before the rotation until after its end.
fn the_peer_comes_back(q1: &Node, next: &Value) {
    q1.start();
    q1.wait_ready();
    follows(q1, R_CAP, next);
    let followed = q1.events().iter().any(|event| event["kind"] == "peer_ca");
    assert!(followed, "it is told: {:?}", q1.events());
}

/// Its certificate counts no longer: it is let in by a token, as who it is.
fn the_witness_comes_back(r: &Cluster) {
    let (r1, rw) = (r.first(), r.node("rw"));
    let id = r1.cli(["node", "show", "rw"])["id"].clone();
    rw.start();
    rw.wait_ready();
    let token = text(&r1.cli(["token", "create", "--witness"])["token"]);
    let status = rw.try_cli(["cluster", "status"]).unwrap();
    assert_eq!(status["quorate"], json!(false), "nobody talks to it: {status}");
    rw.cli(["cluster", "join", &token]);
    eventually(LONG, "the witness to take part", || {
        let status = rw.try_cli(["cluster", "status"]).map_err(|failure| failure.to_string())?;
        if status["quorate"] == json!(true) { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(r1.cli(["node", "show", "rw"])["id"], id);
    assert_eq!(ca(rw).unwrap()["present"], ca(r1).unwrap()["present"]);
}

fn an_old_token_still_joins(r: &Cluster, token: &str) {
    let spare = Cluster::of(LANDFALL, "spare", R_CAP).node("r4").create();
    spare.start_agents();
    let r4 = spare.first();
    r4.cli(["cluster", "join", token]);
    assert_eq!(ca(r4).unwrap()["present"], ca(r.first()).unwrap()["present"]);
    r.first().cli(["node", "drain", "r4"]);
    r4.cli(["cluster", "leave", "--force"]);
}

/// Everybody is there: it takes one command.
fn another_one_ends_by_itself(r: &Cluster, p: &Cluster, q: &Cluster, before: &Value) {
    let done = eventually(LONG, "a rotation that ends by itself", || {
        let answer = r.first().try_cli(["cluster", "rotate-ca", "--timeout", "120s"]);
        answer.map_err(|failure| failure.to_string())
    });
    let next = &done["ca"]["present"];
    assert!(next != before && done["ca"]["rotation"].is_null(), "{done}");
    for node in [p.first(), q.first()] {
        follows(node, R_CAP, next);
    }
}
