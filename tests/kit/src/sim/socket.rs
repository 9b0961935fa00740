//! A simulated UDP socket: datagrams wait in it until their time has come.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep};

use super::SimNet;

/// What a socket holds before it drops, as a kernel's receive buffer does.
const INBOX_BYTES_MAX: usize = 8 << 20;
/// A timer that nothing waits for: far beyond any simulation.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub from: SocketAddr,
    pub to: IpAddr,
    pub ecn: Option<EcnCodepoint>,
    pub contents: Vec<u8>,
}

/// Datagrams on their way to a socket, by arrival; the second number keeps equal times in the order of sending.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: BTreeMap<(Instant, u64), Packet>,
    bytes: usize,
    timer: Pin<Box<Sleep>>,
    pub waker: Option<Waker>,
}

impl Inbox {
    pub fn new() -> Self {
        let timer = Box::pin(tokio::time::sleep(FAR));
        Self { queue: BTreeMap::new(), bytes: 0, timer, waker: None }
    }

    /// Whether there was room.
    pub fn put(&mut self, at: Instant, number: u64, packet: Packet) -> bool {
        if self.bytes + packet.contents.len() > INBOX_BYTES_MAX {
            return false;
        }
        self.bytes += packet.contents.len();
        self.queue.insert((at, number), packet);
        true
    }

    fn take_due(&mut self) -> Option<Packet> {
        let first = self.queue.first_entry()?;
        if first.key().0 > Instant::now() {
            return None;
        }
        let packet = first.remove();
        self.bytes -= packet.contents.len();
        Some(packet)
    }
}

#[derive(Debug)]
pub(super) struct SimSocket {
    net: SimNet,
    local: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
}

impl SimSocket {
    pub fn new(net: SimNet, local: SocketAddr, inbox: Arc<Mutex<Inbox>>) -> Self {
        Self { net, local, inbox }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.net.close(self.local);
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let from = SocketAddr::new(transmit.src_ip.unwrap_or(self.local.ip()), self.local.port());
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for contents in transmit.contents.chunks(segment) {
            self.net.send(from, transmit.destination, transmit.ecn, contents);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.lock();
        loop {
            let mut filled = 0;
            while filled < bufs.len().min(meta.len()) {
                let Some(packet) = inbox.take_due() else { break };
                let len = packet.contents.len();
                // A real socket cuts a datagram that its reader left no room for, and quinn drops it.
                let Some(place) = bufs[filled].get_mut(..len) else { continue };
                place.copy_from_slice(&packet.contents);
                meta[filled] = RecvMeta::default();
                (meta[filled].addr, meta[filled].len, meta[filled].stride) = (packet.from, len, len);
                (meta[filled].ecn, meta[filled].dst_ip) = (packet.ecn, Some(packet.to));
                filled += 1;
            }
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
            inbox.waker = Some(cx.waker().clone());
            let Some((&(at, _), _)) = inbox.queue.first_key_value() else { return Poll::Pending };
            inbox.timer.as_mut().reset(at);
            if inbox.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// A simulated socket never blocks a sender: what does not fit is lost on the way, as on a network.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
