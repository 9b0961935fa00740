//! Moving the replica between the nodes of its cluster, with and without the notice that tells the primary.

use std::time::{Duration, Instant};

use landfall_proto::Refusal;

use super::enabled::holder;
use crate::demo::cast::SILENT;
use crate::demo::props::WORKLOAD;
use crate::demo::stage::bytes;
use crate::demo::story::{Story, doing};
use crate::demo::until::{check, not_so, until};
use crate::surface::event::Event;
use crate::surface::vm::{VmDetail, VmLocation};

/// How long a move and the first point after it may take.
const MOVED_WITHIN: Duration = Duration::from_secs(30);
/// The most that the primary may have to send anew, in parts of its disks: what it wrote meanwhile is far below.
const PART: u64 = 20;

/// Moves the replica there and back: one node tells the primary, the other does not.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    for _ in 0..2 {
        let before = story.show("p1").await?;
        let from = holder(&before)?;
        let to = if from == "r1" { "r2" } else { "r1" };
        if from == SILENT {
            story
                .stage
                .say(&format!("From {from}, whose notice is dropped: the primary fails, retries, asks the CAP."));
        } else {
            story.stage.say(&format!("From {from}, which tells the primary where the replica went."));
        }
        one_way(story, &before, &from, to).await?;
    }
    Ok(())
}

async fn one_way(story: &Story, before: &VmDetail, from: &str, to: &str) -> Result<(), Refusal> {
    let heard = last_event(story, "p1").await?;
    let began = Instant::now();
    let words = ["vm", "move", WORKLOAD, "--to", to, "--wait"];
    let (moved, gap) = tokio::join!(story.run::<VmLocation>("r1", &words), first_from(story, "p1", to));
    let (moved, gap) = (moved?, gap?);
    check(moved.node.as_str() == to, || format!("the move ended with the replica on {}", moved.node))?;
    let files = copied(story, to).await?;
    story.stage.saw(&format!("{files} of its files went from {from} to {to}, {} ms", began.elapsed().as_millis()));
    let after = story.show("p1").await?;
    let sent = after.status.sent_bytes.saturating_sub(before.status.sent_bytes);
    let total: u64 = after.disks.iter().map(|disk| disk.bytes).sum();
    let wire = after.status.wire_bytes.saturating_sub(before.status.wire_bytes);
    story.stage.saw(&format!(
        "the primary sent {} meanwhile ({} on the wire), change sets only: {} bytes in all before, {} after",
        bytes(sent),
        bytes(wire),
        before.status.sent_bytes,
        after.status.sent_bytes,
    ));
    check(sent < total / PART, || format!("the primary sent {sent} bytes of {total} again because of the move"))?;
    let told = how_it_knew(story, from, to, heard).await?;
    story.stage.saw(&format!("no operator; between the last point at {from} and the first at {to}: {gap} ms. {told}"));
    Ok(())
}

/// Milliseconds between the last point that another node acknowledged and the first one that `to` did, as the
/// primary's node sees them.
async fn first_from(story: &Story, node: &str, to: &str) -> Result<u128, Refusal> {
    let (mut newest, mut last) = (None, Instant::now());
    until(&format!("a point acknowledged by {to}"), MOVED_WITHIN, async || {
        let vm = story.show(node).await?;
        let acknowledged = vm.status.in_sync.iter().any(|node| node.as_str() == to);
        if vm.status.last_point_at > newest {
            if acknowledged {
                return Ok(last.elapsed().as_millis());
            }
            (newest, last) = (vm.status.last_point_at, Instant::now());
        }
        Err(doing(&vm).into())
    })
    .await
}

/// How many bytes the new holder says that it has copied.
async fn copied(story: &Story, to: &str) -> Result<String, Refusal> {
    let events = story.cast.at(to)?.events().await?;
    let moved = events.iter().rev().find(|event| event.kind == "replica_moved");
    let count = moved.and_then(|event| event.fields.get("bytes")?.parse::<u64>().ok());
    count.map(bytes).ok_or_else(|| not_so(format!("{to} does not say what it has copied")))
}

async fn last_event(story: &Story, node: &str) -> Result<u64, Refusal> {
    Ok(story.cast.at(node)?.events().await?.last().map_or(0, |event| event.id))
}

/// Checks by the journal of the primary's node that it was told, or asked the CAP, as it should.
async fn how_it_knew(story: &Story, from: &str, to: &str, heard: u64) -> Result<String, Refusal> {
    let events: Vec<Event> = story.cast.at("p1")?.events().await?;
    let since = || events.iter().filter(|event| event.id > heard && event.vm == Some(story.workload.id));
    let find = |kind: &str| since().filter(|event| event.kind == kind).last().map(|event| event.message.clone());
    let kinds: Vec<&str> = since().map(|event| event.kind.as_str()).collect();
    if from == SILENT {
        check(!kinds.contains(&"replica_moved"), || {
            "p1 was told of the move although the notice is dropped".to_owned()
        })?;
        let failed = find("sending_failed");
        let asked = find("replica_located");
        return match (failed, asked) {
            (Some(failed), Some(asked)) => Ok(format!("p1 noted: \"{failed}\", then: \"{asked}\"")),
            _ => Err(not_so(format!("p1 did not fail and ask the CAP for {to}; it noted {kinds:?}"))),
        };
    }
    let told = find("replica_moved");
    told.map(|told| format!("p1 noted: \"{told}\""))
        .ok_or_else(|| not_so(format!("p1 was not told; it noted {kinds:?}")))
}
