//! Which members vote: at most five, an odd number where there are three or more, one change at a time.

use std::collections::BTreeSet;

use landfall_proto::id::MemberId;

/// The most voters: a commit waits for three of five, and more would only add syncs.
const VOTERS_MAX: usize = 5;

/// What the leader knows of the consensus group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The committed members.
    pub members: BTreeSet<MemberId>,
    /// Who votes now.
    pub voters: BTreeSet<MemberId>,
    /// Who only receives the log now.
    pub learners: BTreeSet<MemberId>,
    /// Who has nearly all of the log.
    pub caught_up: BTreeSet<MemberId>,
}

/// The next change of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sends the log to this member.
    AddLearner(MemberId),
    /// Makes exactly these the voters.
    Voters(BTreeSet<MemberId>),
    /// Sends nothing more to this one: it is no member any longer.
    Drop(MemberId),
}

/// How many of `members` vote.
fn wanted(members: usize) -> usize {
    match members {
        0..=3 => members,
        4 => 3,
        _ => VOTERS_MAX,
    }
}

/// The next change, if one is due.
pub fn next(group: &Group) -> Option<Change> {
    let known: BTreeSet<MemberId> = group.voters.union(&group.learners).copied().collect();
    if let Some(new) = group.members.difference(&known).next() {
        return Some(Change::AddLearner(*new));
    }
    let keep: BTreeSet<MemberId> = group.voters.intersection(&group.members).copied().collect();
    let spare = group.members.iter().find(|m| !keep.contains(m) && group.caught_up.contains(m));
    if keep.len() < group.voters.len() {
        // A removed voter leaves together with its successor's arrival, so that the quorum never shrinks in between.
        let next: BTreeSet<MemberId> = keep.iter().chain(spare).copied().take(wanted(group.members.len())).collect();
        return (!next.is_empty()).then_some(Change::Voters(next));
    }
    if keep.len() > wanted(group.members.len()) {
        return Some(Change::Voters(keep.iter().copied().take(keep.len() - 1).collect()));
    }
    if keep.len() < wanted(group.members.len())
        && let Some(spare) = spare
    {
        let next: BTreeSet<MemberId> = keep.iter().copied().chain([*spare]).collect();
        return Some(Change::Voters(next));
    }
    group.learners.difference(&group.members).next().map(|gone| Change::Drop(*gone))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<MemberId> {
        numbers.iter().map(|n| MemberId::from_number(*n)).collect()
    }

    fn apply(group: &mut Group, change: &Change) {
        match change {
            Change::AddLearner(member) => {
                group.learners.insert(*member);
                group.caught_up.insert(*member);
            }
            Change::Voters(voters) => {
                let all: BTreeSet<MemberId> = group.voters.union(&group.learners).copied().collect();
                group.voters.clone_from(voters);
                group.learners = all.difference(voters).copied().collect();
            }
            Change::Drop(member) => {
                group.learners.remove(member);
            }
        }
    }

    proptest! {
        #[test]
        fn every_group_settles_on_the_wanted_voters_one_step_at_a_time(
            members in 1u8..=255, voters in 1u8..=255
        ) {
            let bits = |mask: u8| (1..9u64).filter(|n| mask >> (n - 1) & 1 == 1).collect::<Vec<_>>();
            let mut group = Group {
                members: ids(&bits(members)), voters: ids(&bits(voters)), ..Group::default()
            };
            let mut steps = 0;
            while let Some(change) = next(&group) {
                apply(&mut group, &change);
                steps += 1;
                prop_assert!(steps < 40 && !group.voters.is_empty());
            }
            prop_assert!(group.voters.is_subset(&group.members) && group.learners.is_subset(&group.members));
            let count = group.voters.len();
            prop_assert_eq!(count, wanted(group.members.len()));
        }
    }

    #[test]
    fn a_learner_that_lags_is_not_promoted() {
        let group = Group { members: ids(&[1, 5]), voters: ids(&[1]), learners: ids(&[5]), caught_up: BTreeSet::new() };
        assert_eq!(next(&group), None);
    }
}
