//! What happens to a connection attempt before any of it is believed: bounds in all and per address, Retry under load.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::limits::{CONNECTIONS_MAX, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS, RETRY_ABOVE};
use crate::transport::lock;

/// What to do with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on with the handshake.
    Accept,
    /// The caller must prove its address first.
    Retry,
    /// No: the address is proven, so an answer reaches who asked.
    Refuse,
    /// No, and silently: the address may be someone else's.
    Ignore,
}

/// The load that a verdict depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Handshakes under way.
    pub(crate) handshakes: usize,
    /// Those of the same address.
    pub(crate) of_address: usize,
    /// Open connections.
    pub(crate) open: usize,
}

/// Decides on one attempt.
pub(crate) fn verdict(load: Load, validated: bool) -> Verdict {
    let full = load.handshakes >= HANDSHAKES_MAX || load.open >= CONNECTIONS_MAX;
    let crowded = load.of_address >= HANDSHAKES_PER_ADDRESS;
    match validated {
        true if full || crowded => Verdict::Refuse,
        true => Verdict::Accept,
        // An address that is not proven is blamed for nothing: it may be spoofed to keep its owner out.
        false if full => Verdict::Ignore,
        false if crowded || load.handshakes >= RETRY_ABOVE => Verdict::Retry,
        false => Verdict::Accept,
    }
}

/// Counts handshakes under way.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Gate {
    /// Handshakes under way, in all and from `address`.
    pub(crate) fn load(&self, address: IpAddr, open: usize) -> Load {
        let under_way = lock(&self.under_way);
        let of_address = under_way.by_address.get(&address).copied().unwrap_or(0);
        Load { handshakes: under_way.total, of_address, open }
    }

    /// Counts one more until the returned value is dropped.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Handshake {
        let mut under_way = lock(&self.under_way);
        under_way.total += 1;
        *under_way.by_address.entry(address).or_default() += 1;
        Handshake { gate: Arc::clone(self), address }
    }
}

/// A handshake under way.
#[derive(Debug)]
pub(crate) struct Handshake {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = lock(&self.gate.under_way);
        under_way.total -= 1;
        if let Some(count) = under_way.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                under_way.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_load_an_unproven_address_must_prove_itself_and_past_the_bound_nobody_enters() {
        let quiet = Load { handshakes: 0, of_address: 0, open: 0 };
        assert_eq!(verdict(quiet, false), Verdict::Accept);
        let busy = Load { handshakes: RETRY_ABOVE, ..quiet };
        assert_eq!((verdict(busy, false), verdict(busy, true)), (Verdict::Retry, Verdict::Accept));
        let crowded = Load { of_address: HANDSHAKES_PER_ADDRESS, ..quiet };
        assert_eq!((verdict(crowded, false), verdict(crowded, true)), (Verdict::Retry, Verdict::Refuse));
        for full in [Load { handshakes: HANDSHAKES_MAX, ..quiet }, Load { open: CONNECTIONS_MAX, ..quiet }] {
            assert_eq!((verdict(full, false), verdict(full, true)), (Verdict::Ignore, Verdict::Refuse));
        }
    }

    #[test]
    fn a_finished_handshake_leaves_nothing_behind() {
        let gate = Arc::new(Gate::default());
        let address = IpAddr::from([127, 0, 0, 1]);
        let one = gate.enter(address);
        assert_eq!(gate.load(address, 0).of_address, 1);
        drop(one);
        assert_eq!(gate.load(address, 0).handshakes, 0);
        assert!(lock(&gate.under_way).by_address.is_empty());
    }
}
