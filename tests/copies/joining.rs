//! A node joins the in-sync set, and what it or its holder should hear of that is lost on the way.

use std::collections::BTreeMap;

use landfall_kit::process::{Cluster, Node, NodeSpec, Port, Relay, eventually};

use crate::oracle::every_member_has_what_was_acknowledged;
use crate::pair::{held_by, in_sync, in_sync_at, members, replicated};
use crate::stage::{LONG, SOON, WORK, goes_on, holder, newest, number, owner, replicas, testing, workload};

/// For twice as long a holder that hears nothing counts what it says as acknowledged: as long as the schedule needs.
const LEASE_MS: i64 = 6000;

/// So much of the copy goes over before it stands still: most of it, so that the rest is through while the holder's last
/// words still reach the owner (`landfall_proto::limits::SILENT_AFTER`).
const MOST_BYTES: usize = 40 << 20;

/// What the node that copies writes to its log where its session breaks off and it has everything.
const WAITS: &str = "waits for what its holder commits";

/// What it writes there where it begins again.
const FAILED: &str = "copying a replica here failed";

/// A node that owns the CAP and has no room for replicas, and two that have it. What each says to another can be lost.
struct Stage {
    r: Cluster,
    control: BTreeMap<&'static str, Relay>,
    data: BTreeMap<&'static str, Relay>,
}

impl Stage {
    fn set() -> Self {
        let (mut control, mut data) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = replicas();
        for name in ["r1", "r2", "r3"] {
            let mut spec: NodeSpec = testing(name, "lease_ms", LEASE_MS.into());
            if name == "r1" {
                spec.config.insert("storage".into(), toml::Value::Array(Vec::new()));
            }
            control.insert(name, Relay::before(Port::Control, &mut spec));
            data.insert(name, Relay::before(Port::Data, &mut spec));
            cluster = cluster.spec(spec);
        }
        let r = cluster.create();
        control.iter().chain(&data).for_each(|(name, relay)| relay.lead_to(r.node(name)));
        r.start_agents();
        r.form();
        Self { r, control, data }
    }

    /// The owner of the CAP, the node that holds the replica, and the one that is to join it.
    fn cast(&self) -> (&Node, &Node, &Node) {
        let (owner, held) = (self.r.first(), self.r.node(&holder(self.r.first(), WORK)));
        let joiner = self.r.nodes().iter().find(|node| ![owner.name(), held.name()].contains(&node.name()));
        (owner, held, joiner.unwrap())
    }

    /// Replicates the workload to one node and has the other copy it, until most is there and the rest stands still.
    fn most_is_copied(&self) -> Cluster {
        self.r.first().cli(["settings", "set", "copies=1"]);
        let p = replicated(&self.r, 1);
        assert_eq!(owner(self.r.first()), "r1");
        let (owner, held, joiner) = self.cast();
        let way = &self.data[held.name()];
        way.stop_to_after(joiner, MOST_BYTES);
        owner.cli(["settings", "set", "copies=2"]);
        eventually(LONG, "most of the copy", || match way.has_stopped_to(joiner) {
            true => Ok(()),
            false => Err("not yet"),
        });
        p
    }
}

#[test]
fn a_joiner_added_while_a_change_set_is_in_flight_has_it_though_its_answer_is_lost() {
    let stage = Stage::set();
    let p = stage.most_is_copied();
    let Stage { r, control, data } = &stage;
    let (owner, held, joiner) = stage.cast();
    let told = || number(&p.first().cli(["vm", "show", WORK])["durable_point"]["point"]);
    // The owner hears the holder, and the holder hears no entry and no answer of the owner.
    control[held.name()].lose_from(owner);
    control[owner.name()].lose_to(held);
    data[held.name()].heal();
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
    control.values().for_each(Relay::heal);

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
    every_member_has_what_was_acknowledged(&p, r, owner);
}

#[test]
fn a_joiner_whose_session_breaks_once_it_has_everything_waits_for_what_its_holder_commits() {
    let stage = Stage::set();
    let p = stage.most_is_copied();
    let Stage { r, control, data } = &stage;
    let (owner, held, joiner) = stage.cast();
    // Holder and owner do not hear each other: what the holder would commit has to wait.
    control[held.name()].lose_from(owner);
    control[owner.name()].lose_from(held);
    data[held.name()].heal();
    let in_place = joiner.storage_path().join(workload(WORK).uuid().to_string());
    eventually(SOON, "the copy to be in its place", || if in_place.exists() { Ok(()) } else { Err("not yet") });
    // It says that it has everything, and hears nothing any more.
    data[held.name()].lose_to(joiner);
    eventually(LONG, "the session to break off", || match joiner.log().contains(WAITS) {
        true => Ok(()),
        false => Err(joiner.log().lines().last().unwrap_or_default().to_owned()),
    });
    assert_eq!(members(owner), Ok(vec![held.name().to_owned()]), "nothing is committed");
    data.values().chain(control.values()).for_each(Relay::heal);

    in_sync(owner, 2);
    goes_on(owner, WORK);
    assert_eq!(joiner.log().matches(FAILED).count(), 0, "nothing is copied a second time");
    assert!(!owner.events().iter().any(|event| event["kind"] == "copy_given_up"));
    every_member_has_what_was_acknowledged(&p, r, owner);
}
