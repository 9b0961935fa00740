//! Failover, carried out: what is committed is made so, by the node whose part it is.
//!
//! A command only commits a wish. This task, at every node, looks at the committed state again and again and does what is
//! missing, one VM at a time, so that a step that a crash cut off is taken again, and nothing depends on the process that
//! asked:
//!
//! - `runs`: the holder makes images, registers a VM and starts it, or stops it and discards them;
//! - `network`, `seed_image`: what its adapters have, and how the guest is told;
//! - `departing`: the node that sends a VM stops it, releases it and offers it to the other cluster;
//! - `kept`: the other copies list what a completed failover has left;
//! - `hand_off`: any node of the replica's cluster answers that offer by commit;
//! - `locks`: every node keeps a VM whose right to run is on its way, or disputed, from being started;
//! - `reversing` and `returning`: the two halves of a reversal, where the VM runs and where its old disks are;
//! - `rights`: after `cluster recover`, what this cluster does not know of itself;
//! - `rivals`: each cluster tells the other of a branch, and carries out what was decided; `sibling` answers.

mod departing;
pub mod hand_off;
mod kept;
mod locks;
mod network;
mod returning;
mod reversing;
pub mod rights;
mod rivals;
mod runs;
mod seed_image;
pub mod sibling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(in crate::drive) use reversing::ask_to_keep;
pub use runs::test_vm;

use landfall_proto::Refusal;
use landfall_proto::id::VmId;
use landfall_proto::message::control::RunFigures;
use landfall_proto::model::{Command, FailoverStep, Outcome, PromotionId};

use crate::drive::node::Node;
use crate::drive::replicas::Replicas;
use crate::drive::senders::Senders;

/// How often work is looked for without being told of a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The pause after a step that failed, before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long the VM service may take for one call: it stops processes, and waits for them.
const SERVICE_DEADLINE: Duration = Duration::from_secs(30);

/// What this node does for failovers.
#[derive(Clone)]
pub struct Failover {
    node: Node,
    replicas: Replicas,
    senders: Senders,
    figures: Arc<Mutex<BTreeMap<VmId, RunFigures>>>,
    busy: Arc<Mutex<BTreeSet<VmId>>>,
    /// Runs that stand as they should, and whether they are final.
    settled: Arc<Mutex<BTreeSet<(PromotionId, bool)>>>,
    /// Completed failovers elsewhere whose point alone is listed here, too.
    kept: Arc<Mutex<BTreeSet<PromotionId>>>,
    locks: locks::Locks,
    telling: rivals::Telling,
}

impl Failover {
    /// Nothing is done yet; [`Failover::run`] does it.
    pub fn new(node: Node, replicas: Replicas, senders: Senders) -> Self {
        let (figures, busy, settled, kept) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        Self {
            node,
            replicas,
            senders,
            figures,
            busy,
            settled,
            kept,
            locks: locks::Locks::default(),
            telling: Arc::default(),
        }
    }

    /// Does what is to be done, until the task is dropped.
    pub async fn run(self) {
        let mut look = self.node.rhythm(LOOK_INTERVAL);
        let mut state = self.node.consensus.watch_state();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                changed = state.changed() => if changed.is_err() { return },
            }
            if self.node.vms.service().is_err() {
                // A witness has no VM and keeps none.
                continue;
            }
            let now = self.node.state();
            self.settle_locks(&now);
            self.settle_runs(&now);
            self.settle_kept(&now);
            self.settle_departures(&now);
            self.settle_reversals(&now);
            self.settle_returns(&now);
            self.settle_rivals(&now);
            self.settle_given_up(&now);
            lock(&self.figures).retain(|vm, _| {
                let begun = now.tests.contains(vm) || now.promotions.contains(vm) || now.departures.contains(vm);
                begun || now.returns.contains(vm) || now.rivals.contains(vm)
            });
        }
    }

    /// What this node does for the failover of a VM.
    pub fn figures(&self, vm: VmId) -> Option<RunFigures> {
        lock(&self.figures).get(&vm).cloned()
    }

    /// Works on one VM in a task of its own, unless something is being done for it already.
    fn work<F>(&self, vm: VmId, work: impl FnOnce(Self) -> F)
    where
        F: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        if !lock(&self.busy).insert(vm) {
            return;
        }
        let (this, work) = (self.clone(), work(self.clone()));
        tokio::spawn(async move {
            // Given free also where the work panics.
            let free = Free { this, vm };
            if let Err(refusal) = work.await {
                tracing::info!(%vm, %refusal, "a step of a failover failed and is tried again");
                free.this.fault(vm, Some(refusal));
                tokio::time::sleep(RETRY_PAUSE).await;
            } else {
                free.this.fault(vm, None);
            }
        });
    }

    fn step(&self, vm: VmId, step: &str, run_vm: Option<VmId>) {
        let mut figures = lock(&self.figures);
        let figures = figures.entry(vm).or_default();
        step.clone_into(&mut figures.step);
        figures.run_vm = run_vm;
    }

    fn fault(&self, vm: VmId, fault: Option<Refusal>) {
        if let Some(figures) = lock(&self.figures).get_mut(&vm) {
            figures.fault = fault;
        }
    }

    async fn commit(&self, vm: VmId, step: FailoverStep) -> Result<Outcome, Refusal> {
        let command = Command::Failover { vm, step: Box::new(step) };
        self.node.proposer.commit(command).await.map(|(outcome, _)| outcome)
    }
}

struct Free {
    this: Failover,
    vm: VmId,
}

impl Drop for Free {
    fn drop(&mut self) {
        lock(&self.this.busy).remove(&self.vm);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
