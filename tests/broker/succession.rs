//! The owner dies while somebody asks: the agent that was asked waits for the next owner, instead of the client.

use std::time::Instant;

use landfall_kit::process::VmFolder;
use landfall_proto::id::{RequestId, VmId};
use landfall_proto::message::broker::{BrokerAnswer, BrokerRequest, Place};
use landfall_proto::model::{DiskSpec, Frequency, VmSpec};

use crate::intruder::Intruder;
use crate::stage::{LONG, holder, join_up, owner, primaries, replicas};

/// How often it may have to be asked on a machine on which the succession takes longer than an agent waits.
const ASKED_MAX: u32 = 6;

#[test]
fn a_place_that_is_asked_once_is_answered_by_the_next_owner() {
    let r = replicas().node("r1").node("r2").witness("rw").start();
    let p = primaries(&["p1"]).start();
    join_up(&p, &r);
    let lost = r.node(&owner(r.first()));
    let left = r.data_nodes().find(|node| node.name() != lost.name()).unwrap();
    let client = Intruder::as_node(p.first(), left);
    let vm = VmFolder::new("asked for once");
    let spec = VmSpec {
        id: VmId(vm.uuid()),
        name: vm.name().parse().unwrap(),
        disks: vec![DiskSpec { target: "vda".parse().unwrap(), bytes: 1 << 20 }],
        adapters: Vec::new(),
        launch: Default::default(),
    };
    let place = Place {
        request: RequestId { session: 7, sequence: 1 },
        vm: spec,
        frequency: Frequency::HalfMinute,
        recovery_points: 1,
        instead_of: None,
        lineage: None,
    };
    lost.lose();
    let begun = Instant::now();
    let mut asked = 0;
    let at = loop {
        asked += 1;
        let refused = match client.asks(left, &BrokerRequest::Place(Box::new(place.clone()))) {
            BrokerAnswer::Placed { at, .. } => break at,
            other => other,
        };
        // An agent that says at once that it knows no owner is asked thousands of times until there is one.
        assert!(asked < ASKED_MAX && begun.elapsed() < LONG, "not placed in {:?}: {refused:?}", begun.elapsed());
    };
    println!("placed {:?} after the owner was killed, asked {asked} times", begun.elapsed());
    assert_eq!(at.node.as_str(), left.name());
    assert_eq!(holder(left, vm.name()), left.name());
}
