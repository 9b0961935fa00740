//! UDP ports that no other test of this machine takes.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where ports are taken from: below those that Linux gives to programs that ask for any (32768 and up).
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Two neighbouring ports on 127.0.0.1, for control and data.
///
/// A lock file in the machine's temporary folder keeps other test processes away for as long as this lives, through every
/// restart of the agent; the sockets are held until [`PortPair::release`], so that nobody else is in the way either.
#[derive(Debug)]
pub struct PortPair {
    first: u16,
    _lock: File,
    held: Vec<UdpSocket>,
}

impl PortPair {
    /// Takes a free pair.
    pub fn take() -> io::Result<Self> {
        // Each process begins elsewhere, so that two that start together seldom try the same.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let pairs = (LAST - FIRST) / 2;
        let begin = (std::process::id() as u16).wrapping_mul(97) % pairs;
        for _ in 0..pairs {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let first = FIRST + (begin + step % pairs) % pairs * 2;
            if let Some(pair) = Self::try_take(first)? {
                return Ok(pair);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no two free UDP ports between {FIRST} and {LAST}")))
    }

    fn try_take(first: u16) -> io::Result<Option<Self>> {
        let folder = lock_folder();
        std::fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(first.to_string()))?;
        if lock.try_lock().is_err() {
            return Ok(None);
        }
        let bind = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        Ok(match (bind(first), bind(first + 1)) {
            (Ok(control), Ok(data)) => Some(Self { first, _lock: lock, held: vec![control, data] }),
            _ => None,
        })
    }

    /// The address of the control port; the data port is the next one.
    pub fn control(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first).into()
    }

    /// The address of the data port.
    pub fn data(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first + 1).into()
    }

    /// Lets go of the sockets, so that an agent can bind them. The pair stays this process's own.
    pub fn release(&mut self) {
        self.held.clear();
    }
}

/// The lock files are never removed: a removed file's lock would not exclude one on its successor.
fn lock_folder() -> PathBuf {
    std::env::temp_dir().join("landfall-kit-ports")
}
