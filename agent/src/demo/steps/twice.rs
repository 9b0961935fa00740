//! A second copy: the node that holds the replica dies, and the other one goes on with everything that was acknowledged.

use std::time::{Duration, Instant};

use landfall_proto::Refusal;
use landfall_proto::message::control::PointState;

use super::formed;
use crate::demo::props::WORKLOAD;
use crate::demo::stage::bytes;
use crate::demo::story::{Story, doing};
use crate::demo::until::{check, until};
use crate::surface::settings::Settings;
use crate::surface::vm::VmDetail;

/// How long a copy may take to be made, the rest that a node takes after it was lost included.
const COPIED_WITHIN: Duration = Duration::from_secs(60);
/// How long until the other node goes on: the silence of the dead one, and an election in case that it owned the CAP.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);
/// Points that are waited for afterwards.
const POINTS: u64 = 3;
/// The most that may be sent besides change sets that were acknowledged, in parts of the disks: what was on its way when
/// the node died.
const PART: u64 = 100;

/// Has a second copy made, kills the node that holds the replica, and has the copy made anew.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    story.stage.say("From now on two copies of each replica are kept, as is the default:");
    let began = Instant::now();
    let _: Settings = story.run("r1", &["settings", "set", "copies=2", "--wait"]).await?;
    both(story, "r1").await?;
    let dead = story.locate("r1").await?.node.to_string();
    let left = if dead == "r1" { "r2" } else { "r1" };
    story.stage.saw(&format!(
        "{} ms later {left} is in the in-sync set: {} came from {dead}, p4 sends everything once",
        began.elapsed().as_millis(),
        copied(story, left).await?
    ));
    let before = until("a point that is on both", COPIED_WITHIN, async || {
        let vm = story.show("p4").await?;
        if vm.status.in_sync.len() == 2 { Ok(vm) } else { Err(doing(&vm).into()) }
    })
    .await?;
    let newest = story.listed(left).await?.last().map_or(0, |point| point.point);
    story.stage.say(&format!("{dead}, which holds the replica, dies: kill -9 of its agent and its VM service."));
    let died = Instant::now();
    story.cast.at(&dead)?.kill()?;
    until(&format!("{left} to hold the replica"), TAKEN_OVER_WITHIN, async || {
        let at = story.locate(left).await?;
        if at.node.as_str() == left { Ok(()) } else { Err(format!("still {}", at.node).into()) }
    })
    .await?;
    let committed = died.elapsed().as_millis();
    let after = goes_on(story, left, newest).await?;
    story.stage.saw(&format!(
        "{committed} ms after {dead} died, {left} holds the replica; at {} ms {POINTS} more points are acknowledged",
        died.elapsed().as_millis()
    ));
    nothing_again(story, &before, &after)?;
    returned(story, &dead, left).await
}

/// Waits until both nodes have everything.
async fn both(story: &Story, node: &str) -> Result<(), Refusal> {
    until("two copies", COPIED_WITHIN, async || {
        let vm = story.show(node).await?;
        let names: Vec<&str> = vm.status.in_sync.iter().map(|node| node.as_str()).collect();
        if names.len() == 2 { Ok(()) } else { Err(names.join(" ").into()) }
    })
    .await
}

/// How many bytes `node` says that it has copied.
async fn copied(story: &Story, node: &str) -> Result<String, Refusal> {
    // It says so a moment after the commit that others see.
    until("the copy to be told of", COPIED_WITHIN, async || {
        let events = story.cast.at(node)?.events().await?;
        let joined = events.iter().rev().find(|event| event.kind == "copy_joined");
        let count = joined.and_then(|event| event.fields.get("bytes")?.parse::<u64>().ok());
        count.map(bytes).ok_or_else(|| format!("{node} does not say what it has copied").into())
    })
    .await
}

async fn goes_on(story: &Story, node: &str, newest: u64) -> Result<VmDetail, Refusal> {
    until(&format!("{POINTS} more points"), TAKEN_OVER_WITHIN, async || {
        let points = story.points(node).await?;
        check(points.iter().all(|point| point.state == PointState::Listed), || format!("a point is lost: {points:?}"))?;
        let now = points.last().map_or(0, |point| point.point);
        let vm = story.show("p4").await?;
        if now >= newest + POINTS { Ok(vm) } else { Err(doing(&vm).into()) }
    })
    .await
}

/// Holds what was sent against the change sets that were acknowledged.
fn nothing_again(story: &Story, before: &VmDetail, after: &VmDetail) -> Result<(), Refusal> {
    let counted = |vm: &VmDetail| vm.statistics.map_or(0, |counted| counted.sent_bytes);
    let sent = after.status.sent_bytes.saturating_sub(before.status.sent_bytes);
    let wire = after.status.wire_bytes.saturating_sub(before.status.wire_bytes);
    let sets = counted(after).saturating_sub(counted(before));
    let total: u64 = after.disks.iter().map(|disk| disk.bytes).sum();
    story.stage.saw(&format!(
        "p4's own counters: {sent} bytes sent since ({wire} on the wire), {sets} of them in acknowledged change sets, the \
         rest on its way when the node died; of {} of disks nothing was sent again",
        bytes(total)
    ));
    check(after.source.as_deref() == Some("index"), || format!("the last changes came from {:?}", after.source))?;
    check(sent.saturating_sub(sets) <= total / PART, || {
        format!("{sent} bytes were sent and {sets} of them acknowledged: the rest was sent again")
    })
}

/// Starts the dead node again: it gets what it lacks.
async fn returned(story: &Story, dead: &str, left: &str) -> Result<(), Refusal> {
    story.stage.say(&format!("{dead} is started again, with its old copy."));
    let node = story.cast.at(dead)?;
    node.start()?;
    node.answers().await?;
    formed::seen(story, left, 3, 2).await?;
    both(story, left).await?;
    let lacked = copied(story, dead).await?;
    story.stage.command(left, &format!("vm show {WORKLOAD}"));
    story.stage.saw(&format!("in sync: r1 r2 again; {lacked} were copied, which is what {dead} lacked"));
    Ok(())
}
