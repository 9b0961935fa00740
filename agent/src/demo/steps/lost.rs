//! The holder dies, and no other node has a copy: a new home is committed and filled from the primary.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use landfall_proto::Refusal;
use landfall_proto::message::control::PointState;

use super::formed;
use super::permitted::table;
use crate::demo::cast::SILENT;
use crate::demo::props::WORKLOAD;
use crate::demo::stage::bytes;
use crate::demo::story::{Story, doing};
use crate::demo::until::{check, until};
use crate::surface::authorization::Authorization;
use crate::surface::point::PointStatus;
use crate::surface::settings::Settings;
use crate::surface::vm::{VmLocation, VmStatus};

/// How long until a new home is committed: the node's silence and the wait for its return, and an election in case
/// that it also owned the CAP.
const HOME_WITHIN: Duration = Duration::from_secs(30);
/// How long the new home may take to be filled.
const FILLED_WITHIN: Duration = Duration::from_secs(60);
/// How long the node that is back may take to know what has become of its replica.
const KNOWS_WITHIN: Duration = Duration::from_secs(20);

/// What a cluster has committed.
#[derive(Debug, PartialEq, Eq)]
struct Committed {
    settings: Settings,
    table: Vec<Authorization>,
    replicas: BTreeMap<String, String>,
}

/// Kills the holder and follows the replica to its new home; then the dead node comes back.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let dead = story.locate("r1").await?.node.to_string();
    let home = if dead == "r1" { "r2" } else { "r1" };
    story.stage.say("Without another copy a replica waits for its node, by default 15 minutes. Here: 5 seconds.");
    let _: Settings = story.run(home, &["settings", "set", "rehome_without_copy_after=5s", "--wait"]).await?;
    let before = committed(story, home).await?;
    let points = turned_over(story, home).await?;
    story.stage.say(&format!("{dead}, which holds the replica, dies: kill -9 of its agent and its VM service."));
    if home == SILENT {
        story.stage.say(&format!("({home}'s file drops notices: the primary finds out by asking the CAP, later.)"));
    }
    let sent = story.show("p4").await?.status.sent_bytes;
    let died = Instant::now();
    story.cast.at(&dead)?.kill()?;
    let newest = points.iter().map(|point| point.point).max().unwrap_or_default();
    let now = filled(story, &dead, home, newest, died).await?;
    let sent = story.show("p4").await?.status.sent_bytes.saturating_sub(sent);
    story.stage.saw(&format!("p4 has sent {} for it: what {home} had from earlier was compared", bytes(sent)));
    unreachable(story, &dead, home, &now, newest)?;
    let after = committed(story, home).await?;
    check(before == after, || format!("{home} has {after:?}, and had {before:?}"))?;
    story.stage.saw("all settings, authorizations and replicas are there as before");
    returned(story, &dead, home).await
}

/// Waits until every listed point is one that the present sender has sent: it tells the new home of those.
async fn turned_over(story: &Story, node: &str) -> Result<Vec<PointStatus>, Refusal> {
    let newest = |points: &[PointStatus]| points.last().map_or(0, |point| point.point);
    let begun = newest(&story.listed(node).await?);
    until("five more points", FILLED_WITHIN, async || {
        let listed = story.listed(node).await?;
        match listed.first() {
            Some(oldest) if oldest.point > begun => Ok(listed),
            _ => Err(format!("{begun} was the newest, now {}", newest(&listed)).into()),
        }
    })
    .await
}

/// Waits for the new home and its first point; the points as they are listed then.
async fn filled(
    story: &Story,
    dead: &str,
    home: &str,
    newest: u64,
    died: Instant,
) -> Result<Vec<PointStatus>, Refusal> {
    until(&format!("a new home on {home}"), HOME_WITHIN, async || {
        let at = story.locate(home).await?;
        if at.node.as_str() == home { Ok(()) } else { Err(format!("still {}", at.node).into()) }
    })
    .await?;
    let committed = died.elapsed().as_millis();
    let points = until(&format!("a point received by {home}"), FILLED_WITHIN, async || {
        // What it had from before its own time as holder is listed at once; a newer point is one that it received now.
        let points = story.points(home).await?;
        let received = |point: &PointStatus| point.point > newest && point.state == PointState::Listed;
        if points.iter().any(received) { Ok(points) } else { Err(doing(&story.show("p4").await?).into()) }
    })
    .await?;
    let file = story.registration(home)?;
    check(file.exists(), || format!("{} is missing: the replica is not registered", file.display()))?;
    story.stage.saw(&format!(
        "{committed} ms after {dead} died, {home} is committed as the new home; at {} ms it is registered there and \
         filled",
        died.elapsed().as_millis()
    ));
    Ok(points)
}

fn unreachable(story: &Story, dead: &str, home: &str, points: &[PointStatus], newest: u64) -> Result<(), Refusal> {
    story.stage.command(home, &format!("point list {WORKLOAD}"));
    let gone: Vec<&PointStatus> = points.iter().filter(|point| point.state == PointState::Unreachable).collect();
    let named = |point: &&PointStatus| point.copies.iter().any(|node| node.as_str() == dead);
    check(!gone.is_empty() && gone.iter().all(named), || {
        format!("no points are named as being on {dead} only: {points:?}")
    })?;
    check(gone.iter().any(|point| point.point >= newest), || {
        format!("point {newest}, acknowledged by {dead}, is not listed as unreachable: {points:?}")
    })?;
    let numbers =
        |points: &[&PointStatus]| points.iter().map(|point| point.point.to_string()).collect::<Vec<_>>().join(" ");
    let listed: Vec<&PointStatus> = points.iter().filter(|point| point.state == PointState::Listed).collect();
    story.stage.saw(&format!("listed: {}. Unreachable, only on {dead}: {}", numbers(&listed), numbers(&gone)));
    Ok(())
}

/// Starts the dead node again and shows that its old copy is nobody's replica.
async fn returned(story: &Story, dead: &str, home: &str) -> Result<(), Refusal> {
    story.stage.say(&format!("{dead} is started again, with its old copy of the replica."));
    let node = story.cast.at(dead)?;
    node.start()?;
    node.answers().await?;
    formed::seen(story, home, 3, 2).await?;
    until(&format!("{dead} to name {home}"), KNOWS_WITHIN, async || {
        let at = story.locate(dead).await?;
        if at.node.as_str() == home { Ok(()) } else { Err(format!("it names {}", at.node).into()) }
    })
    .await?;
    let at: VmLocation = story.run(dead, &["vm", "locate", WORKLOAD]).await?;
    let file = story.registration(dead)?;
    until(&format!("{dead} to unregister the replica"), KNOWS_WITHIN, async || {
        if file.exists() { Err(format!("{} is still there", file.display()).into()) } else { Ok(()) }
    })
    .await?;
    let copy = story.replica_folder(dead)?;
    check(copy.exists(), || format!("{} is gone: seeding must not remove an old copy", copy.display()))?;
    story.stage.saw(&format!(
        "asked at {dead}, it names {} at epoch {}; the VM is not registered at {dead} any more, its old files stay",
        at.node, at.epoch
    ));
    Ok(())
}

async fn committed(story: &Story, node: &str) -> Result<Committed, Refusal> {
    let vms: Vec<VmStatus> = story.cast.at(node)?.get("/v1/vms").await?;
    let settings: Settings = story.cast.at(node)?.get("/v1/settings").await?;
    let replicas = vms.into_iter().map(|vm| (vm.uuid.to_string(), vm.name)).collect();
    Ok(Committed { settings, table: table(story, node).await?, replicas })
}
