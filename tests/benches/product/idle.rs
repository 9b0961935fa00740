//! What three agents cost that have nothing to do.

use std::fs;
use std::time::{Duration, Instant};

use landfall_kit::process::Node;
use landfall_kit::table::{Aim, Row, Unit};

use super::stage::Stage;

/// How long the cluster is left alone before it is looked at, and how long it is watched.
const SETTLED: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(30);
/// The kernel's unit of CPU time in /proc, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

const AGENT_MIB: f64 = 20.0;
const FOLLOWER_PERCENT: f64 = 0.5;
const OWNER_PERCENT: f64 = 1.2;

/// Memory at the end, CPU over the time watched; the largest of each kind.
pub fn rows(stage: &Stage) -> Vec<Row> {
    std::thread::sleep(SETTLED);
    let owner = stage.owner().name().to_owned();
    let agent = |node: &Node| node.agent_id().expect("an agent that runs");
    let service = |node: &Node| node.vm_service_id().expect("a VM service that runs");
    let nodes = stage.r.nodes();
    let (agents, services): (Vec<u32>, Vec<u32>) = nodes.iter().map(|node| (agent(node), service(node))).unzip();
    let begun = Instant::now();
    let before: Vec<f64> = agents.iter().chain(&services).map(|id| cpu_seconds(*id)).collect();
    std::thread::sleep(WATCHED);
    let seconds = begun.elapsed().as_secs_f64();
    let after = agents.iter().chain(&services).map(|id| cpu_seconds(*id));
    let shares: Vec<f64> = after.zip(&before).map(|(after, before)| (after - before) / seconds * 100.0).collect();
    assert_eq!(stage.owner().name(), owner, "an idle cluster keeps its owner");

    let (of_agents, of_services) = shares.split_at(agents.len());
    let (mut of_owner, mut of_followers) = (Vec::new(), Vec::new());
    for (node, share) in nodes.iter().zip(of_agents) {
        if node.name() == owner { &mut of_owner } else { &mut of_followers }.push(*share);
    }
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let memory = |ids: &[u32], key: &str| most(&mut ids.iter().map(|id| mib(*id, key)));
    vec![
        Row::figure("idle, 3 nodes: RSS of an agent, the largest", Unit::Mib, memory(&agents, "Rss:"))
            .aim(Aim::Value(AGENT_MIB)),
        Row::figure("idle, 3 nodes: of it private and dirty", Unit::Mib, memory(&agents, "Private_Dirty:")),
        Row::figure("idle, 3 nodes: CPU of a follower, the larger", Unit::Percent, most(&mut of_followers.into_iter()))
            .aim(Aim::Value(FOLLOWER_PERCENT)),
        Row::figure("idle, 3 nodes: CPU of the owner", Unit::Percent, most(&mut of_owner.into_iter()))
            .aim(Aim::Value(OWNER_PERCENT)),
        Row::figure("idle, 3 nodes: RSS of a VM service, the largest", Unit::Mib, memory(&services, "Rss:")),
        Row::figure(
            "idle, 3 nodes: CPU of a VM service, the largest",
            Unit::Percent,
            most(&mut of_services.iter().copied()),
        ),
    ]
}

/// CPU time of a process, all its threads.
fn cpu_seconds(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("a process that runs");
    // The name may hold blanks; it ends with the last parenthesis. Then state is the first field, utime the twelfth.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |number: usize| fields.get(number).and_then(|ticks| ticks.parse::<f64>().ok()).expect("a number");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// A field of a process's memory.
pub fn mib(id: u32, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("a process that runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a field of smaps_rollup");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}
