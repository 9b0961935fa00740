//! The holder dies, and no other node has a copy: a new home is committed and filled from the primary.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use landfall_proto::Refusal;
use landfall_proto::message::control::PointState;

use super::formed;
use super::permitted::table;
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
    let points = story.listed(home).await?;
    story.stage.say(&format!("{dead}, which holds the replica, dies: kill -9 of its agent and its VM service."));
    let died = Instant::now();
    story.cast.at(&dead)?.kill()?;
    filled(story, &dead, home, died).await?;
    unreachable(story, &dead, home, &points).await?;
    let after = committed(story, home).await?;
    check(before == after, || format!("{home} has {after:?}, and had {before:?}"))?;
    story.stage.saw("all settings, authorizations and replicas are there as before");
    returned(story, &dead, home).await
}

async fn filled(story: &Story, dead: &str, home: &str, died: Instant) -> Result<(), Refusal> {
    until(&format!("a new home on {home}"), HOME_WITHIN, async || {
        let at = story.locate(home).await?;
        if at.node.as_str() == home { Ok(()) } else { Err(format!("still {}", at.node).into()) }
    })
    .await?;
    let committed = died.elapsed().as_millis();
    until(&format!("a point received by {home}"), FILLED_WITHIN, async || {
        let listed = story.listed(home).await?;
        if listed.is_empty() { Err(doing(&story.show("p4").await?).into()) } else { Ok(()) }
    })
    .await?;
    let file = story.registration(home)?;
    check(file.exists(), || format!("{} is missing: the replica is not registered", file.display()))?;
    story.stage.saw(&format!(
        "{committed} ms after {dead} died, {home} is committed as the new home; registered and filled from the primary \
         (compared with what lay there) at {} ms",
        died.elapsed().as_millis()
    ));
    let sent = story.show("p4").await?.status.sent_bytes;
    story.stage.saw(&format!("p4 has sent {} in all", bytes(sent)));
    Ok(())
}

async fn unreachable(story: &Story, dead: &str, home: &str, before: &[PointStatus]) -> Result<(), Refusal> {
    story.stage.command(home, &format!("point list {WORKLOAD}"));
    let points = story.points(home).await?;
    let gone: Vec<&PointStatus> = points.iter().filter(|point| point.state == PointState::Unreachable).collect();
    let named = |point: &&PointStatus| point.copies.iter().any(|node| node.as_str() == dead);
    check(!gone.is_empty() && gone.iter().all(named), || {
        format!("no points are named as being on {dead} only: {points:?}")
    })?;
    // The newest point before the kill is on nobody else; of the older ones retention may have taken some since.
    let newest = before.iter().map(|point| point.point).max().unwrap_or_default();
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
