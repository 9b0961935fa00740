//! A network between nodes, whose delays, losses and cuts a seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use landfall_proto::seam::Net;
use quinn::udp::EcnCodepoint;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tokio::time::Instant;

use super::share::Share;
use super::socket::{Inbox, Packet, SimSocket};
use super::trace::{Datagram, Fate, Trace};

/// The largest UDP payload carried: an Ethernet frame's 1,500 bytes less the IPv4 and UDP headers.
const PAYLOAD_MAX: usize = 1472;
/// Where ports that nobody asked for begin, as on a real machine.
const FIRST_FREE_PORT: u16 = 49_152;

/// How a way between two nodes treats datagrams. Chances are between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// The least time on the way.
    pub delay: Duration,
    /// The most that chance adds to it; more than the time between two datagrams reorders them.
    pub jitter: Duration,
    /// The chance that a datagram is lost.
    pub loss: f64,
    /// The chance that it arrives twice.
    pub duplicate: f64,
    /// The chance that it is held back for up to ten times the delay and jitter, so that later ones overtake it.
    pub reorder: f64,
    /// The chance that one byte of it is changed.
    pub damage: f64,
}

impl Weather {
    /// A local network on a good day: 200 us, nothing lost.
    pub const CALM: Self = Self {
        delay: Duration::from_micros(200),
        jitter: Duration::from_micros(50),
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        damage: 0.0,
    };

    /// A bad wide-area way: 1-6 ms, 5 % lost, 1 % twice, 2 % held back, 0.1 % damaged.
    pub const ROUGH: Self = Self {
        delay: Duration::from_millis(1),
        jitter: Duration::from_millis(5),
        loss: 0.05,
        duplicate: 0.01,
        reorder: 0.02,
        damage: 0.001,
    };
}

/// A network. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct SimNet(Arc<Mutex<Wire>>);

#[derive(Debug)]
struct Wire {
    start: Instant,
    random: ChaCha12Rng,
    weather: Weather,
    ways: BTreeMap<(IpAddr, IpAddr), Weather>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    floating: BTreeMap<IpAddr, IpAddr>,
    shares: BTreeMap<IpAddr, Share>,
    sockets: BTreeMap<SocketAddr, Weak<Mutex<Inbox>>>,
    next_port: u16,
    sent: u64,
    trace: Trace,
}

impl SimNet {
    /// A network on which every chance is decided by `seed`. Make it inside [`super::run`]: its time starts now.
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self(Arc::new(Mutex::new(Wire {
            start: Instant::now(),
            random: ChaCha12Rng::seed_from_u64(seed),
            weather,
            ways: BTreeMap::new(),
            cuts: BTreeSet::new(),
            floating: BTreeMap::new(),
            shares: BTreeMap::new(),
            sockets: BTreeMap::new(),
            next_port: FIRST_FREE_PORT,
            sent: 0,
            trace: Trace::default(),
        })))
    }

    /// The end of the network that the node with `address` sees.
    pub fn node(&self, address: IpAddr) -> Arc<SimNode> {
        Arc::new(SimNode { net: self.clone(), address })
    }

    /// Changes the weather on every way that has none of its own.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Gives the way from one node to another its own weather.
    pub fn set_way(&self, from: IpAddr, to: IpAddr, weather: Weather) {
        self.lock().ways.insert((from, to), weather);
    }

    /// Cuts one direction: `to` no longer hears `from`. What is on its way still arrives.
    pub fn cut_one_way(&self, from: IpAddr, to: IpAddr) {
        self.lock().cuts.insert((from, to));
    }

    /// Cuts both directions between two nodes.
    pub fn cut(&self, a: IpAddr, b: IpAddr) {
        self.lock().cuts.extend([(a, b), (b, a)]);
    }

    /// Cuts every way between the nodes of one side and those of the other.
    pub fn partition(&self, one: &[IpAddr], other: &[IpAddr]) {
        let mut wire = self.lock();
        for &a in one {
            wire.cuts.extend(other.iter().flat_map(|&b| [(a, b), (b, a)]));
        }
    }

    /// Joins both directions between two nodes again.
    pub fn heal(&self, a: IpAddr, b: IpAddr) {
        let mut wire = self.lock();
        wire.cuts.remove(&(a, b));
        wire.cuts.remove(&(b, a));
    }

    /// Joins everything again.
    pub fn heal_all(&self) {
        self.lock().cuts.clear();
    }

    /// Gives a floating address (a CAP's) to `node`, or to nobody. Datagrams to it reach that node's sockets.
    pub fn float(&self, address: IpAddr, node: Option<IpAddr>) {
        let mut wire = self.lock();
        match node {
            Some(node) => wire.floating.insert(address, node),
            None => wire.floating.remove(&address),
        };
    }

    /// Gives `node` only a share of a processor from now on.
    pub fn throttle(&self, node: IpAddr, share: Share) {
        self.lock().shares.insert(node, share);
    }

    /// What was sent so far.
    pub fn trace(&self) -> Trace {
        self.lock().trace.clone()
    }

    /// A hash of what was sent so far.
    pub fn digest(&self) -> blake3::Hash {
        self.lock().trace.digest()
    }

    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, from: SocketAddr, to: SocketAddr, ecn: Option<EcnCodepoint>, contents: &[u8]) {
        // Woken only after the lock is free: a waker may run code that sends.
        let waker = self.lock().send(from, to, ecn, contents);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn close(&self, address: SocketAddr) {
        self.lock().sockets.remove(&address);
    }
}

impl Wire {
    fn send(&mut self, from: SocketAddr, to: SocketAddr, ecn: Option<EcnCodepoint>, contents: &[u8]) -> Option<Waker> {
        let node = self.floating.get(&to.ip()).copied().unwrap_or(to.ip());
        // A floating address as the sender's (a reply from a CAP) stands for the node that sends.
        let sender = self.floating.get(&from.ip()).copied().unwrap_or(from.ip());
        let inbox = self.sockets.get(&SocketAddr::new(node, to.port())).and_then(Weak::upgrade);
        let weather = self.ways.get(&(sender, node)).copied().unwrap_or(self.weather);
        let (inbox, fate) = match inbox {
            _ if contents.len() > PAYLOAD_MAX => (None, Fate::TooLarge),
            _ if self.cuts.contains(&(sender, node)) => (None, Fate::Cut),
            _ if self.random.random_bool(weather.loss) => (None, Fate::Lost),
            None => (None, Fate::Nobody),
            Some(inbox) => {
                let delay = self.delay(sender, node, weather);
                let damaged = self.random.random_bool(weather.damage) && !contents.is_empty();
                (Some(inbox), if damaged { Fate::Damaged(delay) } else { Fate::Arrives(delay) })
            }
        };
        let Some(inbox) = inbox else {
            self.record(from, to, contents, fate);
            return None;
        };
        let mut packet = Packet { from, to: to.ip(), ecn, contents: contents.to_vec() };
        let mut waker = None;
        if self.random.random_bool(weather.duplicate) {
            let again = self.delay(sender, node, weather);
            waker = self.deliver(&inbox, from, to, &packet, Fate::Again(again));
        }
        if let Fate::Damaged(_) = fate {
            let place = self.random.random_range(0..packet.contents.len());
            packet.contents[place] ^= 1 << self.random.random_range(0..8);
        }
        self.deliver(&inbox, from, to, &packet, fate).or(waker)
    }

    fn deliver(
        &mut self,
        inbox: &Mutex<Inbox>,
        from: SocketAddr,
        to: SocketAddr,
        packet: &Packet,
        fate: Fate,
    ) -> Option<Waker> {
        let (Fate::Arrives(delay) | Fate::Again(delay) | Fate::Damaged(delay)) = fate else { return None };
        self.sent += 1;
        let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = inbox.put(Instant::now() + delay, self.sent, packet.clone());
        self.record(from, to, &packet.contents, if taken { fate } else { Fate::Overflow });
        inbox.waker.take()
    }

    /// How long a datagram is on its way that `from` sends now: it leaves, and is taken in, when its ends get to run.
    fn delay(&mut self, from: IpAddr, to: IpAddr, weather: Weather) -> Duration {
        let now = self.start.elapsed();
        let turn = |node, at| self.shares.get(&node).map_or(at, |share| share.next(at));
        let leaves = turn(from, now);
        let mut delay = weather.delay + weather.jitter.mul_f64(self.random.random());
        if self.random.random_bool(weather.reorder) {
            delay += (weather.delay + weather.jitter).mul_f64(10.0 * self.random.random::<f64>());
        }
        turn(to, leaves + delay) - now
    }

    fn record(&mut self, from: SocketAddr, to: SocketAddr, contents: &[u8], fate: Fate) {
        let at = self.start.elapsed();
        self.trace.record(Datagram { at, from, to, bytes: contents.len(), contents: [0; 8], fate }, contents);
    }
}

/// One node's end of a [`SimNet`]: the product's `Net`.
#[derive(Debug)]
pub struct SimNode {
    net: SimNet,
    address: IpAddr,
}

impl SimNode {
    /// The node's address.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Net for SimNode {
    /// A socket of this node. An unspecified address stands for the node's own.
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        if !address.ip().is_unspecified() && address.ip() != self.address {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{address} is not of {}", self.address),
            ));
        }
        let mut wire = self.net.lock();
        let port = match address.port() {
            0 => {
                let port = wire.next_port;
                wire.next_port = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
                port
            }
            port => port,
        };
        let local = SocketAddr::new(self.address, port);
        if wire.sockets.get(&local).is_some_and(|socket| socket.strong_count() > 0) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{local} is taken")));
        }
        let inbox = Arc::new(Mutex::new(Inbox::new()));
        wire.sockets.insert(local, Arc::downgrade(&inbox));
        Ok(Arc::new(SimSocket::new(self.net.clone(), local, inbox)))
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime)
    }
}

/// quinn's timers and tasks on tokio's virtual clock. It has no real sockets.
#[derive(Debug)]
pub struct SimRuntime;

impl Runtime for SimRuntime {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(tokio::time::sleep_until(at.into()))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(future);
    }

    fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulation opens no real socket"))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}
