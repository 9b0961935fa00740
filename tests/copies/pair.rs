//! What the schedules begin with: a replica that is on two nodes, and how to look at it.

use landfall_kit::process::{Cluster, Node, eventually, pair};
use serde_json::Value;

use crate::stage::{LONG, WORK, enable, goes_on, primaries, put, text, workload};

/// Pairs, switches replication on, replicates the workload and waits until `copies` nodes have it.
pub fn replicated(r: &Cluster, copies: usize) -> Cluster {
    let p = primaries(&["p1"]).start();
    pair(&p, r);
    r.first().cli(["settings", "set", "replication_enabled=true", "node_down_after=2s"]);
    put(&workload(WORK), p.first());
    enable(p.first(), WORK);
    in_sync(r.first(), copies);
    goes_on(r.first(), WORK);
    p
}

/// The nodes that `node`'s cluster says have every acknowledged byte.
pub fn members(node: &Node) -> Result<Vec<String>, String> {
    let shown = node.try_cli(["vm", "show", WORK]).map_err(|failure| failure.to_string())?;
    let members = shown["in_sync"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(members.map(str::to_owned).collect())
}

/// Waits until so many nodes have every acknowledged byte, and returns their names.
pub fn in_sync(node: &Node, copies: usize) -> Vec<String> {
    eventually(LONG, &format!("{copies} nodes in sync"), || match members(node) {
        Ok(members) if members.len() == copies => Ok(members),
        other => Err(format!("{other:?}")),
    })
}

/// Waits until exactly these nodes have every acknowledged byte.
pub fn in_sync_at(node: &Node, wanted: &[&str]) {
    eventually(LONG, &format!("{wanted:?} in sync"), || match members(node) {
        Ok(members) if members == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Waits until the replica is received at `name`.
pub fn held_by(node: &Node, name: &str) -> Value {
    eventually(LONG, &format!("{name} to hold the replica"), || {
        let at = node.try_cli(["vm", "locate", WORK]).map_err(|failure| failure.to_string())?;
        if at["node"] == name { Ok(at) } else { Err(at.to_string()) }
    })
}

/// The one of the two data nodes that does not hold the replica.
pub fn other<'a>(r: &'a Cluster, holder: &str) -> &'a Node {
    r.data_nodes().find(|node| node.name() != holder).unwrap()
}

/// The machine-readable reasons for the replica's health, as `node` says.
pub fn reasons(node: &Node) -> Vec<String> {
    let shown = node.cli(["vm", "show", WORK]);
    shown["health_details"].as_array().into_iter().flatten().map(|detail| text(&detail["code"])).collect()
}

/// The field of the last event of a kind that `node` has noted, as a number.
pub fn noted(node: &Node, kind: &str, field: &str) -> Option<u64> {
    let last = node.events().into_iter().rev().find(|event| event["kind"] == kind)?;
    last["fields"][field].as_str()?.parse().ok()
}
