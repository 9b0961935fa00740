//! When figures are a reason to worry: the numbers behind Warning, as plain functions.
//!
//! The rules are Hyper-V's (its replication page, 3.2). They were written for its first interval of five minutes; where the
//! page leaves open how one holds at 30 s or 900 s, the function says how it is scaled here.

use std::time::Duration;

use landfall_proto::id::UnixMillis;
use landfall_proto::message::control::Statistics;

/// A newest point older than this is a reason at every interval (Hyper-V: one hour since the last replica).
const LATE_AT_MOST: Duration = Duration::from_secs(3600);

/// Intervals without a new point that are a reason before the hour is over.
const LATE_INTERVALS: u32 = 5;

/// Missed cycles out of a hundred that are still normal.
const MISSED_PERCENT: u64 = 20;

/// Cycles that must have been due before their share says anything: of fewer, a single one is more than the share.
const CYCLES_LEAST: u64 = 5;

/// An average latency below this is no reason at any interval: nobody recovers faster than that.
const LATENCY_LEAST: Duration = Duration::from_secs(10);

/// How far the clocks of two sites may be apart: a third of the shortest interval. Nothing is decided by clocks of the other
/// site, but ages of points and event times mislead people by as much.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10);

/// How old the newest point is, where that is too old: an hour, as the page says; at intervals shorter than twelve minutes
/// five of them, because whoever asks for a point every 30 s has lost what he asked for long before the hour is over.
pub fn late(taken_at: UnixMillis, interval: Duration, now: UnixMillis) -> Option<Duration> {
    let age = Duration::from_millis(now.0.saturating_sub(taken_at.0));
    (age > LATE_AT_MOST.min(interval.saturating_mul(LATE_INTERVALS))).then_some(age)
}

/// How many cycles out of how many were missed in the window, where those are more than a fifth.
pub fn missed(statistics: &Statistics) -> Option<(u64, u64)> {
    let due = statistics.cycles.saturating_add(statistics.missed);
    let many = u128::from(statistics.missed) * 100 > u128::from(due) * u128::from(MISSED_PERCENT);
    (due >= CYCLES_LEAST && many).then_some((statistics.missed, due))
}

/// The average latency of the window, where it is too high. The page's five minutes are those of its five-minute interval:
/// here it is one interval, whichever it is, so that on average a change set is across before the next one is due.
pub fn slow(statistics: &Statistics, interval: Duration) -> Option<Duration> {
    let average = Duration::from_millis(average(statistics.latency_ms, statistics.cycles)?);
    (average > interval.max(LATENCY_LEAST)).then_some(average)
}

/// `total` over `count`; `None` where nothing was counted.
pub fn average(total: u64, count: u64) -> Option<u64> {
    total.checked_div(count)
}

/// How far another clock is ahead, in milliseconds, where it is too far ahead or behind.
pub fn skewed(ahead_ms: i64) -> Option<i64> {
    (u128::from(ahead_ms.unsigned_abs()) > CLOCK_SKEW_MAX.as_millis()).then_some(ahead_ms)
}

/// How far the sender's clock is ahead, by a point that it has taken later than it is here now. That it is behind cannot be
/// told by a point: one may have been on its way for long.
pub fn taken_ahead(taken_at: UnixMillis, now: UnixMillis) -> Option<i64> {
    skewed(i64::try_from(taken_at.0.saturating_sub(now.0)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(100_000_000_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_point_is_late_after_five_intervals_and_after_an_hour_at_most() {
        let age = |age: u64, interval| late(UnixMillis(NOW.0 - age * 1000), seconds(interval), NOW).is_some();
        for (interval, limit) in [(30, 150), (300, 1500), (900, 3600)] {
            assert!(!age(limit, interval) && age(limit + 1, interval), "{interval} s");
        }
    }

    #[test]
    fn more_than_a_fifth_of_the_cycles_is_too_many() {
        let of = |cycles, misses| missed(&Statistics { cycles, missed: misses, ..Statistics::default() });
        assert_eq!((of(8, 2), of(7, 2)), (None, Some((2, 9))));
        assert_eq!((of(1, 1), of(0, 4), of(0, 5)), (None, None, Some((5, 5))), "few cycles say nothing");
    }

    #[test]
    fn an_average_of_more_than_an_interval_is_slow() {
        let of = |latency_s: u64, interval| {
            let statistics = Statistics { cycles: 2, latency_ms: latency_s * 2000, ..Statistics::default() };
            slow(&statistics, interval).is_some()
        };
        for interval in [30, 300, 900] {
            assert!(!of(interval, seconds(interval)) && of(interval + 1, seconds(interval)), "{interval} s");
        }
        assert!(!of(10, Duration::from_millis(200)) && of(11, Duration::from_millis(200)));
        assert_eq!(slow(&Statistics::default(), seconds(30)), None);
    }

    #[test]
    fn clocks_may_be_ten_seconds_apart() {
        assert_eq!([-10_001, -10_000, 10_000, 10_001].map(skewed), [Some(-10_001), None, None, Some(10_001)]);
        assert_eq!(taken_ahead(UnixMillis(NOW.0 + 11_000), NOW), Some(11_000));
        assert_eq!(taken_ahead(UnixMillis(NOW.0 - 3_600_000), NOW), None, "a point may be old for other reasons");
    }

    proptest! {
        #[test]
        fn a_reset_makes_every_rule_of_the_window_normal_and_worse_never_better(
            cycles in 0u64..1_000, misses in 0u64..1_000, latency_ms in 0u64..1_000_000_000, more in 0u64..1_000,
        ) {
            prop_assert_eq!(missed(&Statistics::default()), None);
            let now = Statistics { cycles, missed: misses, latency_ms, ..Statistics::default() };
            let worse = Statistics { missed: misses + more, latency_ms: latency_ms + more, ..now };
            prop_assert!(missed(&now).is_none() || missed(&worse).is_some());
            prop_assert!(slow(&now, seconds(30)).is_none() || slow(&worse, seconds(30)).is_some());
        }
    }
}
