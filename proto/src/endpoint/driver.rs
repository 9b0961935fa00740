//! quinn's endpoint task, watched. A remote panic in quinn-proto is published about once a year (facts.md): the agent
//! must see that the task is gone and get a new one, with consensus and CAP untouched.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tokio::sync::watch;

use crate::certificate::NodeKey;
use crate::endpoint::Role;
use crate::seam::Outside;
use crate::transport;

/// What became of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs.
    Running,
    /// It ended: the socket failed.
    Ended,
    /// It panicked.
    Panicked,
}

/// One quinn endpoint, its socket and its task's fate.
#[derive(Debug)]
pub(crate) struct Driver {
    /// `None` only while it is dropped.
    quinn: Option<quinn::Endpoint>,
    socket: Arc<dyn AsyncUdpSocket>,
    fate: watch::Receiver<Fate>,
}

impl Driver {
    /// Binds `address` and starts the task.
    pub(crate) fn bind(outside: &Outside, role: Role, key: &NodeKey, address: SocketAddr) -> std::io::Result<Self> {
        Self::start(outside, role, key, outside.net.bind(address)?)
    }

    /// Starts a task in place of this one, which is gone, on the same socket: old connections still hold it, so no other
    /// could have its port. Where the socket itself is broken, the new task ends at once.
    pub(crate) fn replace(&self, outside: &Outside, role: Role, key: &NodeKey) -> std::io::Result<Self> {
        Self::start(outside, role, key, Arc::clone(&self.socket))
    }

    fn start(outside: &Outside, role: Role, key: &NodeKey, socket: Arc<dyn AsyncUdpSocket>) -> std::io::Result<Self> {
        let (sender, fate) = watch::channel(Fate::Running);
        let runtime = Watched { inner: outside.net.runtime(), fate: sender, started: AtomicBool::new(false) };
        let config = transport::endpoint(role, key, &*outside.random);
        let quinn = quinn::Endpoint::new_with_abstract_socket(config, None, Arc::clone(&socket), Arc::new(runtime))?;
        Ok(Self { quinn: Some(quinn), socket, fate })
    }

    pub(crate) fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether the task is gone.
    pub(crate) fn is_lost(&self) -> bool {
        *self.fate.borrow() != Fate::Running
    }

    /// quinn's handle, unless the task is gone: calling it after a panic would panic again.
    pub(crate) fn quinn(&self) -> Option<&quinn::Endpoint> {
        self.quinn.as_ref().filter(|_| !self.is_lost())
    }

    pub(crate) fn fate(&self) -> watch::Receiver<Fate> {
        self.fate.clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The last handle takes quinn's lock, which a panic has poisoned: it is leaked, once a panic.
        if *self.fate.borrow() == Fate::Panicked {
            std::mem::forget(self.quinn.take());
        }
    }
}

/// A runtime that tells what becomes of the first task given to it, which is the endpoint's own.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Runtime>,
    fate: watch::Sender<Fate>,
    started: AtomicBool,
}

impl Runtime for Watched {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.inner.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if self.started.swap(true, Ordering::Relaxed) {
            return self.inner.spawn(future);
        }
        let bell = Bell { fate: self.fate.clone(), rings: Fate::Panicked };
        self.inner.spawn(Box::pin(async move {
            future.await;
            bell.ring(Fate::Ended);
        }));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        self.inner.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }
}

/// Rings when the task is dropped, whichever way.
struct Bell {
    fate: watch::Sender<Fate>,
    rings: Fate,
}

impl Bell {
    fn ring(mut self, fate: Fate) {
        self.rings = fate;
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.fate.send_replace(self.rings);
    }
}
