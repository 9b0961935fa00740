//! A sender that is cut off from its own cluster: it goes on by what is committed, until another node is the sender.

use landfall_kit::process::eventually;
use serde_json::Value;

use crate::stage::{
    LONG, WORK, check, enable, export, goes_on, join_up, newest, number, primaries, put, replicas, text, workload,
};

#[test]
fn a_sender_on_the_minority_side_of_its_cluster() {
    let r = replicas().node("r1").start();
    let p = primaries(&["p1", "p2"]).witness("pw").start();
    join_up(&p, &r);
    let (p1, p2, r1) = (p.node("p1"), p.node("p2"), r.first());
    let away = ["p2", "pw"].map(|name| p.node(name));
    put(&workload(WORK), p1);
    enable(p1, WORK);
    goes_on(r1, WORK);

    // Alone it decides nothing, and sends what it was to send: no other node has that part.
    away.iter().for_each(|node| node.stop_agent());
    goes_on(r1, WORK);
    // What it was asked may be in its log, and carried out later: hence a wish that changes nothing.
    let failure = p1.try_cli(["vm", "set", WORK, "--recovery-points", "4"]).unwrap_err();
    assert_eq!(failure.exit, 5, "{failure}");
    let epoch = number(&p1.cli(["vm", "show", WORK])["sender_epoch"]);

    // The others are cut off from it instead, and the VM is brought up there: one sender, of a higher epoch.
    p1.freeze();
    away.iter().for_each(|node| node.continue_agent());
    let copy = put(&workload(WORK), p2);
    let sends = || {
        let shown = p2.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        let p2_sends = shown["primary_host"].as_str().is_some_and(|host| host.starts_with("p2"));
        if p2_sends && shown["fault"].is_null() { Ok(shown) } else { Err(shown.to_string()) }
    };
    let shown = eventually(LONG, "the other node to send", sends);
    assert!(number(&shown["sender_epoch"]) > epoch, "{shown}");
    let told = |event: &&Value| event["message"].as_str().is_some_and(|told| told.starts_with("this node sends"));
    let roles = p2.events().iter().filter(told).count();
    assert_eq!(roles, 1, "it asks again and again, and commits only what its owner agrees with");
    let before = goes_on(r1, WORK);

    // Back, with its VM: two of them, and what the old sender still has on its way is not taken.
    p1.thaw();
    eventually(LONG, "the conflict to be seen", || {
        let shown = p1.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["rivals"] == Value::from(vec!["p1"]) { Ok(()) } else { Err(shown.to_string()) }
    });
    assert!(newest(r1, WORK).unwrap() >= before);
    std::fs::remove_dir_all(p1.vm_path().join(WORK)).unwrap();
    eventually(LONG, "the conflict to end", || {
        let shown = p2.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
        if shown["rivals"] == Value::Array(Vec::new()) { Ok(()) } else { Err(shown.to_string()) }
    });
    goes_on(r1, WORK);
    assert!(text(&p1.cli(["vm", "show", WORK])["primary_host"]).starts_with("p2"));
    let folder = r.folder().join("of-the-new-sender");
    export(r1, WORK, None, &folder).unwrap();
    check(r1, &folder);
    assert!(copy.exists());
}
