//! A bad network that is no reason to change the owner, and one that is bad while the owner dies.

use std::time::Duration;

use landfall_kit::sim::{Fate, Weather};

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
