//! The way to a port of a node, on which what one node says to another can be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::node::{Node, NodeSpec};

/// The longest datagram there is.
const DATAGRAM_MAX: usize = 65_535;
/// How often a thread that hears nothing looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// One of the two ports of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// What agents and peers tell each other.
    Control,
    /// What carries disks.
    Data,
}

/// Stands in front of one port of one node: the others dial it. Agents dial from the port that they listen at, so that it
/// knows who says what to whom; what they say it cannot read.
///
/// To cut the way from one node to another, cut it at both: [`Relay::lose_from`] where the other is, for what is said on
/// connections that came from the one, and [`Relay::lose_to`] where the one is, for what it answers on those of the other.
#[derive(Clone, Debug)]
pub struct Relay {
    port: Port,
    front: Arc<UdpSocket>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Where the node listens.
    node: Option<SocketAddr>,
    /// For each who dials, the socket that speaks for it.
    behind: BTreeMap<SocketAddr, Arc<UdpSocket>>,
    lost_from: BTreeSet<SocketAddr>,
    lost_to: BTreeSet<SocketAddr>,
    /// To how many more bytes of answers someone has a right.
    left: BTreeMap<SocketAddr, usize>,
}

impl Inner {
    /// Whether so long an answer to `to` is lost.
    fn loses(&mut self, to: SocketAddr, length: usize) -> bool {
        let spent = self.left.get_mut(&to).is_some_and(|left| {
            *left = left.saturating_sub(length);
            *left == 0
        });
        spent || self.lost_to.contains(&to)
    }
}

impl Relay {
    /// One for a port of the node of `spec`, which from now on advertises it.
    pub fn before(port: Port, spec: &mut NodeSpec) -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free UDP port");
        let address = front.local_addr().expect("a bound socket has an address");
        let field = match port {
            Port::Control => "advertise",
            Port::Data => "data_advertise",
        };
        spec.config.insert(field.into(), address.to_string().into());
        Self { port, front: Arc::new(front), inner: Arc::default() }
    }

    /// Leads to `node` from now on, until the last clone is dropped. To be called before its agent starts.
    pub fn lead_to(&self, node: &Node) {
        self.lock().node = Some(self.address(node));
        self.front.set_read_timeout(Some(LOOK)).expect("a socket can be told to wait less");
        self.carry(Arc::clone(&self.front), |way, from, datagram| {
            // As the network does it: what cannot be delivered is lost.
            drop(way.behind(from).map(|behind| behind.map(|behind| behind.send(datagram))));
        });
    }

    /// Has `deliver` what arrives at `socket`, and from where, in a thread that ends with the last clone.
    fn carry(&self, socket: Arc<UdpSocket>, deliver: impl Fn(&Self, SocketAddr, &[u8]) + Send + 'static) {
        let (port, front, inner) = (self.port, Arc::clone(&self.front), Arc::downgrade(&self.inner));
        thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM_MAX];
            while inner.strong_count() > 0 {
                let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
                let Some(inner) = inner.upgrade() else { return };
                deliver(&Self { port, front: Arc::clone(&front), inner }, from, &datagram[..length]);
            }
        });
    }

    /// What `node` says on its own connections is lost from now on.
    pub fn lose_from(&self, node: &Node) {
        self.lock().lost_from.insert(self.address(node));
    }

    /// What is answered to `node` is lost from now on.
    pub fn lose_to(&self, node: &Node) {
        self.lock().lost_to.insert(self.address(node));
    }

    /// What is answered to `node` is lost once it is more than so many bytes.
    pub fn stop_to_after(&self, node: &Node, bytes: usize) {
        self.lock().left.insert(self.address(node), bytes);
    }

    /// Whether `node` has had the bytes that it may have.
    pub fn has_stopped_to(&self, node: &Node) -> bool {
        self.lock().left.get(&self.address(node)) == Some(&0)
    }

    /// Nothing is lost any more.
    pub fn heal(&self) {
        let mut inner = self.lock();
        (inner.lost_from, inner.lost_to, inner.left) = Default::default();
    }

    /// The socket that speaks for whoever dials from `from`; none where what it says is lost.
    fn behind(&self, from: SocketAddr) -> io::Result<Option<Arc<UdpSocket>>> {
        let mut inner = self.lock();
        if inner.lost_from.contains(&from) {
            return Ok(None);
        }
        if let Some(behind) = inner.behind.get(&from) {
            return Ok(Some(Arc::clone(behind)));
        }
        let behind = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
        behind.connect(inner.node.ok_or(io::ErrorKind::NotConnected)?)?;
        behind.set_read_timeout(Some(LOOK))?;
        inner.behind.insert(from, Arc::clone(&behind));
        self.carry(Arc::clone(&behind), move |way, _, datagram| {
            if !way.lock().loses(from, datagram.len()) {
                drop(way.front.send_to(datagram, from));
            }
        });
        Ok(Some(behind))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `node` listens, and from where it dials.
    fn address(&self, node: &Node) -> SocketAddr {
        let (control, data) = node.ports();
        match self.port {
            Port::Control => control,
            Port::Data => data,
        }
    }
}
