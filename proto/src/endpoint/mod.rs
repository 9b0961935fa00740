//! An agent's end of the network: one UDP socket for dialling and listening, connections whose other end is known.
//!
//! [`Endpoint::accept`] yields connections that are verified and allowed on their protocol, nothing else; everything
//! before that is bounded (R10). Open connections are re-examined whenever [`Trust`] changes (R11). What is said on
//! them is the agent's.

mod driver;
mod failure;
mod gate;
mod link;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use quinn::ConnectionError;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

pub use failure::{DialError, Gone, TurnedAway};
pub use link::{Direction, Link};

use crate::alpn::Alpn;
use crate::close::Close;
use crate::id::{Fingerprint, Fqdn};
use crate::limits::{ACCEPT_QUEUE, HANDSHAKE_TIME, SHUT_DOWN_TIME, TURNED_AWAY_QUEUE};
use crate::refusal::{Class, Refusal};
use crate::seam::Outside;
use crate::tls::{self, Expect, Identity};
use crate::transport;
use crate::trust::{Caller, Distrust, Proven, Side, Trust};
use driver::Driver;
use failure::Unwelcome;
use gate::{Gate, Verdict};
use link::Table;

/// Which of an agent's two endpoints: bulk must never queue before a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything but data.
    Control,
    /// `landfall-data/1`.
    Data,
}

impl Role {
    /// The endpoint that speaks `alpn`.
    pub const fn of(alpn: Alpn) -> Self {
        match alpn {
            Alpn::Data => Self::Data,
            Alpn::Gossip | Alpn::Raft | Alpn::Control | Alpn::Broker | Alpn::Join => Self::Control,
        }
    }

    const fn alpns(self) -> &'static [Alpn] {
        match self {
            Self::Control => Alpn::CONTROL_ENDPOINT,
            Self::Data => Alpn::DATA_ENDPOINT,
        }
    }
}

/// Where to dial, and what must answer there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The cluster whose node must answer.
    pub cap: Fqdn,
    /// The address: control or data, as the protocol needs.
    pub address: SocketAddr,
    /// The node's key, where exactly one node will do.
    pub key: Option<Fingerprint>,
}

/// One endpoint of an agent. Clones are handles to the same one; dropping the last closes it.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    outside: Outside,
    role: Role,
    trust: Trust,
    identity: ArcSwap<Identity>,
    driver: ArcSwap<Driver>,
    table: Arc<Table>,
    gate: Arc<Gate>,
    accepted: mpsc::Sender<Link>,
    waiting: Mutex<mpsc::Receiver<Link>>,
    shut: watch::Sender<bool>,
    turned_away: mpsc::Sender<TurnedAway>,
    told: Mutex<mpsc::Receiver<TurnedAway>>,
}

impl Endpoint {
    /// Binds `address` (port 0 takes any) and starts to listen, if `identity` has a certificate.
    pub fn bind(
        outside: &Outside,
        role: Role,
        address: SocketAddr,
        trust: Trust,
        identity: Identity,
    ) -> Result<Self, Refusal> {
        let driver = Driver::bind(outside, role, identity.key(), address).map_err(|error| {
            let field = if role == Role::Control { "listen" } else { "data_listen" };
            Refusal::new(Class::Failed, "bind_failed", format!("{field}: {address} cannot be bound: {error}"))
                .field(field)
                .remedy("use an address of this machine and a free UDP port")
        })?;
        let (accepted, waiting) = mpsc::channel(ACCEPT_QUEUE);
        let (turned_away, told) = mpsc::channel(TURNED_AWAY_QUEUE);
        let inner = Arc::new(Inner {
            outside: outside.clone(),
            role,
            trust,
            identity: ArcSwap::from_pointee(identity),
            driver: ArcSwap::from_pointee(driver),
            table: Arc::default(),
            gate: Arc::default(),
            accepted,
            waiting: Mutex::new(waiting),
            shut: watch::Sender::new(false),
            turned_away,
            told: Mutex::new(told),
        });
        inner.listen_as_identity(&inner.driver.load())?;
        inner.clone().start_listening();
        inner.start_examining();
        Ok(Self(inner))
    }

    /// The address that it is bound to.
    pub fn local_address(&self) -> Result<SocketAddr, Refusal> {
        self.0
            .driver
            .load()
            .local_address()
            .map_err(|error| Refusal::new(Class::Failed, "bind_failed", format!("the socket has no address: {error}")))
    }

    /// The seams that it was made with.
    pub fn outside(&self) -> &Outside {
        &self.0.outside
    }

    /// The trust that it asks.
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// Who this node says it is.
    pub fn identity(&self) -> Arc<Identity> {
        self.0.identity.load_full()
    }

    /// Changes who this node says it is, for new connections: after init or join it begins to listen.
    pub fn set_identity(&self, identity: Identity) -> Result<(), Refusal> {
        self.0.identity.store(Arc::new(identity));
        self.0.listen_as_identity(&self.0.driver.load())
    }

    /// The next connection from outside: verified, listed or newer than the list, and allowed on its protocol.
    pub async fn accept(&self) -> Result<Link, Gone> {
        let driver = self.0.driver.load_full();
        let (mut ended, mut shut) = (driver.ended(), self.0.shut.subscribe());
        let mut waiting = self.0.waiting.lock().await;
        tokio::select! {
            biased;
            _ = shut.wait_for(|shut| *shut) => Err(Gone::ShutDown),
            link = waiting.recv() => link.ok_or(Gone::ShutDown),
            _ = ended.wait_for(|ended| *ended) => Err(Gone::Lost),
        }
    }

    /// The next one that was turned away before [`Endpoint::accept`] would have yielded it, or whose open connection the
    /// lists have ended. Past [`TURNED_AWAY_QUEUE`] that nobody took they are left out.
    pub async fn turned_away(&self) -> TurnedAway {
        match self.0.told.lock().await.recv().await {
            Some(turned_away) => turned_away,
            // Not while this handle is there.
            None => std::future::pending().await,
        }
    }

    /// Closes every connection, takes no more, and waits until the other sides can know (bounded by a second).
    pub async fn shut_down(&self) {
        self.0.shut.send_replace(true);
        let quinn = self.0.driver.load().quinn.clone();
        quinn.close(Close::Done.code(), b"the agent stops");
        let _ = timeout(SHUT_DOWN_TIME, quinn.wait_idle()).await;
    }

    /// Dials a node. The caller keeps the link; see [`crate::calls::Calls`] for a pool.
    pub async fn dial(&self, target: &Target, alpn: Alpn) -> Result<Link, DialError> {
        let expect = Expect::Node { cap: target.cap.clone(), key: target.key };
        self.0.dial(target.address, alpn, expect).await
    }

    /// Dials an agent of the cluster that an invitation names, on `landfall-join/1`.
    pub async fn dial_join(&self, address: SocketAddr, cap: &Fqdn, ca: Fingerprint) -> Result<Link, DialError> {
        self.0.dial(address, Alpn::Join, Expect::Invited { cap: cap.clone(), ca }).await
    }

    /// Closes every open connection whose other end `of` picks; says how many.
    pub fn close(&self, of: impl Fn(&Caller) -> bool, close: Close, reason: &str) -> usize {
        let picked: Vec<Link> = self.0.table.links().into_iter().filter(|link| of(&link.caller())).collect();
        for link in &picked {
            link.close(close, reason);
        }
        picked.len()
    }

    /// Closes what the lists no longer allow; says how many. Happens by itself after [`Trust::set`]; a caller that must
    /// know that it has happened calls it.
    pub fn examine(&self) -> usize {
        self.0.examine()
    }

    /// Every open connection.
    pub fn links(&self) -> Vec<Link> {
        self.0.table.links().into_iter().filter(|link| !link.is_closed()).collect()
    }

    /// Whether quinn's task is gone.
    pub fn is_lost(&self) -> bool {
        self.0.driver.load().is_lost()
    }

    /// Starts a new task in place of one that is gone. Every connection is lost; trust and identity stay.
    pub fn restart(&self) -> Result<(), Refusal> {
        let inner = &self.0;
        let old = inner.driver.load_full();
        if !old.is_lost() {
            return Ok(());
        }
        let driver = old.replace(&inner.outside, inner.role, inner.identity.load().key()).map_err(|error| {
            Refusal::new(Class::Failed, "bind_failed", format!("the endpoint cannot be bound again: {error}"))
        })?;
        inner.listen_as_identity(&driver)?;
        inner.driver.store(Arc::new(driver));
        for link in inner.table.links() {
            link.close(Close::Done, "the endpoint was restarted");
        }
        inner.clone().start_listening();
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.load().quinn.close(Close::Done.code(), b"the agent stops");
    }
}

impl Inner {
    fn listen_as_identity(&self, driver: &Driver) -> Result<(), Refusal> {
        let identity = self.identity.load();
        let crypto = tls::server(&self.outside, &self.trust, &identity, self.role.alpns())?;
        let config =
            crypto.map(|crypto| transport::server(self.role, crypto, &*self.outside.random, &self.outside.clock));
        driver.quinn.set_server_config(config);
        Ok(())
    }

    /// Takes attempts from quinn until its task ends. Holds no handle to the endpoint, so that it can be dropped.
    fn start_listening(self: Arc<Self>) {
        let quinn = self.driver.load().quinn.clone();
        let inner = Arc::downgrade(&self);
        self.outside.net.runtime().spawn(Box::pin(async move {
            while let Some(incoming) = quinn.accept().await {
                let Some(inner) = inner.upgrade() else { return };
                inner.admit(incoming);
            }
        }));
    }

    /// Re-examines open connections after each change of trust.
    fn start_examining(self: &Arc<Self>) {
        let mut changes = self.trust.changes();
        let inner: Weak<Self> = Arc::downgrade(self);
        self.outside.net.runtime().spawn(Box::pin(async move {
            while changes.changed().await.is_ok() {
                let Some(inner) = inner.upgrade() else { return };
                inner.examine();
            }
        }));
    }

    fn examine(&self) -> usize {
        let ended = self.table.examine(&self.trust.view());
        let count = ended.len();
        ended.into_iter().for_each(|ended| self.tell(ended));
        count
    }

    fn tell(&self, turned_away: TurnedAway) {
        // Nobody needs to know all of a flood.
        drop(self.turned_away.try_send(turned_away));
    }

    fn admit(self: Arc<Self>, incoming: quinn::Incoming) {
        let address = incoming.remote_address().ip();
        match gate::verdict(self.gate.load(address, self.table.len()), incoming.remote_address_validated()) {
            Verdict::Accept => {}
            Verdict::Retry => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
                return;
            }
            Verdict::Refuse => {
                self.tell(TurnedAway {
                    remote: incoming.remote_address(),
                    who: None,
                    why: "too many connections".into(),
                });
                return incoming.refuse();
            }
            Verdict::Ignore => return incoming.ignore(),
        }
        let handshake = self.gate.enter(address);
        let runtime = self.outside.net.runtime();
        runtime.spawn(Box::pin(async move {
            let remote = incoming.remote_address();
            match Arc::clone(&self).welcome(incoming).await {
                Ok(()) => {}
                Err(Unwelcome::Gone(why)) => tracing::debug!(%remote, %why, "a connection was given up"),
                Err(Unwelcome::Refused(who, why)) => {
                    tracing::debug!(%remote, %why, "refused a connection");
                    self.tell(TurnedAway { remote, who, why });
                }
            }
            drop(handshake);
        }));
    }

    async fn welcome(self: Arc<Self>, incoming: quinn::Incoming) -> Result<(), Unwelcome> {
        let connecting = incoming.accept()?;
        let connection = timeout(HANDSHAKE_TIME, connecting)
            .await
            .map_err(|_| Unwelcome::Refused(None, "the handshake took too long".to_owned()))??;
        let mut who = None;
        let refuse = |who: Option<String>, close: Close, reason: String| {
            close.apply(&connection, &reason);
            Err(Unwelcome::Refused(who, reason))
        };
        let Some(alpn) = Alpn::of(&connection) else {
            return refuse(who, Close::Protocol, "no protocol of ours".to_owned());
        };
        let chain = presented(&connection);
        let Some((leaf, rest)) = chain.split_first() else {
            return refuse(who, Close::NotAllowed, "no certificate".to_owned());
        };
        let view = self.trust.view();
        let proven = match view.prove(leaf, rest, Side::Client, self.trust.time(self.outside.clock.wall())) {
            Ok(proven) => proven,
            Err(distrust) => return refuse(who, Close::NotAllowed, distrust.to_string()),
        };
        who = proven.fqdn().map(ToString::to_string);
        let caller = match view.standing(&proven) {
            Ok(caller) => caller,
            Err(distrust) => return refuse(who, Close::Removed, distrust.to_string()),
        };
        if !view.admits(alpn, &caller) {
            return refuse(who, Close::NotAllowed, format!("this node may not open {alpn} here"));
        }
        let link = self
            .table
            .insert(connection, alpn, Direction::Inbound, proven, caller)
            .map_err(|close| Unwelcome::Refused(who.clone(), close.to_string()))?;
        // The lists may have changed since they were asked: from here on the table is examined at every change.
        if link.examine(&self.trust.view()).is_some() {
            return Err(Unwelcome::Refused(who, "removed meanwhile".to_owned()));
        }
        self.accepted.try_send(link).map_err(|error| {
            let link = match error {
                mpsc::error::TrySendError::Full(link) | mpsc::error::TrySendError::Closed(link) => link,
            };
            link.close(Close::Busy, "too many connections wait to be served");
            Unwelcome::Refused(who, "too many connections wait to be served".to_owned())
        })
    }

    async fn dial(&self, address: SocketAddr, alpn: Alpn, expect: Expect) -> Result<Link, DialError> {
        let driver = self.driver.load_full();
        if driver.is_lost() {
            return Err(DialError::Lost);
        }
        let identity = self.identity.load_full();
        let distrust = Arc::new(OnceLock::new());
        let verdict = Arc::clone(&distrust);
        let crypto = tls::client(&self.outside, &self.trust, &identity, alpn, expect.clone(), verdict)?;
        let config = transport::client(alpn, crypto, &self.outside.random);
        let failed = |error: String| DialError::Failed { address, error };
        let connecting =
            driver.quinn.connect_with(config, address, tls::SERVER_NAME).map_err(|error| failed(error.to_string()))?;
        let connection = match timeout(HANDSHAKE_TIME, connecting).await {
            Err(_) | Ok(Err(ConnectionError::TimedOut)) => return Err(DialError::Silent(address)),
            Ok(Err(error)) => {
                return Err(match (distrust.get(), Close::of(&error)) {
                    (Some(distrust), _) => DialError::Untrusted { address, distrust: distrust.clone() },
                    (None, Some((close, reason))) => DialError::Refused { address, close, reason },
                    (None, None) => failed(error.to_string()),
                });
            }
            Ok(Ok(connection)) => connection,
        };
        if Alpn::of(&connection) != Some(alpn) {
            return Err(failed(format!("it does not speak {alpn}")));
        }
        let proven = self.server_proof(&connection, &expect).map_err(|distrust| {
            Close::NotAllowed.apply(&connection, "not the node that was called");
            DialError::Untrusted { address, distrust }
        })?;
        let view = self.trust.view();
        let caller = view.standing(&proven).map_err(|distrust| DialError::Untrusted { address, distrust })?;
        let refused = |close: Close| DialError::Refused { address, close, reason: String::new() };
        let link = self.table.insert(connection, alpn, Direction::Outbound, proven, caller).map_err(refused)?;
        match link.examine(&self.trust.view()) {
            None => Ok(link),
            Some(_) => Err(refused(Close::Removed)),
        }
    }

    fn server_proof(&self, connection: &quinn::Connection, expect: &Expect) -> Result<Proven, Distrust> {
        let chain = presented(connection);
        let (leaf, rest) = chain.split_first().ok_or(Distrust::UnknownIssuer)?;
        tls::judge_server(&self.trust, expect, leaf, rest, self.trust.time(self.outside.clock.wall()))
    }
}

/// The certificates that the other end has shown and proven to own.
fn presented(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map(|chain| *chain)
        .unwrap_or_default()
}
