//! What happened in a run, line by line: the virtual time, the node, the event.

use std::sync::{Arc, Mutex, PoisonError};

use landfall_agent::drive::node::Node;
use tokio::time::Instant;

/// The lines of one run. Clones write to the same.
#[derive(Clone, Debug)]
pub struct Record {
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Record {
    /// An empty one, whose time starts now.
    pub fn new() -> Self {
        Self { start: Instant::now(), lines: Arc::default() }
    }

    /// Notes an event of `node`.
    pub fn note(&self, node: &str, event: impl std::fmt::Display) {
        let line = format!("{:>12.3} ms  {node}  {event}", self.start.elapsed().as_secs_f64() * 1000.0);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Everything so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes every claim, term, leader, member and voter that `node` comes to know, until its agent stops.
    pub async fn follow(self, name: String, node: Node) {
        let (mut states, mut status) = (node.consensus.watch_state(), node.consensus.watch_status());
        let mut tenure = node.owner.watch();
        let (mut seen, mut acted) = (Seen::default(), None);
        loop {
            let now = Seen::of(&node);
            now.differences(&seen).into_iter().for_each(|event| self.note(&name, event));
            seen = now;
            let acting = tenure.borrow_and_update().map(|tenure| tenure.term);
            if acting != acted {
                self.note(
                    &name,
                    acting.map_or("no longer owns the CAP".into(), |term| format!("owns the CAP, {term}")),
                );
                acted = acting;
            }
            let ended = tokio::select! {
                biased;
                changed = states.changed() => changed.is_err(),
                changed = status.changed() => changed.is_err(),
                changed = tenure.changed() => changed.is_err(),
            };
            if ended {
                return self.note(&name, "stopped");
            }
            states.mark_unchanged();
            status.mark_unchanged();
        }
    }
}

/// What a node knows of its cluster, as text that can be compared.
#[derive(Default)]
struct Seen {
    claim: String,
    leader: String,
    members: String,
    voters: String,
}

impl Seen {
    fn of(node: &Node) -> Self {
        let (state, status) = (node.state(), node.consensus.status());
        let claim = state.claim.as_ref().map(|claim| format!("claim of {} is {}", claim.member, claim.term));
        let members: Vec<String> =
            state.members.values().map(|member| format!("{}={}", member.id, member.node)).collect();
        let ids = |ids: &std::collections::BTreeSet<_>| {
            ids.iter().map(ToString::to_string).collect::<Vec<String>>().join(" ")
        };
        Self {
            claim: claim.unwrap_or_default(),
            leader: format!("vote term {}, leader {:?}", status.vote_term, status.leader.map(|leader| leader.number())),
            members: format!("members [{}]", members.join(" ")),
            voters: format!("voters [{}], learners [{}]", ids(&status.voters), ids(&status.learners)),
        }
    }

    fn differences(&self, before: &Self) -> Vec<String> {
        let pairs = [
            (&self.leader, &before.leader),
            (&self.members, &before.members),
            (&self.voters, &before.voters),
            (&self.claim, &before.claim),
        ];
        pairs.into_iter().filter(|(now, before)| now != before).map(|(now, _)| now.clone()).collect()
    }
}
