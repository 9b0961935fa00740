//! Place against the least that it can cost: two round trips and a log entry synced on three nodes.

use std::time::{Duration, Instant};

use landfall_kit::table::{Aim, Row, Unit};

use super::Sample;
use super::asker::{DEADLINE, wish};
use super::stage::Stage;
use crate::floor::{append, echo};

/// Turns of floor and product, and how much each does.
const TURNS: usize = 5;
const MEASURED: Duration = Duration::from_millis(400);
const PLACED: usize = 12;
/// Placings before anything is measured: they open the connections between the agents.
const WARM: usize = 3;
/// At most this many times the floor.
const TIMES: f64 = 4.0;

/// The floor of one committed answer: a round trip to ask, `trips` in all, and three synced appends at once.
pub fn committed(trips: f64) -> f64 {
    let echoed = echo::measure(1, 1, MEASURED);
    trips * echoed.p50_micros + append::measure(append::PROCESSES, MEASURED).p50_micros
}

/// New replicas, asked for at each of the three agents in turn, so that two of three are forwarded to the owner.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let clients: Vec<_> = stage.asker.agents().into_iter().flat_map(|agent| stage.asker.clients(1, &[agent])).collect();
    let (mut own, mut bare, mut placed) = (Sample::default(), Sample::default(), Vec::new());
    for turn in 0..TURNS {
        bare.add(committed(2.0));
        let warm = if turn == 0 { WARM } else { 0 };
        for (number, client) in clients.iter().cycle().take(warm + PLACED).enumerate() {
            let wish = wish();
            let vm = wish.vm.id;
            let asked = Instant::now();
            stage.runtime.block_on(client.place(wish, DEADLINE)).expect("a replica");
            if number >= warm {
                own.time(asked.elapsed());
            }
            placed.push(vm);
        }
    }
    for vm in placed {
        stage.runtime.block_on(clients[0].remove(vm, DEADLINE)).expect("a replica to remove");
    }
    let name = "Place, registered at its node: p50 (floor: 2 round trips + append synced by 3)";
    let p99 = "Place, registered at its node: p99";
    vec![
        Row::figure(name, Unit::Micros, own.p50()).over(bare.p50()).aim(Aim::TimesFloor(TIMES)),
        Row::figure(p99, Unit::Micros, own.quantile(0.99)),
    ]
}
