//! What moving the CAP, draining a node, leaving a cluster and recovering one answer.

use landfall_proto::id::{Fingerprint, MemberId, Term, UnixMillis};

use super::{name, named_vm};
use crate::surface::broker::BrokerMoved;
use crate::surface::ca::{CaRotation, CaStatus, ClusterRotation};
use crate::surface::cluster::{ClusterLeft, ClusterRecovered};
use crate::surface::node::{NodeDrained, NodeState, RemainingReplica};

pub fn cluster_left() -> ClusterLeft {
    ClusterLeft {
        node: name("r2"),
        cluster: name("Cluster-R"),
        set_aside: "/var/lib/landfall/left-Cluster-R-1763836961250".into(),
        warnings: Vec::new(),
    }
}

pub fn broker_moved() -> BrokerMoved {
    BrokerMoved { cap: name("r-broker-cap.contoso.com"), owner: name("r2"), term: Term::from_number(9), gap_ms: 74 }
}

pub fn node_drained() -> NodeDrained {
    let vm = named_vm();
    let stays = Some("it is failed over and runs there".to_owned());
    NodeDrained {
        node: name("r2"),
        id: MemberId::from_number(9),
        state: NodeState::Drained,
        owner: false,
        remaining: vec![RemainingReplica { uuid: vm.uuid, name: vm.name, stays }],
    }
}

pub fn cluster_recovered() -> ClusterRecovered {
    ClusterRecovered {
        node: name("r1"),
        cluster: name("Cluster-R"),
        recovered: true,
        incarnation: 1,
        removed: vec![name("r2")],
        lost: vec!["r2: no member any more; make sure that it is off, it can only join anew".to_owned()],
        next: vec!["`landfall cluster status` shows this node as the owner within seconds".to_owned()],
        blockers: Vec::new(),
    }
}

pub fn ca_status() -> CaStatus {
    let rotation = CaRotation {
        next: Fingerprint([0xcd; 32]).into(),
        begun_at: UnixMillis(1_763_836_961_250).into(),
        ends_by: UnixMillis(1_764_441_761_250).into(),
        renewed: vec![name("r1")],
        waits_for_nodes: vec![name("rw")],
        followed: Vec::new(),
        waits_for_peers: vec![name("p-broker-cap.contoso.com")],
    };
    CaStatus { present: Fingerprint([0xab; 32]).into(), rotation: Some(rotation) }
}

pub fn cluster_rotation() -> ClusterRotation {
    ClusterRotation {
        cluster: name("Cluster-R"),
        rotated: true,
        ca: ca_status(),
        missed: Vec::new(),
        given_up: Vec::new(),
    }
}
