//! A planned failover at the node that sends the VM: off, last change set, release, hand over.

use std::sync::Arc;
use std::time::Duration;

use landfall_proto::id::VmId;
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{Departure, DepartureState, FailoverStep, Primary};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::{sleep, timeout};

use super::runs::silent;
use super::{Failover, SERVICE_DEADLINE};
use crate::decide::failover::{last_content, learned, wish};
use crate::drive::events::Happening;
use crate::drive::peers;
use crate::vm_service::{VmReport, VmRole, VmState};

/// How often the VM service's list and the sender's figures are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long one try to get the last change set across may take before it is begun again: what it waits for is the
/// sender's business, which goes on meanwhile.
const LAST_DEADLINE: Duration = Duration::from_secs(600);

/// How often the other cluster is asked what became of a VM that it has taken.
const LOOK_BACK_INTERVAL: Duration = Duration::from_secs(5);

impl Failover {
    pub(super) fn settle_departures(&self, state: &Arc<State>) {
        for (vm, departure) in state.departures.iter() {
            let Some(primary) = state.primaries.get(vm) else { continue };
            if primary.sender != Some(self.node.me) {
                continue;
            }
            let (vm, departure, primary) = (*vm, departure.clone(), primary.clone());
            self.work(vm, |this| async move { this.depart(vm, departure, primary).await });
        }
    }

    async fn depart(&self, vm: VmId, departure: Departure, primary: Primary) -> Result<(), Refusal> {
        // Before anything else, in every state: this node may have come back with the VM.
        self.set_lock(vm, true).await?;
        match departure.state {
            DepartureState::Preparing => self.prepare(vm, &departure, &primary).await,
            state => {
                let step = match state {
                    DepartureState::Departed(_) => "departed",
                    DepartureState::Recalling(_) => "recalling",
                    _ => "released",
                };
                self.step(vm, step, None);
                self.stop_primary(vm).await?;
                if matches!(state, DepartureState::Departed(_)) {
                    let mut states = self.node.consensus.watch_state();
                    let over = states.wait_for(|state| state.departures.get(&vm) != Some(&departure));
                    if timeout(LOOK_BACK_INTERVAL, over).await.is_ok() {
                        return Ok(());
                    }
                }
                self.ask(vm, &departure, &primary).await
            }
        }
    }

    /// Stops the VM, waits until its last content is acknowledged, and gives up the right to run it.
    async fn prepare(&self, vm: VmId, departure: &Departure, primary: &Primary) -> Result<(), Refusal> {
        self.step(vm, "stopping", None);
        self.stop_primary(vm).await?;
        let stopped = self.stopped(vm).await?;
        self.step(vm, "sending", None);
        let acknowledged = || self.senders.figures(vm).and_then(|figures| figures.acknowledged);
        let before = acknowledged().map_or(0, |point| point.sequence);
        let last = async {
            loop {
                self.senders.hurry(vm);
                if let Some(point) = last_content(before, acknowledged().as_ref()) {
                    return Some(point);
                }
                if self.node.state().departures.get(&vm) != Some(departure) {
                    return None;
                }
                sleep(LOOK_INTERVAL).await;
            }
        };
        let Ok(point) = timeout(LAST_DEADLINE, last).await else {
            let message = format!("the last change set of {} is not acknowledged yet", primary.vm.name);
            return Err(Refusal::new(Class::Failed, "not_sent", message)
                .field("vm")
                .remedy("see why in `landfall vm show`, or cancel the failover"));
        };
        let Some(point) = point else { return Ok(()) };
        if self.stopped(vm).await?.run != stopped.run {
            let message = format!("the disks of {} may have changed since it was stopped", primary.vm.name);
            return Err(Refusal::new(Class::Failed, "disks_changed", message).field("vm"));
        }
        self.commit(vm, FailoverStep::Release { id: departure.id, point }).await?;
        let told =
            format!("the right to run {} is released to {} at point {}", primary.vm.name, primary.to, point.sequence);
        self.node.events.record(Happening::info("failover_released", told).vm(vm).node(&self.node.name));
        Ok(())
    }

    pub(super) async fn stop_primary(&self, vm: VmId) -> Result<(), Refusal> {
        if self.node.vms.vm(vm).is_none_or(|report| report.role != VmRole::Primary) {
            return Ok(());
        }
        let service = self.node.vms.service()?;
        timeout(SERVICE_DEADLINE, service.stop(vm)).await.unwrap_or_else(|_| Err(silent("stop a VM")))
    }

    /// The VM as its service reports it once it is off.
    pub(super) async fn stopped(&self, vm: VmId) -> Result<VmReport, Refusal> {
        let service = self.node.vms.service()?;
        let off = async {
            loop {
                let listed = service.list().await?;
                let report = listed.into_iter().find(|report| report.vm.id == vm && report.role == VmRole::Primary);
                match report {
                    Some(report) if report.state == VmState::Stopped => return Ok(report),
                    Some(_) => sleep(LOOK_INTERVAL).await,
                    None => return Err(Refusal::not_found("vm", &vm.to_string()).remedy("it has left this node")),
                }
            }
        };
        timeout(SERVICE_DEADLINE, off).await.unwrap_or_else(|_| {
            Err(Refusal::new(Class::Failed, "still_running", "the VM does not stop, or somebody else writes its disks"))
        })
    }

    /// Asks the other cluster to take or decline the VM, and commits what it answers.
    async fn ask(&self, vm: VmId, departure: &Departure, primary: &Primary) -> Result<(), Refusal> {
        let (Some(wish), Some(point)) = (wish(departure.state), departure.state.released()) else { return Ok(()) };
        let state = self.node.state();
        let peer = state.peers.get(&primary.to).ok_or_else(|| Refusal::not_found("peer", primary.to.as_str()))?;
        let (id, order) = (departure.id, departure.order);
        let request = ControlRequest::HandOff { vm, id, order, point, wish };
        let answer = match peers::first_answer(&self.node, peer, &request).await? {
            ControlAnswer::HandOff(answer) => answer,
            ControlAnswer::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::new(Class::Failed, "protocol", "the peer gave an answer of another kind")),
        };
        let Some(step) = learned(id, departure.state, answer) else { return Ok(()) };
        let told = match &step {
            FailoverStep::Departed { .. } => format!("{} has taken the right to run {}", primary.to, primary.vm.name),
            _ => format!("{} has declined {}: it runs here again", primary.to, primary.vm.name),
        };
        self.commit(vm, step).await?;
        self.node.events.record(Happening::info("failover_handed", told).vm(vm).node(&self.node.name));
        Ok(())
    }
}
