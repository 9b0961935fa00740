//! Verified connections, and the table of those that are open: who is removed is closed through it (R11).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwap;

use crate::alpn::Alpn;
use crate::close::Close;
use crate::endpoint::failure::TurnedAway;
use crate::id::Fingerprint;
use crate::limits::{CONNECTIONS_PER_IDENTITY, STRANGERS_MAX};
use crate::transport::lock;
use crate::trust::{Caller, Distrust, Proven, TrustView};

/// Which side opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The other.
    Inbound,
    /// This one.
    Outbound,
}

/// An open connection whose other end is known. Dropping the last clone closes it: clones of the `quinn::Connection`
/// live no longer, so that nobody is out of the table's reach.
#[derive(Clone, Debug)]
pub struct Link(Arc<Open>);

#[derive(Debug)]
struct Open {
    number: u64,
    connection: quinn::Connection,
    alpn: Alpn,
    direction: Direction,
    proven: Proven,
    caller: ArcSwap<Caller>,
    table: Weak<Table>,
}

impl Link {
    /// The connection: for streams and datagrams.
    pub fn connection(&self) -> &quinn::Connection {
        &self.0.connection
    }

    /// The protocol.
    pub fn alpn(&self) -> Alpn {
        self.0.alpn
    }

    /// Who is at the other end, as the lists have it now: an unlisted member becomes a listed one without a new
    /// connection.
    pub fn caller(&self) -> Arc<Caller> {
        self.0.caller.load_full()
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// The certificate that the other end has shown, DER.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        super::presented(&self.0.connection).first().map(|leaf| leaf.to_vec())
    }

    /// Which side opened it.
    pub fn direction(&self) -> Direction {
        self.0.direction
    }

    /// Whether it is closed, by whichever side.
    pub fn is_closed(&self) -> bool {
        self.0.connection.close_reason().is_some()
    }

    /// Closes it.
    pub fn close(&self, close: Close, reason: &str) {
        close.apply(&self.0.connection, reason);
    }

    /// Whether both are the same connection.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            lock(&table.open).links.remove(&self.number);
        }
        Close::Done.apply(&self.connection, "");
    }
}

/// The open connections of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Table {
    open: Mutex<Links>,
}

#[derive(Debug, Default)]
struct Links {
    next: u64,
    links: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    link: Weak<Open>,
    alpn: Alpn,
    direction: Direction,
    key: Fingerprint,
    stranger: bool,
}

impl Table {
    /// Takes a verified connection in. The error is why it was closed instead.
    pub(crate) fn insert(
        self: &Arc<Self>,
        connection: quinn::Connection,
        alpn: Alpn,
        direction: Direction,
        proven: Proven,
        caller: Caller,
    ) -> Result<Link, Close> {
        let stranger = matches!(proven, Proven::Stranger { .. });
        let key = proven.key();
        let mut older = Vec::new();
        let link = {
            let mut open = lock(&self.open);
            if stranger && direction == Direction::Inbound {
                let strangers = open.links.values().filter(|entry| entry.stranger).count();
                if strangers >= STRANGERS_MAX {
                    drop(open);
                    Close::Busy.apply(&connection, "too many unknown nodes ask to join at once");
                    return Err(Close::Busy);
                }
            }
            if direction == Direction::Inbound {
                older = open.of(alpn, &key);
            }
            let number = open.next;
            open.next += 1;
            let caller = ArcSwap::from_pointee(caller);
            let table = Arc::downgrade(self);
            let link = Arc::new(Open { number, connection, alpn, direction, proven, caller, table });
            let entry = Entry { link: Arc::downgrade(&link), alpn, direction, key, stranger };
            open.links.insert(number, entry);
            Link(link)
        };
        older.retain(|old| !old.is_closed());
        let surplus = older.len().saturating_sub(kept_beside_a_new_one(alpn));
        for old in &older[..surplus] {
            old.close(Close::Replaced, "the same node has connected anew");
        }
        Ok(link)
    }

    /// Every open connection. The lock is released first: closing one may drop it, which takes the lock.
    pub(crate) fn links(&self) -> Vec<Link> {
        lock(&self.open).links.values().filter_map(|entry| entry.link.upgrade().map(Link)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.open).links.len()
    }

    /// Asks the lists anew about every connection, and closes those that no longer stand; which those were.
    pub(crate) fn examine(&self, view: &TrustView) -> Vec<TurnedAway> {
        self.links().iter().filter_map(|link| link.examine(view)).collect()
    }
}

impl Links {
    /// The inbound connections of this identity and protocol, oldest first. The caller drops them after the lock is
    /// released: dropping a last one takes it.
    fn of(&self, alpn: Alpn, key: &Fingerprint) -> Vec<Link> {
        self.links
            .values()
            .filter(|entry| entry.direction == Direction::Inbound && entry.alpn == alpn && entry.key == *key)
            .filter_map(|entry| entry.link.upgrade().map(Link))
            .collect()
    }
}

/// How many inbound connections of one identity may stay when one more comes.
const fn kept_beside_a_new_one(alpn: Alpn) -> usize {
    match alpn {
        Alpn::Gossip => 0,
        Alpn::Raft | Alpn::Control | Alpn::Broker | Alpn::Data | Alpn::Join => CONNECTIONS_PER_IDENTITY - 1,
    }
}

impl Link {
    /// Closes the connection where the other end may not have it any longer, and says why.
    pub(crate) fn examine(&self, view: &TrustView) -> Option<TurnedAway> {
        let reason = match view.standing(&self.0.proven) {
            Ok(caller) if view.admits(self.0.alpn, &caller) => {
                if *self.caller() != caller {
                    self.0.caller.store(Arc::new(caller));
                }
                return None;
            }
            Ok(_) => "not allowed on this protocol".to_owned(),
            // Its node has a new certificate by now, and may connect anew with it: that is no refusal.
            Err(distrust @ Distrust::Retired { .. }) => {
                tracing::debug!(remote = %self.remote(), alpn = %self.0.alpn, %distrust, "closing a connection");
                self.close(Close::Replaced, &distrust.to_string());
                return None;
            }
            Err(distrust) => distrust.to_string(),
        };
        tracing::info!(remote = %self.remote(), alpn = %self.0.alpn, %reason, "closing a connection");
        let open = !self.is_closed();
        self.close(Close::Removed, &reason);
        let who = self.0.proven.fqdn().map(ToString::to_string);
        open.then(|| TurnedAway { remote: self.remote(), who, why: reason })
    }
}
