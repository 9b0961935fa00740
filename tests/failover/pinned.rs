//! A failed-over VM stays at its node: cut off or dead, nobody else starts it.

use std::time::{Duration, Instant};

use landfall_kit::process::eventually;

use crate::stage::{LONG, WORK, at_step, failover, guests, node_of, refused, replicated, runs};

/// Twice the time after which a replica without a live copy gets another home.
const WATCHED: Duration = Duration::from_secs(10);

#[test]
fn a_cut_off_node_and_a_new_home_never_both_start_a_failed_over_vm() {
    let (r, p, _) = replicated(&["r1", "r2", "r3"]);
    r.first().cli(["settings", "set", "rehome_without_copy_after=5s", "--wait"]);
    p.first().lose();
    let begun = failover(r.first(), &["unplanned", WORK, "--yes", "--timeout", "60s"]).unwrap();
    let holder = node_of(&r, &begun);
    let other = r.nodes().iter().find(|node| node.name() != holder.name()).unwrap();
    let guest = holder.family().with_argument("write");
    // Cut off, not dead: the VM may be running, and is again as soon as the node goes on.
    holder.freeze();
    // Whichever of them is asked: the owner tells the other one.
    for asked in r.nodes().iter().filter(|node| node.name() != holder.name()) {
        eventually(LONG, "the node to be held for lost", || {
            let nodes = asked.try_cli(["node", "list"]).map_err(|failure| failure.to_string())?;
            let mut listed = nodes.as_array().into_iter().flatten();
            let lost = listed.any(|node| node["node"] == holder.name() && node["state"] == "down");
            if lost { Ok(()) } else { Err(nodes.to_string()) }
        });
    }
    let since = Instant::now();
    while since.elapsed() < WATCHED {
        let elsewhere: usize = r.nodes().iter().filter(|node| node.name() != holder.name()).map(guests).sum();
        assert_eq!(elsewhere, 0, "only its own node may run it");
        std::thread::sleep(Duration::from_millis(200));
    }
    let at = other.cli(["vm", "locate", WORK]);
    assert_eq!(at["node"], holder.name(), "{at}");
    let moved = other.try_cli(["vm", "move", WORK, "--to", other.name()]).unwrap_err();
    assert_eq!(moved.code, "failed_over", "{moved}");
    refused(other, &["unplanned", WORK, "--yes", "--force"], "failed_over");
    holder.thaw();
    runs(other);
    at_step(other, "running");
    assert_eq!(holder.family().with_argument("write"), guest, "the same process goes on");
    assert_eq!(r.nodes().iter().map(guests).sum::<usize>(), 1);
}
