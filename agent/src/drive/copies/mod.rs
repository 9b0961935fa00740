//! More than one copy of a replica: who is to have one, and how change sets get to all of them.
//!
//! | file | whose part |
//! |---|---|
//! | `owner` | the owner: has nodes copy a replica that has too few copies, and leave one that has too many |
//! | `passing` | the holder: passes a change set on while it arrives, and waits until each copy has staged it |
//! | `complete` | the holder: what must be so before a point is listed and acknowledged, also after a change of holder |
//! | `keep` | every other node that has a copy: stages, and applies at the holder's word |
//!
//! A node that copies a replica to join its in-sync set does so in `handover`. From before it is proposed for the set the
//! holder waits for it like for a member ([`Pending`]), until the answer to that very proposal is there.

pub mod complete;
pub mod keep;
pub mod owner;
pub mod passing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::id::{MemberId, VmId};
use landfall_proto::model::Replica;
use landfall_proto::planted::{self, Bug};

/// How long a copy may keep the primary waiting: one that has not staged a change set so long after the holder has, or
/// takes nothing for so long, leaves the in-sync set before anything is acknowledged without it.
pub const COPY_PATIENCE: Duration = Duration::from_secs(5);

/// Nodes that were proposed for in-sync sets and whose answer is not there yet, and replicas whose copies may not have
/// heard yet what to list.
#[derive(Clone, Debug, Default)]
pub struct Pending(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    joining: BTreeMap<VmId, BTreeSet<MemberId>>,
    untold: BTreeSet<VmId>,
}

impl Pending {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for `member` from now on.
    pub fn add(&self, vm: VmId, member: MemberId) {
        self.with(|inner| inner.joining.entry(vm).or_default().insert(member));
    }

    /// The answer is there, and applied here: what is committed says whether to wait.
    pub fn settle(&self, vm: VmId, member: MemberId) {
        self.with(|inner| {
            if let Some(joining) = inner.joining.get_mut(&vm) {
                joining.remove(&member);
                if joining.is_empty() {
                    inner.joining.remove(&vm);
                }
            }
        });
    }

    /// Notes that a copy of `vm` may not have heard what to list.
    pub fn untold(&self, vm: VmId) {
        self.with(|inner| inner.untold.insert(vm));
    }

    /// Whether a copy of `vm` may not have heard; from now on it counts as told.
    pub fn take_untold(&self, vm: VmId) -> bool {
        self.with(|inner| inner.untold.remove(&vm))
    }

    /// The nodes besides the holder `me` that must have staged a change set of `replica`, as it is committed now, before
    /// it is acknowledged.
    pub fn others(&self, replica: Option<&Replica>, me: MemberId) -> BTreeSet<MemberId> {
        let Some(replica) = replica else { return BTreeSet::new() };
        if replica.receiver() != me || replica.holder != me {
            // A node that is being filled has nothing that others have, too.
            return BTreeSet::new();
        }
        let mut joining = self.with(|inner| inner.joining.get(&replica.vm.id).cloned().unwrap_or_default());
        joining.retain(|_| !planted::is(Bug::JoinerNotWaitedFor));
        replica.in_sync.iter().copied().chain(joining).filter(|member| *member != me).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schedule "a joiner is added to the in-sync set while a change set is in flight, its answer lost". That a late
    /// command admits nobody is held in the committed state's own tests.
    #[test]
    fn a_joiner_is_waited_for_from_before_it_is_proposed_until_its_own_answer() {
        let (pending, vm) = (Pending::default(), VmId(uuid::Uuid::from_u128(7)));
        let (me, joiner) = (MemberId::from_number(1), MemberId::from_number(2));
        let mut replica = crate::decide::copies::sample();
        (replica.vm.id, replica.holder, replica.in_sync) = (vm, me, [me].into());
        assert_eq!(pending.others(Some(&replica), me), [].into());
        pending.add(vm, joiner);
        assert_eq!(pending.others(Some(&replica), me), [joiner].into(), "whatever is in flight waits for it");
        // Refused: it is not in the set, and was not in it at any time.
        pending.settle(vm, joiner);
        assert_eq!(pending.others(Some(&replica), me), [].into());
        // Committed, and the answer lost: both ways of knowing hold until the answer is there, then what is committed.
        pending.add(vm, joiner);
        replica.in_sync.insert(joiner);
        assert_eq!(pending.others(Some(&replica), me), [joiner].into());
        pending.settle(vm, joiner);
        assert_eq!(pending.others(Some(&replica), me), [joiner].into());
        // Another node holds it, or is being filled: nothing of this node's is on all of them.
        assert_eq!(pending.others(Some(&replica), joiner), [].into());
        replica.seeding = Some(MemberId::from_number(3));
        assert_eq!(pending.others(Some(&replica), me), [].into());
    }
}
