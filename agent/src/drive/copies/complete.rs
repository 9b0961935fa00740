//! The holder's part: what must be so before a point is listed and acknowledged (R13).
//!
//! What is staged whole here may have been acknowledged: by this node, or by the one that held the replica before. So a
//! holder completes it in the whole in-sync set before anything else, as soon as it holds the replica, whether or not the
//! primary asks for anything: a failover finds it listed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_proto::id::{Epoch, MemberId, NodeName, VmId};
use landfall_proto::message::control::Point;
use landfall_proto::model::{Command, Replica};
use landfall_proto::{Class, Refusal};
use tokio::runtime::Handle;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep};

use super::COPY_PATIENCE;
use super::passing::{Gathered, Passing};
use crate::drive::events::Happening;
use crate::drive::receive::Receiver;
use crate::drive::replica::ReplicaStore;
use crate::drive::replicas::SharedStore;
use crate::drive::send::capture::blocking;

/// How often is looked for replicas that this node has just come to hold, without being told of a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The pause after a look that did not succeed: each may keep a sender waiting for as long as a copy does not answer.
const REST: Duration = Duration::from_secs(2);

/// How often a session looks whether a joining node has got the last part of its copy.
const THAW_LOOK: Duration = Duration::from_millis(5);

/// Whether a point may be acknowledged as far as its sender is concerned.
pub type Allowed<'a> = &'a (dyn Fn() -> Result<(), Refusal> + Sync);

/// What this node has settled of a replica: at which assignment, and with whom.
type Settled = (Epoch, BTreeSet<MemberId>);

impl Receiver {
    /// Completes what is staged whole in `store`: every node of the in-sync set has it, or has left the set by commit; then
    /// it is applied and listed here, and the others are told to. `own` is how long staging took here.
    pub(in crate::drive) fn complete(
        &self,
        handle: &Handle,
        of: (VmId, Epoch),
        store: &mut ReplicaStore,
        passing: &mut Passing,
        own: Duration,
        allowed: Allowed<'_>,
    ) -> Result<Point, Refusal> {
        let log = store.staged_log();
        // What is being applied already was staged by all before that began.
        let gathered = log.as_ref().map(|log| passing.gather(store, log, own));
        handle.block_on(self.claim_point(of, gathered.as_ref(), allowed))?;
        let point = self.apply_staged(of.0, store);
        self.replicas.note(of.0, of.1, store);
        let point = point?;
        if let Some(log) = &log {
            passing.apply(log.set.tip);
        }
        let have = gathered.map(|gathered| gathered.have).unwrap_or_default();
        Ok(Point { copies: self.named(have), ..point })
    }

    fn apply_staged(&self, vm: VmId, store: &mut ReplicaStore) -> Result<Point, Refusal> {
        let state = self.node.state();
        let settings = || self.node.state().resolved_settings();
        let primary = state.replicas.get(&vm).map(|replica| replica.primary.clone());
        let _place = primary.map(|primary| self.applying.enter(&primary, || settings().apply_vm_limit));
        store.set_disks_at_once(settings().apply_disk_limit);
        let point = store.commit()?;
        self.replicas.listed(vm, store);
        Ok(point)
    }

    /// The names of this node and `others`, by their ids.
    fn named(&self, mut others: BTreeSet<MemberId>) -> Vec<NodeName> {
        let state = self.node.state();
        others.insert(self.node.me);
        others.iter().filter_map(|member| state.members.get(member)).map(|member| member.node.clone()).collect()
    }

    /// Makes sure, by commit where it is needed, that a point may be acknowledged: that this node is the holder, and that
    /// whoever is thought to have everything has this, too.
    async fn claim_point(
        &self,
        (vm, epoch): (VmId, Epoch),
        gathered: Option<&Gathered>,
        allowed: Allowed<'_>,
    ) -> Result<(), Refusal> {
        allowed()?;
        let state = self.node.state();
        let Some(replica) = state.replicas.get(&vm) else { return Err(Refusal::not_found("vm", &vm.to_string())) };
        if replica.seeding == Some(self.node.me) {
            self.node.proposer.commit(Command::Seeded { vm, epoch }).await?;
        } else if !replica.acknowledged {
            self.node.proposer.commit(Command::Acknowledged { vm, epoch }).await?;
        }
        if let Some(gathered) = gathered {
            let others = self.pending.others(self.node.state().replicas.get(&vm), self.node.me);
            for member in others.difference(&gathered.have) {
                self.leave(vm, epoch, *member, gathered.lost.get(member)).await?;
            }
        }
        allowed()
    }

    /// Takes a copy out of the in-sync set that does not have what is about to be acknowledged.
    async fn leave(&self, vm: VmId, epoch: Epoch, member: MemberId, why: Option<&Refusal>) -> Result<(), Refusal> {
        self.node.proposer.commit(Command::Leave { vm, epoch, member }).await?;
        let state = self.node.state();
        let (Some(replica), Some(lost)) = (state.replicas.get(&vm), state.members.get(&member)) else { return Ok(()) };
        let why = why.map_or_else(|| "it was not asked".to_owned(), |refusal| refusal.message.clone());
        let told = format!("{} does not keep up as a copy of {}: {why}", lost.node, replica.vm.name);
        self.node.events.record(Happening::warning("copy_lost", told).vm(vm).node(&lost.node));
        Ok(())
    }

    /// The store of an admitted session, once nobody wants nothing new to come: a node that joins the in-sync set does so
    /// for the last part of its copy. Past [`COPY_PATIENCE`] it has to begin that anew; a hand-over is not cut short.
    pub(in crate::drive) fn thawed<'a>(
        &self,
        handle: &Handle,
        vm: VmId,
        store: &'a SharedStore,
    ) -> MutexGuard<'a, ReplicaStore> {
        let begun = Instant::now();
        loop {
            let locked = store.blocking_lock();
            let joins = || self.node.state().replicas.get(&vm).is_some_and(|replica| replica.handover.is_none());
            if !locked.is_frozen() || !joins() {
                return locked;
            }
            if begun.elapsed() >= COPY_PATIENCE {
                locked.thaw();
                return locked;
            }
            drop(locked);
            handle.block_on(sleep(THAW_LOOK));
        }
    }

    /// Settles each replica that this node comes to hold, until the task is dropped.
    pub async fn settle_held(self) {
        let mut look = self.node.rhythm(LOOK_INTERVAL);
        let mut states = self.node.consensus.watch_state();
        let mut settled: BTreeMap<VmId, Settled> = BTreeMap::new();
        let mut failed: BTreeMap<VmId, Instant> = BTreeMap::new();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                changed = states.changed() => if changed.is_err() { return },
            }
            let state = self.node.state();
            let holds = |replica: &Replica| {
                replica.holder == self.node.me && replica.receiver() == self.node.me && replica.acknowledged
            };
            settled.retain(|vm, _| state.replicas.get(vm).is_some_and(holds));
            failed.retain(|_, at| at.elapsed() < REST);
            for replica in state.replicas.values().filter(|replica| holds(replica)) {
                let (vm, now) = (replica.vm.id, (replica.epoch, replica.in_sync.clone()));
                if failed.contains_key(&vm) {
                    continue;
                }
                let told = !self.pending.take_untold(vm);
                if told && settled.get(&vm) == Some(&now) {
                    continue;
                }
                match self.settle_one(replica).await {
                    Ok(()) => drop(settled.insert(vm, now)),
                    Err(refusal) => {
                        tracing::debug!(%vm, %refusal, "a replica that is held here is not settled yet");
                        settled.remove(&vm);
                        failed.insert(vm, Instant::now());
                    }
                }
            }
        }
    }

    /// Completes what is staged of a replica that this node holds, or has the other copies list what is listed here.
    async fn settle_one(&self, replica: &Replica) -> Result<(), Refusal> {
        let (this, vm, epoch, handle) = (self.clone(), replica.vm.id, replica.epoch, Handle::current());
        let store = self.replicas.store(replica).await?;
        let mut store = Arc::clone(&store).lock_owned().await;
        blocking(move || {
            let Some(epochs) = store.epochs_at(epoch) else { return Ok(()) };
            store.take_up(&epochs)?;
            let mut passing = Passing::new(this.node.clone(), this.pending.clone(), handle.clone(), vm, epochs);
            if store.standing().staged_whole {
                let mine = || this.holds(vm, epoch);
                this.complete(&handle, (vm, epoch), &mut store, &mut passing, Duration::ZERO, &mine).map(drop)
            } else if store.standing().staged.is_some() || passing.tell(&store) {
                // A change set on its way tells them by itself.
                Ok(())
            } else {
                Err(Refusal::new(Class::Unreachable, "copy_unreachable", "a copy does not answer"))
            }
        })
        .await
    }

    /// Whether this node holds the replica at that assignment, whoever sends it.
    pub(in crate::drive) fn holds(&self, vm: VmId, epoch: Epoch) -> Result<(), Refusal> {
        let state = self.node.state();
        let replica = state.replicas.get(&vm).filter(|replica| replica.receiver() == self.node.me);
        if replica.is_some_and(|replica| replica.epoch == epoch) {
            return Ok(());
        }
        let message = format!("this node does not hold the replica at epoch {epoch} now");
        Err(Refusal::new(Class::Refused, "stale_epoch", message).field("epoch"))
    }
}
