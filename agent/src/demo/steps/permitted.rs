//! The authorization table: refused before, one entry, the same table at every node.

use std::time::Duration;

use landfall_proto::{Class, Refusal};

use super::enabled::ENABLE;
use crate::demo::story::{P_CAP, Story};
use crate::demo::until::{check, until};
use crate::surface::authorization::Authorization;
use crate::surface::settings::Settings;

/// How long what one agent has committed may take to be read at another.
const APPLIED_WITHIN: Duration = Duration::from_secs(3);

/// Has a primary refused, and then allowed.
pub async fn play(story: &Story) -> Result<(), Refusal> {
    story.stage.say("One copy of each replica for now; a later step shows what the second one is for.");
    let words = ["settings", "set", "replication_enabled=true", "copies=1", "--wait"];
    let _: Settings = story.run("r1", &words).await?;
    story.stage.say("Its table is still empty, so P is refused:");
    let refusal = story.refused("p1", ENABLE).await?;
    story.stage.saw(&format!("refused: {refusal}"));
    check(refusal.class == Class::Refused, || {
        format!("the refusal is of class {:?} ({}), not refused", refusal.class, refusal.code)
    })?;
    check(table(story, "r1").await?.is_empty(), || "the table has entries before any was added".to_owned())?;
    let _: Authorization = story.run("r1", &["authorization", "add", P_CAP, "--storage", "default"]).await?;
    let entry = until("the entry at r2", APPLIED_WITHIN, async || {
        let table = table(story, "r2").await?;
        match table.as_slice() {
            [only] if only.primary.to_string() == P_CAP => Ok(only.clone()),
            other => Err(format!("{other:?}").into()),
        }
    })
    .await?;
    story.stage.saw(&format!(
        "one entry, read at r2: {} to storage '{}', trust group {}",
        entry.primary, entry.storage, entry.trust_group
    ));
    Ok(())
}

/// The authorization table as `node` has it.
pub async fn table(story: &Story, node: &str) -> Result<Vec<Authorization>, Refusal> {
    story.cast.at(node)?.get("/v1/authorizations").await
}
