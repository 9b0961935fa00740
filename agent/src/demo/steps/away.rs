//! A VM service that does not answer: noticed, avoided, and back.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use landfall_proto::Refusal;
use rustix::process::Signal;

use super::enabled::holder;
use crate::demo::props::{SMALL, small};
use crate::demo::story::{R_CAP, Story};
use crate::demo::until::{check, until};
use crate::surface::disabled::VmDisabled;
use crate::surface::node::{NodeStatus, VmServiceState};
use crate::surface::vm::VmDetail;

/// The node whose VM service stands still.
const AWAY: &str = "r2";
/// How soon everybody must know: its status counts for five seconds, and gossip takes one more.
const KNOWN_WITHIN: Duration = Duration::from_secs(6);
/// How soon it must be back.
const BACK_WITHIN: Duration = Duration::from_secs(6);
/// Commands that are given at a time.
const AT_ONCE: usize = 4;

/// Stops r2's VM service, places small VMs meanwhile, and lets it go on.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    story.stage.say(&format!("{AWAY}'s VM service is stopped with SIGSTOP, as a hung one would be."));
    let began = Instant::now();
    story.cast.at(AWAY)?.signal_vm_service(Signal::STOP)?;
    let placed = while_away(story, began).await;
    story.cast.at(AWAY)?.signal_vm_service(Signal::CONT)?;
    let began = Instant::now();
    placed?;
    seen(story, VmServiceState::Running, BACK_WITHIN).await?;
    let took = began.elapsed().as_millis();
    story.stage.saw(&format!("it goes on (SIGCONT), and runs in node list {took} ms later"));
    story.stage.command("p3", &format!("vm disable {} --wait   (and so each of the {SMALL})", small(1)));
    stream::iter(1..=SMALL)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, async |number| {
            let _: VmDisabled = story.quietly("p3", &["vm", "disable", &small(number), "--wait"]).await?;
            Ok(())
        })
        .await
}

async fn while_away(story: &Story, began: Instant) -> Result<(), Refusal> {
    let shown = seen(story, VmServiceState::Stopped, KNOWN_WITHIN).await?;
    let took = began.elapsed().as_millis();
    story.stage.command("r1", "node list");
    let reason = shown.vm_service_reason.unwrap_or_default();
    story.stage.saw(&format!("{took} ms later: {AWAY}, VM service stopped: {reason}"));
    story.stage.command("p3", &format!("vm enable {} --to {R_CAP}   (and so each of {SMALL} small VMs)", small(1)));
    let placed: Vec<VmDetail> = stream::iter(1..=SMALL)
        .map(async |number| story.quietly("p3", &["vm", "enable", &small(number), "--to", R_CAP]).await)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut told = String::new();
    for vm in &placed {
        let name = &vm.status.name;
        check(holder(vm)? != AWAY, || format!("{name} was placed on {AWAY}"))?;
        let why = vm.passed_over.iter().find(|node| node.node.as_str() == AWAY).map(|node| node.reason.clone());
        told = why.unwrap_or_default();
        check(told.contains("VM service is stopped"), || format!("{name} was kept from {AWAY} because it '{told}'"))?;
    }
    story.stage.saw(&format!("{} placements, none on {AWAY}, each with the reason: {told}", placed.len()));
    Ok(())
}

async fn seen(story: &Story, state: VmServiceState, limit: Duration) -> Result<NodeStatus, Refusal> {
    until(&format!("node list to show the VM service of {AWAY} as {state:?}"), limit, async || {
        let nodes = story.nodes("r1").await?;
        let away = nodes.into_iter().find(|node| node.node.as_str() == AWAY).ok_or("not listed")?;
        if away.vm_service == state { Ok(away) } else { Err(format!("{:?}", away.vm_service).into()) }
    })
    .await
}
