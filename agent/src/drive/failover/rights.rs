//! After `cluster recover`: asking the other clusters where the right to run each VM is, and answering those that ask.
//!
//! The owner asks for as long as something is unknown, or decided by an operator and not heard of there. An answer is a
//! commit of the cluster that gives it, so it is no older than the question, and closes what was released in earlier lives.

use std::time::Duration;

use landfall_proto::id::{Fqdn, Position, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{Command, FailoverStep, Outcome, Right, Side, UnknownRight};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Failover;
use crate::drive::control::Control;
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::peers;

/// How often the other cluster is asked: each time it commits an entry.
const ASK_INTERVAL: Duration = Duration::from_secs(3);

/// How long one round may ask before it begins anew: a cluster that is gone costs its deadline for every VM.
const ROUND_DEADLINE: Duration = Duration::from_secs(30);

/// Asks about every right that is unknown, until the task is dropped.
pub async fn settle(node: Node) {
    let mut round = interval(ASK_INTERVAL);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        if node.state().unknown_rights.is_empty() {
            let mut states = node.consensus.watch_state();
            if states.wait_for(|state| !state.unknown_rights.is_empty()).await.is_err() {
                return;
            }
        }
        node.owning().await;
        let (begun, state) = (Instant::now(), node.state());
        let mut silent: Vec<Fqdn> = Vec::new();
        for (vm, mark) in state.unknown_rights.iter() {
            let Some(to) = other_cluster(&state, *vm).filter(|to| !silent.contains(to)) else { continue };
            match settle_one(&node, &state, *vm, mark).await {
                Err(refusal) if refusal.class == Class::Unreachable => silent.push(to),
                Err(refusal) => tracing::debug!(%vm, %refusal, "the right to run it is still unknown"),
                Ok(()) => {}
            }
            if begun.elapsed() > ROUND_DEADLINE {
                break;
            }
        }
    }
}

/// The cluster at the other end of a VM's replication.
fn other_cluster(state: &State, vm: VmId) -> Option<Fqdn> {
    let primary = state.primaries.get(&vm).map(|primary| &primary.to);
    primary.or_else(|| state.replicas.get(&vm).map(|replica| &replica.primary)).cloned()
}

async fn settle_one(node: &Node, state: &State, vm: VmId, mark: &UnknownRight) -> Result<(), Refusal> {
    let right = ask(node, state, vm, mark.decided == Some(Side::Here)).await?;
    if !state.is_settled_by(vm, &right) {
        return Ok(());
    }
    let command = Command::Failover { vm, step: Box::new(FailoverStep::Learn { right }) };
    node.proposer.commit(command).await?;
    let here = if node.state().may_run(vm) { "here" } else { "not here" };
    let told = format!("the other cluster has answered: the right to run VM {vm} is {here}");
    node.events.record(Happening::info("right_known", told).vm(vm).node(&node.name));
    Ok(())
}

/// What the other cluster of a VM has committed about the right to run it.
pub async fn ask(node: &Node, state: &State, vm: VmId, contested: bool) -> Result<Right, Refusal> {
    let to = other_cluster(state, vm).ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
    let peer = state.peers.get(&to).ok_or_else(|| Refusal::not_found("peer", to.as_str()))?;
    let before = Position::new(state.incarnation, 0);
    match peers::first_answer(node, peer, &ControlRequest::Rights { vm, before, contested }).await? {
        ControlAnswer::Right(right) => Ok(right),
        ControlAnswer::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::new(Class::Failed, "protocol", "the peer gave an answer of another kind")),
    }
}

/// Answers `from`, as its certificate proved it, whose present life began at `before`.
pub async fn answer(control: &Control, from: &Fqdn, vm: VmId, before: Position, contested: bool) -> ControlAnswer {
    let step = FailoverStep::Account { before, from: from.clone(), contested };
    match control.node.proposer.commit(Command::Failover { vm, step: Box::new(step) }).await {
        Ok((Outcome::Right(right), _)) => ControlAnswer::Right(right),
        Ok(_) => ControlAnswer::Refused(Refusal::new(
            Class::Failed,
            "protocol",
            "a question about a right gave an outcome of another kind",
        )),
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}

impl Failover {
    /// A VM of which an operator has said that it is the other cluster's is stopped where it is.
    pub(super) fn settle_given_up(&self, state: &State) {
        for (vm, mark) in state.unknown_rights.iter().filter(|(_, mark)| mark.decided == Some(Side::There)) {
            let here = state.primaries.get(vm).is_some_and(|primary| primary.sender == Some(self.node.me));
            if here && !state.departures.contains(vm) && !state.rivals.contains(vm) {
                let (vm, mark) = (*vm, *mark);
                self.work(vm, |this| async move {
                    this.set_lock(vm, true).await?;
                    match this.node.state().unknown_rights.get(&vm) == Some(&mark) {
                        true => this.stop_primary(vm).await,
                        false => Ok(()),
                    }
                });
            }
        }
    }
}
