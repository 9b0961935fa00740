//! Answering the primary's cluster: taking the right to run a VM, declining it, and whether a primary here runs.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{Fqdn, Position, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, HandOffWish, HolderFigures, PointState};
use landfall_proto::model::{Command, FailoverStep, HandOff, Outcome, PointName, PromotionId, Replica};
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use crate::drive::control::{Control, local_vms};
use crate::drive::events::Happening;
use crate::drive::members::control_target;

/// How long another node of this cluster may take to say what it has: less than the asking peer waits.
const ASK_DEADLINE: Duration = Duration::from_millis(1_500);

/// What a peer asks about a VM that it released.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The VM.
    pub vm: VmId,
    /// The departure.
    pub id: PromotionId,
    /// Its order.
    pub order: Position,
    /// The content at which it was released.
    pub point: PointName,
    /// What is wanted.
    pub wish: HandOffWish,
}

/// Answers `from`, as its certificate proved it.
pub async fn answer(control: &Control, from: &Fqdn, asked: Asked) -> ControlAnswer {
    match settle(control, from, asked).await {
        Ok(answer) => answer,
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}

async fn settle(control: &Control, from: &Fqdn, asked: Asked) -> Result<ControlAnswer, Refusal> {
    let Asked { vm, id, order, point, wish } = asked;
    let node = &control.node;
    let state = node.state();
    let replica = state.replicas.get(&vm).filter(|replica| replica.primary == *from).ok_or_else(|| {
        Refusal::new(Class::NotFound, "no_replica", format!("this cluster keeps no replica of {vm} for {from}"))
            .field("vm")
    })?;
    // Nor is said what became of it: that may be lost.
    state.refuse_unknown(vm)?;
    let step = match wish {
        HandOffWish::Look => return Ok(ControlAnswer::HandOff(state.hand_off(vm, from, id, order))),
        HandOffWish::Decline => FailoverStep::Decline { id, order, from: from.clone() },
        // Declined for good: whatever is here of the content, and nothing may be.
        HandOffWish::Take if state.hand_off(vm, from, id, order) == HandOff::Declined => {
            return Ok(ControlAnswer::HandOff(HandOff::Declined));
        }
        HandOffWish::Take => {
            let point = present(&holder_of(control, &state, replica).await?, point)?;
            FailoverStep::Take { epoch: replica.epoch, id, order, from: from.clone(), point }
        }
    };
    let taking = wish == HandOffWish::Take;
    match node.proposer.commit(Command::Failover { vm, step: Box::new(step) }).await?.0 {
        Outcome::HandOff(answer) => {
            let what = if taking { "take" } else { "decline" };
            let told = format!("asked by {from} to {what} the right to run {}: {answer:?}", replica.vm.name);
            node.events.record(Happening::info("failover_hand_off", told).vm(vm).node(&node.name));
            Ok(ControlAnswer::HandOff(answer))
        }
        _ => Err(Refusal::new(Class::Failed, "protocol", "a hand-over gave an outcome of another kind")),
    }
}

/// The newest point here; refused where its content is not the released one. Its number may be higher: a sender that was
/// about to take the next instant of the stopped VM has sent the same content once more.
fn present(holder: &HolderFigures, point: PointName) -> Result<PointName, Refusal> {
    let newest = holder.points.iter().rev().find(|listed| listed.state != PointState::Unreachable);
    if let Some(newest) = newest
        && newest.sequence >= point.sequence
        && newest.root == point.root
    {
        return Ok(PointName { sequence: newest.sequence, root: newest.root });
    }
    let found = newest.map_or_else(|| "none".to_owned(), |newest| newest.sequence.to_string());
    let message = format!("the newest point here is {found}, released was {}", point.sequence);
    Err(Refusal::new(Class::Refused, "other_content", message).field("point"))
}

/// What the holder of a replica knows of it.
pub async fn holder_of(control: &Control, state: &State, replica: &Replica) -> Result<HolderFigures, Refusal> {
    let (node, vm) = (&control.node, replica.vm.id);
    let silent = || {
        let holder = state.members.get(&replica.holder).map_or_else(String::new, |member| member.node.to_string());
        Refusal::new(Class::Unreachable, "holder_unreachable", format!("{holder}, which holds it, does not answer"))
            .remedy("see `landfall node list`; the replica gets a new home by itself when the node stays away")
    };
    if replica.holder == node.me {
        return control.replicas.figures(vm).await.ok_or_else(silent);
    }
    let target = control_target(state, replica.holder).ok_or_else(silent)?;
    match node.calls.call(&target, Alpn::Control, &ControlRequest::Figures(vm), ASK_DEADLINE).await {
        Ok(ControlAnswer::Figures(figures)) => figures.holder.ok_or_else(silent),
        _ => Err(silent()),
    }
}

/// Whether the VM, replicated to `from`, runs here: `None` where that is not known.
pub async fn runs(control: &Control, from: &Fqdn, vm: VmId) -> ControlAnswer {
    let node = &control.node;
    let state = node.state();
    let Some(primary) = state.primaries.get(&vm).filter(|primary| primary.to == *from) else {
        return ControlAnswer::Refused(Refusal::not_found("vm", &vm.to_string()));
    };
    if state.departures.get(&vm).is_some_and(|departure| departure.state.released().is_some()) {
        return ControlAnswer::Runs(Some(false));
    }
    let listed = match primary.sender {
        None => return ControlAnswer::Runs(None),
        Some(sender) if sender == node.me => local_vms(node),
        Some(sender) => {
            let Some(target) = control_target(&state, sender) else { return ControlAnswer::Runs(None) };
            match node.calls.call(&target, Alpn::Control, &ControlRequest::Vms, ASK_DEADLINE).await {
                Ok(ControlAnswer::Vms(listed)) => listed,
                _ => return ControlAnswer::Runs(None),
            }
        }
    };
    ControlAnswer::Runs(listed.iter().find(|local| local.vm.id == vm && !local.replica).map(|local| local.running))
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::{Epoch, Root, UnixMillis};
    use landfall_proto::message::control::{Consistency, Point};

    use super::*;

    fn listed(sequence: u64, content: u8, state: PointState) -> Point {
        Point {
            sequence,
            taken_at: UnixMillis(1),
            consistency: Consistency::Off,
            bytes: 0,
            root: Root([content; 32]),
            copies: Vec::new(),
            state,
            stays: true,
            verified_at: None,
        }
    }

    #[test]
    fn a_release_is_taken_at_the_newest_point_of_its_content() {
        let released = PointName { sequence: 5, root: Root([5; 32]) };
        let taken = |points: Vec<Point>| {
            let (epoch, received) = (Epoch::from_number(1), Default::default());
            let holder = HolderFigures { epoch, points, received, fault: None, damage: None, branches: vec![] };
            present(&holder, released).map(|point| point.sequence).map_err(|refusal| refusal.code.to_string())
        };
        assert_eq!(taken(vec![listed(5, 5, PointState::Listed)]), Ok(5));
        assert_eq!(taken(vec![listed(5, 5, PointState::Listed), listed(6, 5, PointState::Listed)]), Ok(6));
        assert_eq!(taken(vec![listed(5, 5, PointState::Listed), listed(6, 6, PointState::Unreachable)]), Ok(5));
        for points in [vec![], vec![listed(4, 5, PointState::Listed)], vec![listed(6, 6, PointState::Listed)]] {
            assert_eq!(taken(points), Err("other_content".to_owned()));
        }
    }
}
