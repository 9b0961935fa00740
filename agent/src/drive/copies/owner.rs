//! The owner's part: keeps as many copies of each replica as are wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_proto::id::{MemberId, VmId};
use landfall_proto::message::broker::PassedOver;
use landfall_proto::model::{Command, Replica};
use landfall_store::State;

use crate::decide::copies::{self, Ledger, Site, Step};
use crate::decide::placement::{self, Candidate, Standing};
use crate::drive::events::Happening;
use crate::drive::node::Node;
use crate::drive::sight;

/// How often the owner looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What separates this choice from every other one of an owner.
const DRAW: &str = "landfall 2026 another copy draw";

/// Keeps the copies for as long as this agent owns the CAP.
pub async fn keep(node: Node) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut ledger = Ledger::default();
    loop {
        look.tick().await;
        if node.owner.acting().is_none() {
            ledger = Ledger::default();
            node.owning().await;
            continue;
        }
        let state = node.state();
        let settings = state.resolved_settings();
        ledger.look(state.replicas.values(), node.outside.clock.now());
        let down: BTreeSet<MemberId> = node.down.borrow().keys().copied().collect();
        // No replica in particular: how the members are, whatever room they have.
        let members = sight::candidates(&node, VmId(uuid::Uuid::nil()));
        for replica in state.replicas.values() {
            let unfit = ledger.unfit(replica, &members, settings.node_down_after, node.outside.clock.now());
            let lost = replica.in_sync.iter().any(|member| down.contains(member));
            if !copies::is_short(replica, settings.copies) && unfit.is_empty() && !lost {
                continue;
            }
            let candidates = candidates(&node, replica, &down);
            let resting = ledger.resting(replica.vm.id);
            let site = Site { candidates: &candidates, down: &down, unfit: &unfit, resting: &resting };
            let promoted = state.promotions.contains(&replica.vm.id);
            let seed = sight::draw(&state, replica.vm.id, DRAW);
            let (step, passed_over) = copies::next(replica, settings.copies, promoted, site, seed);
            if let Some(step) = step {
                carry_out(&node, &state, replica, step, &passed_over).await;
            }
        }
    }
}

fn candidates(node: &Node, replica: &Replica, down: &BTreeSet<MemberId>) -> Vec<Candidate> {
    let mut candidates = sight::candidates(node, replica.vm.id);
    for candidate in candidates.iter_mut().filter(|candidate| down.contains(&candidate.member)) {
        candidate.standing = Standing::Down;
    }
    candidates
}

async fn carry_out(node: &Node, state: &State, replica: &Replica, step: Step, passed_over: &[PassedOver]) {
    let (vm, epoch, name) = (replica.vm.id, replica.epoch, &replica.vm.name);
    let called = |member: MemberId| state.members.get(&member).map(|member| member.node.clone());
    let (command, about) = match step {
        Step::Copy(to) => (Command::Copy { vm, epoch, to: Some(to) }, Some(to)),
        Step::GiveUp => (Command::Copy { vm, epoch, to: None }, replica.joiner.map(|joiner| joiner.member)),
        Step::Leave(member) => (Command::Leave { vm, epoch, member }, Some(member)),
    };
    let Some(node_name) = about.and_then(called) else { return };
    let Some(term) = node.owner.acting() else { return };
    match node.proposer.commit_here(None, term, command).await {
        Ok((Ok(_), _)) => {}
        Ok((Err(refusal), _)) | Err(refusal) => {
            tracing::info!(%vm, %refusal, ?step, "a change of copies is not committed");
            return;
        }
    }
    let event = match step {
        Step::Copy(_) => {
            let told = format!("{node_name} copies the replica of {name}, to be another copy of it");
            Happening::info("copy_begun", told).with("passed_over", &placement::told(passed_over))
        }
        Step::GiveUp => Happening::info("copy_given_up", format!("{node_name} copies the replica of {name} no more")),
        Step::Leave(_) => Happening::warning("copy_left", format!("{node_name} has no copy of {name} any more")),
    };
    node.events.record(event.vm(vm).node(&node_name));
}
