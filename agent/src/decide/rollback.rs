//! Whether a node still has everything that the others remember of it.
//!
//! A node whose data folder was put back from a copy has forgotten votes that it gave and entries that it acknowledged. Did
//! it go on voting, a majority could elect an owner that lacks what was acknowledged, or two owners in one term. So a node
//! that starts asks the others how far its log had come, and takes no part before that is known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_proto::id::{MemberId, NodeName};
use landfall_proto::model::LogMark;
use landfall_proto::planted::{self, Bug};
use serde::{Deserialize, Serialize};

use crate::surface::doctor::{Finding, Level};

/// What one member remembers of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// What is committed: the node had it whatever happened since.
    pub noted: Option<LogMark>,
    /// What a leader has seen in its own term, committed or not. Later leaders may have replaced its end.
    pub led: Option<LogMark>,
}

/// What a node knows that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// What its disk has kept.
    pub kept: LogMark,
    /// Whether it votes, by its own log.
    pub votes: bool,
    /// The other voters, by its own log.
    pub voters: BTreeSet<MemberId>,
    /// The other members, as it knows them.
    pub members: BTreeSet<MemberId>,
    /// What the others answered.
    pub answers: BTreeMap<MemberId, Remembered>,
    /// For how long it has asked.
    pub asked_for: Duration,
}

/// What the answers make of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few have answered: it goes on asking.
    Open,
    /// Nobody remembers more than it has.
    Whole,
    /// It had come as far as this once.
    RolledBack(LogMark),
}

/// What the answers make of the node, where a leader counts on its majority for `lease`.
///
/// One that remembers more is enough, for only what was on the node's disk is ever remembered. That nobody does counts once
/// a majority of the voters has answered, the node itself included if it votes: every commit of an acknowledgement is with
/// one of them. Who does not answer is waited for a little, since the owner itself knows more than what is committed.
pub fn judge(asking: &Asking, lease: Duration) -> Verdict {
    let Asking { kept, answers, .. } = asking;
    let lost = |mark: &LogMark| mark.vote > kept.vote || mark.index > kept.index;
    // In a term that the node has followed since, another leader may have replaced what was not committed.
    let lost_led = |mark: &LogMark| mark.vote > kept.vote || (mark.vote == kept.vote && mark.index > kept.index);
    let committed = answers.values().filter_map(|answer| answer.noted).filter(|mark| lost(mark));
    let led = answers.values().filter_map(|answer| answer.led).filter(|mark| lost_led(mark));
    if let Some(most) = committed.chain(led).reduce(LogMark::highest)
        && !planted::is(Bug::RollbackIgnored)
    {
        return Verdict::RolledBack(most);
    }
    let own = usize::from(asking.votes);
    let answered = asking.voters.iter().filter(|voter| answers.contains_key(voter)).count() + own;
    let majority = answered * 2 > asking.voters.len() + own;
    let all = asking.members.union(&asking.voters).all(|member| answers.contains_key(member));
    match majority && (all || asking.asked_for >= lease / 2) {
        true => Verdict::Whole,
        false => Verdict::Open,
    }
}

/// What a node has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// What its disk has kept.
    pub kept: LogMark,
    /// What it had once, as others remember; not known where its log is of a time when it had no others.
    pub had: Option<LogMark>,
}

/// The stable word for a node that was rolled back.
pub const ROLLED_BACK: &str = "rolled_back";

/// What happened to `node`.
pub fn message(node: &str, loss: &Loss) -> String {
    let Loss { kept, had } = loss;
    let had = had.map_or_else(|| "others in its cluster".to_owned(), |had| had.to_string());
    format!("the data folder of {node} was rolled back: it had {had} once, it has {kept} now, and so it does not vote")
}

/// What to do about `node`.
pub fn remedy(node: &str) -> String {
    format!(
        "at {node}: `landfall cluster leave --force`; at another node: `landfall token create` (`--replaces {node}` where it \
         is still listed, `--witness` for a witness); at {node}: `landfall cluster join TOKEN`; what only this node has stays \
         on its disks"
    )
}

/// The sentence for people.
pub fn told(node: &NodeName, loss: &Loss) -> String {
    format!("{}; {}", message(node.as_str(), loss), remedy(node.as_str()))
}

/// What is wrong, of the nodes that were rolled back.
pub fn findings(lost: &[(NodeName, Loss)]) -> Vec<Finding> {
    let finding = |(node, loss): &(NodeName, Loss)| Finding {
        level: Level::Critical,
        code: ROLLED_BACK.to_owned(),
        about: node.to_string(),
        message: message(node.as_str(), loss),
        remedy: remedy(node.as_str()),
    };
    lost.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(2);

    fn id(number: u64) -> MemberId {
        MemberId::from_number(number)
    }

    fn mark(vote: u64, index: u64) -> LogMark {
        LogMark { vote, index }
    }

    fn noted(vote: u64, index: u64) -> Remembered {
        Remembered { noted: Some(mark(vote, index)), led: None }
    }

    /// One of three voters, which has entry 100 and followed vote 5; the fourth member only follows.
    fn asking(answers: &[(u64, Remembered)]) -> Asking {
        Asking {
            kept: mark(5, 100),
            votes: true,
            voters: [id(2), id(3)].into(),
            members: [id(2), id(3), id(4)].into(),
            answers: answers.iter().map(|(member, answer)| (id(*member), *answer)).collect(),
            asked_for: Duration::ZERO,
        }
    }

    #[test]
    fn a_node_that_has_less_than_anybody_remembers_is_rolled_back() {
        let verdict = |answer: Remembered| judge(&asking(&[(4, answer)]), LEASE);
        assert_eq!(verdict(noted(5, 101)), Verdict::RolledBack(mark(5, 101)));
        assert_eq!(verdict(noted(6, 100)), Verdict::RolledBack(mark(6, 100)), "it has forgotten a vote");
        assert_eq!(verdict(noted(4, 101)), Verdict::RolledBack(mark(4, 101)), "what is committed nobody replaces");
        assert_eq!(verdict(noted(5, 100)), Verdict::Open);
        let led = |vote, index| Remembered { noted: None, led: Some(mark(vote, index)) };
        assert_eq!(verdict(led(5, 101)), Verdict::RolledBack(mark(5, 101)));
        assert_eq!(verdict(led(6, 99)), Verdict::RolledBack(mark(6, 99)));
        assert_eq!(verdict(led(4, 101)), Verdict::Open, "a later leader may have replaced it");
    }

    #[test]
    fn a_node_that_has_lost_nothing_goes_on_once_a_majority_and_then_all_or_half_a_lease_have_said_so() {
        let late = |asking: Asking| Asking { asked_for: LEASE / 2, ..asking };
        let (two, three, four) = ((2, noted(5, 100)), (3, Remembered::default()), (4, noted(1, 1)));
        assert_eq!(judge(&asking(&[]), LEASE), Verdict::Open);
        assert_eq!(
            judge(&late(asking(&[])), LEASE),
            Verdict::Open,
            "one of three is no majority, however long it asks"
        );
        assert_eq!(judge(&late(asking(&[four])), LEASE), Verdict::Open, "one that only follows does not count");
        assert_eq!(judge(&asking(&[two, three]), LEASE), Verdict::Open);
        assert_eq!(judge(&late(asking(&[two])), LEASE), Verdict::Whole);
        assert_eq!(judge(&asking(&[two, three, four]), LEASE), Verdict::Whole);
        // One that does not vote needs two of two.
        let follows = |answers: &[_]| Asking { votes: false, ..late(asking(answers)) };
        assert_eq!(judge(&follows(&[two]), LEASE), Verdict::Open);
        assert_eq!(judge(&follows(&[two, three]), LEASE), Verdict::Whole);
    }

    #[test]
    fn people_are_told_what_to_do() {
        let loss = Loss { kept: mark(5, 100), had: Some(mark(7, 180)) };
        let told = told(&"r3".parse().unwrap(), &loss);
        for word in ["r3", "entry 180 in vote term 7", "entry 100 in vote term 5", "leave --force", "--replaces r3"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert!(message("r1", &Loss { had: None, ..loss }).contains("it had others"));
    }

    proptest! {
        /// Whoever is let in has at least what each that answered has seen committed, and a majority has answered.
        #[test]
        fn nobody_goes_on_who_lacks_what_was_answered(
            kept in (0u64..4, 0u64..4), answers in proptest::collection::btree_map(2u64..6, (0u64..4, 0u64..4), 0..5),
            asked in 0u64..2_000
        ) {
            let answers: Vec<_> = answers.into_iter().map(|(member, (vote, index))| (member, noted(vote, index))).collect();
            let asking = Asking {
                kept: mark(kept.0, kept.1), voters: (2..6).map(id).collect(), asked_for: Duration::from_millis(asked),
                ..asking(&answers)
            };
            let lost = answers.iter().any(|(_, answer)| {
                answer.noted.is_some_and(|noted| noted.vote > kept.0 || noted.index > kept.1)
            });
            match judge(&asking, LEASE) {
                Verdict::RolledBack(_) => prop_assert!(lost),
                Verdict::Whole => prop_assert!(!lost && answers.len() >= 2),
                Verdict::Open => prop_assert!(!lost),
            }
        }
    }
}
