//! Clocks in virtual time, each with its own rate and its own idea of the date.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use landfall_proto::id::UnixMillis;
use landfall_proto::seam::{Clock, Time};
use tokio::time::Instant;

/// The date at which every simulation starts: 2026-06-01T00:00:00Z.
pub const WALL_START: UnixMillis = UnixMillis(1_780_272_000_000);

/// One node's clocks.
///
/// The monotonic clock runs at a rate of its own; timers of the runtime do not follow it, as the timers of a machine with
/// a bad oscillator would. Use it to see what a decision makes of a wrong clock.
#[derive(Debug)]
pub struct SimClock {
    start: Instant,
    rate_ppm: i64,
    wall_offset_ms: AtomicI64,
    /// Time that has passed while the machine stood still.
    stood_still_ms: AtomicU64,
}

impl SimClock {
    /// A correct clock that starts now.
    pub fn new() -> Self {
        Self::with_skew(0)
    }

    /// A clock that starts now and gains `ppm` microseconds in a second (loses, where negative).
    pub fn with_skew(ppm: i64) -> Self {
        assert!(ppm > -1_000_000, "a monotonic clock never stands still or runs back");
        let (wall_offset_ms, stood_still_ms) = (AtomicI64::new(0), AtomicU64::new(0));
        Self { start: Instant::now(), rate_ppm: ppm, wall_offset_ms, stood_still_ms }
    }

    /// Moves both clocks on by `time`, in which nothing has run: as a process that was stopped finds them when it goes on.
    pub fn stand_still(&self, time: Duration) {
        self.stood_still_ms.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Sets the wall clock off by `millis` from the simulation's date; the monotonic clock does not notice.
    pub fn set_wall_offset(&self, millis: i64) {
        self.wall_offset_ms.store(millis, Ordering::Relaxed);
    }

    fn stood_still(&self) -> Duration {
        Duration::from_millis(self.stood_still_ms.load(Ordering::Relaxed))
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let true_nanos = (self.start.elapsed() + self.stood_still()).as_nanos() as i128;
        let nanos = true_nanos + true_nanos * i128::from(self.rate_ppm) / 1_000_000;
        Time(Duration::from_nanos(nanos.max(0) as u64))
    }

    fn wall(&self) -> UnixMillis {
        let elapsed = (self.start.elapsed() + self.stood_still()).as_millis() as u64;
        UnixMillis((WALL_START.0 + elapsed).saturating_add_signed(self.wall_offset_ms.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_gains_and_a_set_wall_clock_moves_alone() {
        crate::sim::run(async {
            let (good, fast) = (SimClock::new(), SimClock::with_skew(500_000));
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!(good.now().0.as_secs(), 100);
            assert_eq!(fast.now().0.as_secs(), 150);
            good.stand_still(Duration::from_secs(5));
            assert_eq!((good.now().0.as_secs(), fast.now().0.as_secs()), (105, 150));
            good.set_wall_offset(-3_600_000);
            assert_eq!(good.wall().0, WALL_START.0 + 105_000 - 3_600_000);
            assert_eq!(good.now().0.as_secs(), 105);
        });
    }
}
