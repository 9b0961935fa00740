//! Why nothing is taken for a replica that is received here.

use landfall_proto::id::UnixMillis;
use landfall_proto::model::Replica;
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use crate::decide::health::PAUSED_AT_REPLICA;
use crate::surface::Utc;

/// A replica that is failed over takes nothing: it is the VM. Nor does one whose old disks are still being taken in.
pub(super) fn failed_over(state: &State, replica: &Replica) -> Option<Refusal> {
    if state.returns.contains(&replica.vm.id) {
        let message = format!("the disks that {} had here are being taken in", replica.vm.name);
        return Some(Refusal::new(Class::Unreachable, "returning", message).remedy("it is tried again by itself"));
    }
    state.promotions.get(&replica.vm.id).map(|_| {
        Refusal::new(Class::Refused, "failed_over", format!("{} is failed over to this cluster", replica.vm.name))
            .field("vm")
            .remedy("cancel the failover here (landfall failover cancel), or reverse the replication")
    })
}

/// Why nothing is taken for it where replication is stopped or paused.
pub(super) fn stopped(replica: &Replica) -> Option<Refusal> {
    let stopped = replica.stopped.as_ref().map(|stop| {
        Refusal::new(
            Class::Refused,
            "replication_stopped",
            format!("replication of {} is stopped: {stop:?}", replica.vm.name),
        )
        .remedy("authorize the primary again (landfall authorization add), or pair the clusters again")
    });
    stopped.or_else(|| replica.paused.map(|since| paused(replica, since)))
}

fn paused(replica: &Replica, since: UnixMillis) -> Refusal {
    let message = format!("{} is paused at the replica since {}", replica.vm.name, Utc::from(since));
    Refusal::new(Class::Refused, PAUSED_AT_REPLICA, message)
        .remedy(format!("go on at the replica's cluster: landfall vm resume {}", replica.vm.id))
}
