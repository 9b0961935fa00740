//! The thread that has the address: it alone asks the kernel, so that a kernel that takes its time holds up nothing else.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_proto::id::{InterfaceName, NodeName};
use landfall_proto::model::CapAddress;
use landfall_proto::seam::{Clock, Time};
use tokio::sync::watch;

use super::host::Host;
use super::{Hold, Standing};
use crate::decide::cap_address::{self, Announcements, Link, PROBE_INTERVAL, Renewal, Rival};
use crate::drive::events::{Events, Happening};

/// How often a holder looks at its interface and at what came in: half of what a lease's renewals are apart.
const LOOK_HOLDING: Duration = Duration::from_millis(250);

/// How often a node that does not hold the address looks whether it could.
const LOOK_IDLE: Duration = Duration::from_secs(1);

/// What the thread is to do next. The newest order replaces one that was not taken yet.
#[derive(Debug, Default)]
pub struct Orders {
    next: Mutex<Next>,
    given: Condvar,
}

#[derive(Debug, Default)]
struct Next {
    renewal: Option<Hold>,
    /// Orders to drop the address so far.
    drops: u64,
    stop: bool,
}

/// How far the orders to drop the address were carried out.
#[derive(Clone, Debug, Default)]
pub struct Dropped {
    /// The last one.
    pub which: u64,
    /// Why the kernel may still have it.
    pub fault: Option<String>,
}

/// What was taken off the orders.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    renewal: Option<Hold>,
    drops: u64,
    stop: bool,
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hold the address, on the strength of this.
    pub fn renew(&self, hold: Hold) {
        self.lock().renewal = Some(hold);
        self.given.notify_one();
    }

    /// Drop the address: which drop this is.
    pub fn drop_address(&self) -> u64 {
        let mut next = self.lock();
        next.renewal = None;
        next.drops += 1;
        self.given.notify_one();
        next.drops
    }

    /// Drop the address and end.
    pub fn stop(&self) {
        let mut next = self.lock();
        (next.renewal, next.stop) = (None, true);
        self.given.notify_one();
    }

    /// What there is to do, waited for at most so long.
    fn take(&self, seen: u64, patience: Duration) -> Taken {
        let next = self.lock();
        let idle = |next: &mut Next| next.renewal.is_none() && next.drops == seen && !next.stop;
        let (mut next, _) = self.given.wait_timeout_while(next, patience, idle).unwrap_or_else(PoisonError::into_inner);
        Taken { renewal: next.renewal.take(), drops: next.drops, stop: next.stop }
    }
}

/// What the thread works with.
pub struct Keeper {
    /// The machine.
    pub host: Box<dyn Host>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The lease L.
    pub lease: Duration,
    /// The interface.
    pub interface: InterfaceName,
    /// What is held.
    pub cap: CapAddress,
    /// Why this node would not answer at the address, where its file says so.
    pub unanswered: Option<String>,
    /// Where to tell people.
    pub events: Events,
    /// This node.
    pub node: NodeName,
    /// Where the rest of the agent reads how things stand.
    pub standing: watch::Sender<Standing>,
    /// The drops that were carried out.
    pub dropped: watch::Sender<Dropped>,
    /// The address, while this node has it.
    pub having: Option<Having>,
    /// A renewal that waits until the predecessor's address is gone.
    pub waiting: Option<Hold>,
}

/// An address that is held.
pub struct Having {
    announcements: Announcements,
    probed: Option<Time>,
    rival: Rival,
}

impl Keeper {
    /// Does what is ordered until it is told to stop; then the address is gone.
    pub fn run(mut self, orders: &Orders) {
        let (mut seen, mut looked) = (0, None::<Time>);
        loop {
            let now = self.clock.now();
            let look = looked.map_or(Duration::ZERO, |at| self.look_interval().saturating_sub(now.since(at)));
            let taken = orders.take(seen, self.due_in(now).unwrap_or(look).min(look));
            if taken.stop || taken.drops != seen {
                seen = taken.drops;
                self.waiting = None;
                let fault = self.release().err();
                self.dropped.send_replace(Dropped { which: seen, fault });
            }
            if taken.stop {
                return;
            }
            if let Some(hold) = taken.renewal.or_else(|| self.waiting.take()) {
                self.renew(hold);
            }
            let now = self.clock.now();
            if looked.is_none_or(|at| now.since(at) >= self.look_interval()) {
                looked = Some(now);
                self.look();
            }
            self.tend();
        }
    }

    fn look_interval(&self) -> Duration {
        if self.having.is_some() { LOOK_HOLDING } else { LOOK_IDLE }
    }

    /// When something is due that no order and no look brings.
    fn due_in(&self, now: Time) -> Option<Duration> {
        let waiting = self.waiting.map(|hold| hold.from);
        let announcement = self.having.as_ref().and_then(|having| having.announcements.next());
        waiting.into_iter().chain(announcement).map(|at| at.since(now)).min()
    }

    /// Sends the address to the kernel, where the clock allows it.
    pub fn renew(&mut self, hold: Hold) {
        let link = match self.usable_link() {
            Ok(link) => link,
            Err(fault) => return self.lose(fault),
        };
        let attended = if self.having.is_none() { self.host.attend() } else { Ok(()) };
        let mut sent = Ok(());
        for address in self.cap.addresses() {
            // From here to the kernel's answer nothing may come between: the clock is read right before and right after.
            match cap_address::renewal(hold.t0, hold.from, self.lease, self.clock.now()) {
                Renewal::Wait(_) => {
                    self.waiting = Some(hold);
                    return;
                }
                // The kernel ends what it still has.
                Renewal::TooLate => return,
                Renewal::Send => sent = self.host.put(&link, address),
            }
            if cap_address::is_late(hold.t0, self.lease, self.clock.now()) {
                tracing::warn!("the CAP's address was sent too late, and is taken back");
                drop(self.release());
                return;
            }
            if sent.is_err() {
                break;
            }
        }
        match sent {
            Ok(()) => {
                if self.having.is_none() {
                    self.taken();
                }
                if let Err(error) = attended {
                    self.unannounced(&error);
                }
            }
            Err(error) => self.lose(refused(&self.interface, &error)),
        }
    }

    /// The interface, where the address can be on it.
    fn usable_link(&mut self) -> Result<Link, String> {
        if let Some(fault) = &self.unanswered {
            return Err(fault.clone());
        }
        let link = self.host.link().map_err(|error| refused(&self.interface, &error))?;
        let means = cap_address::Means { link, permitted: true, fixed: None };
        match (cap_address::fault(&self.interface, &means), link) {
            (None, Some(link)) => Ok(link),
            (fault, _) => Err(fault.unwrap_or_default()),
        }
    }

    fn taken(&mut self) {
        let now = self.clock.now();
        let announcements = Announcements::new(now);
        self.having = Some(Having { announcements, probed: None, rival: Rival::default() });
        let told = format!("{} has the CAP's address {}, on {}", self.node, self.text(), self.interface);
        self.tell(Happening::info("cap_address_taken", told));
        self.stand(|standing| (standing.held, standing.fault) = (true, None));
    }

    /// Gives the address up because it cannot be held here.
    fn lose(&mut self, fault: String) {
        self.waiting = None;
        let had = self.having.is_some();
        drop(self.clear());
        if self.standing.borrow().fault.as_ref() != Some(&fault) {
            let told = match had {
                true => format!("{} has lost the CAP's address {}: {fault}", self.node, self.text()),
                false => format!("{} cannot have the CAP's address {}: {fault}", self.node, self.text()),
            };
            self.tell(Happening::critical("cap_address_lost", told));
        }
        self.stand(|standing| *standing = Standing { fault: Some(fault), ..Standing::default() });
    }

    /// Gives the address up because this node is the owner no more. An error says why the kernel may still have it.
    pub fn release(&mut self) -> Result<(), String> {
        if self.having.is_some() {
            let told = format!("{} has dropped the CAP's address {}", self.node, self.text());
            self.tell(Happening::info("cap_address_dropped", told));
        }
        let cleared = self.clear();
        self.stand(|standing| *standing = Standing { fault: standing.fault.take(), ..Standing::default() });
        cleared
    }

    /// Takes the address from the kernel, whatever this thread thinks it has.
    fn clear(&mut self) -> Result<(), String> {
        self.having = None;
        self.host.leave();
        // It ends by itself in any case, since it is renewed no more.
        self.host.clear().map(drop).map_err(|error| {
            tracing::error!(%error, "the CAP's address could not be taken from the kernel");
            error.to_string()
        })
    }

    /// Looks whether the address can be held here.
    pub fn look(&mut self) {
        if self.having.is_some() {
            if let Err(fault) = self.usable_link() {
                self.lose(fault);
            }
            return;
        }
        let fault = match (&self.unanswered, self.host.means()) {
            (Some(fault), _) => Some(fault.clone()),
            (None, Ok(means)) => cap_address::fault(&self.interface, &means),
            (None, Err(error)) => Some(refused(&self.interface, &error)),
        };
        let before = self.standing.borrow().fault.clone();
        if fault == before {
            return;
        }
        match &fault {
            Some(fault) => {
                let told = format!("{} could not hold the CAP's address {}: {fault}", self.node, self.text());
                self.tell(Happening::warning("cap_address_unfit", told));
            }
            None => {
                let told = format!("{} could hold the CAP's address {} again", self.node, self.text());
                self.tell(Happening::info("cap_address_fit", told));
            }
        }
        self.stand(|standing| standing.fault = fault);
    }

    /// Announces what is held, and looks for others that have it.
    pub fn tend(&mut self) {
        let now = self.clock.now();
        let Some(having) = &mut self.having else { return };
        let mut announce = having.announcements.is_due(now);
        let mut probed = Ok(());
        if having.probed.is_none_or(|at| now.since(at) >= PROBE_INTERVAL) {
            having.probed = Some(now);
            probed = self.host.probe();
        }
        let mut alarms = Vec::new();
        for who in self.host.claimants() {
            let defence = having.rival.seen(&who, now);
            announce |= defence.announce;
            if defence.alarm {
                alarms.push(who);
            }
        }
        let gone = having.rival.gone(now);
        let rival = having.rival.who().map(str::to_owned);
        // Who had learned the other's place learns this one again.
        let announced = if announce || gone.is_some() { self.host.announce() } else { Ok(()) };
        if let Err(error) = announced.and(probed) {
            self.unannounced(&error);
        }
        for who in alarms {
            let told = format!("{who} has the CAP's address {} as well: clients may reach it", self.text());
            self.tell(Happening::critical("cap_address_foreign", told).with("link_address", &who));
        }
        if let Some(who) = gone {
            let told = format!("{who} no longer has the CAP's address {}", self.text());
            self.tell(Happening::info("cap_address_foreign_gone", told).with("link_address", &who));
        }
        self.stand(|standing| standing.rival = rival);
    }

    /// Clients will find the address late. Told once as long as it is held.
    fn unannounced(&self, error: &io::Error) {
        let why = format!("{error} (a packet socket needs CAP_NET_RAW)");
        if self.standing.borrow().unannounced.as_ref() == Some(&why) {
            return;
        }
        let told = format!("the CAP's address {} cannot be announced: {why}", self.text());
        self.tell(Happening::warning("cap_address_unannounced", told));
        self.stand(|standing| standing.unannounced = Some(why));
    }

    fn text(&self) -> String {
        self.cap.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    fn tell(&self, happening: Happening) {
        self.events.record(happening.node(&self.node).with("interface", &self.interface));
    }

    fn stand(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            change(standing);
            *standing != before
        });
    }
}

/// What the kernel's refusal means for the address.
fn refused(interface: &InterfaceName, error: &io::Error) -> String {
    format!("the kernel refuses it on {interface}: {error}")
}

#[cfg(test)]
#[path = "keeper_test.rs"]
mod tests;
