//! A node that comes and goes is left alone until it is steady, whoever owns the CAP, and an operator may vouch for it.

use std::time::Duration;

use landfall_agent::decide::succession;
use landfall_agent::drive::{owner, sight};
use landfall_agent::surface::broker::BrokerMove;
use landfall_agent::surface::operations::Operations;
use landfall_kit::sim::Weather;
use landfall_proto::id::{MemberId, VmId};

use crate::seeds::each_seed;
use crate::world::{NODES, OWNER_DEADLINE, World};

/// How long a node may take that was cut off until it is seen again, and one until it is lost: connections come first.
const SEEN_DEADLINE: Duration = Duration::from_secs(60);

/// How long after the third loss it counts, and a little.
const SETTLED: Duration = Duration::from_secs(10);

fn live(world: &World, from: usize, member: MemberId) -> bool {
    world.node(from).view.borrow().get(&member).is_some_and(|seen| seen.live)
}

fn holds(world: &World, from: usize, member: MemberId) -> bool {
    world.node(from).quarantines.held().contains_key(&member)
}

/// Cuts a node off, so often, each time until the others have lost it and see it again.
async fn flap(world: &World, at: usize, times: usize) {
    let member = world.node(at).me;
    let others: Vec<usize> = (0..NODES).filter(|other| *other != at).collect();
    for _ in 0..times {
        world.isolate(at);
        let lost = |world: &World| others.iter().all(|other| !live(world, *other, member));
        world.until("loss", SEEN_DEADLINE, lost).await;
        world.pass(Duration::from_secs(8)).await;
        world.heal(&[]);
        let seen = |world: &World| others.iter().all(|other| live(world, *other, member));
        world.until("sight of it", SEEN_DEADLINE, seen).await;
        world.pass(Duration::from_secs(2)).await;
    }
}

async fn comes_and_goes(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_millis(4000 + seed * 137 % 3000)).await;
    let owner = world.owner().expect("somebody owns the CAP");
    let (victim, third) = ((owner + 1) % NODES, (owner + 2) % NODES);
    let (it, other) = (world.node(victim).me, world.node(third).me);
    let heir = |world: &World, member: MemberId| {
        let heirs = owner::heirs(&world.node(owner));
        succession::check(heirs.iter().find(|heir| heir.member == member).unwrap()).map_err(|refusal| refusal.code)
    };

    flap(&world, victim, 2).await;
    world.pass(SETTLED).await;
    assert!(!holds(&world, owner, it) && heir(&world, it) == Ok(()), "two losses are none");
    flap(&world, victim, 1).await;
    world.until("quarantine", SETTLED, |world| holds(world, owner, it) && holds(world, third, it)).await;
    assert_eq!((heir(&world, it).unwrap_err().as_str(), heir(&world, other)), ("quarantined", Ok(())));
    let candidates = sight::candidates(&world.node(owner), VmId(uuid::Uuid::nil()));
    let held: Vec<MemberId> = candidates.iter().filter(|one| one.quarantine.is_some()).map(|one| one.member).collect();
    assert_eq!(held, [it], "nobody else");
    for at in [victim, third] {
        assert!(!holds(&world, at, world.node(owner).me), "whoever was cut off accuses nobody");
    }
    assert!(!holds(&world, victim, other));
    // Everybody shows what the owner holds.
    let shown = |at: usize| {
        let agent = world.agent(at).clone();
        async move { agent.node_list().await.unwrap() }
    };
    world.pass(Duration::from_secs(3)).await;
    for at in 0..NODES {
        for row in Box::pin(shown(at)).await {
            let wanted = row.id == it;
            assert_eq!(row.quarantine.is_some(), wanted, "{row:?}");
            assert!(row.quarantine.is_none_or(|held| held.until.is_some() && held.reason.contains("lost 3 times")));
        }
    }
    // Its vote counts as ever: it makes a majority with the owner.
    assert_eq!(world.node(owner).consensus.status().voters.len(), NODES);

    world.pass(Duration::from_secs(240)).await;
    assert!(holds(&world, owner, it), "not steady for long enough");
    let free = |world: &World| (0..NODES).all(|at| !holds(world, at, it));
    world.until("end of the quarantine", Duration::from_secs(70), free).await;
    assert_eq!(heir(&world, it), Ok(()));

    // A relapse takes longer, and an operator ends it everywhere.
    flap(&world, victim, 3).await;
    world.until("quarantine", SETTLED, |world| holds(world, owner, it) && holds(world, third, it)).await;
    assert_eq!(world.node(owner).quarantines.held()[&it].steady_seconds, 600);
    let name = world.node(victim).name.clone();
    Box::pin(world.agent(third).clone().node_restore(name)).await.unwrap();
    world.until("end of the quarantine", OWNER_DEADLINE, free).await;
    assert_eq!((world.owner(), world.audit.turns().len()), (Some(owner), 1), "the owner stays");
    world.check();
    world.trace()
}

#[test]
fn a_node_that_comes_and_goes_is_left_alone_until_it_is_steady() {
    each_seed("flapping::a_node_that_comes_and_goes_is_left_alone_until_it_is_steady", 3, comes_and_goes);
}

/// Every other node has come and gone: an operator is refused the one that he names, and an owner that must go has one.
async fn all_others(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_millis(4000 + seed * 137 % 3000)).await;
    let owner = world.owner().expect("somebody owns the CAP");
    let (one, other) = ((owner + 1) % NODES, (owner + 2) % NODES);
    flap(&world, one, 3).await;
    flap(&world, other, 3).await;
    let both = |world: &World| [one, other].iter().all(|at| holds(world, owner, world.node(*at).me));
    world.until("quarantine of both", SETTLED, both).await;
    let named = BrokerMove { to: world.node(one).name.clone() };
    let refusal = Box::pin(world.agent(owner).broker_move(named)).await.unwrap_err();
    assert_eq!(refusal.code, "quarantined", "{refusal}");
    let given = Box::pin(owner::order(&world.node(owner), None)).await.unwrap();
    assert_eq!(world.owner().map(|at| world.node(at).me), Some(given.owner));
    assert_ne!(world.owner(), Some(owner), "it went to one of them");
    world.check();
    world.trace()
}

#[test]
fn where_every_other_node_comes_and_goes_the_cap_still_has_an_heir() {
    each_seed("flapping::where_every_other_node_comes_and_goes_the_cap_still_has_an_heir", 2, all_others);
}
