//! The verbs of failover: what stands in the way, what would be done, and the commit that begins it.
//!
//! Whatever follows is done by `drive::failover` at the node whose part it is; a verb at most waits for it.

use std::time::Duration;

use landfall_proto::id::{MemberId, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, Point, PointState};
use landfall_proto::model::{Command, FailoverStep, Loss, PointName, PromotionId, Replica, Side};
use landfall_proto::refusal::quoted;
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use tokio::time::{Instant, sleep};

use super::census::{committed_names, name, newest, resolve};
use super::failover_status::{lists, status_of};
use super::network;
use super::proofs;
use crate::decide::failover::loss;
use crate::drive::control::Control;
use crate::drive::events::Happening;
use crate::drive::failover::{hand_off, test_vm};
use crate::drive::peers;
use crate::surface::failover::{FailoverAction, FailoverAnswer, FailoverPlan, FailoverRequest};
use crate::surface::vm::VmSelector;
use crate::surface::wait::{WaitSeconds, timed_out};

/// How often a wait looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a verb would do, and what it needs to do it.
struct Prepared {
    plan: FailoverPlan,
    blockers: Vec<Refusal>,
    chosen: Option<Point>,
    loss: Loss,
    /// The node that is to read the chosen point back before anything begins; `None` where that is not needed, or not
    /// wanted.
    to_prove: Option<MemberId>,
    keep: Option<Side>,
    /// What decides about a right to run that is unknown.
    decided: Option<FailoverStep>,
}

/// One verb.
pub async fn verb(control: &Control, vm: &VmSelector, request: FailoverRequest) -> Result<FailoverAnswer, Refusal> {
    let id = resolve(&control.node, vm).await?;
    let prepared = prepare(control, id, &request).await;
    if request.dry_run {
        let Prepared { mut plan, blockers, .. } = prepared;
        plan.blockers = blockers.into_iter().map(Into::into).collect();
        return Ok(FailoverAnswer::Plan(Box::new(plan)));
    }
    if let Some(blocker) = prepared.blockers.first() {
        return Err(blocker.clone());
    }
    confirm(&request, &prepared.plan.name)?;
    if request.action == FailoverAction::Discard {
        super::discarding::discard(control, id, request.branch.as_deref()).await?;
        return Ok(FailoverAnswer::Status(Box::new(status_of(control, id).await)));
    }
    if let (Some(point), Some(member)) = (&prepared.chosen, prepared.to_prove) {
        proofs::before_failover(control, id, member, point, request.wait_seconds).await?;
    }
    let state = control.node.state();
    let step = match &prepared.decided {
        Some(step) => step.clone(),
        None => step_of(control, &state, id, request.action, &prepared)?,
    };
    if prepared.decided.is_none() && request.action == FailoverAction::Resolve && request.keep == Some(Side::Here) {
        // Before anything is promised here: the other side must give way.
        super::resolving::ask_to_give_up(control, &state, id).await?;
    }
    let command = Command::Failover { vm: id, step: Box::new(step.clone()) };
    control.node.proposer.commit(command).await?;
    let told = format!("{}: {}", prepared.plan.name, said(request.action));
    control.node.events.record(Happening::info("failover", told).vm(id).node(&control.node.name));
    if let Some(wait) = request.wait_seconds {
        settled(control, id, &step, wait).await?;
    }
    Ok(FailoverAnswer::Status(Box::new(status_of(control, id).await)))
}

fn said(action: FailoverAction) -> &'static str {
    match action {
        FailoverAction::Test => "a test failover begins",
        FailoverAction::StopTest => "the test failover is ended",
        FailoverAction::Planned => "a planned failover begins",
        FailoverAction::Unplanned => "an unplanned failover begins",
        FailoverAction::Complete => "the failover is final",
        FailoverAction::Cancel => "the failover is to be taken back",
        FailoverAction::Reverse => "the replication is to go the other way",
        FailoverAction::Resolve => "it is decided which branch is kept",
        FailoverAction::Discard => "a branch is removed",
    }
}

/// Planned and unplanned failovers stop something, or run it twice: nobody does that by a slip of the hand.
fn confirm(request: &FailoverRequest, vm: &str) -> Result<(), Refusal> {
    use FailoverAction::{Discard, Planned, Resolve, Unplanned};
    let asked = matches!(request.action, Planned | Unplanned | Resolve | Discard);
    match &request.name {
        Some(typed) if typed != vm => {
            let message = format!("the VM is called {}, not {}", quoted(vm), quoted(typed));
            Err(Refusal::new(Class::Refused, "other_name", message).field("name").remedy("look which VM is meant"))
        }
        None if asked && !request.yes => {
            let (vm, code) = (quoted(vm), "not_confirmed");
            let remedy = format!("give --name {vm} or --yes; --dry-run shows what would be done");
            Err(Refusal::new(Class::Refused, code, format!("nobody has said that {vm} is meant"))
                .field("name")
                .remedy(remedy))
        }
        _ => Ok(()),
    }
}

fn fresh_id(control: &Control) -> PromotionId {
    PromotionId(control.node.outside.random.u128())
}

fn nothing(vm: VmId) -> Refusal {
    Refusal::new(Class::NotFound, "no_failover", format!("there is no failover of VM {vm}"))
        .field("vm")
        .remedy("`landfall failover status` shows what there is; give the command at the cluster that began it")
}

/// The command that a verb commits.
fn step_of(
    control: &Control,
    state: &State,
    vm: VmId,
    action: FailoverAction,
    prepared: &Prepared,
) -> Result<FailoverStep, Refusal> {
    let promotion = || state.promotions.get(&vm).map(|promotion| promotion.id).ok_or_else(|| nothing(vm));
    let chosen = || {
        let point = prepared.chosen.as_ref().ok_or_else(|| Refusal::not_found("point", "newest"))?;
        Ok::<_, Refusal>(PointName { sequence: point.sequence, root: point.root })
    };
    let epoch = || state.replicas.get(&vm).map(|replica| replica.epoch).ok_or_else(|| no_replica(vm));
    Ok(match action {
        FailoverAction::Test => FailoverStep::Test { epoch: epoch()?, id: fresh_id(control), point: chosen()? },
        FailoverAction::StopTest => {
            FailoverStep::EndTest { id: state.tests.get(&vm).map(|test| test.id).ok_or_else(|| nothing(vm))? }
        }
        FailoverAction::Planned => FailoverStep::Depart { id: fresh_id(control) },
        FailoverAction::Unplanned => {
            let (epoch, id, point) = (epoch()?, fresh_id(control), chosen()?);
            FailoverStep::Promote { epoch, id, point, loss: prepared.loss }
        }
        FailoverAction::Complete => FailoverStep::Complete { id: promotion()? },
        FailoverAction::Reverse => FailoverStep::Reverse { id: promotion()? },
        // No command: the cluster has decided already that it is not kept.
        FailoverAction::Discard => return Err(nothing(vm)),
        FailoverAction::Resolve => super::resolving::step_of(state, vm, prepared.keep)?,
        FailoverAction::Cancel => match state.departures.get(&vm) {
            Some(departure) => FailoverStep::Recall { id: departure.id },
            None => FailoverStep::Withdraw { id: promotion()? },
        },
    })
}

fn no_replica(vm: VmId) -> Refusal {
    Refusal::new(Class::NotFound, "no_replica", format!("this cluster keeps no replica of VM {vm}"))
        .field("vm")
        .remedy("give the command at the cluster that keeps the replica")
}

/// Looks at everything that a verb depends on.
async fn prepare(control: &Control, vm: VmId, request: &FailoverRequest) -> Prepared {
    let state = control.node.state();
    let plan = FailoverPlan {
        uuid: vm,
        name: committed_names(&state).get(&vm).cloned().unwrap_or_default(),
        action: request.action,
        point: None,
        taken_at: None,
        verified_at: None,
        node: None,
        loss_seconds: None,
        loss_bytes: None,
        command: Vec::new(),
        steps: Vec::new(),
        warnings: Vec::new(),
        blockers: Vec::new(),
    };
    let (chosen, loss, keep) = (None, Loss::default(), request.keep);
    let mut prepared = Prepared { plan, blockers: Vec::new(), chosen, loss, to_prove: None, keep, decided: None };
    let choosing = matches!(request.action, FailoverAction::Test | FailoverAction::Unplanned);
    if request.point.is_some() && !choosing {
        let remedy = "choose a point for test and unplanned only";
        prepared.blockers.push(Refusal::invalid("point", &request.point.unwrap_or_default().to_string(), remedy));
    }
    match request.action {
        FailoverAction::Test | FailoverAction::Unplanned => {
            prepare_replica(control, &state, vm, request, &mut prepared).await;
        }
        FailoverAction::Planned => {
            super::planned::prepare(&state, vm, &mut prepared.plan, &mut prepared.blockers);
        }
        FailoverAction::Reverse => {
            let Prepared { plan, blockers, .. } = &mut prepared;
            super::resolving::prepare_reverse(control, &state, vm, plan, blockers).await;
        }
        FailoverAction::Resolve if state.unknown_rights.contains(&vm) && !state.rivals.contains(&vm) => {
            match super::rights::prepare(control, &state, vm, request.keep, &mut prepared.plan).await {
                Ok(step) => prepared.decided = Some(step),
                Err(refusal) => prepared.blockers.push(refusal),
            }
        }
        FailoverAction::Resolve => {
            super::resolving::prepare(&state, vm, request.keep, &mut prepared.plan, &mut prepared.blockers);
        }
        FailoverAction::Discard => {
            let gone = super::discarding::prepare(control, vm, request.branch.as_deref(), &mut prepared.plan);
            prepared.blockers.extend(gone.await.err());
        }
        FailoverAction::StopTest => {
            prepared.plan.steps.push("stop the test's VM, remove it and its images".to_owned());
            if !state.tests.contains(&vm) {
                prepared.blockers.push(nothing(vm));
            }
        }
        FailoverAction::Complete => {
            prepared.plan.steps.push("de-list every other point of the replica".to_owned());
            if !state.promotions.contains(&vm) {
                prepared.blockers.push(nothing(vm));
            }
        }
        FailoverAction::Cancel => {
            prepared.plan.steps.push("stop the VM, discard what it wrote, go on replicating".to_owned());
            if !state.promotions.contains(&vm) && !state.departures.contains(&vm) {
                prepared.blockers.push(nothing(vm));
            }
        }
    }
    prepared
}

async fn prepare_replica(
    control: &Control,
    state: &State,
    vm: VmId,
    request: &FailoverRequest,
    prepared: &mut Prepared,
) {
    let Some(replica) = state.replicas.get(&vm) else { return prepared.blockers.push(no_replica(vm)) };
    prepared.plan.node = Some(name(state, replica.holder));
    prepared.plan.command.clone_from(&replica.vm.launch.command);
    describe(replica, request.action, &mut prepared.plan);
    let (steps, warnings) = network::told(state, replica);
    prepared.plan.steps.splice(1..1, steps);
    prepared.plan.warnings.extend(warnings);
    prepared.blockers.extend(at_rest(state, replica, request.action));
    if request.action == FailoverAction::Unplanned {
        prepared.blockers.extend(state.refuse_unknown(vm).err());
    }
    match hand_off::holder_of(control, state, replica).await {
        Ok(holder) => {
            let chosen = match request.point {
                Some(sequence) => holder.points.iter().find(|point| point.sequence == sequence),
                None => newest(&holder.points),
            };
            match chosen.filter(|point| point.state != PointState::Unreachable) {
                Some(point) => {
                    choose(control, &holder.points, point, prepared);
                    judge(replica, point, holder.damage.as_deref(), request, prepared);
                }
                None => prepared.blockers.push(no_point(&holder.points, request.point)),
            }
        }
        Err(refusal) => prepared.blockers.push(refusal),
    }
    if request.action == FailoverAction::Unplanned {
        ask_primary(control, state, replica, request.force, prepared).await;
    }
}

fn choose(control: &Control, points: &[Point], point: &Point, prepared: &mut Prepared) {
    prepared.loss = loss(points, point, control.node.outside.clock.wall().0);
    prepared.plan.point = Some(point.sequence);
    prepared.plan.taken_at = Some(point.taken_at.into());
    prepared.plan.loss_seconds = Some(prepared.loss.millis / 1000);
    prepared.plan.loss_bytes = Some(prepared.loss.bytes);
    prepared.chosen = Some(point.clone());
}

/// What is known of the chosen point, and what is to be done about it before it runs.
fn judge(replica: &Replica, point: &Point, damage: Option<&str>, request: &FailoverRequest, prepared: &mut Prepared) {
    prepared.plan.verified_at = point.verified_at.map(Into::into);
    let images = &replica.vm.launch.images;
    let copied =
        replica.vm.disks.iter().all(|disk| images.iter().any(|image| image.raw && image.target == disk.target));
    if point.state == PointState::Damaged {
        if request.force {
            prepared.plan.warnings.push("the point is damaged, and its damage comes with it".to_owned());
        } else {
            prepared.blockers.push(proofs::damaged(point, damage.unwrap_or("see `landfall point list`")));
        }
    } else if point.verified_at.is_none() && !copied {
        if request.skip_verify {
            prepared.plan.warnings.push("unverified: nobody has read the point back since it was made".to_owned());
        } else {
            prepared.plan.steps.insert(0, "read the point back and compare it with its hashes".to_owned());
            prepared.to_prove = Some(replica.holder);
        }
    }
}

fn no_point(points: &[Point], asked: Option<u64>) -> Refusal {
    let listed = points.iter().filter(|point| point.state != PointState::Unreachable);
    let listed: Vec<String> = listed.map(|point| point.sequence.to_string()).collect();
    let asked = asked.map_or_else(|| "newest".to_owned(), |point| point.to_string());
    Refusal::not_found("point", &asked).remedy(match listed.is_empty() {
        true => "wait for the initial copy: there is no complete point yet".to_owned(),
        false => format!("the points are: {}", listed.join(", ")),
    })
}

fn describe(replica: &Replica, action: FailoverAction, plan: &mut FailoverPlan) {
    let raw = replica.vm.launch.images.iter().any(|image| image.raw);
    plan.steps.push(match raw {
        true => "copy the point's disks into raw images, checked against their hashes".to_owned(),
        false => "make an overlay over each of the point's disks".to_owned(),
    });
    if action == FailoverAction::Test {
        plan.steps.push(format!("start it as '{} - Test', adapters not connected", replica.vm.name));
        plan.warnings.push("replication goes on meanwhile".to_owned());
    } else {
        plan.steps.push(format!("replication from {} is refused from then on", replica.primary));
        plan.steps.push("start the VM; the replica stays at its node".to_owned());
    }
    if replica.vm.launch.command.is_empty() {
        let told = "no command has come with the VM: its images are made, and starting it is left to you";
        plan.warnings.push(told.to_owned());
    }
}

/// Why a replica cannot be failed over, as far as the committed state tells; commits check it again.
fn at_rest(state: &State, replica: &Replica, action: FailoverAction) -> Option<Refusal> {
    let (vm, name) = (replica.vm.id, &replica.vm.name);
    let refuse =
        |code, why: String, remedy: &str| Some(Refusal::new(Class::Refused, code, why).field("vm").remedy(remedy));
    if state.promotions.contains(&vm) {
        return refuse("failed_over", format!("{name} is failed over already"), "see `landfall failover status`");
    }
    if action == FailoverAction::Test && state.tests.contains(&vm) {
        let remedy = "end it first: `landfall failover test VM --stop`";
        return refuse("test_running", format!("a test failover of {name} runs already"), remedy);
    }
    if !replica.acknowledged {
        let why = format!("the replica of {name} has no complete point yet");
        return refuse("no_point", why, "wait for the initial copy: `landfall vm show`");
    }
    if replica.seeding.is_some() || replica.handover.is_some() {
        let why = format!("the replica of {name} is being moved or filled anew");
        return refuse("moving", why, "wait until it is complete");
    }
    None
}

/// Whether the primary answers, and runs: then an unplanned failover would make it run twice.
async fn ask_primary(control: &Control, state: &State, replica: &Replica, force: bool, prepared: &mut Prepared) {
    let Some(peer) = state.peers.get(&replica.primary) else { return };
    let runs = match peers::first_answer(&control.node, peer, &ControlRequest::Runs(replica.vm.id)).await {
        Ok(ControlAnswer::Runs(Some(runs))) => runs,
        Ok(_) => {
            let told = format!("{} answers, but cannot say whether the VM runs", replica.primary);
            return prepared.plan.warnings.push(told);
        }
        Err(_) => {
            let told = format!("{} does not answer: nobody can say that the VM is off there", replica.primary);
            return prepared.plan.warnings.push(told);
        }
    };
    if !runs {
        let told =
            format!("{} answers, and the VM is off there: a planned failover would lose nothing", replica.primary);
        prepared.plan.warnings.push(told);
    } else if force {
        prepared.plan.warnings.push(format!("the VM runs at {}: it will run twice", replica.primary));
    } else {
        let message = format!("{} runs at {}, which answers", replica.vm.name, replica.primary);
        let remedy = "fail over as planned, at the primary's cluster; --force runs it twice all the same";
        prepared.blockers.push(Refusal::new(Class::Refused, "primary_runs", message).field("vm").remedy(remedy));
    }
}

/// Waits until a step has had its effect.
async fn settled(control: &Control, vm: VmId, step: &FailoverStep, wait: WaitSeconds) -> Result<(), Refusal> {
    let deadline = Instant::now() + wait.duration();
    loop {
        let state = control.node.state();
        let status = status_of(control, vm).await;
        let runnable = state.replicas.get(&vm).is_some_and(|replica| !replica.vm.launch.command.is_empty());
        let done = match step {
            FailoverStep::Test { .. } | FailoverStep::Promote { .. } => {
                status.step == if runnable { "running" } else { "stopped" }
            }
            FailoverStep::EndTest { id } => !lists(control, &state, test_vm(*id)).await,
            FailoverStep::Depart { .. } => status.step == "departed",
            FailoverStep::Recall { .. } => !state.departures.contains(&vm),
            FailoverStep::Withdraw { .. } | FailoverStep::Abandon { .. } => !state.promotions.contains(&vm),
            FailoverStep::Reverse { .. } => state.primaries.get(&vm).is_some_and(|primary| primary.sender.is_some()),
            FailoverStep::Decide { .. } => status.step != "unknown" || state.primaries.contains(&vm),
            FailoverStep::Resolve { keep: Side::Here, .. } => !state.rivals.contains(&vm),
            FailoverStep::Resolve { .. } => status.step == "yielded" || !state.rivals.contains(&vm),
            _ => true,
        };
        if done {
            return Ok(());
        }
        let recalled = matches!(step, FailoverStep::Recall { .. }) && status.step == "departed";
        if recalled {
            let message = "the other cluster had taken the right to run it already";
            return Err(Refusal::new(Class::Refused, "departed", message)
                .field("vm")
                .remedy("cancel the failover there: `landfall failover cancel`"));
        }
        if Instant::now() >= deadline {
            let why = status.fault.map_or_else(|| format!("it is {}", status.step), |fault| fault.message);
            return Err(timed_out("it is committed", &why, wait));
        }
        sleep(LOOK_INTERVAL).await;
    }
}
