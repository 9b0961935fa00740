//! quinn's endpoint task, watched: when it ends, the agent must see that and get a new one.
//!
//! It ends when the socket fails. A panic in quinn is beyond this file: quinn 0.11.12 takes a lock that the panic has
//! poisoned while it unwinds, which aborts the process (tried); whoever started the agent must start it again.

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

/// One quinn endpoint, its socket and its task's fate.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) quinn: quinn::Endpoint,
    socket: Arc<dyn AsyncUdpSocket>,
    ended: watch::Receiver<bool>,
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
        let (sender, ended) = watch::channel(false);
        let runtime = Watched { inner: outside.net.runtime(), ended: sender, started: AtomicBool::new(false) };
        let config = transport::endpoint(role, key, &*outside.random);
        let quinn = quinn::Endpoint::new_with_abstract_socket(config, None, Arc::clone(&socket), Arc::new(runtime))?;
        Ok(Self { quinn, socket, ended })
    }

    pub(crate) fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether the task is gone.
    pub(crate) fn is_lost(&self) -> bool {
        *self.ended.borrow()
    }

    /// Tells when the task is gone.
    pub(crate) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }
}

/// A runtime that tells the end of the first task given to it, which is the endpoint's own.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Runtime>,
    ended: watch::Sender<bool>,
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
        let bell = Bell(self.ended.clone());
        self.inner.spawn(Box::pin(async move {
            future.await;
            drop(bell);
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
struct Bell(watch::Sender<bool>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
