//! How often something may happen: a number at once, and one more with each step of time.

use std::time::Duration;

use landfall_proto::seam::Time;

/// The size of an [`Allowance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many may happen at once.
    pub at_once: u32,
    /// How long it takes until one more may happen; not zero.
    pub every: Duration,
}

/// What is left of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    left: u32,
    counted: Time,
}

impl Allowance {
    /// All of `quota`, from `now` on.
    pub fn full(quota: Quota, now: Time) -> Self {
        Self { left: quota.at_once, counted: now }
    }

    /// Whether it may happen once more; takes that away.
    pub fn take(&mut self, quota: Quota, now: Time) -> bool {
        self.refill(quota, now);
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }

    /// Whether nothing of it is used any more, so that it need not be remembered.
    pub fn is_full(&mut self, quota: Quota, now: Time) -> bool {
        self.refill(quota, now);
        self.left == quota.at_once
    }

    fn refill(&mut self, quota: Quota, now: Time) {
        let steps = now.since(self.counted).as_nanos() / quota.every.as_nanos().max(1);
        let missing = u128::from(quota.at_once.saturating_sub(self.left));
        if steps >= missing {
            (self.left, self.counted) = (quota.at_once, now.max(self.counted));
        } else if let Ok(steps) = u32::try_from(steps) {
            self.left += steps;
            self.counted = self.counted.after(quota.every * steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_a_step() {
        let quota = Quota { at_once: 3, every: Duration::from_secs(10) };
        let at = |seconds| Time(Duration::from_secs(seconds));
        let mut allowance = Allowance::full(quota, at(100));
        assert_eq!([0; 4].map(|_| allowance.take(quota, at(100))), [true, true, true, false]);
        assert!(!allowance.take(quota, at(109)));
        assert!(allowance.take(quota, at(110)) && !allowance.take(quota, at(119)));
        assert!(allowance.take(quota, at(120)), "what is refused does not push the next step away");
        assert!(!allowance.is_full(quota, at(140)) && allowance.is_full(quota, at(150)));
        assert_eq!([0; 4].map(|_| allowance.take(quota, at(100_000))), [true, true, true, false]);
        assert!(!allowance.take(quota, at(0)), "a clock that goes back gives nothing");
    }
}
