//! Branches that are kept on this node: removing one at an operator's word.

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::model::PromotionId;

use crate::drive::events::Happening;
use crate::drive::replica::branch::{all_of, remove_from};
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;

impl Replicas {
    /// Removes a branch of a VM, whichever storage location it is in: whether this node keeps it. `look` removes nothing.
    pub async fn drop_branch(&self, vm: VmId, id: PromotionId, look: bool) -> Result<bool, Refusal> {
        let folders: Vec<_> =
            self.node.config.storage.iter().map(|location| location.path.join(vm.to_string())).collect();
        let (there, looked) = (folders.clone(), move |folders: &[std::path::PathBuf]| {
            folders.iter().any(|folder| all_of(folder).contains(&id))
        });
        if !blocking(move || Ok(looked(&there))).await? {
            return Ok(false);
        }
        if look {
            return Ok(true);
        }
        let state = self.node.state();
        let mut done = false;
        if let Some(replica) = state.replicas.get(&vm).filter(|replica| replica.is_kept_at(self.node.me)) {
            let mut store = self.store(replica).await?.lock_owned().await;
            let (store, dropped) = blocking(move || {
                let dropped = store.drop_branch(id)?;
                Ok((store, dropped))
            })
            .await?;
            self.note(vm, replica.epoch, &store);
            done = dropped;
        }
        if !done {
            done =
                blocking(move || folders.iter().try_fold(false, |done, at| Ok(done || remove_from(at, id)?))).await?;
        }
        if done {
            let told = format!("branch {id} of VM {vm} is removed, with all that was written in it");
            self.node.events.record(Happening::warning("branch_removed", told).vm(vm).node(&self.node.name));
        }
        Ok(done)
    }
}
