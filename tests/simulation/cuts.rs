//! The owner cut off from the others, in every direction: it stops to act before another one begins (R1), and once the
//! network is whole again there is one owner in time (R9).

use std::time::Duration;

use landfall_kit::sim::Weather;

use crate::seeds::{each_seed, is_child, run};
use crate::world::{NODES, OWNER_DEADLINE, World};

/// How long a one-way cut may last until another owner acts: the old connections must first be found to be dead.
const ONE_WAY_DEADLINE: Duration = Duration::from_secs(30);

/// Long enough for connections to be given up and dialled anew while the cut lasts.
const CUT_FOR: Duration = Duration::from_secs(20);

enum Cut {
    Both,
    /// The owner is heard by nobody.
    Mute,
    /// The owner hears nobody.
    Deaf,
}

async fn cut(seed: u64, how: Cut) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    // The moment of the cut differs with the seed, so that it falls anywhere between two renewals.
    world.pass(Duration::from_millis(2000 + seed * 137 % 500)).await;
    let first = world.owner().expect("somebody owns the CAP");
    match how {
        Cut::Both => world.isolate(first),
        Cut::Mute => world.mute(first),
        Cut::Deaf => world.deafen(first),
    }
    let deadline = if matches!(how, Cut::Both) { OWNER_DEADLINE } else { ONE_WAY_DEADLINE };
    let other = |world: &World| world.owner().is_some_and(|owner| owner != first);
    let took = world.until("other owner", deadline, other).await;
    world.record.note("--", format!("the next owner acts after {took:?}"));
    assert!(world.node(first).owner.acting().is_none(), "{:?}", world.audit.turns());
    let next = world.owner().expect("it acts");
    let vacant = world.node(next).owner.watch().borrow().unwrap().vacant;
    assert!(!vacant, "nobody knows what an owner that was lost still has");
    world.pass(CUT_FOR).await;
    world.net.heal_all();
    world.record.note("--", "healed");
    // Whoever it is: one owner, whom all know, and all have applied its claim.
    let agreed = |world: &World| {
        let Some(owner) = world.owner() else { return false };
        let claim = world.node(owner).state().claim.as_ref().map(|claim| claim.term);
        (0..NODES).all(|at| {
            let node = world.node(at);
            let leader = node.consensus.status().leader;
            leader == Some(world.node(owner).me) && node.state().claim.as_ref().map(|claim| claim.term) == claim
        })
    };
    let took = world.until("agreement on an owner", OWNER_DEADLINE, agreed).await;
    world.record.note("--", format!("agreed after {took:?}"));
    world.pass(Duration::from_secs(10)).await;
    assert!(agreed(&world));
    world.check();
    assert!(world.audit.looks() > 30_000, "nobody looked");
    world.trace()
}

async fn both_ways(seed: u64) -> String {
    cut(seed, Cut::Both).await
}

async fn mute(seed: u64) -> String {
    cut(seed, Cut::Mute).await
}

async fn deaf(seed: u64) -> String {
    cut(seed, Cut::Deaf).await
}

#[test]
fn an_owner_that_is_cut_off_stops_before_another_acts() {
    each_seed("cuts::an_owner_that_is_cut_off_stops_before_another_acts", 8, both_ways);
}

#[test]
fn an_owner_that_nobody_hears_stops_before_another_acts() {
    each_seed("cuts::an_owner_that_nobody_hears_stops_before_another_acts", 5, mute);
}

#[test]
fn an_owner_that_hears_nobody_stops_before_another_acts() {
    each_seed("cuts::an_owner_that_hears_nobody_stops_before_another_acts", 5, deaf);
}

/// A node that does not own the CAP is cut off and returns: the owner owns it all the time, under one term.
async fn bystander(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_millis(2000 + seed * 137 % 500)).await;
    let owner = world.owner().expect("somebody owns the CAP");
    let bystander = (owner + 1 + seed as usize % 2) % NODES;
    world.isolate(bystander);
    world.pass(CUT_FOR).await;
    assert_eq!(world.owner(), Some(owner), "the owner has its majority all the time");
    world.net.heal_all();
    world.record.note("--", "healed");
    world.pass(OWNER_DEADLINE).await;
    let turns = world.audit.turns();
    assert_eq!((world.owner(), turns.len()), (Some(owner), 1), "{turns:?}\n{}", world.record.lines().join("\n"));
    world.check();
    world.trace()
}

#[test]
fn a_node_that_was_cut_off_and_returns_leaves_the_owner_alone() {
    each_seed("cuts::a_node_that_was_cut_off_and_returns_leaves_the_owner_alone", 5, bystander);
}

/// The owner's machine stands still, and goes on with a lease that is over.
async fn stood_still(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    for round in 0..3 {
        world.pass(Duration::from_millis(3000 + (seed * 137 + round * 71) % 500)).await;
        let owner = world.owner().expect("somebody owns the CAP");
        world.stand_still(owner, Duration::from_secs(2));
        assert_eq!(world.node(owner).owner.acting(), None, "seed {seed}: it acts before it has asked anybody");
        world.until("an owner", OWNER_DEADLINE, |world| world.owner().is_some()).await;
    }
    world.check();
    world.trace()
}

#[test]
fn an_owner_that_stood_still_acts_only_once_a_majority_has_confirmed_it() {
    each_seed("cuts::an_owner_that_stood_still_acts_only_once_a_majority_has_confirmed_it", 3, stood_still);
}

/// Two clusters under one audit: two owners that know nothing of each other.
async fn two_clusters(seed: u64) -> String {
    let mut world = World::new(seed, Weather::CALM);
    for at in 0..2 {
        Box::pin(world.start(at)).await;
        Box::pin(world.found_alone(at)).await;
    }
    world.pass(Duration::from_secs(2)).await;
    world.audit.faults().join("\n")
}

/// The audit can fail: where two act at once, it is seen.
#[test]
fn two_that_act_at_once_are_caught() {
    if is_child(two_clusters) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let faults = run("cuts::two_that_act_at_once_are_caught", 0, &folder.path().join("trace"));
    assert!(faults.contains("act at once"), "{faults}");
}

/// Longer than gossip remembers the dead.
const FORGOTTEN: Duration = Duration::from_secs(16 * 60);

/// How soon two nodes hear each other once there is a way again: connections that were given up, and a greeting.
const HEARD_AGAIN: Duration = Duration::from_secs(12);

/// One of the ways that no owner needs is cut for so long that each end has forgotten the other. Of five nodes: with fewer,
/// chitchat comes upon one of its first addresses again.
async fn forgotten(seed: u64) -> String {
    let world = World::founded_of(5, seed, Weather::CALM).await;
    let (first, one, other) = (world.owner(), 1, 2);
    assert_eq!(first, Some(0), "who founded it owns the CAP");
    let hears = |world: &World, at: usize, whom: usize| {
        let view = world.node(at).view.borrow().clone();
        view.get(&world.node(whom).me).is_some_and(|seen| seen.live && seen.facts.is_some())
    };
    let hear = |world: &World| hears(world, one, other) && hears(world, other, one);
    world.until("gossip between all", HEARD_AGAIN, hear).await;
    world.sever(one, other);
    world.pass(FORGOTTEN).await;
    assert!(!hears(&world, one, other) && !hears(&world, other, one), "there was a way");
    assert_eq!(world.owner(), first, "it was no reason to change the owner");
    world.net.heal_all();
    world.record.note("--", "healed");
    world.until("gossip between the two", HEARD_AGAIN, hear).await;
    world.check();
    world.net.digest().to_string()
}

#[test]
fn two_nodes_that_have_forgotten_each_other_speak_again() {
    each_seed("cuts::two_nodes_that_have_forgotten_each_other_speak_again", 1, forgotten);
}
