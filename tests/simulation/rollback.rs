//! Nodes that are started again: one whose disk was put back from a copy stays out of every vote, and whoever has lost
//! nothing takes part as soon as the others have said so.

use std::time::Duration;

use landfall_agent::surface::operations::Operations;
use landfall_agent::surface::token::TokenCreate;
use landfall_kit::sim::Weather;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::seeds::each_seed;
use crate::world::{NODES, OWNER_DEADLINE, World};

/// How long a node may take that came back until it has everything: connections must be dialled anew.
const BACK_DEADLINE: Duration = Duration::from_secs(20);

/// Longer than every term, lease and election together.
const LONG: Duration = Duration::from_secs(40);

async fn write(world: &World, at: usize) {
    Box::pin(world.agent(at).token_create(TokenCreate::default())).await.unwrap();
}

/// Waits until a node has applied what the owner has.
async fn back(world: &World, at: usize) {
    let same = |world: &World| {
        let Some(owner) = world.owner() else { return false };
        world.node(at).state().tickets == world.node(owner).state().tickets && world.node(at).gate.is_open()
    };
    world.until("return of a node", BACK_DEADLINE, same).await;
}

/// The disk of a node that does not own the CAP is put back from a copy, while the owner lives or after it has died.
async fn put_back(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_millis(4000 + seed * 137 % 3000)).await;
    let owner = world.owner().expect("somebody owns the CAP");
    let (victim, third) = ((owner + 1) % NODES, (owner + 2) % NODES);
    world.kill(victim).await;
    let copy = world.copy_disk(victim);
    world.revive(victim).await;
    for _ in 0..5 {
        write(&world, owner).await;
    }
    back(&world, victim).await;
    // One small commit of the owner's, by which everybody remembers it.
    world.pass(Duration::from_secs(4)).await;
    world.kill(victim).await;
    world.put_back(victim, copy);
    let dies = seed % 2 == 1;
    if dies {
        world.kill(owner).await;
    }
    world.revive_alone(victim).await;
    world.heal(&[]);
    world.until("word of the loss", BACK_DEADLINE, |world| world.node(victim).gate.loss().is_some()).await;
    if dies {
        world.revive(owner).await;
    }
    world.until("an owner", OWNER_DEADLINE, |world| world.owner().is_some()).await;
    // Two of three would be a majority, were it one of them. No owner is better than one that lacks something.
    let owner = world.owner().expect("somebody owns the CAP");
    assert_ne!(owner, victim);
    let other = if owner == third { 3 - victim - third } else { third };
    world.kill(other).await;
    world.heal(&[]);
    world.until("nobody who acts", OWNER_DEADLINE, |world| world.owner().is_none()).await;
    for _ in 0..40 {
        world.pass(LONG / 40).await;
        assert_eq!(world.owner(), None, "seed {seed}: it votes though it has lost votes");
    }
    world.revive(other).await;
    world.until("an owner", OWNER_DEADLINE * 2, |world| world.owner().is_some()).await;
    // However often it is started.
    world.kill(victim).await;
    world.revive(victim).await;
    world.until("word of the loss", BACK_DEADLINE, |world| world.node(victim).gate.loss().is_some()).await;
    let owner = world.owner().expect("somebody owns the CAP");
    assert_ne!(owner, victim);
    assert_eq!(world.node(owner).state().tickets.len(), 2 + 5, "what was acknowledged is there");
    world.check();
    world.trace()
}

#[test]
fn a_node_whose_disk_was_put_back_takes_no_part_any_more() {
    each_seed("rollback::a_node_whose_disk_was_put_back_takes_no_part_any_more", 6, put_back);
}

/// A node starts and reaches nobody: what the others remember of it is not known.
async fn unasked(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_millis(4000 + seed * 137 % 3000)).await;
    let owner = world.owner().expect("somebody owns the CAP");
    let victim = (owner + 1 + seed as usize % 2) % NODES;
    world.kill(victim).await;
    world.revive_alone(victim).await;
    for _ in 0..20 {
        world.pass(Duration::from_secs(1)).await;
        assert!(!world.node(victim).gate.is_open(), "seed {seed}: it takes part before anybody has answered");
    }
    world.heal(&[]);
    back(&world, victim).await;
    assert_eq!((world.owner(), world.audit.turns().len()), (Some(owner), 1), "it disturbs nobody");
    world.check();
    world.trace()
}

#[test]
fn a_node_takes_no_part_before_the_others_have_answered() {
    each_seed("rollback::a_node_takes_no_part_before_the_others_have_answered", 3, unasked);
}

/// Nodes lose their power, one, two or all of them at any moment, and start again with what their disks have.
async fn untouched(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xB0BA);
    for _ in 0..6 {
        world.pass(Duration::from_millis(random.random_range(0..7000))).await;
        let (first, count) = (random.random_range(0..NODES), random.random_range(1..=NODES));
        let some: Vec<usize> = (0..count).map(|n| (first + n) % NODES).collect();
        for at in &some {
            world.kill(*at).await;
            world.pass(Duration::from_millis(random.random_range(0..1500))).await;
        }
        for at in &some {
            world.revive(*at).await;
        }
        world.until("an owner", OWNER_DEADLINE, |world| world.owner().is_some()).await;
        for at in 0..NODES {
            back(&world, at).await;
            assert_eq!(world.node(at).gate.loss(), None, "seed {seed}: a false alarm");
        }
        let owner = world.owner();
        if let Some(owner) = owner {
            write(&world, owner).await;
        }
    }
    world.check();
    world.trace()
}

#[test]
fn a_node_that_lost_nothing_but_its_power_raises_no_alarm() {
    each_seed("rollback::a_node_that_lost_nothing_but_its_power_raises_no_alarm", 8, untouched);
}

/// The disk of the founder is put back from a time when it was alone, and the others live.
async fn of_before(seed: u64) -> String {
    let mut world = World::new(seed, Weather::CALM);
    for at in 0..NODES {
        Box::pin(world.start(at)).await;
    }
    world.found_alone(0).await;
    world.until("an owner", OWNER_DEADLINE, |world| world.owner() == Some(0)).await;
    world.kill(0).await;
    let copy = world.copy_disk(0);
    world.revive(0).await;
    // Alone, it cannot know that it is: a lease passes first.
    let took = world.until("the owner again", OWNER_DEADLINE, |world| world.owner() == Some(0)).await;
    assert!(took >= Duration::from_secs(2), "seed {seed}: it acts after {took:?}");
    Box::pin(world.join_others()).await;
    world.pass(Duration::from_millis(seed * 137 % 3000)).await;
    world.kill(0).await;
    world.put_back(0, copy);
    world.until("another owner", OWNER_DEADLINE, |world| world.owner().is_some()).await;
    let owner = world.owner();
    world.revive(0).await;
    world.until("word of the loss", BACK_DEADLINE, |world| world.node(0).gate.loss().is_some()).await;
    world.pass(LONG).await;
    assert_eq!(world.owner(), owner, "it disturbs nobody");
    world.check();
    world.trace()
}

#[test]
fn a_node_whose_disk_is_of_the_time_before_the_others_acts_beside_nobody() {
    each_seed("rollback::a_node_whose_disk_is_of_the_time_before_the_others_acts_beside_nobody", 4, of_before);
}
