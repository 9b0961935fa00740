//! Failover: a test, a site that is lost, the branch that comes of it, and the way home by delta.

use std::time::Duration;

use landfall_proto::Refusal;
use serde_json::Value;

use crate::demo::props::WORKLOAD;
use crate::demo::stage::bytes;
use crate::demo::story::{R_CAP, Story, doing};
use crate::demo::until::{check, until};
use crate::surface::failover::FailoverStatus;
use crate::surface::vm::{VmDetail, VmRole};

/// The node on which the VM runs by now, and one that is asked while that is dead.
const HOST: &str = "p4";
const ASKED: &str = "p1";
/// How long a cluster may take to hear of the other one's branch.
const HEARD_WITHIN: Duration = Duration::from_secs(30);
/// How long the first points of the other direction may take.
const POINTS_WITHIN: Duration = Duration::from_secs(60);
/// What the VM's adapter has at the other site.
const ADDRESS: &str = "10.9.0.5/24";
const GATEWAY: &str = "10.9.0.1";
const DNS: &str = "10.9.0.53";
/// How long a verb waits.
const WAIT: &str = "80s";

/// A test failover: replication goes on beside it.
pub async fn test(story: &Story) -> Result<(), Refusal> {
    let begun: FailoverStatus = story.run("r1", &["failover", "test", WORKLOAD, "--timeout", WAIT]).await?;
    check(begun.step == "running" && begun.test, || format!("the test is {}", begun.step))?;
    let point = begun.point.unwrap_or_default();
    story.stage.saw(&format!("'{WORKLOAD} - Test' runs from point {point}, no adapter connected"));
    let before = story.show(HOST).await?;
    story.next_point(HOST, &before, POINTS_WITHIN).await?;
    story.stage.saw("the primary's points go on meanwhile");
    let _: FailoverStatus = story.run("r1", &["failover", "test", WORKLOAD, "--stop", "--wait"]).await?;
    Ok(())
}

/// The primary's node is lost and the VM brought up at the other site; then the node is back, and its VM runs, too.
pub async fn lost(story: &Story) -> Result<(), Refusal> {
    let words =
        ["network", "set", WORKLOAD, "--adapter", "eth0", "--ipv4", ADDRESS, "--gateway", GATEWAY, "--dns", DNS];
    let _: Value = story.run("r1", &words).await?;
    story.stage.say(&format!("{HOST}, where the VM runs, is lost: kill -9 of its agent and its VM service."));
    story.cast.at(HOST)?.kill()?;
    let _: Value = story.run("r1", &["failover", "unplanned", WORKLOAD, "--dry-run"]).await?;
    let words = ["failover", "unplanned", WORKLOAD, "--name", WORKLOAD, "--timeout", WAIT];
    let begun: FailoverStatus = story.run("r1", &words).await?;
    check(begun.step == "running" && !begun.right_to_run, || format!("the failover is {}", begun.step))?;
    let node = begun.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    story.stage.saw(&format!(
        "the VM runs at {node}, from point {}: {} s are lost",
        begun.point.unwrap_or_default(),
        begun.loss_seconds.unwrap_or_default()
    ));
    let file = story.registration(&node)?;
    let configured = std::fs::read_to_string(&file).unwrap_or_default();
    check(configured.contains(ADDRESS), || format!("{} does not have {ADDRESS}:\n{configured}", file.display()))?;
    story.stage.saw(&format!("eth0 has {ADDRESS} there: in its vm.toml, and in a seed image for the guest"));
    let _: FailoverStatus = story.run("r1", &["failover", "complete", WORKLOAD]).await?;
    story.stage.say(&format!("{HOST} is started again, and so is its VM: two branches of one VM."));
    let node = story.cast.at(HOST)?;
    node.start()?;
    node.answers().await?;
    let step = at_step(story, ASKED, "branched", HEARD_WITHIN).await?;
    let health = story.show(ASKED).await?.status.health_reasons.first().cloned().unwrap_or_default();
    story.stage.saw(&format!("{ASKED} says: {}; {health}", step.step));
    let words = ["failover", "resolve", WORKLOAD, "--keep", "there", "--yes", "--timeout", WAIT];
    let _: FailoverStatus = story.run(ASKED, &words).await?;
    story.stage.saw("its VM is off there, and its disks are kept");
    Ok(())
}

/// Home: the replication is reversed, the VM handed back as planned, and the first direction restored.
pub async fn home(story: &Story) -> Result<(), Refusal> {
    let _: Value = story.run(ASKED, &["settings", "set", "replication_enabled=true"]).await?;
    let _: Value = story.run(ASKED, &["authorization", "add", R_CAP, "--storage", "default"]).await?;
    let disks: u64 = story.show("r1").await?.disks.iter().map(|disk| disk.bytes).sum();
    let _: FailoverStatus = story.run("r1", &["failover", "reverse", WORKLOAD, "--timeout", WAIT]).await?;
    let there = sent(story, "r1").await?;
    story.stage.saw(&format!("replicated back: {} of {} crossed the line", bytes(there), bytes(disks)));
    check(there < disks / 4, || format!("{there} bytes crossed the line"))?;
    let _: FailoverStatus = story.run("r1", &["failover", "planned", WORKLOAD, "--yes", "--timeout", WAIT]).await?;
    let home = at_step(story, ASKED, "running", POINTS_WITHIN).await?;
    check(home.right_to_run, || "the right to run has not come home".to_owned())?;
    story.stage.saw("the VM runs at home again, and nothing of it was lost on the way");
    let _: FailoverStatus = story.run(ASKED, &["failover", "reverse", WORKLOAD, "--timeout", WAIT]).await?;
    let back = sent(story, ASKED).await?;
    story.stage.saw(&format!("the first direction again: {} crossed the line", bytes(back)));
    check(back < disks / 4, || format!("{back} bytes crossed the line"))
}

async fn at_step(story: &Story, node: &str, step: &str, limit: Duration) -> Result<FailoverStatus, Refusal> {
    until(&format!("{step} at {node}"), limit, async || {
        let status: FailoverStatus = story.quietly(node, &["failover", "status", WORKLOAD]).await?;
        if status.step == step { Ok(status) } else { Err(status.step.into()) }
    })
    .await
}

/// Waits for the first point of a sender in `node`'s cluster, and says what it has sent.
async fn sent(story: &Story, node: &str) -> Result<u64, Refusal> {
    let vm: VmDetail = until("the first point of the other direction", POINTS_WITHIN, async || {
        let vm = story.show(node).await?;
        let done = vm.status.role == VmRole::Primary && vm.status.last_point_at.is_some();
        if done { Ok(vm) } else { Err(doing(&vm).into()) }
    })
    .await?;
    Ok(vm.status.wire_bytes)
}
