//! How long an owner may act: the arithmetic of the lease, and nothing else.
//!
//! A leader notes the time t0, refuses its vote until t0 + L, and asks a quorum whether it still leads. Every voter of
//! that quorum refuses its vote until L after it answered, so nobody else can be elected before t0 + L on any clock that
//! runs at the true rate. Clocks differ by at most the drift bound, and a margin covers the time between a check and the
//! effect it allows, so the owner acts until t0 + L (1 - rho) / (1 + rho) - margin.

use std::time::Duration;

use landfall_proto::seam::Time;

/// How much faster or slower than the true rate a machine's clock may run, in parts per thousand. Crystal clocks stay
/// within 0.1; ten times that covers a clock that is being slewed.
pub(crate) const DRIFT_PER_MILLE: u32 = 1;

/// Time between checking the lease and the effect reaching the outside.
pub const MARGIN: Duration = Duration::from_millis(50);

/// How often the lease is renewed in one L: three renewals may be lost before it ends.
pub const RENEWALS_PER_LEASE: u32 = 4;

/// When a lease confirmed by a quorum that was asked at `t0` ends.
pub fn ends_at(t0: Time, lease: Duration) -> Time {
    let usable = lease * (1000 - DRIFT_PER_MILLE) / (1000 + DRIFT_PER_MILLE);
    t0.after(usable.saturating_sub(MARGIN))
}

/// Until when the owner itself must refuse its vote, having asked at `t0`.
pub fn vote_hold(t0: Time, lease: Duration) -> Time {
    t0.after(lease)
}

/// How long after one renewal the next is due.
pub fn renewal_interval(lease: Duration) -> Duration {
    lease / RENEWALS_PER_LEASE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// An owner whose clock is slow by the whole drift stops before a voter whose clock is fast by it votes anew.
        #[test]
        fn the_owner_stops_before_any_vote_can_be_cast(lease_ms in 500u64..60_000) {
            let lease = Duration::from_millis(lease_ms);
            let rho = f64::from(DRIFT_PER_MILLE) / 1000.0;
            let owner_stops = ends_at(Time::default(), lease).0.as_secs_f64() / (1.0 - rho);
            let voter_votes = lease.as_secs_f64() / (1.0 + rho);
            prop_assert!(owner_stops < voter_votes);
        }
    }

    #[test]
    fn the_vote_is_held_longer_than_the_lease_is_used() {
        let lease = Duration::from_secs(2);
        assert!(vote_hold(Time::default(), lease) > ends_at(Time::default(), lease));
        assert!(renewal_interval(lease) * 3 < ends_at(Time::default(), lease).0);
    }
}
