//! What a node's senders may take of the line at this moment, and their waiting for it.
//!
//! The limits are looked up twice a second, so that they follow the calendar and every change without a new session. What
//! has to be decided is in [`pacing`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfall_proto::id::{MemberId, VmId};
use landfall_proto::model::Primary;
use landfall_proto::seam::Clock;
use landfall_store::State;

use crate::decide::pacing::{self, Bucket};

/// A limit with what was taken of it.
#[derive(Debug, Default)]
struct Line {
    /// Bytes a second.
    rate: Option<u64>,
    bucket: Bucket,
}

/// The limits of this node's senders.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    node: Arc<Mutex<Line>>,
    vms: Arc<Mutex<BTreeMap<VmId, Arc<Mutex<Line>>>>>,
}

/// One sender's limits.
#[derive(Clone, Debug)]
pub struct Pace {
    node: Arc<Mutex<Line>>,
    vm: Arc<Mutex<Line>>,
}

/// The node that sends `primary` as far as the committed state goes.
fn sender_of(primary: &Primary) -> Option<MemberId> {
    let free = primary.rivals.is_empty() && primary.stopped.is_none() && primary.paused.is_none();
    primary.sender.filter(|_| free)
}

impl Limits {
    /// Looks the limits up.
    pub fn look(&self, state: &State, clock: &dyn Clock) {
        let now = clock.wall();
        let sending: BTreeSet<_> = state.primaries.values().filter_map(sender_of).collect();
        let whole = state.resolved_settings().bandwidth_limit.at(now).bytes();
        lock(&self.node).rate = pacing::share(whole, sending.len());
        let mut vms = lock(&self.vms);
        vms.retain(|vm, _| state.primaries.contains(vm));
        for primary in state.primaries.values() {
            if let Some(line) = vms.get(&primary.vm.id) {
                lock(line).rate = primary.limit.as_ref().and_then(|limit| limit.at(now).bytes());
            }
        }
    }

    /// The pace of the sender of `primary`'s VM, who begins now.
    pub fn pace(&self, primary: &Primary, clock: &dyn Clock) -> Pace {
        let mut vms = lock(&self.vms);
        let vm = Arc::clone(vms.entry(primary.vm.id).or_default());
        lock(&vm).rate = primary.limit.as_ref().and_then(|limit| limit.at(clock.wall()).bytes());
        Pace { node: Arc::clone(&self.node), vm }
    }

    /// Bytes a second that the sender of `vm` may take now; `None` where nothing limits it.
    pub fn now(&self, vm: VmId) -> Option<u64> {
        let own = lock(&self.vms).get(&vm).and_then(|line| lock(line).rate);
        let node = lock(&self.node).rate;
        own.into_iter().chain(node).min()
    }
}

impl Pace {
    /// The bytes that may be written at once; all of them where nothing limits.
    pub fn piece(&self) -> usize {
        let (vm, node) = (lock(&self.vm).rate, lock(&self.node).rate);
        vm.into_iter().chain(node).min().map_or(usize::MAX, pacing::piece)
    }

    /// Takes the line for `bytes`; how long to wait before they are written.
    pub fn take(&self, clock: &dyn Clock, bytes: usize) -> Duration {
        let (now, bytes) = (clock.now(), bytes as u64);
        let wait = |line: &Mutex<Line>| {
            let mut line = lock(line);
            line.rate.map_or(Duration::ZERO, |rate| line.bucket.take(now, bytes, rate))
        };
        wait(&self.vm).max(wait(&self.node))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
