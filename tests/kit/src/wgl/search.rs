//! The search for an order.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;

/// After how many configurations a search gives up, saying so: about a gigabyte of memory.
const CONFIGURATIONS_MAX: usize = 5_000_000;

/// What the object under test is meant to do.
pub trait Model {
    /// Its state.
    type State: Clone + Eq + Hash + Default;
    /// What it is asked.
    type Call: Clone;
    /// What it answers.
    type Answer: Clone;
    /// The state after `call`, or `None` where it could not have answered so in `state`. A call without a known answer
    /// can have had any.
    fn step(state: &Self::State, call: &Self::Call, answer: Option<&Self::Answer>) -> Option<Self::State>;
}

/// One call of a history. Times are any numbers that order the history's events.
#[derive(Clone, Debug)]
pub struct Entry<C, A> {
    /// What was asked.
    pub call: C,
    /// When it began.
    pub began: u64,
    /// The answer and when it came; `None` where nobody saw one.
    pub answer: Option<(A, u64)>,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none; at most this many of the answered calls can be explained together.
    Not {
        /// The length of the longest explanation found.
        explained: usize,
    },
    /// The search was given up.
    Undecided,
}

/// How far an explanation has come: which calls it has placed, and the state after them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration<S> {
    /// Every answered call before this one is placed.
    first: usize,
    /// The answered calls after it that are placed.
    ahead: Vec<usize>,
    /// The unanswered calls that are placed.
    unanswered: Vec<usize>,
    state: S,
}

impl<S> Configuration<S> {
    /// Places the answered call `index`.
    fn place(&mut self, index: usize) {
        self.ahead.push(index);
        self.ahead.sort_unstable();
        while self.ahead.first() == Some(&self.first) {
            self.ahead.remove(0);
            self.first += 1;
        }
    }
}

/// Checks the history of one object, which begins in its default state.
pub fn check<M: Model>(history: &[Entry<M::Call, M::Answer>]) -> Verdict {
    let (mut answered, mut unanswered): (Vec<_>, Vec<_>) = history.iter().partition(|entry| entry.answer.is_some());
    answered.sort_by_key(|entry| entry.began);
    unanswered.sort_by_key(|entry| entry.began);
    let begin = Configuration { first: 0, ahead: vec![], unanswered: vec![], state: M::State::default() };
    let mut seen = HashSet::from([begin.clone()]);
    let (mut open, mut explained) = (vec![begin], 0);
    while let Some(here) = open.pop() {
        explained = explained.max(here.first + here.ahead.len());
        if here.first == answered.len() {
            return Verdict::Linearizable;
        }
        if seen.len() > CONFIGURATIONS_MAX {
            return Verdict::Undecided;
        }
        // Whatever began after one of the unplaced calls had ended cannot be next.
        let mut ended = u64::MAX;
        let mut next = Vec::new();
        for (index, entry) in answered.iter().enumerate().skip(here.first) {
            if entry.began > ended {
                break;
            }
            let Some((answer, at)) = &entry.answer else { continue };
            if here.ahead.binary_search(&index).is_ok() {
                continue;
            }
            ended = ended.min(*at);
            if let Some(state) = M::step(&here.state, &entry.call, Some(answer)) {
                let mut there = Configuration { state, ..here.clone() };
                there.place(index);
                next.push((entry.began, there));
            }
        }
        next.retain(|(began, _)| *began <= ended);
        for (index, entry) in unanswered.iter().enumerate().take_while(|(_, entry)| entry.began <= ended) {
            if here.unanswered.contains(&index) {
                continue;
            }
            // Where it changes nothing, it need not have happened.
            if let Some(state) = M::step(&here.state, &entry.call, None).filter(|state| *state != here.state) {
                let mut there = Configuration { state, ..here.clone() };
                there.unanswered.push(index);
                there.unanswered.sort_unstable();
                next.push((entry.began, there));
            }
        }
        // The last one in is tried first: the answered calls by their beginning, then those that need not be placed.
        open.extend(next.into_iter().rev().map(|(_, there)| there).filter(|there| seen.insert(there.clone())));
    }
    Verdict::Not { explained }
}

/// Checks a history of many objects, each by itself; returns the keys whose part is not shown to be linearizable.
pub fn check_keys<K: Ord, M: Model>(
    history: impl IntoIterator<Item = (K, Entry<M::Call, M::Answer>)>,
) -> BTreeMap<K, Verdict> {
    let mut keys: BTreeMap<K, Vec<_>> = BTreeMap::new();
    for (key, entry) in history {
        keys.entry(key).or_default().push(entry);
    }
    let verdicts = keys.into_iter().map(|(key, history)| (key, check::<M>(&history)));
    verdicts.filter(|(_, verdict)| *verdict != Verdict::Linearizable).collect()
}
