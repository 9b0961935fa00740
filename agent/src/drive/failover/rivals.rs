//! Two branches of one VM: each cluster tells the other, and what was decided is carried out.
//!
//! The cluster that runs the branch tells the VM's own one as long as it stands, and that one asks when what it sends is
//! refused. Once it knows, nothing is sent any more and the VM is kept from being started at every node (`locks`); one that
//! runs goes on. An operator decides. Where the other branch is kept, the VM is stopped here and the right given up; where
//! this one is, the other cluster drops its own first, and replication goes on after a comparison.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_proto::id::VmId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{FailoverStep, HandOff, Promotion, Rival, Side};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::sleep;

use super::{Failover, lock};
use crate::drive::events::Happening;
use crate::drive::peers;

/// How often the other cluster is told of a branch, or asked about one.
const TELL_INTERVAL: Duration = Duration::from_secs(2);

/// The VMs about which something is being told or asked.
pub(super) type Telling = Arc<Mutex<BTreeSet<VmId>>>;

impl Failover {
    pub(super) fn settle_rivals(&self, state: &Arc<State>) {
        for (vm, promotion) in state.promotions.iter() {
            let mine = promotion.holder == self.node.me && promotion.order.is_none() && !promotion.state.is_over();
            if mine && lock(&self.telling).insert(*vm) {
                let (this, vm, promotion) = (self.clone(), *vm, promotion.clone());
                tokio::spawn(async move { this.tell_branch(vm, promotion).await });
            }
        }
        for (vm, primary) in state.primaries.iter().filter(|(_, primary)| primary.sender == Some(self.node.me)) {
            if let Some(rival) = state.rivals.get(vm) {
                let (vm, rival) = (*vm, rival.clone());
                self.work(vm, |this| async move { this.face(vm, rival).await });
            } else if !state.departures.contains(vm) && self.is_refused(*vm) && lock(&self.telling).insert(*vm) {
                let (this, vm, to) = (self.clone(), *vm, primary.to.clone());
                tokio::spawn(async move {
                    let free = Told { this, vm };
                    if let Err(refusal) = free.this.ask_for_branch(vm, &to).await {
                        tracing::debug!(%vm, %refusal, "a branch was asked for");
                    }
                    sleep(TELL_INTERVAL).await;
                });
            }
        }
    }

    /// Whether the other cluster refuses what this node sends because the replica is failed over.
    fn is_refused(&self, vm: VmId) -> bool {
        let fault = self.senders.figures(vm).and_then(|figures| figures.fault);
        fault.is_some_and(|fault| fault.code == "failed_over")
    }

    async fn tell_branch(&self, vm: VmId, promotion: Promotion) {
        let free = Told { this: self.clone(), vm };
        let state = self.node.state();
        let peer = state.replicas.get(&vm).and_then(|replica| state.peers.get(&replica.primary));
        if let Some(peer) = peer {
            let Promotion { id, parent, point, .. } = promotion;
            let told =
                peers::first_answer(&free.this.node, peer, &ControlRequest::Branch { vm, id, parent, point }).await;
            if let Ok(ControlAnswer::Refused(refusal)) = told {
                tracing::debug!(%vm, %refusal, "the branch is none there");
            }
        }
        sleep(TELL_INTERVAL).await;
    }

    async fn ask_for_branch(&self, vm: VmId, to: &landfall_proto::id::Fqdn) -> Result<(), Refusal> {
        let state = self.node.state();
        let Some(peer) = state.peers.get(to) else { return Ok(()) };
        if let ControlAnswer::Branch(Some((id, parent, point))) =
            peers::first_answer(&self.node, peer, &ControlRequest::Branches(vm)).await?
        {
            let since = self.node.outside.clock.wall();
            let rival = Rival { id, parent, from: to.clone(), point, since, keep: None, yielded: false };
            self.commit(vm, FailoverStep::Branch(Box::new(rival))).await?;
        }
        Ok(())
    }

    /// What is decided about a branch elsewhere is done here.
    async fn face(&self, vm: VmId, rival: Rival) -> Result<(), Refusal> {
        self.set_lock(vm, true).await?;
        self.step(vm, if rival.yielded { "yielded" } else { "branched" }, None);
        if rival.keep == Some(Side::There) && !rival.yielded {
            self.stop_primary(vm).await?;
            self.stopped(vm).await?;
            self.commit(vm, FailoverStep::Yielded { id: rival.id }).await?;
            let told = format!("VM {vm} is given up here: the branch at {} is kept", rival.from);
            self.node.events.record(Happening::warning("failover_yielded", told).vm(vm).node(&self.node.name));
            return Ok(());
        }
        let look = rival.keep != Some(Side::Here);
        let state = self.node.state();
        let peer = state.peers.get(&rival.from).ok_or_else(|| Refusal::not_found("peer", rival.from.as_str()))?;
        let request = ControlRequest::Abandon { vm, id: rival.id, look };
        match peers::first_answer(&self.node, peer, &request).await? {
            ControlAnswer::HandOff(HandOff::Declined) => {
                self.commit(vm, FailoverStep::Merged { id: rival.id }).await?;
                let told = format!("the branch of VM {vm} at {} is over: it goes on from here", rival.from);
                self.node.events.record(Happening::info("failover_merged", told).vm(vm).node(&self.node.name));
            }
            ControlAnswer::HandOff(_) => sleep(TELL_INTERVAL).await,
            ControlAnswer::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::new(Class::Failed, "protocol", "the peer gave an answer of another kind")),
        }
        Ok(())
    }
}

struct Told {
    this: Failover,
    vm: VmId,
}

impl Drop for Told {
    fn drop(&mut self) {
        lock(&self.this.telling).remove(&self.vm);
    }
}
