//! Asking the others, after a start, how far this node's log had come; it takes no part in consensus before that is known.
//!
//! Nothing is added to the log meanwhile: no vote is given, nothing is acknowledged, nobody stands, and a node that led does
//! not go on leading. So however often a node that was rolled back is started, it has no more than its disk had kept, and the
//! others remember more. Nodes that start together answer one another out of what they have applied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::Target;
use landfall_proto::id::{MemberId, NodeName};
use landfall_proto::message::control::{ControlAnswer, ControlRequest};
use landfall_proto::model::{LogMark, MemberList};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};
use landfall_store::consensus::Consensus;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::decide::rollback::{self, Asking, Loss, ROLLED_BACK, Remembered, Verdict};
use crate::drive::events::Happening;
use crate::drive::members::control_target;
use crate::drive::node::Node;

/// How often those are asked again, in one lease, that have not answered.
const ROUNDS_PER_LEASE: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Takes,
    Asks,
    Lost(Loss),
}

/// Whether this node takes part in consensus. Clones share it.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<Part>);

impl Gate {
    /// Shut where this node has a life of its own to remember: not where it is `new` in its cluster, nor where nobody
    /// followed it, who then could only remember what it had told.
    pub fn new(new: bool, consensus: &Consensus) -> Self {
        Self(watch::Sender::new(if new || consensus.began_alone() { Part::Takes } else { Part::Asks }))
    }

    /// Whether this node votes, acknowledges and may stand.
    pub fn is_open(&self) -> bool {
        let part = *self.0.borrow();
        part == Part::Takes || (part == Part::Asks && planted::is(Bug::GateOpenUnasked))
    }

    /// What this node has lost, where it has.
    pub fn loss(&self) -> Option<Loss> {
        match *self.0.borrow() {
            Part::Lost(loss) => Some(loss),
            Part::Takes | Part::Asks => None,
        }
    }

    fn shut(&self, node: &Node, loss: Loss) {
        let part = Part::Lost(loss);
        if self.0.send_replace(part) != part {
            let told = rollback::told(&node.name, &loss);
            tracing::error!("{told}");
            node.events.record(Happening::critical(ROLLED_BACK, told).node(&node.name));
        }
    }
}

/// Asks until it is known whether this node has everything that the others remember of it; `listed` are the members that it
/// had applied last.
pub async fn ask_after_start(node: Node, listed: MemberList) {
    if *node.gate.0.borrow() != Part::Asks {
        return;
    }
    let (lease, begun) = (node.owner.lease(), node.outside.clock.now());
    let mut answers = BTreeMap::new();
    loop {
        let mut asking = asking(&node, &listed);
        if asking.members.is_empty() {
            // It broke off while it was founded: there is nobody who could remember anything.
            node.gate.0.send_replace(Part::Takes);
            return;
        }
        asking.answers = std::mem::take(&mut answers);
        let verdict = one_round(&node, &listed, &mut asking, lease, begun).await;
        answers = asking.answers;
        match verdict {
            Verdict::Open => sleep(lease / ROUNDS_PER_LEASE).await,
            Verdict::Whole => {
                tracing::info!(answers = answers.len(), kept = %asking.kept, "nobody remembers more of this node");
                node.gate.0.send_replace(Part::Takes);
                return;
            }
            Verdict::RolledBack(had) => {
                return node.gate.shut(&node, Loss { kept: asking.kept, had: Some(had) });
            }
        }
    }
}

/// Whom this node asks, by what it knows now.
fn asking(node: &Node, listed: &MemberList) -> Asking {
    let (status, state) = (node.consensus.status(), node.state());
    let known = state.members.keys().copied().chain(listed.members.iter().map(|member| member.id));
    let members: BTreeSet<MemberId> =
        known.chain(status.voters.clone()).chain(status.learners).filter(|member| *member != node.me).collect();
    let votes = status.voters.contains(&node.me);
    let mut voters = status.voters;
    voters.remove(&node.me);
    if voters.is_empty() && !votes {
        // It has nothing of the log yet: whoever votes is among these.
        voters.clone_from(&members);
    }
    Asking { kept: node.consensus.kept(), votes, voters, members, ..Asking::default() }
}

/// Asks those who have not answered yet, until the answers decide or all have had their time.
async fn one_round(
    node: &Node,
    listed: &MemberList,
    asking: &mut Asking,
    lease: Duration,
    begun: landfall_proto::seam::Time,
) -> Verdict {
    let missing = asking.members.iter().filter(|member| !asking.answers.contains_key(member));
    let targets = missing.filter_map(|member| Some((*member, target(node, listed, *member)?)));
    let mut asked: FuturesUnordered<_> = targets
        .map(|(member, target)| async move {
            let call = node.calls.call(&target, Alpn::Control, &ControlRequest::Recall, lease / 2);
            (member, call.await)
        })
        .collect();
    loop {
        asking.asked_for = node.outside.clock.now().since(begun);
        let verdict = rollback::judge(asking, lease);
        if verdict != Verdict::Open {
            return verdict;
        }
        match asked.next().await {
            Some((member, Ok(ControlAnswer::Recalled { noted, led }))) => {
                asking.answers.insert(member, Remembered { noted, led });
            }
            Some((member, other)) => tracing::debug!(%member, ?other, "it does not say what it remembers"),
            None => {
                asking.asked_for = node.outside.clock.now().since(begun);
                return rollback::judge(asking, lease);
            }
        }
    }
}

fn target(node: &Node, listed: &MemberList, member: MemberId) -> Option<Target> {
    control_target(&node.state(), member).or_else(|| {
        let member = listed.by_id(member)?;
        Some(Target { cap: listed.cap.clone(), address: member.control, key: Some(member.key) })
    })
}

/// What this node remembers of `member`.
pub fn answer(node: &Node, member: MemberId) -> ControlAnswer {
    let noted: Option<LogMark> = node.state().marks.get(&member).copied();
    ControlAnswer::Recalled { noted, led: node.consensus.status().led(member) }
}

/// The answer to whoever asks a node that takes no part yet, or never again, what it hears.
pub fn takes_no_part() -> Refusal {
    Refusal::new(Class::Failed, "takes_no_part", "this node takes no part in consensus")
}

/// Whether a call of consensus is to be answered. A node that nobody followed when it was started, and that nobody follows
/// now, is called by others only where its log is of a time before there were any: it stops then.
pub async fn may_serve(node: &Node) -> bool {
    if !node.gate.is_open() {
        return false;
    }
    let status = node.consensus.status();
    let alone = status.learners.is_empty() && status.voters == BTreeSet::from([node.me]);
    if !alone || !node.consensus.began_alone() {
        return true;
    }
    node.gate.shut(node, Loss { kept: node.consensus.kept(), had: None });
    node.consensus.shutdown().await;
    false
}

/// The nodes that were rolled back, as far as this one knows.
pub fn known(node: &Node) -> Vec<(NodeName, Loss)> {
    let (state, view) = (node.state(), node.view.borrow().clone());
    let loss = |member: MemberId| match member == node.me {
        true => node.gate.loss(),
        false => view.get(&member).filter(|seen| seen.live)?.facts.as_ref()?.rolled_back,
    };
    state.members.values().filter_map(|member| Some((member.node.clone(), loss(member.id)?))).collect()
}
