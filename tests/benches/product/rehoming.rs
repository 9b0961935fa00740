//! The node that receives a replica dies, and no other has a copy: how long until a new one takes in data.

use std::time::{Duration, SystemTime};

use landfall_kit::process::{VmFolder, eventually};
use landfall_kit::table::{Aim, Row, Unit};

use super::journal::{cycle_after, cycles, event_after};
use super::stage::{LONG, Stage, found};
use super::{Sample, rounds};

/// The default of the setting, and what the owner then waits for a copy: the least that can be set.
const DOWN_AFTER: Duration = Duration::from_secs(5);
const WITHOUT_COPY: &str = "rehome_without_copy_after=1s";
/// How much later than the node's being down the first frame may be.
const MARGIN: Duration = Duration::from_secs(4);
const DISK_BYTES: u64 = 16 << 20;
const VM: &str = "homeless";

/// From the kill to the event that the new node records with the first content that it has taken in.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let (p1, vm) = (stage.p.node("p1"), VmFolder::new(VM).disk("vda", DISK_BYTES, 1).writing(100));
    stage.r.first().cli(["settings", "set", WITHOUT_COPY, "--wait"]);
    vm.create_in(&p1.vm_path()).expect("the VM path can be written");
    found(p1, VM);
    stage.enable(p1, VM);
    cycle_after(p1, VM, 0);
    let mut times = Sample::default();
    for _ in 0..rounds().div_ceil(2) {
        times.time(lost(stage, &vm));
        stage.whole();
    }
    stage.disable(p1, VM);
    let name = "holder's node SIGKILL to first content at the new home (down after 5 s + 1 s for a copy): worst";
    let bound = (DOWN_AFTER + MARGIN).as_secs_f64() * 1e6;
    vec![Row::figure(name, Unit::Micros, times.quantile(1.0)).aim(Aim::Value(bound))]
}

/// Kills the holder, which is made not to be the owner: an election is another row's matter.
fn lost(stage: &Stage, vm: &VmFolder) -> Duration {
    let (p1, owner) = (stage.p.node("p1"), stage.owner());
    let holder = || owner.cli(["vm", "locate", VM])["node"].as_str().expect("a holder").to_owned();
    if holder() == owner.name() {
        let other = stage.r.nodes().iter().find(|node| node.name() != owner.name()).expect("another node");
        owner.cli(["vm", "move", VM, "--to", other.name(), "--wait"]);
    }
    let last = cycles(p1, VM).last().map_or(0, |cycle| cycle.point);
    // Twice: the first may have been under way to where the replica was.
    let last = cycle_after(p1, VM, cycle_after(p1, VM, last).point);
    let lost = holder();
    let killed = SystemTime::now();
    stage.r.node(&lost).lose();
    let home = eventually(LONG, "a new home", || Some(holder()).filter(|home| *home != lost));
    let took = event_after(stage.r.node(&home), "replica_receiving", &vm.uuid().to_string(), killed);
    cycle_after(p1, VM, last.point);
    took
}
