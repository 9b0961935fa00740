//! Holding the CAP's address: when it may be sent to the kernel, when the predecessor's is surely gone, when to announce
//! it, and what is in the way of holding it. The arithmetic, and nothing else.
//!
//! The address stands in the owner's kernel with a lifetime of one second, so that it goes by itself from an owner that
//! is killed, stopped or hung. Facts about the kernel, measured: an address goes 1 s to 2 s after it was last sent (its
//! expiry is looked for a second late where another address of the namespace has just changed), and sending one that has
//! gone brings it back. It is sent only within L/4 of the time t0 at which the lease's quorum was asked, the clock read
//! right before and right after. So it is gone at t0 + L/4 + 2 s at the latest. Nobody is elected before t0 + L
//! ([`super::lease`]), so a new owner that waits 2 s - 3/4 L and a margin from its election is the only holder.

use std::time::Duration;

use landfall_proto::id::InterfaceName;
use landfall_proto::model::{CapAddress, IpAddr};
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::Time;

use crate::decide::lease::{self, DRIFT_PER_MILLE, MARGIN};

/// For how long the kernel keeps the address: whole seconds only, and 0 is refused.
pub const LIFETIME: Duration = Duration::from_secs(1);

/// How much later than that it may go: the kernel looks at most once a second.
pub const LATE: Duration = Duration::from_secs(1);

/// When the address is announced, counted from when it was taken: a frame sent while a switch learns of the port is lost,
/// and whoever learned the old place within the last second may ignore the first.
pub const ANNOUNCED_AT: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1200),
    Duration::from_secs(3),
    Duration::from_secs(7),
];

/// How often the owner asks the network whether somebody else has the address.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two announcements against another holder: both sides may insist, and the network must not
/// be what suffers.
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(2);

/// After so long without a word of another holder it is gone: eight probes that nobody answered.
pub const RIVAL_GONE_AFTER: Duration = Duration::from_secs(8);

/// Until when an address may be sent on the strength of a quorum that was asked at `t0`.
pub fn sent_until(t0: Time, lease: Duration) -> Time {
    t0.after(lease / 4)
}

/// When an address that was last sent on the strength of `t0` is gone at the latest, by that machine's clock.
pub fn gone_by(t0: Time, lease: Duration) -> Time {
    sent_until(t0, lease).after(LIFETIME + LATE)
}

/// From when an owner that was elected at `elected` or before may send the address. Both machines' clocks and the voters'
/// may be wrong by the whole drift: the predecessor's slow, the others' fast.
pub fn taken_from(elected: Time, lease: Duration) -> Time {
    let standing = lease / 4 + LIFETIME + LATE;
    let slow = standing * (1000 + DRIFT_PER_MILLE) / (1000 - DRIFT_PER_MILLE);
    let wait = if planted::is(Bug::AddressTakenAtOnce) { Duration::ZERO } else { slow.saturating_sub(lease) };
    elected.after(wait + MARGIN)
}

/// When the quorum was asked that confirmed a lease which ends at `ends_at`.
pub fn asked_at(ends_at: Time, lease: Duration) -> Time {
    Time(ends_at.since(lease::ends_at(Time::default(), lease)))
}

/// What a confirmed lease means for the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The predecessor may still have it, until then.
    Wait(Time),
    /// It may be sent.
    Send,
    /// It was asked too long ago: the next one will do, or the address goes by itself.
    TooLate,
}

/// Whether the address may be sent at `now`, the quorum having been asked at `t0` by an owner that may from `from`.
pub fn renewal(t0: Time, from: Time, lease: Duration, now: Time) -> Renewal {
    if now < from {
        Renewal::Wait(from)
    } else if is_late(t0, lease, now) {
        Renewal::TooLate
    } else {
        Renewal::Send
    }
}

/// Whether an address that was sent for `t0` must be taken back, the clock showing `now` after it was sent.
pub fn is_late(t0: Time, lease: Duration, now: Time) -> bool {
    (now < t0 || now >= sent_until(t0, lease)) && !planted::is(Bug::LateAddressKept)
}

/// The announcements of one taking.
#[derive(Clone, Copy, Debug)]
pub struct Announcements {
    taken: Time,
    sent: usize,
}

impl Announcements {
    /// None sent yet.
    pub fn new(taken: Time) -> Self {
        Self { taken, sent: 0 }
    }

    /// When the next is due; `None` when all were sent.
    pub fn next(&self) -> Option<Time> {
        ANNOUNCED_AT.get(self.sent).map(|after| self.taken.after(*after))
    }

    /// Whether one is due at `now`. Those that were missed are made up for by one.
    pub fn is_due(&mut self, now: Time) -> bool {
        let passed = ANNOUNCED_AT.iter().filter(|after| self.taken.after(**after) <= now).count();
        let due = passed > self.sent;
        self.sent = self.sent.max(passed);
        due
    }
}

/// Somebody else who has the address, as far as is known.
#[derive(Clone, Debug, Default)]
pub struct Rival {
    seen: Option<(String, Time)>,
    defended: Option<Time>,
}

/// What is to be done about another holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defence {
    /// It is new: people must be told.
    pub alarm: bool,
    /// The address is to be announced again.
    pub announce: bool,
}

impl Rival {
    /// `who` (a link-layer address) was seen to claim the address at `now`.
    pub fn seen(&mut self, who: &str, now: Time) -> Defence {
        let alarm = self.seen.as_ref().is_none_or(|(known, _)| known != who);
        let announce = self.defended.is_none_or(|last| now.since(last) >= DEFEND_INTERVAL);
        self.seen = Some((who.to_owned(), now));
        if announce {
            self.defended = Some(now);
        }
        Defence { alarm, announce }
    }

    /// Forgets one that has not been seen for long; who that was.
    pub fn gone(&mut self, now: Time) -> Option<String> {
        let gone = self.seen.as_ref().is_some_and(|(_, last)| now.since(*last) >= RIVAL_GONE_AFTER);
        if gone { self.seen.take().map(|(who, _)| who) } else { None }
    }

    /// Who claims it now.
    pub fn who(&self) -> Option<&str> {
        self.seen.as_ref().map(|(who, _)| who.as_str())
    }
}

/// What the kernel says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Whether it was brought up.
    pub up: bool,
    /// Whether it has a carrier, and works.
    pub running: bool,
}

/// What this process and machine are as to holding the address.
#[derive(Clone, Debug)]
pub struct Means {
    /// The interface, where there is one of that name.
    pub link: Option<Link>,
    /// Whether the process may change addresses (CAP_NET_ADMIN).
    pub permitted: bool,
    /// An address of the CAP that this machine has for good, put there by somebody else.
    pub fixed: Option<String>,
}

/// Why this node cannot hold the address on `interface`, with what to do; `None` where it can.
pub fn fault(interface: &InterfaceName, means: &Means) -> Option<String> {
    match means {
        Means { permitted: false, .. } => Some(
            "the agent may not change addresses: give it CAP_NET_ADMIN (in its systemd unit: \
             AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)"
                .to_owned(),
        ),
        Means { link: None, .. } => Some(format!(
            "there is no interface {interface}: bring it back, or name another one by cap_interface in the node's file"
        )),
        Means { link: Some(Link { up: false, .. }), .. } => {
            Some(format!("interface {interface} is down: ip link set {interface} up"))
        }
        Means { link: Some(Link { running: false, .. }), .. } => {
            Some(format!("interface {interface} has no carrier: look at its cable, switch or bridge ports"))
        }
        Means { fixed: Some(address), .. } => Some(format!(
            "this machine has {address} for good: take it out of the machine's network configuration (ip address del \
             {address} dev ...)"
        )),
        _ => None,
    }
}

/// Why nothing that comes to the CAP's address reaches a node that listens at `ip` and `port`; `None` where it does.
pub fn unanswered((ip, port): (IpAddr, u16), cap: &CapAddress) -> Option<String> {
    let anywhere = if cap.addresses().iter().any(|address| address.ip().is_ipv6()) { "[::]" } else { "0.0.0.0" };
    let remedy = format!("use listen = \"{anywhere}:{}\"", cap.port());
    if port != cap.port() {
        return Some(format!(
            "the CAP's address is dialled at port {}, and listen has port {port}: {remedy}",
            cap.port()
        ));
    }
    let taken = |address: IpAddr| match ip {
        any if any.is_unspecified() => any.is_ipv6() || address.is_ipv4(),
        one => one == address,
    };
    let missed = cap.addresses().iter().find(|address| !taken(address.ip()))?;
    Some(format!("listen has {ip}, so that nothing sent to the CAP's address {} arrives: {remedy}", missed.ip()))
}

#[cfg(test)]
#[path = "cap_address_test.rs"]
mod tests;
