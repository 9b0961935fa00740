//! Members of this cluster, and the clusters it is paired with.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cap_address::CapAddress;
use super::succession::CaLine;
use crate::id::{ClusterName, Fingerprint, Fqdn, MemberId, NodeName, Position, UnixMillis};

/// One agent of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its identity for the cluster's whole life.
    pub id: MemberId,
    /// Its name, unique in the cluster.
    pub node: NodeName,
    /// The name in its certificate.
    pub fqdn: Fqdn,
    /// Its key.
    pub key: Fingerprint,
    /// Where its control endpoint answers.
    pub control: SocketAddr,
    /// Where its data endpoint answers.
    pub data: SocketAddr,
    /// Whether it votes and stores the log only.
    pub witness: bool,
}

/// How far one node's log has come at least: never backwards, as long as its disk keeps what it has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// The term of the newest vote that it has followed or given.
    pub vote: u64,
    /// The index of an entry that it has, with all before it; 0 where it has none.
    pub index: u64,
}

impl LogMark {
    /// The higher of both, number by number: neither ever falls.
    pub fn highest(self, other: Self) -> Self {
        Self { vote: self.vote.max(other.vote), index: self.index.max(other.index) }
    }
}

impl std::fmt::Display for LogMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entry {} in vote term {}", self.index, self.vote)
    }
}

/// Who belongs to a cluster, as of one entry of its log: the authority on which certificates count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// The cluster's client access point.
    pub cap: Fqdn,
    /// The entry that last changed the list; a list is never replaced by one from a lower position.
    pub position: Position,
    /// Every member, by id.
    pub members: Vec<Member>,
    /// Where the CAP's own address is dialled, whoever owns it; empty where it has none.
    pub cap_addresses: Vec<SocketAddr>,
}

impl MemberList {
    /// Every address at which a client of the CAP may ask: the CAP's own, which lead to the owner, then each member's.
    pub fn dialled(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.cap_addresses.iter().copied().chain(self.members.iter().map(|member| member.control))
    }

    /// The member with this key, if the list has one.
    pub fn by_key(&self, key: &Fingerprint) -> Option<&Member> {
        self.members.iter().find(|member| member.key == *key)
    }

    /// The member with this id, if the list has one.
    pub fn by_id(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// Another cluster, trusted under exactly one CAP name and one CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its display name.
    pub cluster: ClusterName,
    /// The CA that it was founded with, DER: it tells the cluster from any other of the same name, for good.
    pub ca: Vec<u8>,
    /// The CAs that its node certificates may be signed by, and how they followed each other.
    pub line: CaLine,
    /// Its members, as last sent by one of them.
    pub list: MemberList,
    /// When the list was last confirmed.
    pub confirmed_at: UnixMillis,
}

/// The clocks of consensus, fixed at `cluster init` for the cluster's life: a lease is only safe if all agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Milliseconds between a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// The shortest election timeout in milliseconds.
    pub election_min_ms: u64,
    /// The longest election timeout in milliseconds, which is also the lease L.
    pub election_max_ms: u64,
}

impl Timing {
    /// Heartbeat 250 ms, election 1-2 s, L = 2 s: ten times the worst p99 of a sync that was measured on a busy disk.
    /// `docs/timing.md` has what other leases were measured to do.
    pub const STANDARD: Self = Self::of_lease(2000);

    /// The clocks that go with a lease of so many milliseconds.
    pub const fn of_lease(lease_ms: u64) -> Self {
        Self { heartbeat_ms: lease_ms / 8, election_min_ms: lease_ms / 2, election_max_ms: lease_ms }
    }

    /// The lease L.
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.election_max_ms)
    }
}

/// What `cluster init` records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The cluster's display name.
    pub cluster: ClusterName,
    /// The name of its client access point.
    pub cap: Fqdn,
    /// A random number that tells this cluster from any other of the same name.
    pub cluster_id: u128,
    /// The certificate of the CA that it was founded with, DER. Others may have followed it.
    pub ca: Vec<u8>,
    /// Its consensus clocks.
    pub timing: Timing,
    /// The CAP's own address, where it has one.
    pub cap_address: Option<CapAddress>,
    /// The first member, whose id is [`Found::FOUNDER`].
    pub founder: Member,
}

impl Found {
    /// The founder's id: index 1 is the first leader's blank entry, which no join can have.
    pub const FOUNDER: MemberId = MemberId::from_number(1);
}
