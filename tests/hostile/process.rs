//! What an agent's process costs, as the kernel counts it.

use std::fs;

use landfall_kit::process::Node;

/// The bytes of memory that `node`'s agent has in use.
pub fn memory(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent(node))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn agent(node: &Node) -> u32 {
    node.agent_id().expect("the agent runs")
}
