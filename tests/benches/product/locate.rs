//! Locate against a bare echo over as many connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_kit::table::{Aim, Row, Unit};
use landfall_proto::client::BrokerClient;
use landfall_proto::id::VmId;

use super::Sample;
use super::asker::{CONNECTIONS, DEADLINE, wish};
use super::stage::Stage;
use crate::floor::echo;

/// Turns of floor and product, and how long each asks.
const TURNS: usize = 3;
const ASKED: Duration = Duration::from_millis(1000);
/// How long to ask before anything is measured.
const WARM: Duration = Duration::from_millis(200);
/// At one connection: at most this many times the echo's time.
const TIMES_AT_ONE: f64 = 1.5;
/// At the most connections: at least half of the echo's rate.
const TIMES_AT_MOST: f64 = 2.0;

/// Over 1, 8 and 64 connections to the owner's agent.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let owner = stage.owner().address().parse().expect("an address");
    let placing = stage.asker.clients(1, &stage.asker.agents());
    let wish = wish();
    let vm = wish.vm.id;
    stage.runtime.block_on(placing[0].place(wish, DEADLINE)).expect("a replica to ask for");
    let mut rows = Vec::new();
    for connections in [1, 8, CONNECTIONS] {
        let clients: Vec<_> = stage.asker.clients(connections, &[owner]).into_iter().map(Arc::new).collect();
        stage.runtime.block_on(ask_all(&clients, vm, WARM));
        let (mut bare, mut own) = ([Sample::default(), Sample::default()], [Sample::default(), Sample::default()]);
        for _ in 0..TURNS {
            let echoed = echo::measure(connections, 1, ASKED);
            bare[0].add(echoed.p50_micros);
            bare[1].add(echoed.per_second);
            let (times, rate) = stage.runtime.block_on(ask_all(&clients, vm, ASKED));
            own[0].add(times.p50());
            own[1].add(rate);
        }
        let name = format!("Locate, {connections} connection{}", if connections == 1 { "" } else { "s" });
        let time = Row::figure(&format!("{name}: p50 (floor: echo)"), Unit::Micros, own[0].p50()).over(bare[0].p50());
        let rate =
            Row::figure(&format!("{name}: rate (floor: echo)"), Unit::PerSecond, own[1].p50()).over(bare[1].p50());
        rows.push(if connections == 1 { time.aim(Aim::TimesFloor(TIMES_AT_ONE)) } else { time });
        rows.push(if connections == CONNECTIONS { rate.aim(Aim::TimesFloor(TIMES_AT_MOST)) } else { rate });
    }
    stage.runtime.block_on(placing[0].remove(vm, DEADLINE)).expect("a replica to remove");
    rows
}

/// Every client asks one question after the other for `long`, each in a task of its own as the floor's do; the times, and
/// the questions a second of all.
async fn ask_all(clients: &[Arc<BrokerClient>], vm: VmId, long: Duration) -> (Sample, f64) {
    let begun = Instant::now();
    let asking = clients.iter().cloned().map(|client| {
        tokio::spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < long {
                let asked = Instant::now();
                client.locate(vm, client.position(), DEADLINE).await.expect("a location");
                times.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            times
        })
    });
    let asked = futures_util::future::join_all(asking).await;
    let times: Vec<f64> = asked.into_iter().flat_map(|times| times.expect("a client")).collect();
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    (Sample(times), rate)
}
