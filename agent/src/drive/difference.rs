//! What differs between two recovery points of a replica that this node has.

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::message::control::{DIFFERENCE_RANGES_MAX, DiskDifference};

use crate::drive::replica::diff;
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;

impl Replicas {
    /// What differs between two points, at most `limit` ranges listed.
    pub async fn difference(&self, vm: VmId, from: u64, to: u64, limit: u32) -> Result<Vec<DiskDifference>, Refusal> {
        let state = self.node.state();
        let replica = state.replicas.get(&vm).ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
        let reading = self.read(vm);
        let store = self.store(replica).await?;
        let store = store.lock().await;
        let (one, other) = (store.pin(Some(from))?, store.pin(Some(to))?);
        drop(store);
        blocking(move || {
            let found = diff::difference(&one, &other, limit.min(DIFFERENCE_RANGES_MAX) as usize);
            drop(reading);
            found
        })
        .await
    }
}
