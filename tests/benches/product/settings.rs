//! A setting until every VM service has it on disk, against one committed write.

use std::time::Instant;

use hyper::Method;
use landfall_kit::process::Node;
use landfall_kit::table::{Aim, Row, Unit};
use serde_json::json;

use super::stage::Stage;
use super::{Sample, place};

/// Turns of floor and product, and how many settings each makes.
const TURNS: usize = 5;
const SET: usize = 10;
/// Settings made before anything is measured.
const WARM: usize = 3;
/// At most this many times a committed write.
const TIMES: f64 = 3.0;

/// Asked at the owner, over its socket.
pub fn rows(stage: &Stage) -> Vec<Row> {
    let owner = stage.owner();
    let (mut committed, mut applied, mut bare) = (Sample::default(), Sample::default(), Sample::default());
    let mut value = 0;
    let mut next = || {
        value += 1;
        value % 100
    };
    for _ in 0..WARM {
        set(stage, owner, next(), true);
    }
    for _ in 0..TURNS {
        bare.add(place::committed(1.0));
        for _ in 0..SET {
            let asked = Instant::now();
            set(stage, owner, next(), false);
            committed.time(asked.elapsed());
            // Not to be measured with the next one: the VM services take this one in.
            set(stage, owner, next(), true);
            let asked = Instant::now();
            set(stage, owner, next(), true);
            applied.time(asked.elapsed());
        }
    }
    let floor = "floor: round trip + append synced by 3";
    let one = format!("setting committed: p50 ({floor})");
    let all = format!("setting in the file of 3 VM services (--wait): p50 ({floor})");
    vec![
        Row::figure(&one, Unit::Micros, committed.p50()).over(bare.p50()),
        Row::figure(&all, Unit::Micros, applied.p50()).over(bare.p50()).aim(Aim::TimesFloor(TIMES)),
    ]
}

fn set(stage: &Stage, owner: &Node, value: u32, wait: bool) {
    let mut body = json!({"settings": {"apply_vm_limit": value + 1}});
    if wait {
        body["wait_seconds"] = 30.into();
    }
    stage.ask(owner, Method::PATCH, "/v1/settings", Some(&body)).expect("a setting that is applied");
}
