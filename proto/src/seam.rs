//! Where time, randomness and the network come from. The daemon passes the machine's; a simulator passes its own.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;

use crate::id::UnixMillis;

/// A reading of the monotonic clock: time since an arbitrary start, running through suspend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

impl Time {
    /// This time and `duration`, never overflowing.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How long `earlier` is ago; zero where it is not.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Time. Durations come from the monotonic clock only; the wall clock is for people and for certificates.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The monotonic clock.
    fn now(&self) -> Time;
    /// The wall clock.
    fn wall(&self) -> UnixMillis;
}

/// Randomness.
pub trait Random: Send + Sync + fmt::Debug {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Random {
    /// A random integer.
    pub fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A random integer that is never drawn twice: what sessions and promotions are named by.
    pub fn u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

/// UDP sockets, and the runtime that drives QUIC over them.
pub trait Net: Send + Sync + fmt::Debug {
    /// A socket on `address`; port 0 takes any.
    fn bind(&self, address: SocketAddr) -> std::io::Result<Arc<dyn quinn::AsyncUdpSocket>>;
    /// What quinn takes its timers and tasks from.
    fn runtime(&self) -> Arc<dyn quinn::Runtime>;
}

/// Everything of the outside that protocols need.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The network.
    pub net: Arc<dyn Net>,
    /// TLS cryptography.
    pub crypto: Arc<CryptoProvider>,
}
