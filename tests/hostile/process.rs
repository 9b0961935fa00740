//! What an agent's process costs, as the kernel counts it.

use std::fs;

use landfall_kit::process::Node;

/// What an agent has in use.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Bytes of memory.
    pub memory: u64,
    /// Open files and sockets.
    pub files: usize,
    /// Threads.
    pub threads: u64,
}

/// What `node`'s agent has in use now.
pub fn costs(node: &Node) -> Costs {
    let process = format!("/proc/{}", node.agent_id().expect("the agent runs"));
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let files = fs::read_dir(format!("{process}/fd")).unwrap().count();
    Costs { memory: field("VmRSS:") * 1024, files, threads: field("Threads:") }
}

/// The bytes of memory that `node`'s agent has in use.
pub fn memory(node: &Node) -> u64 {
    costs(node).memory
}
