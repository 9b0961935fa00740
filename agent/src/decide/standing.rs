//! Whether a node may stand for election, and when: only while a majority of the voters hears no leader, and hears this
//! node; and after a wait that it draws anew for each try, so that of two nodes one is the first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_proto::id::MemberId;
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::Time;

/// Leases without a new entry after which a witness may stand: an entry that only it and the dead leader hold would
/// otherwise leave nobody electable. An owner that lives adds one every three seconds, two in that time; that it is the
/// leader in this node's books proves nothing, since those keep a dead leader's name.
const WITNESS_STANDS_AFTER: u32 = 3;

/// Leases for which a node does not stand again once it was told of a longer log than its own: whoever has that is the only
/// one who can be elected, perhaps a witness, and each term that is taken meanwhile makes its next try one in a term that is
/// over. Two tries of that one fit.
const BEHIND_WAITS: u32 = 3;

/// What a node knows when it asks itself whether to stand.
#[derive(Clone, Debug)]
pub struct Hearing {
    /// The node.
    pub me: MemberId,
    /// Who votes.
    pub voters: BTreeSet<MemberId>,
    /// Whether the node only votes.
    pub witness: bool,
    /// Whether something that the owner should have cannot be had there.
    pub unfit: bool,
    /// Whether it hears a leader, or is one.
    pub hears: bool,
    /// For how long its log has not grown.
    pub still: Duration,
    /// Of the others that answered, whether they hear a leader.
    pub answers: BTreeMap<MemberId, bool>,
}

/// Whether the node may stand; `None` where the answers so far leave it open.
pub fn is_due(hearing: &Hearing, lease: Duration) -> Option<bool> {
    let Hearing { me, voters, .. } = hearing;
    let waits = (hearing.witness || hearing.unfit) && hearing.still < lease * WITNESS_STANDS_AFTER;
    if hearing.hears || waits || !voters.contains(me) {
        return Some(false);
    }
    let said = |wanted: bool| {
        let answered = hearing.answers.iter().filter(|(voter, _)| voters.contains(voter) && *voter != me);
        answered.filter(|(_, hears)| **hears == wanted).count()
    };
    if (1 + said(false)) * 2 > voters.len() || planted::is(Bug::StandsUnasked) {
        return Some(true);
    }
    (said(true) * 2 >= voters.len()).then_some(false)
}

/// A node's wait before it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When it stands, where it is due then.
    pub stands_at: Time,
    /// The vote that it had given last, or asked for, when the wait began.
    vote_term: u64,
}

impl Wait {
    /// The wait that goes on or begins at `now` of a node that hears no leader: `before` is the one that it had, `quiet_from`
    /// when the last leader's lease ended for it, `vote_term` the term of its last vote. A vote that was given or asked for
    /// meanwhile begins it anew, since somebody may be about to lead by it. `draw` is a random number.
    ///
    /// DESIGN's election timeout, one half to one lease. The first try takes the lower half of that range: half a second is
    /// more than enough to tell candidates apart whose votes take milliseconds, and a dead owner is succeeded that much
    /// sooner. A candidate that was not elected takes all of it, so that one with a longer log, which waits for the first
    /// time, is the next to stand; one that was told of a longer log (`behind`) leaves the next tries to whoever has it.
    pub fn next(
        before: Option<Self>,
        quiet_from: Time,
        (vote_term, behind): (u64, bool),
        now: Time,
        lease: Duration,
        draw: u64,
    ) -> Self {
        let (from, range) = match before {
            Some(wait) if wait.vote_term == vote_term => return wait,
            Some(_) if behind => (now.after(lease * BEHIND_WAITS), lease / 2),
            Some(_) => (now, lease / 2),
            None => (quiet_from, lease / 4),
        };
        let draw = if planted::is(Bug::WaitNotDrawn) { 0 } else { draw };
        // The draw's share of all numbers, in thousandths.
        let drawn = range * ((u128::from(draw) * 1_000) >> u64::BITS) as u32 / 1_000;
        Self { stands_at: from.after(lease / 2 + drawn), vote_term }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);

    fn hearing(voters: u64, answers: &[(u64, bool)]) -> Hearing {
        let id = MemberId::from_number;
        Hearing {
            me: id(1),
            voters: (1..=voters).map(id).collect(),
            witness: false,
            unfit: false,
            hears: false,
            still: Duration::ZERO,
            answers: answers.iter().map(|(voter, hears)| (id(*voter), *hears)).collect(),
        }
    }

    #[test]
    fn a_node_stands_once_a_majority_hears_no_leader_and_hears_it() {
        type Case = (u64, &'static [(u64, bool)], Option<bool>);
        let cases: [Case; 9] = [
            (1, &[], Some(true)),
            (2, &[], None),
            (2, &[(2, false)], Some(true)),
            (2, &[(2, true)], Some(false)),
            (3, &[], None),
            (3, &[(3, false)], Some(true)),
            (3, &[(2, true)], None),
            (3, &[(2, true), (3, true)], Some(false)),
            (5, &[(2, true), (3, false), (4, false)], Some(true)),
        ];
        for (voters, answers, due) in cases {
            assert_eq!(is_due(&hearing(voters, answers), LEASE), due, "{voters} {answers:?}");
        }
        // Whoever does not vote does not count.
        assert_eq!(is_due(&hearing(3, &[(8, false), (9, false)]), LEASE), None);
    }

    #[test]
    fn a_node_that_hears_a_leader_or_does_not_vote_never_stands() {
        let answers = [(2, false), (3, false)];
        assert_eq!(is_due(&Hearing { hears: true, ..hearing(3, &answers) }, LEASE), Some(false));
        let outside = Hearing { me: MemberId::from_number(9), ..hearing(3, &answers) };
        assert_eq!(is_due(&outside, LEASE), Some(false));
    }

    #[test]
    fn a_witness_stands_after_three_leases_without_an_entry() {
        let witness = |still| Hearing { witness: true, still, ..hearing(3, &[(2, false)]) };
        assert_eq!(is_due(&witness(LEASE * 3 - Duration::from_millis(1)), LEASE), Some(false));
        assert_eq!(is_due(&witness(LEASE * 3), LEASE), Some(true));
    }

    #[test]
    fn a_candidate_waits_for_half_a_lease_and_its_draw_and_longer_after_a_vote() {
        let at = |ms| Time(Duration::from_millis(ms));
        let first = |draw| Wait::next(None, at(10_000), (4, false), at(10_100), LEASE, draw);
        assert_eq!(first(0).stands_at, at(11_000));
        assert_eq!(first(u64::MAX / 2 + 1).stands_at, at(11_250));
        assert!(first(u64::MAX).stands_at < at(11_500));
        // It goes on as it began, whatever is drawn, until there was a vote.
        let again = |vote, draw| Wait::next(Some(first(0)), at(10_000), vote, at(10_900), LEASE, draw);
        let next = |vote_term, draw| again((vote_term, false), draw);
        assert_eq!(next(4, u64::MAX), first(0));
        assert_eq!(next(5, 0).stands_at, at(11_900));
        assert!(next(5, u64::MAX).stands_at > at(12_890));
        // Whoever has the longer log may try twice, or thrice, before a node that lacks entries takes another term.
        assert_eq!(again((4, true), 0), first(0));
        assert_eq!(again((5, true), 0).stands_at, at(17_900));
    }
}
