//! The outside as the daemon uses it: the machine's clocks, randomness and UDP sockets. And seeded randomness, for
//! whoever must replay.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::id::UnixMillis;
use crate::limits::SOCKET_BUFFER;
use crate::seam::{Clock, Net, Outside, Random, Time};
use crate::transport::lock;

impl Outside {
    /// The machine's own. The network needs a tokio runtime.
    pub fn machine() -> Self {
        Self {
            clock: Arc::new(MachineClock),
            random: Arc::new(MachineRandom(SystemRandom::new())),
            net: Arc::new(MachineNet),
            crypto: Arc::new(rustls::crypto::ring::default_provider()),
        }
    }
}

/// The kernel's clocks. The monotonic one runs through suspend (`CLOCK_BOOTTIME`): a lease must not outlive a sleep.
#[derive(Clone, Copy, Debug)]
pub struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Time {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Time(Duration::new(seconds, nanos))
    }

    fn wall(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The kernel's randomness.
#[derive(Clone, Debug)]
pub struct MachineRandom(SystemRandom);

impl Random for MachineRandom {
    #[expect(clippy::expect_used, reason = "a key from a predictable source would be worse than no agent at all")]
    fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes).expect("the kernel gives no randomness");
    }
}

/// Randomness that follows from its seed: for tests and simulations, never for keys that protect anything.
#[derive(Debug)]
pub struct SeededRandom(Mutex<ChaCha20Rng>);

impl SeededRandom {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha20Rng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        lock(&self.0).fill_bytes(bytes);
    }
}

/// UDP sockets of the kernel, driven by tokio.
#[derive(Clone, Copy, Debug)]
pub struct MachineNet;

impl Net for MachineNet {
    fn bind(&self, address: SocketAddr) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // One socket for both families; where the system forbids it, IPv6 alone still works.
            let _ = socket.set_only_v6(false);
        }
        // The kernel grants what its administrator allows (net.core.rmem_max): smaller buffers are slower, not wrong.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        TokioRuntime.wrap_udp_socket(socket.into())
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(TokioRuntime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let draw = |seed| {
            let mut bytes = [0; 40];
            SeededRandom::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn the_monotonic_clock_moves_forward_only() {
        let first = MachineClock.now();
        assert!(MachineClock.now() >= first);
        assert!(MachineClock.wall().0 > 1_700_000_000_000);
    }
}
