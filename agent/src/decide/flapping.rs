//! Which nodes come and go, so that nothing new is given to them for a while.
//!
//! A node that is lost again and again costs more than one that is gone: each time replicas are moved, copies are made anew,
//! votes are counted. Every agent counts, in its own sight, how often each other member was lost. One that was lost too often
//! is quarantined until it has been steady for a while, longer with each relapse. It keeps what it has, and it votes.
//!
//! An agent that sees no majority of the members, or whose own loop stood still, doubts itself: what it loses around that
//! moment counts against nobody.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use landfall_proto::id::{MemberId, NodeName, UnixMillis};
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::Time;
use serde::{Deserialize, Serialize};

use super::node_loss::SELF_DOUBT;
use crate::surface::doctor::{Finding, Level};

/// Losses within [`WINDOW`] that make a node one that flaps: one is a restart, two are one that had to be done again.
pub const LOSSES: usize = 3;

/// How long a loss counts: an operator who restarts an agent for each of some changes is done sooner, a link that is bad or a
/// machine that reboots by itself is not.
pub const WINDOW: Duration = Duration::from_secs(10 * 60);

/// For how long without a break it must be seen until it is out again: longer than half of [`WINDOW`] apart nobody is lost
/// three times in it.
pub const STEADY: Duration = Duration::from_secs(5 * 60);

/// The longest that it must be seen, however often it relapses: twice as long each time, and after a night's sleep out.
pub const STEADY_MAX: Duration = Duration::from_secs(80 * 60);

/// How long after its quarantine a node may flap again for that to be a relapse.
pub const RELAPSE_WITHIN: Duration = Duration::from_secs(6 * 3600);

/// Around a moment at which this agent doubts itself, losses count for nothing; and none counts before it is so old. The
/// members that a node loses by its own fault it loses within a few seconds.
const SETTLE: Duration = Duration::from_secs(5);

/// Losses kept of one node: more within [`WINDOW`] change nothing.
const LOSSES_KEPT: usize = 16;

/// A node that is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// How often it was lost lately.
    pub losses: u32,
    /// For how long it must be seen.
    pub needs: Duration,
    /// When that will be, if it is seen now and stays.
    pub until: Option<Time>,
}

/// What a look has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node is quarantined from now on.
    Began(MemberId),
    /// It is so no more.
    Ended(MemberId),
}

#[derive(Clone, Debug, Default)]
struct Seen {
    live: bool,
    since: Time,
    losses: VecDeque<Time>,
    held: Option<Held>,
    /// Quarantines of which this or the next is a relapse, and when the last one ended.
    relapses: u32,
    freed: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    since: Time,
    losses: u32,
    needs: Duration,
}

/// What this agent has seen of the others.
#[derive(Clone, Debug, Default)]
pub struct Flapping {
    members: BTreeMap<MemberId, Seen>,
    looked: Option<Time>,
    doubted: Option<Time>,
}

impl Flapping {
    /// Takes in who is `live` in this agent's sight, itself included.
    pub fn look(&mut self, now: Time, me: MemberId, live: &BTreeMap<MemberId, bool>) -> Vec<Change> {
        let stood_still = self.looked.is_some_and(|before| now.since(before) >= SELF_DOUBT);
        let seen = live.values().filter(|live| **live).count();
        self.looked = Some(now);
        if stood_still || seen * 2 <= live.len() {
            self.doubted = Some(now);
            self.members.values_mut().for_each(|one| one.losses.retain(|at| now.since(*at) >= SETTLE));
        }
        let doubts = self.doubted.is_some_and(|at| now.since(at) < SETTLE);
        self.members.retain(|member, _| live.contains_key(member));
        let mut changes = Vec::new();
        for (member, live) in live.iter().filter(|(member, _)| **member != me) {
            let one = self.members.entry(*member).or_default();
            changes.extend(one.look(now, *live, doubts).map(|begins| match begins {
                true => Change::Began(*member),
                false => Change::Ended(*member),
            }));
        }
        changes
    }

    /// An operator vouches for `member`; whether that ends its quarantine.
    pub fn forgive(&mut self, member: MemberId) -> bool {
        let Some(one) = self.members.get_mut(&member) else { return false };
        one.losses.clear();
        (one.relapses, one.freed) = (0, None);
        one.held.take().is_some()
    }

    /// Those that are quarantined.
    pub fn quarantined(&self) -> BTreeMap<MemberId, Quarantine> {
        let quarantine = |one: &Seen| {
            let Held { losses, needs, .. } = one.held?;
            Some(Quarantine { losses, needs, until: one.free_at() })
        };
        self.members.iter().filter_map(|(member, one)| Some((*member, quarantine(one)?))).collect()
    }
}

impl Seen {
    /// Whether a quarantine begins (`true`) or ends now.
    fn look(&mut self, now: Time, live: bool, doubts: bool) -> Option<bool> {
        if self.live != live {
            if !live && !doubts {
                self.losses.push_back(now);
                if self.losses.len() > LOSSES_KEPT {
                    self.losses.pop_front();
                }
            }
            (self.live, self.since) = (live, now);
        }
        self.losses.retain(|at| now.since(*at) < WINDOW);
        if self.held.is_some() {
            let free = self.free_at().is_some_and(|at| at <= now);
            if free {
                (self.held, self.freed) = (None, Some(now));
                self.losses.clear();
            }
            return free.then_some(false);
        }
        let settled = self.losses.iter().filter(|at| now.since(**at) >= SETTLE).count();
        if settled < LOSSES || planted::is(Bug::FlapperTrusted) {
            return None;
        }
        let relapse = self.freed.is_some_and(|at| now.since(at) < RELAPSE_WITHIN);
        self.relapses = if relapse { self.relapses + 1 } else { 0 };
        let needs = STEADY.saturating_mul(1 << self.relapses.min(10)).min(STEADY_MAX);
        let losses = u32::try_from(settled).unwrap_or(u32::MAX);
        self.held = Some(Held { since: now, losses, needs });
        Some(true)
    }

    /// When its quarantine ends, if it is seen now and stays.
    fn free_at(&self) -> Option<Time> {
        let held = self.held.filter(|_| self.live)?;
        Some(self.since.max(held.since).after(held.needs))
    }
}

/// What an owner tells of a node that it holds in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The node.
    pub member: MemberId,
    /// How often it was lost lately.
    pub losses: u32,
    /// For how long it must be seen without a break.
    pub steady_seconds: u64,
    /// Until when, if it is seen now and stays.
    pub until: Option<UnixMillis>,
}

impl Quarantined {
    /// Why, for people.
    pub fn reason(&self) -> String {
        let minutes = WINDOW.as_secs() / 60;
        let (losses, steady) = (self.losses, self.steady_seconds / 60);
        format!("was lost {losses} times within {minutes} minutes; it must be steady for {steady} minutes")
    }
}

/// The stable word for a node that flaps.
pub const QUARANTINED: &str = "node_quarantined";

/// What is wrong, of the nodes that are quarantined.
pub fn findings(held: &[(NodeName, Quarantined)]) -> Vec<Finding> {
    let finding = |(node, held): &(NodeName, Quarantined)| Finding {
        level: Level::Warning,
        code: QUARANTINED.to_owned(),
        about: node.to_string(),
        message: format!("it {}: until then it gets no new replicas, copies or votes, nor the CAP", held.reason()),
        remedy: format!(
            "look at its machine, its agent's log and its network; once that is mended: `landfall node restore {node}`"
        ),
    };
    held.iter().map(finding).collect()
}

#[cfg(test)]
#[path = "flapping_test.rs"]
mod tests;
