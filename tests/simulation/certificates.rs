//! Certificates over weeks: renewed in time without a change of the owner, and after a sleep or with a clock that has
//! forgotten the date.

use std::time::Duration;

use landfall_agent::decide::renewal::is_due;
use landfall_agent::drive::renewal::ends_at;
use landfall_agent::surface::cluster::ClusterJoin;
use landfall_agent::surface::operations::Operations;
use landfall_kit::sim::{WALL_START, Weather};
use landfall_proto::id::UnixMillis;

use crate::seeds::each_seed;
use crate::world::{NODES, OWNER_DEADLINE, World};

const DAY: i64 = 24 * 3600 * 1000;

/// A node looks at its certificate every minute; dialling anew may take a few seconds on top.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(90);

fn end(world: &World, at: usize) -> UnixMillis {
    ends_at(&world.node(at)).unwrap()
}

async fn renewed(world: &World, nodes: &[usize]) {
    world
        .until("new certificates", RENEWAL_DEADLINE, |world| {
            nodes.iter().all(|at| !is_due(world.node(*at).outside.clock.wall(), end(world, *at)))
        })
        .await;
}

/// Whether a node follows the owner, with everything applied.
fn follows(world: &World, at: usize) -> bool {
    let Some(owner) = world.owner() else { return false };
    let (node, owner) = (world.node(at), world.node(owner));
    node.consensus.status().leader == Some(owner.me) && node.state().applied == owner.state().applied
}

async fn weeks(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.pass(Duration::from_secs(2)).await;
    let first = world.owner().expect("somebody owns the CAP");
    // Four weeks, each half of them: every certificate is renewed, and nobody loses the CAP over it.
    for half in 1..=8 {
        (0..NODES).for_each(|at| world.set_date(at, half * 4 * DAY));
        renewed(&world, &[0, 1, 2]).await;
    }
    world.pass(Duration::from_secs(5)).await;
    assert_eq!((world.owner(), world.audit.turns().len()), (Some(first), 1), "{:?}", world.audit.turns());

    // One sleeps for a month, and issues its own when it wakes up.
    let sleeper = (first + 1) % NODES;
    world.kill(sleeper).await;
    for half in 9..=16 {
        (0..NODES).for_each(|at| world.set_date(at, half * 4 * DAY));
        let awake: Vec<usize> = (0..NODES).filter(|at| *at != sleeper).collect();
        renewed(&world, &awake).await;
    }
    world.revive(sleeper).await;
    world.until("return of the sleeper", RENEWAL_DEADLINE, |world| follows(world, sleeper)).await;

    // And one board begins in 1970: it knows what its log says of the time.
    let board = (first + 2) % NODES;
    world.kill(board).await;
    world.pass(RENEWAL_DEADLINE).await;
    world.set_date(board, -(WALL_START.0 as i64));
    world.revive(board).await;
    world.until("return of the board", RENEWAL_DEADLINE, |world| follows(world, board)).await;
    world.check();
    world.trace()
}

#[test]
fn certificates_are_renewed_for_weeks_and_found_again_after_a_sleep_or_a_wrong_date() {
    let test = "certificates::certificates_are_renewed_for_weeks_and_found_again_after_a_sleep_or_a_wrong_date";
    each_seed(test, 2, weeks);
}

/// A witness has no key of the CA: it asks, and once its certificate has ended an operator has to let it in again.
async fn witness(seed: u64) -> String {
    const WITNESS: usize = NODES - 1;
    let mut world = World::with_witness(seed, Weather::CALM).await;
    world.pass(Duration::from_secs(2)).await;
    let before = end(&world, WITNESS);
    (0..NODES).for_each(|at| world.set_date(at, 4 * DAY));
    renewed(&world, &[0, 1, WITNESS]).await;
    assert!(end(&world, WITNESS) > before);

    world.kill(WITNESS).await;
    (0..NODES).for_each(|at| world.set_date(at, 14 * DAY));
    renewed(&world, &[0, 1]).await;
    world.revive(WITNESS).await;
    world.pass(RENEWAL_DEADLINE).await;
    assert!(!follows(&world, WITNESS), "nobody talks to a node whose certificate has ended");
    let (id, owner) = (world.node(WITNESS).me, world.owner().expect("somebody owns the CAP"));
    let token = world.token(owner, WITNESS).await;
    Box::pin(world.agent(WITNESS).clone().cluster_join(ClusterJoin { token })).await.unwrap();
    world.until("return of the witness", OWNER_DEADLINE, |world| follows(world, WITNESS)).await;
    assert_eq!(world.node(WITNESS).me, id, "it is who it was");
    world.check();
    world.trace()
}

#[test]
fn a_witness_asks_for_its_certificate_and_is_let_in_again_by_a_token_once_that_has_ended() {
    let test = "certificates::a_witness_asks_for_its_certificate_and_is_let_in_again_by_a_token_once_that_has_ended";
    each_seed(test, 2, witness);
}
