//! The story's steps, in order. Each checks what it claims, and leaves the clusters so that the next one can begin.

mod away;
mod digest;
mod enabled;
mod formed;
mod given;
mod home;
mod lost;
mod migrated;
mod moved;
mod owned;
mod permitted;
mod pointed;
mod twice;

use landfall_proto::Refusal;

use super::props::WORKLOAD;
use super::story::Story;

/// Tells all of it.
pub async fn tell(story: &Story) -> Result<(), Refusal> {
    let stage = &story.stage;
    stage.say(
        "Landfall demo: two clusters of real processes on this machine, which replicate a VM from one to the other.",
    );
    stage.say(&format!("Everything is in {}, and is removed at the end.", story.cast.folder().display()));
    let image = &story.workload.image;
    stage.say(&format!("{WORKLOAD}: vda is {image}; vdb and vdc are disks that its own process never stops writing."));
    stage.step("Two clusters are formed, and paired", formed::play(story)).await?;
    stage.step("The replica's cluster says who may replicate to it", permitted::play(story)).await?;
    let placed = async {
        enabled::play(story).await?;
        away::play(story).await
    };
    stage.step("The CAP chooses a node, and none whose VM service stands still", placed).await?;
    stage.step("Every recovery point is one instant over all disks", pointed::play(story)).await?;
    stage.step("The replica moves to another node, and the primary follows", moved::play(story)).await?;
    stage.step("The primary migrates: nothing changes at the replica's cluster", migrated::within(story)).await?;
    stage.step("A new node joins the primary's cluster, and the VM moves there", migrated::to_new_node(story)).await?;
    stage.step("The node that holds the replica dies", lost::play(story)).await?;
    stage.step("With a second copy, the node that holds the replica dies again", twice::play(story)).await?;
    stage.step("The node that owns the CAP dies", owned::play(story)).await?;
    stage.step("One setting is changed, once, for every node", given::play(story)).await?;
    stage.step("The newest point is byte for byte what the primary's disks hold", digest::play(story)).await?;
    stage.step("A failover is tried while replication goes on", home::test(story)).await?;
    stage.step("A node is lost with the VM, which is brought up at the other site", home::lost(story)).await?;
    stage.step("The way home, by delta", home::home(story)).await
}
