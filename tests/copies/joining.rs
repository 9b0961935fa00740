//! A node joins the in-sync set while a change set is in flight, and the answer that says so is lost on its way to the holder.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, NodeSpec, Relay, eventually};

use crate::oracle::every_member_has_what_was_acknowledged;
use crate::pair::{held_by, in_sync, in_sync_at, members, replicated};
use crate::stage::{LONG, SOON, WORK, goes_on, holder, newest, number, owner, replicas, testing, workload};

/// For twice as long a holder that hears nothing counts what it says as acknowledged: as long as the schedule needs.
const LEASE_MS: i64 = 6000;

/// What the node that copies writes to its log after its first pass: all that is left is the last one.
const FIRST_PASS: &str = "copied while the holder goes on";

/// Between two looks for a folder: less than a commit takes.
const BETWEEN_LOOKS: Duration = Duration::from_micros(200);

/// A node that owns the CAP and has no room for replicas, and two that have it. What each says to another can be lost.
fn three() -> (Cluster, BTreeMap<&'static str, Relay>) {
    let mut relays = BTreeMap::new();
    let mut cluster = replicas();
    for name in ["r1", "r2", "r3"] {
        let mut spec: NodeSpec = testing(name, "lease_ms", LEASE_MS.into());
        if name == "r1" {
            spec.config.insert("storage".into(), toml::Value::Array(Vec::new()));
        }
        relays.insert(name, Relay::before(&mut spec));
        cluster = cluster.spec(spec);
    }
    let r = cluster.create();
    relays.iter().for_each(|(name, relay)| relay.lead_to(r.node(name)));
    r.start_agents();
    r.form();
    (r, relays)
}

/// Waits until the node that copies puts what it has copied in its place: then it says that it is complete.
fn in_place(folder: &Path) {
    let begun = Instant::now();
    while !folder.exists() {
        assert!(begun.elapsed() < LONG, "no copy in {}", folder.display());
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

#[test]
fn a_joiner_added_while_a_change_set_is_in_flight_has_it_though_its_answer_is_lost() {
    let (r, relays) = three();
    r.first().cli(["settings", "set", "copies=1"]);
    let p = replicated(&r, 1);
    assert_eq!(owner(r.first()), "r1");
    let (owner, held) = (r.first(), r.node(&holder(r.first(), WORK)));
    let joiner = r.nodes().iter().find(|node| ![owner.name(), held.name()].contains(&node.name())).unwrap();
    let told = || number(&p.first().cli(["vm", "show", WORK])["durable_point"]["point"]);

    owner.cli(["settings", "set", "copies=2"]);
    eventually(LONG, "the first pass of the copy", || match joiner.log().contains(FIRST_PASS) {
        true => Ok(()),
        false => Err("none yet"),
    });
    // The owner hears the holder, and the holder does not hear the owner: first no entry any more, then no answer.
    relays[held.name()].lose_from(owner);
    in_place(&joiner.storage_path().join(workload(WORK).uuid().to_string()));
    relays[owner.name()].lose_to(held);
    eventually(SOON, "the joiner to be in the set, as the owner and the joiner know", || {
        let seen = (members(owner)?.len(), members(joiner)?.len());
        if seen == (2, 2) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(members(held), Ok(vec![held.name().to_owned()]), "the holder has not heard of it");
    let before = told();
    // What the holder acknowledges now is what the schedule is about.
    eventually(SOON, "a point that is acknowledged meanwhile", || {
        let now = told();
        if now > before { Ok(()) } else { Err(now.to_string()) }
    });
    held.lose();
    let acknowledged = told();
    // What the primary would send next must not hide what is missing.
    p.first().stop_agent();
    assert_eq!(members(joiner).map(|members| members.len()), Ok(2), "nobody has left the set");
    relays.values().for_each(Relay::heal);

    held_by(owner, joiner.name());
    eventually(LONG, "the last acknowledged point", || match newest(owner, WORK) {
        Ok(point) if point >= acknowledged => Ok(()),
        other => Err(format!("{other:?}, not {acknowledged}")),
    });
    in_sync_at(owner, &[joiner.name()]);
    p.first().continue_agent();
    goes_on(owner, WORK);
    held.start();
    held.wait_ready();
    in_sync(owner, 2);
    goes_on(owner, WORK);
    every_member_has_what_was_acknowledged(&p, &r, owner);
}
