//! Which change sets stay as recovery points, and when the overlays of the others are folded together.
//!
//! As in Hyper-V the newest point is listed with a number of older ones an hour apart; what changed between them becomes
//! part of the next one. The holder decides it by its own monotonic clock: order and retention go by sequence, the
//! senders' clocks are display.

use std::time::Duration;

use landfall_proto::id::{UnixMillis, VmId};

/// Overlays that are folded at a time, at least: fewer would be written again and again.
const FOLD_LEAST: usize = 4;
/// Overlays between two points, at most: past it the newest are folded whatever their sizes, so that a chain stays short.
const FOLD_MOST: usize = 16;
/// How many are folded then.
const FOLD_ANYHOW: usize = 8;

/// Whether a change set that is applied now stays as a point. `since` is how long ago the last one that stays was
/// applied; `None` where there is none. Half a cycle of `frequency` too early is as good as half a cycle too late.
pub fn stays(since: Option<Duration>, interval: Duration, frequency: Duration) -> bool {
    since.is_none_or(|since| since + frequency.min(interval) / 2 >= interval)
}

/// How long the last point that stays counts as applied where the holder did not see it: it has the replica from another
/// node, or was started since. The senders' clocks say what went by until the newest point, at most one interval.
pub fn credited(newest: UnixMillis, last: UnixMillis, interval: Duration) -> Duration {
    Duration::from_millis(newest.0.saturating_sub(last.0)).min(interval)
}

/// How many of the newest overlays between two points become one, given the size of each, the newest first. An older one
/// joins when it is not larger by half than the newer ones together: so each byte moves into an overlay that is larger by
/// two thirds at least whenever it is written again, or another was written in its place.
pub fn fold(sizes: &[u64]) -> Option<usize> {
    let (mut count, mut together) = (0, 0_u64);
    for size in sizes {
        if count > 0 && *size > together.saturating_add(together / 2) {
            break;
        }
        (count, together) = (count + 1, together.saturating_add(*size));
    }
    match sizes.len() > FOLD_MOST {
        _ if count >= FOLD_LEAST => Some(count),
        true => Some(FOLD_ANYHOW),
        false => None,
    }
}

/// A point that can be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrubbable {
    /// Its VM.
    pub vm: VmId,
    /// Its number.
    pub point: u64,
    /// When it was read back last, or else made.
    pub known_good_at: UnixMillis,
    /// Whether its files were touched by somebody else since.
    pub suspect: bool,
}

/// The point to read back next: a suspect one at once, else the one that was not read for longest, once that is
/// `interval` ago. `None` where none is due.
pub fn next_scrub(points: &[Scrubbable], now: UnixMillis, interval: Duration) -> Option<(VmId, u64)> {
    let due = |point: &&Scrubbable| {
        point.suspect || u128::from(now.0.saturating_sub(point.known_good_at.0)) >= interval.as_millis()
    };
    let next =
        points.iter().filter(due).min_by_key(|point| (!point.suspect, point.known_good_at, point.vm, point.point));
    next.map(|point| (point.vm, point.point))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_point_stays_an_hour_after_the_last_one_to_half_a_cycle() {
        let stays =
            |since: u64, frequency: u64| stays(Some(Duration::from_secs(since)), HOUR, Duration::from_secs(frequency));
        assert!(super::stays(None, HOUR, HOUR), "the first one");
        assert!(!stays(3570, 30) && stays(3585, 30) && stays(3600, 30));
        assert!(!stays(2700, 900) && stays(3599, 900), "the fourth of four, even if it comes a moment early");
        let small = Duration::from_millis(1);
        assert!(super::stays(Some(small), small, Duration::from_secs(30)));
        assert!(!super::stays(Some(Duration::ZERO), small, Duration::from_secs(30)));
        assert!(super::stays(Some(Duration::ZERO), Duration::ZERO, Duration::from_secs(30)));
    }

    #[test]
    fn a_new_holder_goes_on_from_what_the_points_say_and_never_waits_for_more_than_an_interval() {
        let at = |seconds: u64| UnixMillis(seconds * 1000);
        assert_eq!(credited(at(5000), at(4000), HOUR), Duration::from_secs(1000));
        assert_eq!(credited(at(50_000), at(4000), HOUR), HOUR);
        assert_eq!(credited(at(3000), at(4000), HOUR), Duration::ZERO, "a clock that was set back");
    }

    #[test]
    fn the_point_that_was_not_read_for_longest_is_next_and_a_suspect_one_before_all() {
        let vm = VmId(uuid::Uuid::from_u128(7));
        let point = |point, good: u64| Scrubbable { vm, point, known_good_at: UnixMillis(good), suspect: false };
        let day = Duration::from_secs(86_400);
        let now = UnixMillis(100_000_000);
        let fresh = [point(1, 99_000_000), point(2, 50_000_000)];
        assert_eq!(next_scrub(&fresh, now, day), None);
        assert_eq!(next_scrub(&[fresh[0], point(3, 13_600_000), point(4, 13_600_001)], now, day), Some((vm, 3)));
        let touched = Scrubbable { suspect: true, ..point(5, 100_000_000) };
        assert_eq!(next_scrub(&[point(3, 0), touched], now, day), Some((vm, 5)));
        assert_eq!(next_scrub(&[point(9, 200_000_000)], now, day), None, "a clock that was set back");
    }

    /// Folds as the store does, and returns the longest chain and the bytes written for each byte that came.
    fn day(size: impl Fn(u64) -> u64, grown: impl Fn(u64) -> u64) -> (usize, f64) {
        let (mut chain, mut longest, mut written, mut came) = (Vec::<u64>::new(), 0, 0, 0);
        for number in 0..2880 {
            came += size(number);
            chain.insert(0, size(number));
            if let Some(count) = fold(&chain) {
                let folded = grown(chain.drain(..count).sum());
                written += folded;
                chain.insert(0, folded);
            }
            longest = longest.max(chain.len());
        }
        (longest, written as f64 / came as f64)
    }

    #[test]
    fn a_day_without_a_point_makes_no_long_chain_and_writes_no_byte_often() {
        for (name, size) in [
            ("even", (|_| 100) as fn(u64) -> u64),
            ("growing", |number| 1 + number),
            ("falling", |number| 3000 - number),
            ("bursts", |number| if number % 50 == 0 { 10_000 } else { 10 }),
            ("halving", |number| 1 << (50 - number % 50)),
        ] {
            let (longest, written) = day(size, |sum| sum);
            assert!(longest <= FOLD_MOST + 1 && written < 8.0, "{name}: {longest} overlays, {written} times");
        }
        // The same blocks over and over: an overlay never gets larger than they are.
        let (longest, written) = day(|_| 100, |sum| sum.min(100));
        assert!(longest <= FOLD_LEAST && written < 0.5, "{longest} overlays, {written} times");
    }
}
