//! The CAP's address on this node: held while this agent acts as the owner, gone by itself when the agent is.
//!
//! What may be done when is [`crate::decide::cap_address`]. Here are the thread that does it (`keeper`), what it asks of
//! the machine ([`host`]: addresses by [`kernel`], announcements by `wire` and `frame`), and the handle of the rest of
//! the agent.

mod frame;
pub mod host;
mod keeper;
pub mod kernel;
mod unfit;
mod wire;

pub use self::unfit::could_hold;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use landfall_proto::id::{InterfaceName, Term};
use landfall_proto::model::CapAddress;
use landfall_proto::seam::{Clock, Time};
use landfall_proto::{Class, Refusal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::host::Hosts;
use self::keeper::{Dropped, Keeper, Orders};
use crate::config::NodeConfig;
use crate::decide::cap_address;
use crate::drive::events::Events;
use crate::drive::gossip::CapAddressFacts;
use crate::drive::node::Node;
use crate::drive::owner::{GiveBack, Tenure};

/// How long the kernel may take to give an address back before somebody is told: it takes microseconds, unless another
/// process holds its lock of the network's configuration.
const DROP_DEADLINE: Duration = Duration::from_millis(400);

/// How often a left-over address that cannot be deleted is looked for: it ends by itself.
const LEFT_OVER_PAUSE: Duration = Duration::from_millis(50);

/// On the strength of what the address is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When the quorum was asked that confirmed the lease.
    pub t0: Time,
    /// From when the predecessor's address is surely gone.
    pub from: Time,
}

/// How things stand with the address on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether this node has it.
    pub held: bool,
    /// Why it cannot have it.
    pub fault: Option<String>,
    /// The link-layer address of somebody else who has it as well.
    pub rival: Option<String>,
    /// Why it is not announced.
    pub unannounced: Option<String>,
}

/// This node's part in holding the address.
#[derive(Debug)]
pub struct CapAddressKeeper {
    cap: CapAddress,
    interface: InterfaceName,
    orders: Arc<Orders>,
    standing: watch::Receiver<Standing>,
    dropped: watch::Receiver<Dropped>,
    lease: Duration,
}

/// What keeping stands on.
pub struct Ground<'a> {
    /// The machine.
    pub hosts: &'a dyn Hosts,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The lease L.
    pub lease: Duration,
    /// The node's file.
    pub config: &'a NodeConfig,
    /// Where to tell people.
    pub events: Events,
}

impl CapAddressKeeper {
    /// This node's part, where the CAP has an address and the node can own the CAP.
    pub async fn of(ground: Ground<'_>, cap: Option<CapAddress>) -> Result<Option<Arc<Self>>, Refusal> {
        match cap.filter(|_| !ground.config.witness) {
            Some(cap) => Ok(Some(Arc::new(Self::start(ground, cap).await?))),
            None => Ok(None),
        }
    }

    /// Takes away what an earlier life of this agent may have left in the kernel, and stands ready.
    async fn start(ground: Ground<'_>, cap: CapAddress) -> Result<Self, Refusal> {
        let Ground { hosts, clock, lease, config, events } = ground;
        let interface = config.cap_interface.clone().unwrap_or_else(|| cap.interface().clone());
        let mut host = hosts.host(&interface, &cap).map_err(|error| untold(&error))?;
        // Before this node can vote: what it had as the owner must be gone before anybody is elected with its help.
        let patience = clock.now().after(cap_address::LIFETIME + cap_address::LATE);
        while let Err(error) = host.clear() {
            if clock.now() >= patience {
                tracing::error!(%error, "a left-over address of the CAP was waited for, and could not be deleted");
                break;
            }
            sleep(LEFT_OVER_PAUSE).await;
        }
        let (standing, seen) = watch::channel(Standing::default());
        let (done, dropped) = watch::channel(Dropped::default());
        let unanswered = cap_address::unanswered((config.listen.ip(), config.listen.port()), &cap);
        let mut keeper = Keeper {
            host,
            clock,
            lease,
            interface: interface.clone(),
            cap: cap.clone(),
            unanswered,
            events,
            node: config.node.clone(),
            standing,
            dropped: done,
            having: None,
            waiting: None,
        };
        // Known before the node stands for anything.
        keeper.look();
        let orders = Arc::new(Orders::default());
        let given = Arc::clone(&orders);
        std::thread::Builder::new().name("cap-address".to_owned()).spawn(move || keeper.run(&given)).map_err(
            |error| Refusal::new(Class::Failed, "cap_address", format!("no thread can be started: {error}")),
        )?;
        Ok(Self { cap, interface, orders, standing: seen, dropped, lease })
    }

    /// What is held.
    pub fn cap(&self) -> &CapAddress {
        &self.cap
    }

    /// The interface on this node.
    pub fn interface(&self) -> &InterfaceName {
        &self.interface
    }

    /// How things stand, as they change.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// How things stand.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// What gossip tells of it.
    pub fn facts(&self) -> CapAddressFacts {
        let Standing { held, fault, rival, unannounced } = self.standing();
        CapAddressFacts { held, fault, foreign: rival, unannounced }
    }

    /// Holds the address as long as `node` acts as the owner, until the task is dropped.
    async fn follow(self: Arc<Self>, node: Node) {
        let (lease, clock) = (self.lease, Arc::clone(&node.outside.clock));
        let mut tenures = node.owner.watch();
        let mut begun: Option<(Term, Time)> = None;
        loop {
            let tenure: Option<Tenure> = *tenures.borrow_and_update();
            match tenure {
                Some(Tenure { term, ends_at, vacant, .. }) => {
                    // Seen for the first time, its election is over.
                    let from = match begun {
                        Some((known, from)) if known == term => from,
                        // The one before has given it back.
                        _ if vacant => clock.now(),
                        _ => cap_address::taken_from(clock.now(), lease),
                    };
                    begun = Some((term, from));
                    self.orders.renew(Hold { t0: cap_address::asked_at(ends_at, lease), from });
                }
                None if begun.take().is_some() => drop(self.orders.drop_address()),
                None => {}
            }
            if tenures.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes the address from the kernel, and returns when it is gone.
    pub async fn give_up(&self) -> Result<(), Refusal> {
        let which = self.orders.drop_address();
        let mut dropped = self.dropped.clone();
        let done = timeout(DROP_DEADLINE, dropped.wait_for(|done| done.which >= which)).await;
        let fault = match done {
            Ok(Ok(done)) => done.fault.clone(),
            Ok(Err(_)) => None,
            Err(_) => Some(format!("it has not answered within {DROP_DEADLINE:?}")),
        };
        fault.map_or(Ok(()), |why| {
            let message = format!("the kernel has not given the CAP's address back: {why}");
            Err(Refusal::new(Class::Failed, "address_held", message).remedy("it ends by itself within 2 s; try again"))
        })
    }
}

/// Holds the address while `node` acts as the owner, and keeps the node from being that while it could not, until the task
/// is dropped.
pub async fn keep(node: Node) {
    if let Some(keeper) = node.cap_address.clone() {
        node.owner.gives_back(Arc::<CapAddressKeeper>::clone(&keeper));
        let standing = keeper.watch();
        tokio::join!(keeper.follow(node.clone()), unfit::stand_back(standing, node));
    }
}

/// Refuses an interface on which this node could not hold `cap`. One that is down for now will do.
pub fn check(hosts: &dyn Hosts, interface: &InterfaceName, cap: &CapAddress) -> Result<(), Refusal> {
    let means = hosts.host(interface, cap).and_then(|mut host| host.means()).map_err(|error| untold(&error))?;
    let field = if means.fixed.is_some() { "cap_address" } else { "cap_interface" };
    let passing = means.permitted && means.fixed.is_none() && means.link.is_some();
    match cap_address::fault(interface, &means).filter(|_| !passing) {
        None => Ok(()),
        Some(why) => {
            let message = format!("{field}: this node cannot hold the CAP's address on {interface}");
            Err(Refusal::new(Class::Usage, "invalid_value", message).field(field).remedy(why))
        }
    }
}

fn untold(error: &io::Error) -> Refusal {
    let message = format!("the kernel does not tell this machine's addresses: {error}");
    Refusal::new(Class::Failed, "cap_address", message)
        .field("cap_interface")
        .remedy("the agent needs netlink sockets (in a systemd unit: RestrictAddressFamilies=... AF_NETLINK)")
}

#[async_trait]
impl GiveBack for CapAddressKeeper {
    async fn give_back(&self, _: Term) -> Result<(), Refusal> {
        self.give_up().await
    }
}

impl Drop for CapAddressKeeper {
    fn drop(&mut self) {
        self.orders.stop();
    }
}
