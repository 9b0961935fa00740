//! The CAP given from node to node: at once, and never to two, whatever happens on the way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use landfall_agent::drive::owner::GiveBack;
use landfall_agent::surface::broker::{BrokerMove, BrokerMoved};
use landfall_agent::surface::operations::Operations;
use landfall_kit::sim::Weather;
use landfall_proto::Refusal;
use landfall_proto::id::Term;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::seeds::each_seed;
use crate::world::{NODES, OWNER_DEADLINE, World};

/// How long nobody may act while the CAP is given in calm weather: a tenth of what an election takes.
const GAP_MAX_MS: u64 = 350;

/// How long a command may take, whatever happens to it.
const ASKED_MAX: Duration = Duration::from_secs(40);

/// How long after its claim an owner may be asked to go: a lease.
const SETTLED: Duration = Duration::from_millis(2_500);

/// What an owner holds besides its lease: the terms in which it was given back.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<Term>>>);

#[async_trait]
impl GiveBack for Held {
    async fn give_back(&self, term: Term) -> Result<(), Refusal> {
        self.0.lock().unwrap().push(term);
        Ok(())
    }
}

/// From node to node, asked at another one each time.
async fn moves(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    let held = Held::default();
    (0..NODES).for_each(|at| world.node(at).owner.gives_back(Arc::new(held.clone())));
    for round in 0..6 {
        world.pass(SETTLED).await;
        let owner = world.owner().expect("somebody owns the CAP");
        let next = (owner + 1 + (seed as usize + round) % 2) % NODES;
        let before = world.node(owner).owner.acting().unwrap();
        let request = BrokerMove { to: world.node(next).name.clone() };
        let moved = Box::pin(world.agent(round % NODES).broker_move(request.clone())).await.unwrap();
        assert_eq!((moved.owner, world.owner()), (request.to, Some(next)));
        assert!(moved.term > before && moved.gap_ms < GAP_MAX_MS, "{} ms", moved.gap_ms);
        assert_eq!(held.0.lock().unwrap().last(), Some(&before), "the old owner keeps what it holds");
        world.record.note("--", format!("a gap of {} ms", moved.gap_ms));
        assert!(world.node(next).owner.watch().borrow().unwrap().vacant, "the old owner has given everything back");
    }
    assert_eq!(world.audit.turns().len(), 7, "{:?}", world.audit.turns());
    world.check();
    world.trace()
}

#[test]
fn the_cap_is_given_at_once() {
    each_seed("handovers::the_cap_is_given_at_once", 8, moves);
}

/// Asks the owner to give the CAP to `next`, and goes on.
fn asked(world: &World, owner: usize, next: usize) -> JoinHandle<Result<BrokerMoved, Refusal>> {
    let request = BrokerMove { to: world.node(next).name.clone() };
    let agent = world.agent(owner).clone();
    tokio::spawn(async move { Box::pin(agent.broker_move(request)).await })
}

/// A cut in the middle of it: of either side or of a bystander, at any moment, in any direction.
async fn cut_on_the_way(seed: u64) -> String {
    let world = World::founded(seed, Weather::CALM).await;
    for round in 0..4u64 {
        let draw = seed * 31 + round * 7;
        world.pass(SETTLED).await;
        let owner = world.owner().expect("somebody owns the CAP");
        let (next, cut) = ((owner + 1) % NODES, (owner + draw as usize) % NODES);
        let asked = asked(&world, owner, next);
        // The stop, the pause, the commit, the votes and the claim take about a tenth of a second.
        world.pass(Duration::from_millis(draw * 13 % 130)).await;
        match draw % 3 {
            0 => world.isolate(cut),
            1 => world.mute(cut),
            _ => world.deafen(cut),
        }
        let begun = Instant::now();
        let answer = timeout(ASKED_MAX, asked).await.expect("the command ends").unwrap();
        let told = answer.map_or_else(|refusal| refusal.code, |moved| format!("{} owns it", moved.owner));
        world.record.note("--", format!("{told} after {:?}", begun.elapsed()));
        sleep(Duration::from_secs(draw % 9)).await;
        world.net.heal_all();
        world.record.note("--", "healed");
        world.until("an owner", OWNER_DEADLINE, |world| world.owner().is_some()).await;
    }
    world.check();
    world.trace()
}

#[test]
fn a_cut_while_the_cap_is_given_leaves_one_owner() {
    each_seed("handovers::a_cut_while_the_cap_is_given_leaves_one_owner", 12, cut_on_the_way);
}

/// The node that is to own it dies while it is given the CAP.
async fn heir_dies(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.pass(SETTLED).await;
    let owner = world.owner().expect("somebody owns the CAP");
    let next = (owner + 1) % NODES;
    let asked = asked(&world, owner, next);
    world.pass(Duration::from_millis(seed * 17 % 120)).await;
    world.kill(next).await;
    let took = world.until("an owner", OWNER_DEADLINE, |world| world.owner().is_some_and(|at| at != next)).await;
    let told = match timeout(ASKED_MAX, asked).await.expect("the command ends").unwrap() {
        Ok(moved) => format!("{} owned it", moved.owner),
        Err(refusal) => refusal.to_string(),
    };
    world.record.note("--", format!("an owner after {took:?}; {told}"));
    world.check();
    world.trace()
}

#[test]
fn where_the_next_owner_dies_another_is_elected_in_time() {
    each_seed("handovers::where_the_next_owner_dies_another_is_elected_in_time", 8, heir_dies);
}

/// An agent that is told to stop gives the CAP away first.
async fn retires(seed: u64) -> String {
    let mut world = World::founded(seed, Weather::CALM).await;
    world.pass(SETTLED).await;
    let owner = world.owner().expect("somebody owns the CAP");
    Box::pin(world.agent(owner).clone().retire()).await;
    let took = world.another_owner(owner).await;
    assert!(took < Duration::from_millis(GAP_MAX_MS), "{took:?}");
    world.kill(owner).await;
    world.pass(Duration::from_secs(10)).await;
    let turns = world.audit.turns();
    assert_eq!(turns.len(), 2, "its end disturbs nobody: {turns:?}");
    world.check();
    world.trace()
}

#[test]
fn an_agent_that_stops_gives_the_cap_away_first() {
    each_seed("handovers::an_agent_that_stops_gives_the_cap_away_first", 5, retires);
}
