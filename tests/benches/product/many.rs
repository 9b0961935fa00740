//! Many VMs at their real interval: no cycle may be late, and no agent grows with them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_kit::process::{Cluster, Node, eventually, pair};
use landfall_kit::table::{Aim, Row, Unit};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::Value;

use super::idle::mib;
use super::stage::{LANDFALL, found, put};

/// VMs where the environment says nothing; the full form has 50 and takes 13 GB of disk.
const VMS: usize = 10;
/// The disk of each, all of it content.
const BYTES: u64 = 128 << 20;
/// What changes of each in an interval, block by block at random places.
const CHANGED_BLOCKS: u64 = (1 << 20) / BLOCK;
const BLOCK: u64 = 4096;
/// The shortest interval that there is, and how many of them are watched.
const INTERVAL: Duration = Duration::from_secs(30);
const INTERVALS: u64 = 4;
/// How long all first copies together may take on a machine with other work.
const COPIED: Duration = Duration::from_secs(600);
const R_CAP: &str = "r-many-cap.contoso.test";

const AGENT_MIB: f64 = 150.0;

/// Clusters of their own: two nodes with primaries at the real interval, two that keep one copy of each replica.
pub fn rows() -> Vec<Row> {
    let count = std::env::var("LANDFALL_VMS").ok().and_then(|count| count.parse().ok()).unwrap_or(VMS);
    let r = Cluster::of(LANDFALL, "Cluster-R", R_CAP).node("r1").node("r2").start();
    let p = Cluster::of(LANDFALL, "Cluster-P", "p-many-cap.contoso.test").node("p1").node("p2").start();
    pair(&p, &r);
    r.first().cli(["settings", "set", "replication_enabled=true", "copies=1", "--wait"]);
    r.first().cli(["authorization", "add", "p-many-cap.contoso.test", "--storage", "default"]);
    let vms: Vec<Vm<'_>> = (0..count).map(|number| Vm::put(&p.nodes()[number % 2], number)).collect();
    for vm in &vms {
        found(vm.node, &vm.name);
        vm.node.cli(["vm", "enable", &vm.name, "--to", R_CAP, "--frequency", "30", "--recovery-points", "2"]);
    }
    eventually(COPIED, "a first point of each VM", || match vms.iter().find(|vm| !vm.has_point()) {
        None => Ok(()),
        Some(vm) => Err(vm.name.clone()),
    });
    // The instant after a first copy is late by as long as that took.
    sleep(INTERVAL);
    let missed = || vms.iter().map(|vm| vm.missed()).sum::<u64>();
    let before = missed();
    let mut memory = 0.0_f64;
    for interval in 0..INTERVALS {
        let begun = Instant::now();
        vms.iter().for_each(|vm| vm.change(interval));
        while begun.elapsed() < INTERVAL {
            sleep(Duration::from_secs(1));
            let agents = p.nodes().iter().chain(r.nodes()).filter_map(Node::agent_id);
            memory = agents.fold(memory, |most, agent| most.max(mib(agent, "Rss:")));
        }
    }
    let late = missed() - before;
    let cycles = count as u64 * INTERVALS;
    let name = format!("{count} VMs of 128 MiB on 2 nodes, 1 MiB changed each 30 s: missed of {cycles} cycles");
    vec![
        Row::figure(&name, Unit::Count, late as f64).aim(Aim::Value(0.0)),
        Row::figure(&format!("{count} VMs of 128 MiB: RSS of an agent, the largest"), Unit::Mib, memory)
            .aim(Aim::Value(AGENT_MIB)),
    ]
}

/// A VM that is stopped; what changes its disk is this program.
struct Vm<'a> {
    node: &'a Node,
    name: String,
    disk: PathBuf,
    seed: u64,
}

impl<'a> Vm<'a> {
    fn put(node: &'a Node, number: usize) -> Self {
        let name = format!("many-{number:02}");
        let mut content = vec![0; BYTES as usize];
        ChaCha12Rng::seed_from_u64(number as u64).fill_bytes(&mut content);
        let disk = put(node, &name, |disk| fs::write(disk, content));
        Self { node, name, disk, seed: number as u64 }
    }

    fn shown(&self) -> Value {
        self.node.cli(["vm", "show", &self.name])
    }

    fn has_point(&self) -> bool {
        !self.shown()["durable_point"].is_null()
    }

    fn missed(&self) -> u64 {
        self.shown()["missed_cycles"].as_u64().expect("a sender that counts")
    }

    /// Writes blocks at random places, as a guest would.
    fn change(&self, interval: u64) {
        let disk = OpenOptions::new().write(true).open(&self.disk).expect("the VM's disk");
        let mut random = ChaCha12Rng::seed_from_u64(self.seed << 32 | interval);
        let mut block = vec![0; BLOCK as usize];
        for _ in 0..CHANGED_BLOCKS {
            random.fill_bytes(&mut block);
            let place = random.next_u64() % (BYTES / BLOCK) * BLOCK;
            disk.write_all_at(&block, place).expect("a disk that can be written");
        }
    }
}
