//! The owner of the CAP dies: another one owns it, and places what comes.

use std::time::{Duration, Instant};

use landfall_proto::Refusal;

use super::enabled::{holder, reasons};
use super::formed;
use crate::demo::props::SECOND;
use crate::demo::story::{R_CAP, Story};
use crate::demo::until::check;
use crate::surface::broker::BrokerStatus;
use crate::surface::settings::Settings;
use crate::surface::vm::VmDetail;

/// How long an election and the claim of the CAP may take.
const OWNED_WITHIN: Duration = Duration::from_secs(30);
/// How long the VM may take to get its next point once the node is back.
const RESUMED_WITHIN: Duration = Duration::from_secs(40);

/// Kills the owner, and places a second VM.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    let _: Settings = story.run("r1", &["settings", "set", "rehome_without_copy_after=", "--wait"]).await?;
    let status: BrokerStatus = story.run("r1", &["broker", "status"]).await?;
    let dead = story.owner("r1", OWNED_WITHIN, |_| true).await?;
    let other = if dead == "r1" { "r2" } else { "r1" };
    story.stage.saw(&format!("{dead} owns {}", status.cap));
    story.stage.say(&format!("{dead} dies: kill -9 of its agent and its VM service."));
    let died = Instant::now();
    story.cast.at(&dead)?.kill()?;
    let owner = story.owner(other, OWNED_WITHIN, |owner| owner != dead).await?;
    let took = died.elapsed().as_millis();
    let _: BrokerStatus = story.run(other, &["broker", "status"]).await?;
    story.stage.saw(&format!("{took} ms later {owner} owns it"));
    check(owner == other, || format!("{owner} owns the CAP, which should be {other}"))?;
    let placed: VmDetail = story.run("p3", &["vm", "enable", SECOND, "--to", R_CAP, "--timeout", "30s"]).await?;
    let at = holder(&placed)?;
    check(at == other, || format!("{SECOND} was placed on {at}, though only {other} lives"))?;
    story
        .stage
        .saw(&format!("{SECOND}: chosen {at}; {}; its first point is acknowledged", reasons(&placed.passed_over)));
    story.stage.say(&format!("{dead} is started again."));
    let before = story.show("p4").await?;
    story.cast.at(&dead)?.start()?;
    story.cast.at(&dead)?.answers().await?;
    formed::seen(story, other, 3, 2).await?;
    let after = story.next_point("p4", &before, RESUMED_WITHIN).await?;
    story.stage.saw(&format!("the first VM's points go on, received by {}", holder(&after)?));
    Ok(())
}
