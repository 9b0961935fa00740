//! The one thing that every schedule ends with: each acknowledged point is on every member of the in-sync set.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;

use landfall_agent::drive::replica::ReplicaStore;
use landfall_kit::process::{Cluster, Node, eventually};
use landfall_proto::id::VmId;

use crate::pair::members;
use crate::stage::{LONG, WORK, number, workload};

/// What one node has: each point's root, whether it stays once there is a newer one and, by the bytes that were exported,
/// each disk's hash.
type Points = BTreeMap<u64, (String, bool, Vec<String>)>;

/// Stops the primary's sending and both clusters' replicas, and reads every member's folder: the newest point that the
/// primary was told of is there, or a newer one; every point that two members list is byte for byte the same; and they list
/// the same of those that stay, as far back as both keep any, and up to the newest that both have: whichever goes on loses none
/// of them, and one may have a newer one that nobody was told of. What is staged whole counts as there: the next holder
/// completes it. `asked` is a node that has a quorum.
pub fn every_member_has_what_was_acknowledged(p: &Cluster, r: &Cluster, asked: &Node) {
    p.first().cli(["vm", "pause", WORK]);
    let members = eventually(LONG, "the in-sync set", || members(asked));
    assert!(!members.is_empty());
    r.nodes().iter().for_each(Node::lose);
    let shown = p.first().cli(["vm", "show", WORK]);
    let acknowledged = number(&shown["durable_point"]["point"]);
    let found: BTreeMap<&String, Points> = members.iter().map(|name| (name, points(r.node(name)))).collect();
    println!(
        "acknowledged {acknowledged}; {:?}",
        found.iter().map(|(name, has)| (name, has.keys())).collect::<Vec<_>>()
    );
    for (name, points) in &found {
        // One that was complete and not told of yet may have taken the place of the last that the primary was told of.
        let newest = points.keys().next_back().copied().unwrap_or_default();
        assert!(newest >= acknowledged, "{name} lacks point {acknowledged}: it has {:?}", points.keys());
        for (other, others) in &found {
            for (sequence, point) in points.iter().filter(|(sequence, _)| others.contains_key(sequence)) {
                assert_eq!(Some(point), others.get(sequence), "point {sequence} differs between {name} and {other}");
            }
            let oldest = points.keys().next().max(others.keys().next()).copied().unwrap_or_default();
            let both = oldest..=points.keys().next_back().min(others.keys().next_back()).copied().unwrap_or_default();
            assert_eq!(staying(points, &both), staying(others, &both), "{name} and {other}, {both:?}");
        }
    }
}

fn staying(points: &Points, both: &RangeInclusive<u64>) -> Vec<u64> {
    points
        .iter()
        .filter(|(sequence, (_, stays, _))| *stays && both.contains(*sequence))
        .map(|(point, _)| *point)
        .collect()
}

fn points(node: &Node) -> Points {
    let vm = VmId(workload(WORK).uuid());
    let mut store = ReplicaStore::open(&node.storage_path().join(vm.to_string()), vm).unwrap();
    if store.staged_log().is_some() {
        store.commit().unwrap();
    }
    let mut points = Points::new();
    for point in &store.manifest().points {
        // Its bytes are checked against its root as they are read.
        let folder = tempfile::tempdir().unwrap();
        let report = store.pin(Some(point.sequence)).unwrap().export(folder.path(), &mut |_| Ok(())).unwrap();
        let hash = |file| blake3::hash(&fs::read(file).unwrap()).to_string();
        points.insert(point.sequence, (point.root.to_string(), point.stays, report.files.iter().map(hash).collect()));
    }
    points
}
