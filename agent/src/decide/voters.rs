//! Which members vote: at most five, an odd number where there are three or more, one change at a time.

use std::collections::BTreeSet;

use landfall_proto::id::MemberId;

use super::succession::Heir;

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
    /// Who has been held for dead for so long that another may vote instead.
    pub gone: BTreeSet<MemberId>,
    /// Who answers, and has done so for long enough to be made a voter.
    pub steady: BTreeSet<MemberId>,
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
    let fit = |member: &&MemberId| group.caught_up.contains(member) && group.steady.contains(member);
    let spare = group.members.iter().find(|member| !keep.contains(member) && fit(member));
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
    // One that comes back follows the log without a vote: there are as many voters as are wanted, so nothing moves to and
    // fro with it.
    if let (Some(gone), Some(spare)) = (keep.intersection(&group.gone).next(), spare) {
        let next: BTreeSet<MemberId> = keep.iter().copied().filter(|voter| voter != gone).chain([*spare]).collect();
        return Some(Change::Voters(next));
    }
    group.learners.difference(&group.members).next().map(|gone| Change::Drop(*gone))
}

/// The voters with `newcomer` among them, and as many as before: one that is down goes first, then one that hosts VMs,
/// never the `owner`.
pub fn instead(voters: &BTreeSet<MemberId>, owner: MemberId, newcomer: MemberId, heirs: &[Heir]) -> BTreeSet<MemberId> {
    let standing = |voter: &&MemberId| {
        let heir = heirs.iter().find(|heir| heir.member == **voter);
        heir.map(|heir| (heir.up, heir.witness, heir.member))
    };
    let goes = voters.iter().filter(|voter| **voter != owner).min_by_key(standing).copied();
    voters.iter().copied().filter(|voter| Some(*voter) != goes).chain([newcomer]).collect()
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
                group.steady.insert(*member);
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
    fn a_voter_that_is_gone_for_long_is_replaced_by_one_that_is_up_and_does_not_return() {
        let four = || Group {
            members: ids(&[1, 5, 7, 9]),
            voters: ids(&[1, 5, 9]),
            learners: ids(&[7]),
            caught_up: ids(&[1, 5, 7, 9]),
            steady: ids(&[1, 5, 7, 9]),
            ..Group::default()
        };
        assert_eq!(next(&four()), None);
        let mut group = Group { gone: ids(&[5]), ..four() };
        assert_eq!(next(&group), Some(Change::Voters(ids(&[1, 7, 9]))));
        apply(&mut group, &Change::Voters(ids(&[1, 7, 9])));
        group.gone.clear();
        assert_eq!(next(&group), None, "one that comes back is a learner");
        let unsteady = Group { gone: ids(&[5]), steady: ids(&[1, 5, 9]), ..four() };
        assert_eq!(next(&unsteady), None, "nobody would be better");
        let late = Group { gone: ids(&[5]), caught_up: ids(&[1, 9]), ..four() };
        assert_eq!(next(&late), None);
        let three = Group { members: ids(&[1, 5, 9]), learners: ids(&[]), gone: ids(&[5]), ..four() };
        assert_eq!(next(&three), None, "there is nobody else: it stays");
    }

    #[test]
    fn a_learner_that_lags_is_not_promoted() {
        let group = Group { members: ids(&[1, 5]), voters: ids(&[1]), learners: ids(&[5]), ..Group::default() };
        assert_eq!(next(&group), None);
    }
}
