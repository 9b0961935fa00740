//! A cluster that is founded, loses its owner, elects another and takes the first one back: the same every time.

use std::time::Duration;

use landfall_agent::surface::operations::Operations;
use landfall_agent::surface::token::TokenCreate;
use landfall_kit::sim::Weather;

use crate::seeds::{each_seed, is_child, run, seeds};
use crate::world::{NODES, OWNER_DEADLINE, World};

/// Founds, joins twice, kills the owner, waits for the next one, and lets the killed node come back.
async fn two_elections(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_secs(3)).await;
    // Through a node that does not own the CAP: forwarded, committed, answered.
    Box::pin(world.agent(2).token_create(TokenCreate::default())).await.unwrap();
    let first = world.owner().expect("somebody owns the CAP");
    world.kill(first).await;
    let took = world.another_owner(first).await;
    world.record.note("--", format!("the next owner acts after {took:?}"));
    let second = world.owner().expect("somebody owns the CAP");
    world.pass(Duration::from_secs(2)).await;
    world.revive(first).await;
    world
        .until("return of the killed node", OWNER_DEADLINE, |world| {
            let (back, owner) = (world.node(first), world.node(second));
            back.consensus.status().leader == Some(owner.me) && back.state().applied == owner.state().applied
        })
        .await;
    world.pass(Duration::from_secs(5)).await;
    Box::pin(world.agent(first).token_create(TokenCreate::default())).await.unwrap();
    let turns = world.audit.turns();
    assert_eq!(turns.len(), 2, "the owner's return or anything else changed the owner: {turns:?}");
    assert!(turns[0].2 < turns[1].2, "{turns:?}");
    world.check();
    world.trace()
}

#[test]
fn three_agents_elect_twice_with_the_same_trace() {
    if is_child(two_elections) {
        return;
    }
    let test = "elections::three_agents_elect_twice_with_the_same_trace";
    let folder = tempfile::tempdir().unwrap();
    let mut digests = std::collections::BTreeSet::new();
    let seeds = seeds(5);
    for seed in seeds.clone() {
        let one = run(test, seed, &folder.path().join("one"));
        let two = run(test, seed, &folder.path().join("two"));
        if one != two {
            let (line, (a, b)) = one.lines().zip(two.lines()).enumerate().find(|(_, (a, b))| a != b).unwrap();
            panic!("seed {seed} did not replay: line {line}\n  {a}\n  {b}");
        }
        digests.insert(*blake3::hash(one.as_bytes()).as_bytes());
    }
    assert_eq!(digests.len() as u64, seeds.end - seeds.start, "two seeds had the same trace");
}

/// A first wait, and eight more of a lease at most: nodes that draw are parted by the first or second.
const IN_STEP_DEADLINE: Duration = Duration::from_secs(20);

/// How long the owner may go on whose disk hangs: until its next small commit (3 s), two leases, and an election.
const HUNG_DEADLINE: Duration = Duration::from_secs(3 + 2 * 2 + 10);

/// The disk of the owner takes no write any more.
async fn hung_disk(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_millis(2000 + seed * 137 % 3000)).await;
    let first = world.owner().expect("somebody owns the CAP");
    world.hang_disk(first, true);
    let other = |world: &World| world.owner().is_some_and(|owner| owner != first);
    let took = world.until("owner whose disk works", HUNG_DEADLINE, other).await;
    world.record.note("--", format!("the next owner acts after {took:?}"));
    Box::pin(world.agent((first + 1) % NODES).token_create(TokenCreate::default())).await.unwrap();
    world.hang_disk(first, false);
    world
        .until("node that has everything again", OWNER_DEADLINE, |world| {
            let owner = world.owner().expect("somebody owns the CAP");
            world.node(first).state().applied == world.node(owner).state().applied
        })
        .await;
    world.check();
    world.trace()
}

#[test]
fn an_owner_whose_disk_hangs_is_succeeded() {
    each_seed("elections::an_owner_whose_disk_hangs_is_succeeded", 3, hung_disk);
}

/// Two nodes that begin at the same moment: did they wait equally long, they would stand at the same moments, again and again.
async fn in_step(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_secs(3)).await;
    for at in 0..NODES {
        world.kill(at).await;
    }
    world.pass(Duration::from_secs(30)).await;
    world.net.heal_all();
    Box::pin(world.start_in_step([1, 2])).await;
    let took = world.until("owner of two that stand in step", IN_STEP_DEADLINE, |world| world.owner().is_some()).await;
    let terms = world.node(1).consensus.status().vote_term;
    world.record.note("--", format!("an owner after {took:?}, in vote term {terms}"));
    world.check();
    world.trace()
}

#[test]
fn two_nodes_that_stand_in_step_are_parted() {
    each_seed("elections::two_nodes_that_stand_in_step_are_parted", 5, in_step);
}
