//! How fast a sender writes: a token bucket, and what part of a cluster's limit one node has.
//!
//! A cluster's limit is divided by the nodes that send, as the committed state names them: no node needs to ask another
//! one before it sends, so that all of them together stay below it also while they cannot reach each other. The price is
//! that what one node does not use is nobody's.

use std::time::Duration;

use landfall_proto::seam::Time;

/// What may be caught up after a pause, in time: a busy machine wakes a sender late, and in ten seconds this is 2.5 % of
/// what the limit allows.
pub const CATCH_UP: Duration = Duration::from_millis(250);

/// For how long one piece may keep a line: short, so that several senders take turns and a burst stays small.
const PIECE_TIME: Duration = Duration::from_millis(20);

/// The smallest piece: below two packets a limit costs more in work than it saves.
const PIECE_LEAST: u64 = 2 * 1024;

/// The largest: a tenth of a session's window is on its way meanwhile.
const PIECE_MOST: u64 = 64 * 1024;

/// When the line is free again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    free_at: Time,
}

impl Bucket {
    /// Takes the line for `bytes` at `rate` bytes a second, and says how long to wait before they are written. Whoever
    /// takes it next waits until these have passed.
    pub fn take(&mut self, now: Time, bytes: u64, rate: u64) -> Duration {
        let earliest = Time(now.0.saturating_sub(CATCH_UP));
        let begin = self.free_at.max(earliest);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        self.free_at = begin.after(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        begin.0.saturating_sub(now.0)
    }
}

/// The bytes that are written at once at `rate` bytes a second.
pub fn piece(rate: u64) -> usize {
    let bytes = u128::from(rate) * PIECE_TIME.as_micros() / 1_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX).clamp(PIECE_LEAST, PIECE_MOST) as usize
}

/// What one of `senders` nodes may take of a cluster's limit of `rate` bytes a second.
pub fn share(rate: Option<u64>, senders: usize) -> Option<u64> {
    rate.map(|rate| (rate / (senders as u64).max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends in virtual time for `seconds`, woken up to `late` ms late; the bytes that were written within that time.
    fn sent(rate: u64, senders: usize, seconds: u64, late: &mut dyn FnMut() -> u64) -> u64 {
        let (mut bucket, end) = (Bucket::default(), Duration::from_secs(1000 + seconds));
        let begin = Time(Duration::from_secs(1000));
        let (mut now, mut bytes) = (vec![begin; senders], 0);
        loop {
            let Some(next) = (0..senders).min_by_key(|sender| now[*sender]) else { return bytes };
            if now[next].0 >= end {
                return bytes;
            }
            let piece = piece(rate) as u64;
            let wait = bucket.take(now[next], piece, rate);
            let lateness = if wait.is_zero() { 0 } else { late() };
            now[next] = now[next].after(wait).after(Duration::from_millis(lateness));
            if now[next].0 < end {
                bytes += piece;
            }
        }
    }

    #[test]
    fn an_idle_line_is_free_and_a_pause_is_caught_up_only_a_little() {
        let at = |ms| Time(Duration::from_millis(ms));
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(at(5000), 1000, 10_000), Duration::ZERO);
        // 250 ms are caught up: two more pieces of 100 ms, and the next one begins where the third has ended.
        assert_eq!(bucket.take(at(5000), 1000, 10_000), Duration::ZERO);
        assert_eq!(bucket.take(at(5000), 1000, 10_000), Duration::ZERO);
        assert_eq!(bucket.take(at(5000), 1000, 10_000), Duration::from_millis(50));
    }

    #[test]
    fn a_piece_keeps_the_line_for_twenty_milliseconds_within_bounds() {
        assert_eq!([piece(12_500), piece(625_000), piece(1 << 30)], [2048, 12_500, 65_536]);
        assert_eq!((share(Some(900), 3), share(Some(2), 3), share(None, 3)), (Some(300), Some(1), None));
        assert_eq!(share(Some(900), 0), Some(900));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn ten_seconds_of_steady_sending_hold_the_limit_within_five_per_cent(
            mbit in 1u64..2000,
            senders in 1usize..6,
            late in prop::collection::vec(0u64..40, 1..50),
        ) {
            let rate = mbit * 125_000;
            let mut turn = late.iter().cycle();
            let bytes = sent(rate, senders, 10, &mut || *turn.next().unwrap_or(&0));
            let allowed = rate * 10;
            prop_assert!(bytes <= allowed * 105 / 100, "{} of {} bytes", bytes, allowed);
            prop_assert!(bytes >= allowed * 95 / 100, "{} of {} bytes", bytes, allowed);
        }
    }
}
