//! How far each member's log had come: what the others remember of a node that may have lost it.
//!
//! Only what is committed is noted, so a node that has lost nothing has it, whatever else of its log a later leader has
//! replaced. Marks only rise. They are in every node's state and in its snapshots, one a member.

use std::collections::BTreeMap;

use landfall_proto::id::MemberId;
use landfall_proto::model::{LogMark, Outcome};

use super::State;

impl State {
    /// Notes `marks`; those of nodes that are no members are left out.
    pub(super) fn mark(&mut self, marks: &BTreeMap<MemberId, LogMark>) -> Outcome {
        for (member, mark) in marks.iter().filter(|(member, _)| self.members.contains(member)) {
            let before = self.marks.get(member).copied();
            let now = before.map_or(*mark, |before| before.highest(*mark));
            if before != Some(now) {
                self.marks.put(*member, now);
            }
        }
        Outcome::Done
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::model::Command;

    use super::super::fixture::{Bench, R1};
    use super::*;

    fn mark(vote: u64, index: u64) -> LogMark {
        LogMark { vote, index }
    }

    #[test]
    fn a_mark_rises_stays_in_snapshots_and_goes_with_its_member() {
        let mut bench = Bench::founded();
        let (r2, stranger) = (bench.join("r2", 2), MemberId::from_number(77));
        bench.ok(Command::Mark([(R1, mark(3, 40)), (r2, mark(3, 35)), (stranger, mark(3, 40))].into()));
        assert_eq!(bench.state.marks.get(&r2), Some(&mark(3, 35)));
        assert!(!bench.state.marks.contains(&stranger), "one a member");
        // What a leader knows of a node right after its election may be less.
        bench.ok(Command::Mark([(r2, mark(4, 20))].into()));
        assert_eq!(bench.state.marks.get(&r2), Some(&mark(4, 35)));
        assert_eq!(bench.state.marks.get(&R1), Some(&mark(3, 40)), "who is not told of keeps its own");
        let read = State::from_archive(&bench.state.archive().unwrap()).unwrap();
        assert_eq!(read, bench.state);
        bench.ok(Command::Remove(r2));
        assert_eq!(bench.state.marks.len(), 1);
        let again = bench.join("r2", 3);
        assert!(!bench.state.marks.contains(&again), "a new member has nothing to lose");
    }

    #[test]
    fn the_next_life_of_a_cluster_remembers_nothing_of_the_one_before() {
        let mut bench = Bench::founded();
        bench.ok(Command::Mark([(R1, mark(9, 900))].into()));
        let state = bench.state.clone();
        bench.recover(state, R1, &[]);
        assert!(bench.state.marks.is_empty());
    }
}
