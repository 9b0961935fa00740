//! A bad network that is no reason to change the owner, and one that is bad while the owner dies.

use std::time::Duration;

use landfall_kit::rounds;
use landfall_kit::sim::{Fate, Share, Weather};
use tokio::time::Instant;

use crate::seeds::each_seed;
use crate::world::{OWNER_DEADLINE, World};

/// One datagram in ten is lost.
const LOSSY: Weather = Weather { loss: 0.1, ..Weather::CALM };

/// How long nothing must happen.
const MINUTES: Duration = Duration::from_secs(180);

async fn lossy(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    world.net.set_weather(LOSSY);
    world.record.note("--", "one in ten is lost from here on");
    world.pass(MINUTES).await;
    let turns = world.audit.turns();
    assert_eq!(turns.len(), 1, "seed {seed}: the owner changed: {turns:?}\n{}", world.record.lines().join("\n"));
    assert!(world.owner().is_some(), "seed {seed}: nobody acts at the end");
    assert!(world.net.trace().fates(|fate| fate == Fate::Lost) > 1000, "nothing was lost");
    world.check();
    world.trace()
}

#[test]
fn one_datagram_in_ten_lost_for_three_minutes_changes_no_owner() {
    each_seed("weather::one_datagram_in_ten_lost_for_three_minutes_changes_no_owner", 3, lossy);
}

/// A rough network, an owner that dies, one that is cut off, and calm in the end.
async fn rough(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.net.set_weather(Weather::ROUGH);
    world.pass(Duration::from_secs(10)).await;
    if let Some(owner) = world.owner() {
        world.kill(owner).await;
        world.pass(Duration::from_secs(15)).await;
        world.revive(owner).await;
    }
    world.pass(Duration::from_secs(20)).await;
    if let Some(owner) = world.owner() {
        world.isolate(owner);
        world.pass(Duration::from_secs(15)).await;
        world.net.heal_all();
    }
    world.net.set_weather(Weather::CALM);
    world.record.note("--", "faults stop");
    world.until("owner once faults stop", OWNER_DEADLINE, |world| world.owner().is_some()).await;
    world.check();
    world.trace()
}

#[test]
fn a_rough_network_never_gives_two_owners_and_one_once_it_is_calm() {
    each_seed("weather::a_rough_network_never_gives_two_owners_and_one_once_it_is_calm", 5, rough);
}

/// How long a cluster of five must be left in peace, in minutes: ten, and a day in the long form.
const LASTS: (u64, u64) = (10, 24 * 60);

/// The lives of such clusters.
const LIVES: (u64, u64) = (100, 20);

/// How often it is looked whom the owner holds for dead: it takes a node five seconds to become so.
const DEATHS_LOOK: Duration = Duration::from_millis(250);

/// Five nodes, one of which hardly gets to run, and loss: nobody is held for dead, and the owner stays who it is.
async fn five(seed: u64) -> String {
    let world = World::founded_of(5, seed, Weather::CALM).await;
    world.net.set_weather(LOSSY);
    let slow = (seed % 5) as usize;
    world.throttle(slow, Share::FIVE_PERCENT);
    world.record.note("--", "one in ten is lost from here on");
    let begun = Instant::now();
    let minutes = Duration::from_secs(60 * rounds(LASTS.0, LASTS.1));
    while begun.elapsed() < minutes {
        world.pass(DEATHS_LOOK).await;
        for at in 0..world.nodes() {
            let down = world.node(at).down.borrow().clone();
            assert!(down.is_empty(), "seed {seed}: {down:?} held for dead\n{}", world.record.lines().join("\n"));
        }
    }
    let turns = world.audit.turns();
    assert!(turns.len() == 1 || slow == 0, "seed {seed}: {turns:?}\n{}", world.record.lines().join("\n"));
    world.check();
    world.net.digest().to_string()
}

#[test]
fn five_nodes_one_of_them_slow_hold_nobody_for_dead_where_one_in_ten_is_lost() {
    let lives = rounds(LIVES.0, LIVES.1);
    each_seed("weather::five_nodes_one_of_them_slow_hold_nobody_for_dead_where_one_in_ten_is_lost", lives, five);
}
