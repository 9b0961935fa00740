//! The primary's VM on other nodes of its cluster: an old one, and one that has just joined.

use std::time::{Duration, Instant};

use landfall_proto::Refusal;

use super::formed;
use super::permitted::table;
use crate::demo::props::WORKLOAD;
use crate::demo::stage::bytes;
use crate::demo::story::{Story, doing, short};
use crate::demo::until::{check, io, until};
use crate::surface::authorization::Authorization;

/// How long a migration and the first point after it may take.
const MIGRATED_WITHIN: Duration = Duration::from_secs(40);
/// What may be sent after a migration: this part of the disks (2 %).
const PART: u64 = 50;

/// p1 to p2.
pub async fn within(story: &Story) -> Result<(), Refusal> {
    story.stage.say("The VM's folder is moved from p1's VM path to p2's: p1 ends its process, p2 starts it.");
    migrate(story, "p1", "p2").await
}

/// p2 to p4, which joins first.
pub async fn to_new_node(story: &Story) -> Result<(), Refusal> {
    let before = shown(&table(story, "r1").await?);
    story.stage.saw(&format!("R's authorization table before: {before}"));
    story.cast.at("p4")?.start()?;
    story.cast.at("p4")?.answers().await?;
    formed::join(story, "p1", "p4", false).await?;
    formed::seen(story, "p1", 4, 4).await?;
    migrate(story, "p2", "p4").await?;
    let after = shown(&table(story, "r1").await?);
    check(before == after, || format!("R's authorization table has changed to: {after}"))?;
    story.stage.saw(&format!("R's authorization table after: {after}"));
    Ok(())
}

async fn migrate(story: &Story, from: &str, to: &str) -> Result<(), Refusal> {
    let (at, entries) = (story.locate("r1").await?, table(story, "r1").await?);
    let old = story.cast.at(from)?.vms().join(WORKLOAD);
    let new = story.cast.at(to)?.vms().join(WORKLOAD);
    let before = story.show(from).await?.status.sent_bytes;
    story.stage.say(&format!("mv {from}/vms/{WORKLOAD} {to}/vms/"));
    let began = Instant::now();
    std::fs::rename(&old, &new).map_err(|error| io(&new, &error))?;
    let mut compared = false;
    let vm = until(&format!("a point sent by {to}"), MIGRATED_WITHIN, async || {
        let vm = story.show(to).await?;
        let here = vm.status.primary_host.as_deref().map(short) == Some(to);
        compared |= here && vm.source.as_deref() == Some("compare");
        // The sender's points are its own: before its first one there is none.
        if here && vm.status.last_point_at.is_some() { Ok(vm) } else { Err(doing(&vm).into()) }
    })
    .await?;
    let took = began.elapsed().as_millis();
    check(compared, || format!("{to} did not compare the disks; its source is {:?}", vm.source))?;
    // What the nodes before have sent is counted with it.
    let sent = vm.status.sent_bytes.saturating_sub(before);
    let total: u64 = vm.disks.iter().map(|disk| disk.bytes).sum();
    story.stage.saw(&format!(
        "{to} has no index of {from}'s: it compared hashes with the replica (source = compare), and sent {} of {}, \
         {:.2} %; first point {took} ms after the move",
        bytes(sent),
        bytes(total),
        sent as f64 * 100.0 / total as f64
    ));
    check(sent < total / PART, || format!("{to} sent {sent} of {total} bytes, 2 % or more"))?;
    let (still, same) = (story.locate("r1").await?, table(story, "r1").await?);
    check(still == at && same == entries, || format!("R has changed: {still:?} after {at:?}, {same:?}"))?;
    story.stage.saw(&format!("R is as it was: replica on {}, epoch {}", still.node, still.epoch));
    Ok(())
}

fn shown(table: &[Authorization]) -> String {
    let entry = |entry: &Authorization| format!("{} -> {}, {}", entry.primary, entry.storage, entry.trust_group);
    table.iter().map(entry).collect::<Vec<_>>().join("; ")
}
