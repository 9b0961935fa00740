//! What went over a simulated network, in order, so that two runs can be compared.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The most datagrams a trace keeps one by one (about 100 MiB of them); the digest covers those beyond it too.
const KEPT_MAX: usize = 1 << 20;

/// What happened to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after this delay.
    Arrives(Duration),
    /// A second copy arrives after this delay.
    Again(Duration),
    /// It arrives after this delay with one byte changed.
    Damaged(Duration),
    /// It was lost by chance.
    Lost,
    /// The way was cut.
    Cut,
    /// Nobody listens there.
    Nobody,
    /// It was larger than the network carries.
    TooLarge,
    /// The receiver's buffer was full.
    Overflow,
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// When it was sent, since the network was made.
    pub at: Duration,
    /// The sender's address.
    pub from: SocketAddr,
    /// The address it was sent to.
    pub to: SocketAddr,
    /// Its size.
    pub bytes: usize,
    /// The first bytes of its hash.
    pub contents: [u8; 8],
    /// What became of it.
    pub fate: Fate,
}

impl fmt::Display for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} -> {} {} B {:02x?}: {:?}", self.at, self.from, self.to, self.bytes, self.contents, self.fate)
    }
}

/// Everything that was sent over a network.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    kept: Vec<Datagram>,
    count: u64,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Trace {
    pub(super) fn record(&mut self, mut datagram: Datagram, contents: &[u8]) {
        datagram.contents.copy_from_slice(&blake3::hash(contents).as_bytes()[..8]);
        // The text form is the canonical one: it has every field, and equal text means equal fields.
        self.hasher.update(datagram.to_string().as_bytes()).update(contents);
        self.count += 1;
        self.bytes += contents.len() as u64;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(datagram);
        }
    }

    /// A hash of every byte sent, with its time, its way and its fate.
    pub fn digest(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// How many datagrams were sent.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bytes were sent.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The datagrams in the order they were sent, as far as they are kept.
    pub fn datagrams(&self) -> &[Datagram] {
        &self.kept
    }

    /// How many of the kept datagrams had a fate that `wanted` says yes to: whether a run met the faults it is for.
    pub fn fates(&self, wanted: impl Fn(Fate) -> bool) -> usize {
        self.kept.iter().filter(|datagram| wanted(datagram.fate)).count()
    }

    /// The first place where two traces differ, for a person to read.
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        let longer = self.kept.len().max(other.kept.len());
        let place = (0..longer).find(|&index| self.kept.get(index) != other.kept.get(index));
        let show = |trace: &Self, index: usize| trace.kept.get(index).map_or("the end".to_owned(), Datagram::to_string);
        match place {
            Some(index) => Some(format!("datagram {index}: {} / {}", show(self, index), show(other, index))),
            None => (self.digest() != other.digest()).then(|| "beyond the datagrams kept".to_owned()),
        }
    }
}
