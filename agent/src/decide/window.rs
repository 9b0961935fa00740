//! Monitoring windows: from when until when statistics are counted.
//!
//! A window begins at `monitoring_start_time`, and the others follow from it, `monitoring_interval` after one another
//! (Hyper-V page, section 1: MonitoringInterval and MonitoringStartTime). Both are in UTC, so that no window is longer or
//! shorter than another where clocks are put forward and back.

use std::time::Duration;

use landfall_proto::id::UnixMillis;
use landfall_proto::message::control::Statistics;
use landfall_store::settings::TimeOfDay;

const MINUTE_MS: u64 = 60 * 1000;

/// One window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub from: UnixMillis,
    /// The first moment of the next one.
    pub until: UnixMillis,
}

/// What was counted in one cycle that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Intervals in which none could begin meanwhile.
    pub missed: u64,
    /// Bytes of disk content sent.
    pub bytes: u64,
    /// From when it was due until it was acknowledged.
    pub latency: Duration,
}

/// The window that `now` is in, where one begins at `start` and each lasts `interval`. Windows that do not divide a day
/// are counted from `start` on the first day of 1970, so that every node has the same ones.
pub fn window(now: UnixMillis, start: TimeOfDay, interval: Duration) -> Window {
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    let start = (u64::from(start.hour) * 60 + u64::from(start.minute)) * MINUTE_MS;
    // Where the first start of 1970 is still to come, the window before it is the one.
    let offset = start % interval;
    let from = match now.0.checked_sub(offset) {
        Some(since) => now.0 - since % interval,
        None => 0,
    };
    let until = if from < offset { offset } else { from.saturating_add(interval) };
    Window { from: UnixMillis(from), until: UnixMillis(until) }
}

/// No statistics yet, counted from `now` on.
pub fn begun(now: UnixMillis, window: Window) -> Statistics {
    Statistics { since: now, until: window.until, ..Statistics::default() }
}

/// What becomes of `statistics` in the window of now. `None` where they still count, or else new ones, from zero: a
/// boundary has passed since they were begun.
pub fn next(statistics: &Statistics, window: Window) -> Option<Statistics> {
    (statistics.since < window.from).then(|| begun(window.from, window))
}

/// `statistics` with one more cycle.
pub fn counted(statistics: &Statistics, cycle: &Ended) -> Statistics {
    let latency = u64::try_from(cycle.latency.as_millis()).unwrap_or(u64::MAX);
    Statistics {
        cycles: statistics.cycles.saturating_add(1),
        missed: statistics.missed.saturating_add(cycle.missed),
        bytes: statistics.bytes.saturating_add(cycle.bytes),
        bytes_max: statistics.bytes_max.max(cycle.bytes),
        latency_ms: statistics.latency_ms.saturating_add(latency),
        latency_max_ms: statistics.latency_max_ms.max(latency),
        ..*statistics
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    /// Midnight of some day.
    const MIDNIGHT: u64 = 20_000 * DAY;

    fn at(hour: u8, minute: u8) -> TimeOfDay {
        TimeOfDay { hour, minute }
    }

    fn hours(count: u64) -> Duration {
        Duration::from_secs(count * 3600)
    }

    #[test]
    fn enabled_at_two_in_the_afternoon_the_first_window_ends_at_six_and_the_next_one_in_the_morning() {
        let enabled = UnixMillis(MIDNIGHT + 14 * HOUR);
        let first = window(enabled, at(6, 0), hours(12));
        let statistics = begun(enabled, first);
        assert_eq!((statistics.since, statistics.until), (enabled, UnixMillis(MIDNIGHT + 18 * HOUR)));
        let late = UnixMillis(MIDNIGHT + 18 * HOUR - 1);
        assert_eq!(next(&statistics, window(late, at(6, 0), hours(12))), None);
        let evening = window(UnixMillis(MIDNIGHT + 18 * HOUR), at(6, 0), hours(12));
        let second = next(&Statistics { cycles: 7, ..statistics }, evening).unwrap();
        assert_eq!(second.cycles, 0);
        assert_eq!((second.since.0, second.until.0), (MIDNIGHT + 18 * HOUR, MIDNIGHT + 30 * HOUR));
    }

    #[test]
    fn each_cycle_counts_once() {
        let cycle = |bytes, seconds| Ended { missed: 1, bytes, latency: Duration::from_secs(seconds) };
        let counted = [cycle(5, 2), cycle(3, 4)].iter().fold(Statistics::default(), |sum, one| counted(&sum, one));
        let expected = Statistics {
            cycles: 2,
            missed: 2,
            bytes: 8,
            bytes_max: 5,
            latency_ms: 6000,
            latency_max_ms: 4000,
            ..Statistics::default()
        };
        assert_eq!(counted, expected);
    }

    proptest! {
        #[test]
        fn a_moment_is_in_its_window_and_windows_follow_one_another(
            now in 0u64..4_000_000_000_000, hour in 0u8..24, minute in 0u8..60, length in 1u64..=168,
        ) {
            let of = |now| window(UnixMillis(now), at(hour, minute), hours(length));
            let here = of(now);
            prop_assert!(here.from.0 <= now && now < here.until.0);
            prop_assert!(here.until.0 - here.from.0 <= length * HOUR);
            prop_assert_eq!(of(here.from.0), here);
            prop_assert_eq!(of(here.until.0).from, here.until);
            if 24 % length == 0 && here.from.0 > 0 {
                let into_day = (u64::from(hour) * 60 + u64::from(minute)) * MINUTE_MS;
                prop_assert_eq!((here.from.0 + DAY - into_day) % (length * HOUR), 0, "one begins at the start time");
            }
        }
    }
}
