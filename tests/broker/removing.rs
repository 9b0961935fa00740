//! A node that is taken out of the primaries' cluster.

use landfall_kit::process::eventually;
use landfall_proto::id::Epoch;
use landfall_proto::message::data::Welcome;
use serde_json::Value;

use crate::intruder::Intruder;
use crate::stage::{LONG, SOON, WORK, check, enable, export, goes_on, join_up, primaries, put, replicas, workload};

#[test]
fn a_removed_node_of_the_primaries_is_refused_and_the_others_go_on() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1", "p2", "p3"]).start();
    join_up(&p, &r);
    let (p1, p2, r1) = (p.node("p1"), p.node("p2"), r.first());
    let vm = workload(WORK);
    put(&vm, p2);
    enable(p2, WORK);
    let before = goes_on(r1, WORK);
    let table = r1.cli(["authorization", "list"]);
    // An assignment from before the present one: answered to whoever may ask, and it changes nothing.
    let past = Epoch::from_number(1);
    let double = Intruder::as_node(p2, r1);
    assert!(matches!(double.tries(r1, &vm, past), Ok(Welcome::Moved(_))));

    p1.cli(["node", "remove", "p2"]);
    let refused = eventually(SOON, "the removed node to be refused", || match double.tries(r1, &vm, past) {
        Err(refused) => Ok(refused),
        Ok(welcome) => Err(format!("{welcome:?}")),
    });
    // With a connection of its own from the beginning, too.
    let again = Intruder::as_node(p2, r1).tries(r1, &vm, past);
    assert!(again.is_err(), "refused first ({refused}), then answered: {again:?}");

    // It was told to leave; its VM goes on where the cluster still is.
    p2.lose();
    std::fs::rename(p2.vm_path().join(WORK), p1.vm_path().join(WORK)).unwrap();
    let shown = eventually(LONG, "p1 to send", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let sends = shown["primary_host"].as_str().is_some_and(|host| host.starts_with("p1"));
        if sends && shown["last_point_at"].is_string() { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert_eq!(shown["rivals"], Value::Array(Vec::new()), "{shown}");
    assert!(goes_on(r1, WORK) > before);
    assert_eq!(r1.cli(["authorization", "list"]), table);
    let folder = r.folder().join("after-the-removal");
    export(r1, WORK, None, &folder).unwrap();
    check(r1, &folder);
}
