//! What agents tell of themselves: the cycles in a sender's log, the events of a node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use landfall_kit::process::{Node, eventually};

use super::stage::LONG;

/// A cycle of a sender, as its log tells it.
#[derive(Clone, Copy, Debug)]
pub struct Cycle {
    /// The point.
    pub point: u64,
    /// Bytes of content sent.
    pub sent_bytes: u64,
    /// Bytes of frames, both ways.
    pub wire_bytes: u64,
    /// From the beginning of the cycle to the acknowledgement.
    pub took: Duration,
}

/// The cycles of `vm` in the log of `node`, oldest first.
pub fn cycles(node: &Node, vm: &str) -> Vec<Cycle> {
    let log = node.log();
    let named = format!("vm={vm} ");
    let lines = log.lines().filter(|line| line.contains("point acknowledged") && line.contains(&named));
    lines
        .map(|line| {
            let field = |name: &str| {
                let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                value.and_then(|value| value.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {name}: {line}"))
            };
            Cycle {
                point: field("point"),
                sent_bytes: field("sent_bytes"),
                wire_bytes: field("wire_bytes"),
                took: Duration::from_micros(field("took_us")),
            }
        })
        .collect()
}

/// Waits for the first cycle of `vm` whose point is after `point`.
pub fn cycle_after(node: &Node, vm: &str, point: u64) -> Cycle {
    eventually(LONG, &format!("a point of {vm} after {point}"), || {
        cycles(node, vm).into_iter().find(|cycle| cycle.point > point)
    })
}

/// Waits for an event of `kind` about the VM `uuid` at `node`, later than `after`; how much later it was.
pub fn event_after(node: &Node, kind: &str, uuid: &str, after: SystemTime) -> Duration {
    eventually(LONG, &format!("{kind} at {}", node.name()), || {
        let answer = node.call(["event", "tail", "--recent", "1000", "--no-follow", "-o", "json"]);
        answer.stdout.lines().find_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            let at = unix_time(event["at"].as_str()?)?;
            let fits = event["kind"] == kind && event["vm"] == uuid;
            at.duration_since(after).ok().filter(|_| fits)
        })
    })
}

/// When one of `nodes` first claimed the CAP after `after`, as its log says; zero where none did.
pub fn claim_after<'a>(nodes: impl Iterator<Item = &'a Node>, after: SystemTime) -> Duration {
    let claims = nodes.flat_map(|node| {
        let log = node.log();
        let claims = log.lines().filter(|line| line.contains("claimed the CAP"));
        claims.filter_map(|line| unix_time(line.split_whitespace().next()?)).collect::<Vec<_>>()
    });
    claims.filter_map(|at| at.duration_since(after).ok()).min().unwrap_or_default()
}

/// The time of an RFC 3339 text in UTC with a fraction, such as 2025-11-22T18:42:41.250Z.
fn unix_time(text: &str) -> Option<SystemTime> {
    let at: landfall_agent::surface::Utc = serde_json::from_value(text.into()).ok()?;
    Some(UNIX_EPOCH + Duration::from_millis(at.0.0))
}
