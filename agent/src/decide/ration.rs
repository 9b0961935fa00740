//! Which refusals are told: the first ones of each peer and kind, and then one now and again with how many were left out.
//!
//! Who is refused decides how often that happens, so that without a ration it would decide what an operator can still see.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::seam::Time;

use crate::decide::allowance::{Allowance, Quota};

/// What is told of one peer and kind.
pub const OF_PEER: Quota = Quota { at_once: 3, every: Duration::from_secs(60) };

/// What is told of one kind, whoever is refused: addresses and names cost nothing to make. A hundredth of the events that
/// are kept at once, and an hour of a flood leaves room for others.
pub const OF_KIND: Quota = Quota { at_once: 10, every: Duration::from_secs(10) };

/// The peers and kinds that are remembered; past it the one that was refused least lately is forgotten.
pub const REMEMBERED_MAX: usize = 512;

/// What is left of the rations.
#[derive(Clone, Debug, Default)]
pub struct Ration {
    peers: BTreeMap<(&'static str, String), Told>,
    kinds: BTreeMap<&'static str, Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    allowance: Allowance,
    left_out: u64,
    last: Time,
}

impl Told {
    fn new(quota: Quota, now: Time) -> Self {
        Self { allowance: Allowance::full(quota, now), left_out: 0, last: now }
    }
}

impl Ration {
    /// Whether a refusal of `peer` is told now; then how many of this kind were left out before, of whomever.
    pub fn tell(&mut self, kind: &'static str, peer: &str, now: Time) -> Option<u64> {
        let key = (kind, peer.to_owned());
        if !self.peers.contains_key(&key) && self.peers.len() >= REMEMBERED_MAX {
            let oldest = self.peers.iter().min_by_key(|(_, told)| told.last).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.peers.remove(&oldest));
        }
        let of_peer = self.peers.entry(key).or_insert_with(|| Told::new(OF_PEER, now));
        let of_kind = self.kinds.entry(kind).or_insert_with(|| Told::new(OF_KIND, now));
        of_peer.last = now;
        // The peer's own first: what it has used up takes nothing from others.
        if of_peer.allowance.take(OF_PEER, now) && of_kind.allowance.take(OF_KIND, now) {
            return Some(std::mem::take(&mut of_kind.left_out));
        }
        of_kind.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    #[test]
    fn a_peer_that_floods_is_told_of_three_times_and_takes_nothing_from_others() {
        let mut ration = Ration::default();
        let told: Vec<u64> = (0..10_000).filter_map(|_| ration.tell("verb_refused", "p1", at(1))).collect();
        assert_eq!(told, [0, 0, 0]);
        assert_eq!(ration.tell("verb_refused", "p2", at(1)), Some(9997), "what was left out is told with the next");
        assert_eq!(ration.tell("handshake_refused", "p1", at(1)), Some(0), "another kind has its own ration");
        assert_eq!(ration.tell("verb_refused", "p1", at(61)), Some(0));
        assert_eq!(ration.tell("verb_refused", "p1", at(61)), None);
    }

    #[test]
    fn ten_thousand_addresses_fill_nothing() {
        let mut ration = Ration::default();
        let told = (0..10_000).filter(|n| ration.tell("handshake_refused", &format!("10.0.{n}"), at(1)).is_some());
        assert_eq!(told.count(), 10);
        assert!(ration.peers.len() <= REMEMBERED_MAX && ration.kinds.len() == 1);
        let hour =
            (0..36_000u64).filter(|n| ration.tell("handshake_refused", &n.to_string(), at(2 + n / 10)).is_some());
        assert!((355..=365).contains(&hour.count()), "one every ten seconds");
    }
}
