//! When a node's certificate is renewed, and what time it cannot be before.

use std::time::Duration;

use landfall_proto::certificate::{BACKDATED, LEAF_LIFE};
use landfall_proto::id::UnixMillis;
use landfall_proto::planted::{self, Bug};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Half-way through the life of a certificate that is good until `ends_at`.
fn half_life(ends_at: UnixMillis) -> UnixMillis {
    UnixMillis(ends_at.0.saturating_sub(millis(LEAF_LIFE) / 2))
}

/// Whether a certificate that is good until `ends_at` is to be renewed at `now`: from half of its life on, or where its
/// time has not come, since a clock that was wrong has made it.
pub fn is_due(now: UnixMillis, ends_at: UnixMillis) -> bool {
    let begins_at = ends_at.0.saturating_sub(millis(LEAF_LIFE + BACKDATED));
    let renewed_at = if planted::is(Bug::CertificateRenewedLate) { ends_at } else { half_life(ends_at) };
    now >= renewed_at || now.0 < begins_at
}

/// Whether a certificate that is good until `ends_at` has ended.
pub fn is_over(now: UnixMillis, ends_at: UnixMillis) -> bool {
    now > ends_at
}

/// The time before which it is not, for a node whose certificate is good until `ends_at` and whose log has a command of
/// `committed`. One bad clock of one owner must not end everybody's certificates, so that counts only up to the half of
/// the own one's life: as long as all renew theirs in time, none of them has ended then.
pub fn floor(committed: Option<UnixMillis>, ends_at: UnixMillis) -> UnixMillis {
    let latest = if planted::is(Bug::WildClockBelieved) { UnixMillis(u64::MAX) } else { half_life(ends_at) };
    committed.unwrap_or_default().min(latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const NOW: u64 = 20_000 * DAY;

    /// Until when a certificate is good that was made `days` before now.
    fn made(days: u64) -> UnixMillis {
        UnixMillis(NOW - days * DAY + millis(LEAF_LIFE))
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life_and_one_from_the_future_at_once() {
        let now = UnixMillis(NOW);
        assert!(!is_due(now, made(0)) && !is_due(now, made(3)));
        assert!(is_due(now, made(4)) && is_due(now, made(9)));
        assert!(is_due(now, UnixMillis(NOW + 300 * DAY)));
        assert!(!is_over(now, made(6)) && is_over(now, made(8)));
    }

    #[test]
    fn a_board_that_begins_in_1970_knows_better_and_one_wild_clock_ends_nobodys_certificate() {
        let floor_of = |committed| floor(Some(UnixMillis(committed)), made(1));
        assert_eq!(floor_of(NOW), UnixMillis(NOW));
        assert_eq!(floor(None, made(1)), UnixMillis(0));
        let wild = floor_of(NOW + 30_000 * DAY);
        // Whoever renews in time has a certificate that was made at most half a life before this one's.
        assert!(!is_over(wild, made(1)) && !is_over(wild, made(4)));
    }
}
