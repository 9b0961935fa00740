//! What is done to the owner, and that nobody else has its address before it is gone from there.

use std::time::{Duration, Instant};

use landfall_kit::process::{Node, eventually};

use crate::net::{CLIENTS, OWN};
use crate::stage::{ADDRESS, INTRUDER, Moved, NODES, OUTSIDE, Stage};
use crate::{LONG, can_run, rounds};

/// The kernel's lifetime, the second that it may be late, a quarter of the lease, and what a sample may be off.
const GONE_WITHIN: Duration = Duration::from_millis(1000 + 1000 + 500 + 100);

/// A fault of the owner, and its end.
struct Fault {
    name: &'static str,
    /// Whether the address goes because the kernel ends it: nobody is there to take it away.
    ends_by_itself: bool,
    hurt: fn(&Stage, &Node),
    heal: fn(&Stage, &Node),
}

const FAULTS: [Fault; 6] = [
    Fault { name: "killed", ends_by_itself: true, hurt: |_, node| node.kill_agent(), heal: |_, _| {} },
    Fault {
        name: "stopped, and continued long after",
        ends_by_itself: true,
        hurt: |_, node| node.stop_agent(),
        heal: |_, node| node.continue_agent(),
    },
    Fault {
        name: "cut off",
        ends_by_itself: false,
        hurt: |stage, node| [OWN, CLIENTS].iter().for_each(|wire| stage.net.unplug(node.name(), wire)),
        heal: |stage, node| [OWN, CLIENTS].iter().for_each(|wire| stage.net.plug(node.name(), wire)),
    },
    Fault {
        name: "heard by nobody",
        ends_by_itself: false,
        hurt: |stage, node| stage.net.mute(node.name()),
        heal: |stage, node| stage.net.unmute(node.name()),
    },
    Fault {
        name: "without a link",
        ends_by_itself: false,
        hurt: |stage, node| stage.net.set(node.name(), CLIENTS, "down"),
        heal: |stage, node| stage.net.set(node.name(), CLIENTS, "up"),
    },
    Fault {
        name: "without the interface",
        ends_by_itself: false,
        hurt: |stage, node| stage.net.remove(node.name(), CLIENTS),
        heal: |stage, node| stage.net.connect(node.name(), CLIENTS),
    },
];

#[test]
fn one_node_has_the_address_through_every_fault() {
    if !can_run(1) {
        return;
    }
    let stage = Stage::set();
    let mut figures: Vec<(&str, Vec<Moved>)> = Vec::new();
    for fault in &FAULTS {
        let moves = (0..rounds()).map(|_| fail(&stage, fault)).collect();
        figures.push((fault.name, moves));
    }
    an_announcement_that_is_lost_is_made_again(&stage);
    another_machine_with_the_address_is_told_of_and_the_owner_stays(&stage);
    stage.auditor.check();
    let (placed, located) = stage.client.check();
    let (samples, answers) = stage.auditor.counts();
    eprintln!("kernels asked {samples} times, agents {answers} times: never two holders, never two owners");
    for (what, count) in [("Place", placed), ("Locate", located)] {
        eprintln!("{what} through the address: {} answered, the longest after {:.1?}", count.times, count.longest);
        assert!(count.times > 20, "{what} was answered {} times", count.times);
    }
    print(&figures);
}

fn fail(stage: &Stage, fault: &Fault) -> Moved {
    let owner = stage.whole();
    let name = owner.name();
    let since = Instant::now();
    (fault.hurt)(stage, owner);
    let moved = stage.elsewhere(name, since);
    let lost = stage.auditor.lost_by(name, since).expect("the old owner to have lost it") - since;
    assert!(lost <= GONE_WITHIN, "{}: {name} had the address for {lost:?}", fault.name);
    if fault.ends_by_itself {
        // A process that comes back long after finds it gone, and leaves it so.
        eventually(LONG, "two seconds more", || since.elapsed() > lost + Duration::from_secs(2));
    }
    (fault.heal)(stage, owner);
    let told = ["without a link", "without the interface"].contains(&fault.name);
    if told {
        let log = owner.log();
        assert!(log.contains("has lost the CAP's address"), "{}: {name} says so: {}", fault.name, owner.log_tail());
    }
    stage.whole();
    stage.auditor.check();
    eprintln!(
        "owner {}: the address at {} after {:.2?}, answers after {:.2?}, Place after {:.2?}, through any agent after {:.2?}",
        fault.name, moved.holder, moved.held, moved.answered, moved.placed, moved.placed_by_agents
    );
    moved
}

/// A client that hears neither of the first two announcements finds the address by a later one, long before its own table
/// of neighbours would look again.
fn an_announcement_that_is_lost_is_made_again(stage: &Stage) {
    let owner = stage.whole();
    let since = Instant::now();
    stage.net.unplug(OUTSIDE, CLIENTS);
    owner.kill_agent();
    let what = "another node to have the address";
    let (_, held) = eventually(LONG, what, || stage.auditor.taken_by_another(owner.name(), since));
    eventually(LONG, "the second announcement to be over", || held.elapsed() > Duration::from_millis(150));
    let plugged = Instant::now();
    stage.net.plug(OUTSIDE, CLIENTS);
    let (_, answered) =
        eventually(LONG, "the address to answer", || stage.client.answered_by_another(owner.name(), since));
    let took = answered - plugged;
    assert!(took < Duration::from_secs(3), "the address answered {took:?} after the client could hear again");
    stage.whole();
}

/// Another machine that has the address: an alarm, announcements, no resignation.
fn another_machine_with_the_address_is_told_of_and_the_owner_stays(stage: &Stage) {
    let owner = stage.whole();
    let term = owner.cli(["broker", "status"])["term"].clone();
    stage.net.claim(INTRUDER, "add", "10.78.0.50/32");
    for node in NODES {
        eventually(LONG, &format!("{node} to tell of the other holder"), || {
            let status = stage.r.node(node).try_cli(["broker", "status"]).map_err(|failure| failure.to_string())?;
            let same = status["term"] == term && status["owner"] == owner.name();
            assert!(same, "the owner stays: {status}");
            if status["cap_address"]["foreign"].is_string() { Ok(()) } else { Err(status.to_string()) }
        });
    }
    let report = owner.call(["doctor", "-o", "json"]);
    assert!(report.stdout.contains("cap_address_foreign"), "{report}");
    assert!(stage.auditor.holders() == [owner.name()], "it keeps {ADDRESS}");
    stage.net.claim(INTRUDER, "del", "10.78.0.50/32");
    eventually(LONG, "the alarm to end", || owner.cli(["broker", "status"])["cap_address"]["foreign"].is_null());
    assert_eq!(owner.cli(["broker", "status"])["term"], term);
}

fn print(figures: &[(&str, Vec<Moved>)]) {
    eprintln!(
        "| owner | count | address elsewhere p50 / max | answers there p50 / max | Place p50 / max | through any agent |"
    );
    for (name, moves) in figures {
        let of = |pick: fn(&Moved) -> Duration| {
            let mut all: Vec<Duration> = moves.iter().map(pick).collect();
            all.sort();
            format!("{:.2?} / {:.2?}", all[all.len() / 2], all[all.len() - 1])
        };
        let (held, answered, placed) = (of(|m| m.held), of(|m| m.answered), of(|m| m.placed));
        let by_agents = of(|m| m.placed_by_agents);
        eprintln!("| {name} | {} | {held} | {answered} | {placed} | {by_agents} |", moves.len());
    }
}
