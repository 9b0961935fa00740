//! The owner's node dies: how long until the CAP places a replica again.

use std::time::{Instant, SystemTime};

use landfall_kit::table::{Aim, Row, Unit};

use super::asker::{DEADLINE, wish};
use super::journal::claim_after;
use super::stage::Stage;
use super::{Sample, rounds};

const P50_SECONDS: f64 = 3.5;
const P99_SECONDS: f64 = 5.0;

/// From the kill to the answer to a Place that was asked for right after it.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let client = &stage.asker.clients(1, &stage.asker.agents())[0];
    let place = || {
        let wish = wish();
        let vm = wish.vm.id;
        stage.runtime.block_on(client.place(wish, DEADLINE)).unwrap_or_else(|refusal| panic!("not placed: {refusal}"));
        vm
    };
    let (mut times, mut claims) = (Sample::default(), Sample::default());
    for _ in 0..rounds() {
        stage.whole();
        let mut placed = vec![place()];
        let owner = stage.owner();
        let (killed, at) = (Instant::now(), SystemTime::now());
        owner.lose();
        placed.push(place());
        times.time(killed.elapsed());
        let claimed = claim_after(stage.r.nodes().iter().filter(|node| node.name() != owner.name()), at);
        claims.time(claimed);
        eprintln!("takeover: claimed after {claimed:.2?}, placed after {:.2?}", killed.elapsed());
        stage.whole();
        for vm in placed {
            stage.runtime.block_on(client.remove(vm, DEADLINE)).expect("a replica to remove");
        }
    }
    let name = |of: &str| format!("owner's node SIGKILL to next Place through the CAP, {} rounds: {of}", rounds());
    vec![
        Row::figure(&name("p50, of it until the CAP was claimed"), Unit::Micros, claims.p50()),
        Row::figure(&name("p50"), Unit::Micros, times.p50()).aim(Aim::Value(P50_SECONDS * 1e6)),
        Row::figure(&name("p99"), Unit::Micros, times.quantile(0.99)).aim(Aim::Value(P99_SECONDS * 1e6)),
    ]
}
