//! Finding where two disks differ by asking for hashes, from the top of the tree down.
//!
//! The nodes of 16 MiB are compared first, then those of 64 KiB within the ones that differ, then blocks. For equal
//! disks of 4 GiB that is one question and 8 KiB of answer. [`Comparison`] is a plain state machine: it says what to ask
//! ([`Comparison::next_question`], which can be called again before an answer is there), takes the answers in the order
//! of the questions, and at the end has the ranges. It does no IO and knows no session.

use std::collections::VecDeque;
use std::ops::Range;

use landfall_proto::Refusal;
use landfall_proto::message::data::COMPARE_MAX;
use landfall_proto::refusal::Class;

use super::tree::{self, Hash};

/// The sizes of nodes that are compared, largest first: 256 and 16 of the next fit one.
const LEVELS: [u64; 3] = [16 << 20, 64 << 10, 4 << 10];
/// The most ranges that are kept; past it neighbouring ones are joined to coarser ones (4 MiB of memory).
const RANGES_MAX: usize = 262_144;

/// What to ask both sides for: the fields of a Compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The size of a node.
    pub node_bytes: u32,
    /// The first node.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// A comparison of one disk with the same disk elsewhere.
#[derive(Clone, Debug)]
pub struct Comparison {
    bytes: u64,
    /// Runs of nodes to be asked for: level, first, count. Taken from the end, so the depth bounds their number.
    open: Vec<(usize, u64, u64)>,
    asked: VecDeque<(usize, u64, u32)>,
    ranges: Vec<Range<u64>>,
}

impl Comparison {
    /// A comparison of a disk of `bytes`, the same on both sides.
    pub fn new(bytes: u64) -> Self {
        let open = vec![(0, 0, tree::node_count(bytes, LEVELS[0]))];
        Self { bytes, open, asked: VecDeque::new(), ranges: Vec::new() }
    }

    /// What to ask next; `None` where nothing is left but to answer what was asked, or to take the result.
    pub fn next_question(&mut self) -> Option<Question> {
        let (level, first, count) = self.open.pop()?;
        let now = count.min(u64::from(COMPARE_MAX)) as u32;
        if u64::from(now) < count {
            self.open.push((level, first + u64::from(now), count - u64::from(now)));
        }
        self.asked.push_back((level, first, now));
        Some(Question { node_bytes: LEVELS[level] as u32, first, count: now })
    }

    /// How many questions wait for their answer.
    pub fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// Takes the hashes of both sides to the oldest question without an answer.
    pub fn answer(&mut self, own: &[Hash], theirs: &[Hash]) -> Result<(), Refusal> {
        let Some((level, first, count)) = self.asked.pop_front() else {
            return Err(wrong(format!("{} hashes came unasked", theirs.len())));
        };
        for (side, found) in [("own", own.len()), ("the other side's", theirs.len())] {
            if found != count as usize {
                return Err(wrong(format!("{count} hashes were asked for, {side} answer has {found}")));
            }
        }
        let mut at = 0;
        while at < own.len() {
            let from = at;
            while at < own.len() && own[at] != theirs[at] {
                at += 1;
            }
            if at > from {
                self.descend(level, first + from as u64, (at - from) as u64);
            }
            at += 1;
        }
        Ok(())
    }

    fn descend(&mut self, level: usize, first: u64, count: u64) {
        let size = LEVELS[level];
        let range = first * size..((first + count) * size).min(self.bytes);
        match LEVELS.get(level + 1) {
            Some(below) => {
                let end = range.end.div_ceil(*below);
                self.open.push((level + 1, range.start / below, end - range.start / below));
            }
            None => self.ranges.push(range),
        }
        let mut unit = LEVELS[1];
        while self.ranges.len() > RANGES_MAX {
            self.ranges = joined(std::mem::take(&mut self.ranges), unit, self.bytes);
            unit *= 2;
        }
    }

    /// Whether everything was asked and answered.
    pub fn is_done(&self) -> bool {
        self.open.is_empty() && self.asked.is_empty()
    }

    /// The ranges of bytes that differ, in order, aligned to blocks. Where there would be more than 262,144 of them they
    /// are rounded outwards and joined.
    pub fn into_ranges(self) -> Vec<Range<u64>> {
        joined(self.ranges, 1, self.bytes)
    }
}

fn wrong(message: String) -> Refusal {
    Refusal::new(Class::Failed, "bad_hashes", message).remedy("compare again")
}

/// Rounds ranges outwards to `unit`, and joins those that touch.
fn joined(mut ranges: Vec<Range<u64>>, unit: u64, bytes: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let start = range.start / unit * unit;
        let end = range.end.next_multiple_of(unit).min(bytes);
        match out.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => out.push(start..end),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hashes that say which nodes hold one of the `changed` blocks, as a real tree's would.
    fn side(question: &Question, changed: &[u64]) -> Vec<Hash> {
        let blocks = u64::from(question.node_bytes) / 4096;
        (question.first..question.first + u64::from(question.count))
            .map(|node| {
                let mut hash = [0; 32];
                let mine: Vec<_> = changed.iter().filter(|block| **block / blocks == node).collect();
                hash[..8].copy_from_slice(&(mine.len() as u64).to_le_bytes());
                hash
            })
            .collect()
    }

    fn run(bytes: u64, changed: &[u64], in_flight: usize) -> (Vec<Range<u64>>, u64) {
        let (mut comparison, mut hashes) = (Comparison::new(bytes), 0);
        let mut sent = VecDeque::new();
        loop {
            while sent.len() < in_flight {
                let Some(question) = comparison.next_question() else { break };
                assert!(question.count <= COMPARE_MAX && question.count > 0);
                let last = (question.first + u64::from(question.count) - 1) * u64::from(question.node_bytes);
                assert!(last < bytes, "asks past the disk");
                sent.push_back(question);
            }
            let Some(question) = sent.pop_front() else { break };
            hashes += u64::from(question.count);
            comparison.answer(&side(&question, &[]), &side(&question, changed)).unwrap();
        }
        assert!(comparison.is_done());
        (comparison.into_ranges(), hashes * 32)
    }

    #[test]
    fn equal_disks_of_four_gigabytes_cost_at_most_a_thousandth() {
        let (ranges, wire) = run(4 << 30, &[], 1);
        assert!(ranges.is_empty());
        assert!(wire * 1000 <= 4 << 30, "{wire} bytes");
        assert_eq!(wire, 8192);
    }

    #[test]
    fn a_scattered_difference_is_found_to_the_block_at_little_cost() {
        let changed: Vec<u64> = (0..300).map(|at| at * 3491 % (1 << 20)).collect();
        let (ranges, wire) = run(4 << 30, &changed, 16);
        assert_eq!(ranges.iter().map(|range| range.end - range.start).sum::<u64>(), 300 * 4096);
        assert!(wire < 3 << 20, "{wire} bytes of hashes for 300 blocks");
    }

    #[test]
    fn an_answer_of_the_wrong_length_is_refused() {
        let mut comparison = Comparison::new(1 << 30);
        comparison.answer(&[], &[]).unwrap_err();
        let question = comparison.next_question().unwrap();
        let own = side(&question, &[]);
        assert_eq!(comparison.answer(&own, &own[1..]).unwrap_err().code, "bad_hashes");
    }

    #[test]
    fn past_the_bound_ranges_are_joined_and_none_is_lost() {
        let mut comparison = Comparison::new(4 << 40);
        for at in 0..=RANGES_MAX as u64 {
            comparison.descend(2, at * 2, 1);
        }
        let ranges = comparison.into_ranges();
        assert!(ranges.len() <= RANGES_MAX);
        assert_eq!((ranges[0].start, ranges.last().unwrap().end), (0, (RANGES_MAX as u64 * 2 * 4096) + 65_536));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn exactly_the_changed_blocks_are_found(
            bytes in 65_536_u64..200_000_000,
            picks in prop::collection::vec(any::<u64>(), 0..60),
            in_flight in 1_usize..20,
        ) {
            let mut changed: Vec<u64> = picks.iter().map(|pick| pick % bytes.div_ceil(4096)).collect();
            changed.sort_unstable();
            changed.dedup();
            let (ranges, _) = run(bytes, &changed, in_flight);
            let found: Vec<u64> = ranges.iter().flat_map(|r| r.start / 4096..r.end.div_ceil(4096)).collect();
            prop_assert_eq!(found, changed);
            prop_assert!(ranges.iter().all(|range| range.end <= bytes));
        }
    }
}
