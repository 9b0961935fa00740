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
/// The setting that is changed, and to what.
const KEY: &str = "monitoring_interval";
const VALUE: &str = "6h";
/// How soon a VM service that runs must have it.
const THERE_WITHIN: Duration = Duration::from_secs(3);
/// How soon the other one must, once it goes on.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(10);

/// Changes a setting; shows what each VM service wrote into its own file.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let before = settled(story).await?;
    story.stage.say(&format!("{AWAY}'s VM service is stopped with SIGSTOP."));
    story.cast.at(AWAY)?.signal_vm_service(Signal::STOP)?;
    let given = while_away(story, before).await;
    let began = Instant::now();
    story.cast.at(AWAY)?.signal_vm_service(Signal::CONT)?;
    let given = given?;
    let same = |view: &SettingsView| *view == given;
    written(story, AWAY, "what the other has", CAUGHT_UP_WITHIN, same).await?;
    story.stage.saw(&format!(
        "{AWAY} goes on (SIGCONT), and {} ms later its file says revision {} too, and every setting as {THERE}'s does",
        began.elapsed().as_millis(),
        given.revision
    ));
    Ok(())
}

/// Waits until both nodes, one of which has just come back, have the same revision, and their VM services too.
async fn settled(story: &Story) -> Result<Revision, Refusal> {
    until("both nodes to have the same settings", CAUGHT_UP_WITHIN, async || {
        let mut seen = Vec::new();
        for node in [THERE, AWAY] {
            let node = story.cast.at(node)?;
            let settings: Settings = node.get("/v1/settings").await?;
            let view = applied_settings(&node.vms())?.ok_or("a VM service has none")?;
            seen.extend([settings.revision, view.revision]);
        }
        if seen.iter().all(|revision| *revision == seen[0]) { Ok(seen[0]) } else { Err(format!("{seen:?}").into()) }
    })
    .await
}

/// Changes the setting; what the VM service that runs has written.
async fn while_away(story: &Story, before: Revision) -> Result<SettingsView, Refusal> {
    let began = Instant::now();
    let change = format!("{KEY}={VALUE}");
    let set = ["settings", "set", &change, "--wait", "--timeout", "3s"];
    let changed = |view: &SettingsView| view.settings.get(KEY).is_some_and(|value| value == VALUE);
    let (refusal, there) = tokio::join!(story.refused(THERE, &set), async {
        let view = written(story, THERE, &change, THERE_WITHIN, changed).await?;
        Ok::<_, Refusal>((view, began.elapsed().as_millis()))
    });
    let (refusal, (view, took)) = (refusal?, there?);
    let revision = view.revision;
    check(revision > before, || format!("the revision was {before}, and is {revision}"))?;
    story
        .stage
        .saw(&format!("{took} ms after the command was given, {THERE}'s VM service has written revision {revision}"));
    story.stage.saw(&format!("the command, which waits for all: {refusal}"));
    check(refusal.code == "timed_out" && refusal.message.contains(&format!("{AWAY} (")), || {
        format!("--wait does not name {AWAY}: {} ({})", refusal.message, refusal.code)
    })?;
    check(!refusal.message.contains(&format!("{THERE} (")), || {
        format!("--wait also names {THERE}: {}", refusal.message)
    })?;
    let old = applied_settings(&story.cast.at(AWAY)?.vms())?.map_or(Revision::default(), |view| view.revision);
    check(old == before, || format!("{AWAY}'s VM service has revision {old} although it stands still"))?;
    story.stage.saw(&format!("{AWAY}'s file still says revision {old}"));
    Ok(view)
}

/// Waits until the VM service of `node` has written settings that `wanted` takes into its own file.
async fn written(
    story: &Story,
    node: &str,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&SettingsView) -> bool,
) -> Result<SettingsView, Refusal> {
    let vms = story.cast.at(node)?.vms();
    until(&format!("{what} in the file of {node}'s VM service"), limit, async || {
        let view = applied_settings(&vms)?.ok_or("no file")?;
        if wanted(&view) { Ok(view) } else { Err(format!("revision {}", view.revision).into()) }
    })
    .await
}
