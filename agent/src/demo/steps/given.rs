//! A setting that is changed while one node's VM service stands still.

use std::time::{Duration, Instant};

use landfall_proto::Refusal;
use landfall_proto::id::Revision;
use rustix::process::Signal;

use crate::demo::story::Story;
use crate::demo::until::{check, until};
use crate::drive::directory::applied_settings;
use crate::surface::settings::Settings;
use crate::vm_service::SettingsView;

/// The node whose VM service stands still, and the other one.
const AWAY: &str = "r2";
const THERE: &str = "r1";
/// The key that is changed.
const KEY: &str = "monitoring_interval";
/// How soon a VM service that runs must have it.
const THERE_WITHIN: Duration = Duration::from_secs(3);
/// How soon the other one must, once it goes on.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(10);

/// Changes a setting; shows what each VM service wrote into its own file.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let before: Settings = story.cast.at(THERE)?.get("/v1/settings").await?;
    let revision = Revision::from_number(before.revision.number() + 1);
    for node in [THERE, AWAY] {
        reaches(story, node, before.revision, CAUGHT_UP_WITHIN).await?;
    }
    story.stage.say(&format!("{AWAY}'s VM service is stopped with SIGSTOP."));
    story.cast.at(AWAY)?.signal_vm_service(Signal::STOP)?;
    let given = while_away(story, revision).await;
    let began = Instant::now();
    story.cast.at(AWAY)?.signal_vm_service(Signal::CONT)?;
    given?;
    let late = reaches(story, AWAY, revision, CAUGHT_UP_WITHIN).await?;
    let took = began.elapsed().as_millis();
    let there = reaches(story, THERE, revision, THERE_WITHIN).await?;
    check(late == there, || format!("{AWAY} has {late:?}, {THERE} {there:?}"))?;
    story.stage.saw(&format!(
        "{AWAY} goes on (SIGCONT), and {took} ms later its file says revision {revision}, equal to {THERE}'s in every setting"
    ));
    Ok(())
}

async fn while_away(story: &Story, revision: Revision) -> Result<(), Refusal> {
    let began = Instant::now();
    let change = format!("{KEY}=6h");
    let set = ["settings", "set", &change, "--wait", "--timeout", "3s"];
    let (refusal, there) = tokio::join!(story.refused(THERE, &set), async {
        reaches(story, THERE, revision, THERE_WITHIN).await?;
        Ok::<u128, Refusal>(began.elapsed().as_millis())
    });
    let (refusal, there) = (refusal?, there?);
    let old = story.cast.at(AWAY).and_then(|node| applied_settings(&node.vms()))?;
    story.stage.saw(&format!("{THERE}'s VM service wrote revision {revision} {there} ms after the command was given"));
    story.stage.saw(&format!("the command, which waits for all: {refusal}"));
    check(refusal.code == "timed_out" && refusal.message.contains(AWAY), || {
        format!("--wait does not name {AWAY}: {} ({})", refusal.message, refusal.code)
    })?;
    check(!refusal.message.contains(&format!("{THERE} (")), || {
        format!("--wait also names {THERE}: {}", refusal.message)
    })?;
    let old = old.map_or(Revision::default(), |view| view.revision);
    check(old < revision, || format!("{AWAY}'s VM service has revision {old} although it stands still"))
}

/// Waits until the VM service of `node` has written `revision` into its own file.
async fn reaches(story: &Story, node: &str, revision: Revision, limit: Duration) -> Result<SettingsView, Refusal> {
    let vms = story.cast.at(node)?.vms();
    until(&format!("revision {revision} in the file of {node}'s VM service"), limit, async || {
        let view = applied_settings(&vms)?.ok_or("no file")?;
        if view.revision >= revision { Ok(view) } else { Err(format!("revision {}", view.revision).into()) }
    })
    .await
}
