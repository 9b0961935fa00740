//! When a sender sends, and what it does after a failure.

use std::time::Duration;

use landfall_proto::seam::Time;

/// Tries at the same node before the CAP is asked again. Hyper-V retries "a few times"; the first try after a break
/// often meets the old connection's end, the second one meets the node.
pub const TRIES_BEFORE_ASKING: u32 = 3;

/// Tries before the CAP is asked where the last one met nobody: each of them waits for a handshake.
pub const TRIES_WITHOUT_ANSWER: u32 = 2;

/// The longest wait between two tries.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// The first wait after a failure.
const BACK_OFF_FIRST: Duration = Duration::from_millis(200);

/// The pace of one sender: a cycle each interval, never two at once.
#[derive(Clone, Debug)]
pub struct Cycle {
    interval: Duration,
    due: Time,
    missed: u64,
}

impl Cycle {
    /// A pace that begins at once.
    pub fn starting(now: Time, interval: Duration) -> Self {
        Self { interval, due: now, missed: 0 }
    }

    /// When the next cycle is due.
    pub fn due(&self) -> Time {
        self.due
    }

    /// Intervals in which no cycle could begin, because the one before took longer.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Takes in that the cycle that was due has ended. A late one pushes the next to the following beat, so that cycles
    /// never overlap and never bunch up; each beat that went by is a missed cycle.
    pub fn ended(&mut self, now: Time) {
        let late = now.since(self.due);
        let beats = u64::try_from(late.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(u64::MAX);
        self.missed = self.missed.saturating_add(beats);
        let steps = u32::try_from(beats.saturating_add(1)).unwrap_or(u32::MAX);
        self.due = self.due.after(self.interval.saturating_mul(steps));
    }
}

/// What to do after the `failures`-th failure in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// How long to wait first.
    pub after: Duration,
    /// Whether to ask the CAP where the replica is, instead of the same node once more.
    pub ask_cap: bool,
}

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The node could not be reached at all.
    NoNode,
    /// The node was reached, and then something went wrong.
    AtNode,
}

/// The next try after `failures` failures in a row, the last one `how`; `jitter` in 0..=255 spreads the senders of a site
/// apart. A node that a second try cannot reach has most likely died: the CAP knows more than a third one would.
pub fn again(failures: u32, how: Failure, jitter: u8) -> Again {
    let doubled = BACK_OFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let wait = doubled.min(BACK_OFF_MAX);
    let after = wait / 2 + wait / 2 * u32::from(jitter) / 255;
    let tries = if how == Failure::NoNode { TRIES_WITHOUT_ANSWER } else { TRIES_BEFORE_ASKING };
    Again { after, ask_cap: failures >= tries }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_cycle_counts_as_missed_and_never_overlaps() {
        let second = Duration::from_secs(1);
        let mut cycle = Cycle::starting(Time::default(), second);
        cycle.ended(Time(Duration::from_millis(300)));
        assert_eq!((cycle.due(), cycle.missed()), (Time(second), 0));
        cycle.ended(Time(Duration::from_millis(4_500)));
        assert_eq!((cycle.due(), cycle.missed()), (Time(second * 5), 3));
    }

    proptest! {
        #[test]
        fn waits_are_bounded_and_the_cap_is_asked_in_the_end(failures in 1u32..1_000, jitter in any::<u8>()) {
            let at_node = again(failures, Failure::AtNode, jitter);
            let no_node = again(failures, Failure::NoNode, jitter);
            prop_assert_eq!(at_node.after, no_node.after);
            prop_assert!(at_node.after >= BACK_OFF_FIRST / 2 && at_node.after <= BACK_OFF_MAX);
            prop_assert_eq!(at_node.ask_cap, failures >= TRIES_BEFORE_ASKING);
            prop_assert_eq!(no_node.ask_cap, failures >= TRIES_WITHOUT_ANSWER);
        }

        #[test]
        fn the_next_cycle_is_never_due_in_the_past(interval in 1u64..10_000, took in 0u64..1_000_000) {
            let mut cycle = Cycle::starting(Time::default(), Duration::from_millis(interval));
            let now = Time(Duration::from_millis(took));
            cycle.ended(now);
            prop_assert!(cycle.due() > now || cycle.due() == now.after(Duration::ZERO) && interval == 0);
        }
    }
}
