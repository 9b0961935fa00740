//! A node with little processor time, as the others see it.

use std::time::Duration;

/// A share of a processor as a cgroup's quota deals it out: a node runs at the beginning of every period and stands
/// still for the rest of it. Work itself takes no time in a simulation, so what is late is what comes in and goes out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// How often the node gets to run.
    pub period: Duration,
    /// For how long it runs then.
    pub runs: Duration,
}

impl Share {
    /// One part in twenty, in the kernel's own period of 100 ms.
    pub const FIVE_PERCENT: Self = Self { period: Duration::from_millis(100), runs: Duration::from_millis(5) };

    /// The first time from `at` on (both since the network's beginning) at which the node runs.
    pub fn next(self, at: Duration) -> Duration {
        let into = Duration::from_nanos((at.as_nanos() % self.period.as_nanos()) as u64);
        if into < self.runs { at } else { at + self.period - into }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_into_a_pause_waits_for_the_next_turn() {
        let next = |millis| Share::FIVE_PERCENT.next(Duration::from_millis(millis)).as_millis();
        assert_eq!([next(0), next(4), next(5), next(99), next(100), next(1207)], [0, 4, 100, 100, 100, 1300]);
    }
}
