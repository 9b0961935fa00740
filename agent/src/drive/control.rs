//! Serving `landfall-control/1`: the agents of this cluster, and a few verbs for paired clusters.

use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::id::{Epoch, MemberId, Position, RequestId, Revision, Term, VmId};
use landfall_proto::message::control::{ControlAnswer, ControlRequest, LocalVm};
use landfall_proto::model::{Command, Member};
use landfall_proto::trust::Caller;
use landfall_proto::verb::{Verb, vm_between};
use landfall_proto::{Class, Refusal};
use tokio::time::{Instant, timeout};

use crate::decide::proposing;
use crate::drive::enrolment::Papers;
use crate::drive::failover::{Failover, hand_off, rights, sibling};
use crate::drive::members::control_target;
use crate::drive::node::Node;
use crate::drive::propose::no_quorum;
use crate::drive::replicas::Replicas;
use crate::drive::senders::Senders;
use crate::drive::{admission, broker, cap_address, owner, peers, reach, renewal, rollback, rotation, seed};
use crate::vm_service::{VmRole, VmState};

/// How long a call may wait for something to happen here before it answers that it has not: shorter than the callers'
/// own deadlines, so that they get the reason.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// How long a probe on another's behalf may take.
const PROBE_DEADLINE: Duration = Duration::from_millis(800);

/// What serving needs beside the node itself.
#[derive(Clone)]
pub struct Control {
    /// This node.
    pub node: Node,
    /// The replicas that it holds.
    pub replicas: Replicas,
    /// The VMs that it sends.
    pub senders: Senders,
    /// What it does for failovers.
    pub failover: Failover,
    /// The files of its identity.
    pub papers: Papers,
}

impl Control {
    /// Answers one request of an authenticated caller.
    pub async fn answer(&self, caller: &Caller, request: ControlRequest) -> ControlAnswer {
        let verb = Verb::of_control(&request);
        if let Err(refusal) = admission::admit(&self.node, caller, verb, vm_between(&request)) {
            return ControlAnswer::Refused(refusal);
        }
        if request == ControlRequest::ReachBack {
            return reach::back(&self.node, caller).await;
        }
        match caller {
            Caller::Member { member } => match request {
                ControlRequest::Renew { public_key } => renewal::answer(&self.node, &self.papers, member, &public_key),
                ControlRequest::Recall => rollback::answer(&self.node, member.id),
                ControlRequest::RotateCa { dry_run } => {
                    match rotation::begin(&self.node, &self.papers, dry_run).await {
                        Ok((missed, position)) => ControlAnswer::Rotates { missed, position },
                        Err(refusal) => ControlAnswer::Refused(refusal),
                    }
                }
                ControlRequest::KeepCa { term, step, key } => {
                    rotation::keep_key(&self.node, &self.papers, member.id, term, &step, &key)
                }
                ControlRequest::AskCa(ca) => rotation::give_key(&self.node, &self.papers, &ca),
                ControlRequest::Propose { request, command } => self.propose(member, request, *command).await,
                request => self.answer_member(request).await,
            },
            Caller::PeerNode { cap, .. } => match request {
                ControlRequest::Moved { vm, to } => match peers::outdated(&self.node, cap) {
                    Some(refusal) => ControlAnswer::Refused(refusal),
                    None => {
                        self.senders.moved(cap, vm, to);
                        ControlAnswer::Done
                    }
                },
                ControlRequest::Members(news) => peers::exchange(&self.node, cap, *news).await,
                ControlRequest::Resumed(vm) => {
                    self.senders.resumed(cap, vm);
                    ControlAnswer::Done
                }
                ControlRequest::HandOff { vm, id, order, point, wish } => {
                    let asked = hand_off::Asked { vm, id, order, point, wish };
                    hand_off::answer(self, cap, asked).await
                }
                ControlRequest::Runs(vm) => hand_off::runs(self, cap, vm).await,
                ControlRequest::Return { vm, back, parent, check } => {
                    sibling::keep(self, cap, sibling::Asked { vm, back, parent, check }).await
                }
                ControlRequest::Branch { vm, id, parent, point } => {
                    sibling::branch(self, cap, vm, id, parent, point).await
                }
                ControlRequest::Branches(vm) => sibling::branch_of(self, cap, vm),
                ControlRequest::Abandon { vm, id, look } => sibling::abandon(self, cap, vm, id, look).await,
                ControlRequest::GiveUp { vm, id } => sibling::give_up(self, cap, vm, id).await,
                ControlRequest::Rights { vm, before, contested } => {
                    rights::answer(self, cap, vm, before, contested).await
                }
                ControlRequest::Clock => ControlAnswer::Clock(self.node.outside.clock.wall()),
                _ => ControlAnswer::Refused(not_for_peers()),
            },
            Caller::Unlisted { .. } | Caller::Stranger { .. } => ControlAnswer::Refused(not_for_peers()),
        }
    }

    async fn answer_member(&self, request: ControlRequest) -> ControlAnswer {
        let node = &self.node;
        match request {
            ControlRequest::Place { primary, place } => {
                let answer = broker::place_forwarded(node, &primary, *place).await;
                ControlAnswer::Broker(Box::new(
                    answer.unwrap_or_else(landfall_proto::message::broker::BrokerAnswer::Refused),
                ))
            }
            ControlRequest::Probe => ControlAnswer::Alive { faults: self.replicas.faults() },
            ControlRequest::ProbeFor(member) => ControlAnswer::Reached(probe(node, member).await),
            // It would count for those who ask, and cannot vote for them.
            ControlRequest::Hears if !node.gate.is_open() => ControlAnswer::Refused(rollback::takes_no_part()),
            ControlRequest::Hears => ControlAnswer::Hears(owner::hears(node)),
            ControlRequest::HandOver { to } => hand_over(node, to).await,
            ControlRequest::AwaitRegistered { term, vm, epoch, position } => {
                await_registered(node, term, vm, epoch, position).await
            }
            ControlRequest::Run(vm) => ControlAnswer::Run(self.failover.figures(vm).map(Box::new)),
            ControlRequest::ResetStatistics(vm) => {
                self.senders.reset_statistics(vm).map_or_else(ControlAnswer::Refused, |()| ControlAnswer::Done)
            }
            ControlRequest::Moved { .. }
            | ControlRequest::Members(_)
            | ControlRequest::HandOff { .. }
            | ControlRequest::Runs(_)
            | ControlRequest::ReachBack
            | ControlRequest::Return { .. }
            | ControlRequest::Branch { .. }
            | ControlRequest::Branches(_)
            | ControlRequest::Abandon { .. }
            | ControlRequest::GiveUp { .. }
            | ControlRequest::Renew { .. }
            | ControlRequest::Recall
            | ControlRequest::RotateCa { .. }
            | ControlRequest::KeepCa { .. }
            | ControlRequest::AskCa(_)
            | ControlRequest::Propose { .. }
            | ControlRequest::Rights { .. }
            | ControlRequest::Resumed(_) => ControlAnswer::Refused(not_for_members()),
            ControlRequest::Clock => ControlAnswer::Clock(node.outside.clock.wall()),
            ControlRequest::CouldHoldAddress => cap_address::could_hold(node),
            ControlRequest::Figures(vm) => ControlAnswer::Figures(Box::new(self.figures(vm).await)),
            ControlRequest::AwaitSettings(revision) => await_settings(node, revision).await,
            ControlRequest::Vms => ControlAnswer::Vms(local_vms(node)),
            ControlRequest::Confirm => match (node.owner.acting(), node.state().applied) {
                (Some(term), position) => ControlAnswer::Confirmed { term, position },
                (None, _) => ControlAnswer::Refused(no_quorum()),
            },
            ControlRequest::Prove { vm, point, begin } => {
                let proof = Box::pin(self.replicas.prove(vm, point, begin)).await;
                proof.map_or_else(ControlAnswer::Refused, ControlAnswer::Proof)
            }
            ControlRequest::Export { vm, point, folder } => self.export(vm, point, folder).await,
            ControlRequest::DropBranch { vm, id, look } => match self.replicas.drop_branch(vm, id, look).await {
                Ok(true) => ControlAnswer::Done,
                Ok(false) => ControlAnswer::Refused(Refusal::not_found("branch", &id.to_string())),
                Err(refusal) => ControlAnswer::Refused(refusal),
            },
            ControlRequest::Difference { vm, from, to, limit } => {
                let found = self.replicas.difference(vm, from, to, limit).await;
                found.map_or_else(ControlAnswer::Refused, ControlAnswer::Difference)
            }
            ControlRequest::Seed { vm, folder, import } => self.seed(vm, folder, import).await,
        }
    }

    /// Commits what `from` proposes, where it is its to say. What was committed before is answered as it was, whatever its
    /// effect has made of the proposer (R6).
    async fn propose(&self, from: &Member, request: Option<RequestId>, command: Command) -> ControlAnswer {
        let node = &self.node;
        let Some(term) = node.owner.acting() else { return ControlAnswer::Refused(no_quorum()) };
        let state = node.state();
        let remembered = request.is_some_and(|request| state.remembers(request));
        if !remembered && let Err(refusal) = proposing::check(&state, from, &command) {
            node.events.refuse("request_refused", from.node.as_str(), &refusal.message);
            return ControlAnswer::Applied { answer: Err(refusal), position: state.applied };
        }
        match node.proposer.commit_here(request, term, command).await {
            Ok((answer, position)) => ControlAnswer::Applied { answer, position },
            Err(refusal) => ControlAnswer::Refused(refusal),
        }
    }

    async fn export(&self, vm: VmId, point: Option<u64>, folder: String) -> ControlAnswer {
        let exported = self.replicas.export(vm, point, folder.into()).await;
        let node = self.node.name.clone();
        exported.map_or_else(ControlAnswer::Refused, |done| ControlAnswer::Exported {
            node,
            point: done.point,
            files: done.files,
        })
    }

    async fn seed(&self, vm: VmId, folder: String, import: bool) -> ControlAnswer {
        match seed::here(&self.node, &self.replicas, vm, folder.into(), import).await {
            Ok(seeded) => {
                ControlAnswer::Seeded { node: self.node.name.clone(), taken_at: seeded.taken_at, files: seeded.files() }
            }
            Err(refusal) => ControlAnswer::Refused(refusal),
        }
    }

    /// What this node knows of one VM.
    pub async fn figures(&self, vm: VmId) -> landfall_proto::message::control::Figures {
        landfall_proto::message::control::Figures {
            holder: self.replicas.figures(vm).await,
            sender: self.senders.figures(vm),
            traffic: self.senders.traffic(vm).await,
        }
    }
}

async fn hand_over(node: &Node, to: Option<MemberId>) -> ControlAnswer {
    match owner::order(node, to).await {
        Ok(owner::HandedOver { owner, term, gap }) => {
            let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
            ControlAnswer::HandedOver { owner, term, gap_ms }
        }
        Err(refusal) => ControlAnswer::Refused(refusal),
    }
}

/// Whether `member` answers a probe of this node.
pub async fn probe(node: &Node, member: MemberId) -> bool {
    let Some(target) = control_target(&node.state(), member) else { return false };
    let call = node.calls.call::<_, ControlAnswer>(&target, Alpn::Control, &ControlRequest::Probe, PROBE_DEADLINE);
    matches!(call.await, Ok(ControlAnswer::Alive { .. }))
}

/// Refuses an effect ordered under an older term than this node has applied (R1).
pub fn check_term(node: &Node, term: Term) -> Result<(), Refusal> {
    proposing::check_term(node.state().claim.map(|claim| claim.term), term)
}

/// Waits until this node's VM service has registered the replica at `epoch`.
pub async fn await_registered(node: &Node, term: Term, vm: VmId, epoch: Epoch, position: Position) -> ControlAnswer {
    if let Err(refusal) = node.proposer.applied(position, Instant::now() + WAIT_MAX).await {
        return ControlAnswer::Refused(refusal);
    }
    if let Err(refusal) = check_term(node, term) {
        return ControlAnswer::Refused(refusal);
    }
    let mut registered = node.registered.subscribe();
    let done = registered.wait_for(|registered| registered.get(&vm).is_some_and(|at| *at >= epoch));
    match timeout(WAIT_MAX, done).await {
        Ok(Ok(_)) => ControlAnswer::Done,
        _ => ControlAnswer::Refused(Refusal::new(
            Class::Failed,
            "not_registered",
            format!("the VM service {}", node.vms.standing().fault().unwrap_or_else(|| "did not register it".into())),
        )),
    }
}

async fn await_settings(node: &Node, revision: Revision) -> ControlAnswer {
    let mut reported = node.vms.watch();
    let done = reported.wait_for(|reported| reported.applied >= revision);
    match timeout(WAIT_MAX, done).await {
        Ok(Ok(_)) => ControlAnswer::Done,
        _ => ControlAnswer::Refused(Refusal::new(
            Class::Failed,
            "not_applied",
            format!(
                "its VM service {}",
                node.vms.standing().fault().unwrap_or_else(|| "has not acknowledged it".to_owned())
            ),
        )),
    }
}

/// The VMs that this node's VM service has; none while it does not report.
pub fn local_vms(node: &Node) -> Vec<LocalVm> {
    let vms = node.vms.vms().unwrap_or_default();
    vms.into_iter()
        .map(|report| LocalVm {
            replica: report.role == VmRole::Replica,
            running: report.state == VmState::Running,
            fault: report.fault.or_else(|| (report.role == VmRole::Test).then(test_vm)),
            vm: report.vm,
        })
        .collect()
}

/// Why the VM of a test failover is not replicated itself.
fn test_vm() -> Refusal {
    Refusal::new(Class::Refused, "test_vm", "this VM is a test failover: it is gone when the test ends")
        .field("vm")
        .remedy("name the VM that is tested")
}

fn not_for_peers() -> Refusal {
    Refusal::new(Class::Refused, "not_allowed", "this request is for members of the cluster only")
}

fn not_for_members() -> Refusal {
    Refusal::new(Class::Refused, "not_allowed", "this request is between clusters, or belongs to joining")
}
