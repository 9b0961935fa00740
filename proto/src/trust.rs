//! Who a presented certificate belongs to, by what this node has applied (ARCHITECTURE.md, Trust).
//!
//! Two questions, asked apart because the second's answer changes: [`TrustView::prove`] looks at the certificate and
//! the pinned CAs, [`TrustView::standing`] at the member lists. A certificate is necessary, never sufficient.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;
use webpki::EndEntityCert;

use crate::alpn::Alpn;
use crate::authority::ca_fingerprint;
use crate::certificate::{self, Leaf};
pub use crate::chain::{expires_at, prove_invited};
use crate::chain::{pinned_leaf, verify};
use crate::id::{Fingerprint, Fqdn, MemberId, UnixMillis};
use crate::model::{Member, MemberList};
use crate::planted::{self, Bug};
use crate::seam::{Clock, Time};
use crate::succession;

/// One cluster whose certificates count: a CA, pinned to exactly one CAP name, and who its members are. While a CA is being
/// rotated there are two, the old one and the one that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTrust {
    /// The CAP.
    pub cap: Fqdn,
    /// The certificates of the CAs that count, DER, oldest first.
    pub cas: Vec<Vec<u8>>,
    /// The members. An empty list at position 0 accepts every certificate of the CA as [`Caller::Unlisted`].
    pub list: MemberList,
}

/// Every cluster whose certificates count on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustView {
    /// This node's cluster, once it has one.
    pub own: Option<ClusterTrust>,
    /// The paired ones.
    pub peers: Vec<ClusterTrust>,
}

/// The view that all endpoints of a node share. Setting it re-examines every open connection.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    view: ArcSwap<TrustView>,
    changes: watch::Sender<u64>,
    /// Milliseconds since 1970 before which it cannot be.
    floor: AtomicU64,
}

impl ClusterTrust {
    /// The CA that counts from now on.
    fn newest(&self) -> &[u8] {
        self.cas.last().map_or(&[], Vec::as_slice)
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::new(TrustView::default())
    }
}

impl Trust {
    /// Starts from `view`.
    pub fn new(view: TrustView) -> Self {
        let (view, changes) = (ArcSwap::from_pointee(view), watch::Sender::new(0));
        Self(Arc::new(Shared { view, changes, floor: AtomicU64::new(0) }))
    }

    /// It is not earlier than `at`, whatever this machine's clock says: boards without a battery begin in 1970. The latest
    /// call counts.
    pub fn not_before(&self, at: UnixMillis) {
        self.0.floor.store(at.0, Ordering::Relaxed);
    }

    /// The time that certificates are judged by, where the clock says `wall`.
    pub fn time(&self, wall: UnixMillis) -> UnixMillis {
        wall.max(UnixMillis(self.0.floor.load(Ordering::Relaxed)))
    }

    /// `clock`, whose wall time is that which certificates are judged by.
    pub fn clock(&self, clock: Arc<dyn Clock>) -> TrustedClock {
        TrustedClock { clock, trust: self.clone() }
    }

    /// The view as it stands.
    pub fn view(&self) -> Arc<TrustView> {
        self.0.view.load_full()
    }

    /// Replaces the view; endpoints close at once what it no longer allows.
    pub fn set(&self, view: TrustView) {
        self.0.view.store(Arc::new(view));
        if !planted::is(Bug::RemovedStaysConnected) {
            self.0.changes.send_modify(|count| *count += 1);
        }
    }

    /// Tells of every [`Trust::set`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

/// A clock that is not earlier than [`Trust::not_before`] says: certificates are made by it.
#[derive(Clone, Debug)]
pub struct TrustedClock {
    clock: Arc<dyn Clock>,
    trust: Trust,
}

impl Clock for TrustedClock {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn wall(&self) -> UnixMillis {
        self.trust.time(self.clock.wall())
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A member of this node's cluster.
    Member {
        /// The member.
        member: Member,
    },
    /// A member of a paired cluster.
    PeerNode {
        /// Its cluster.
        cap: Fqdn,
        /// The member.
        member: Member,
    },
    /// A good certificate of a member that was admitted after the list which this node has: its id is above the list's
    /// position. (One below it, and not on the list, was removed: that is a [`Distrust::Removed`].)
    Unlisted {
        /// Its cluster: this node's or a paired one.
        cap: Fqdn,
        /// The name in its certificate.
        fqdn: Fqdn,
        /// Its key.
        key: Fingerprint,
        /// The member id in its certificate.
        member_id: MemberId,
    },
    /// Nobody vouches for this key; only `landfall-join/1` listens to it.
    Stranger {
        /// The key.
        key: Fingerprint,
    },
}

impl Caller {
    /// The cluster that it belongs to.
    pub fn cap(&self) -> Option<&Fqdn> {
        match self {
            Self::Member { .. } | Self::Stranger { .. } => None,
            Self::PeerNode { cap, .. } | Self::Unlisted { cap, .. } => Some(cap),
        }
    }

    /// Its member id in its own cluster.
    pub fn member_id(&self) -> Option<MemberId> {
        match self {
            Self::Member { member } | Self::PeerNode { member, .. } => Some(member.id),
            Self::Unlisted { member_id, .. } => Some(*member_id),
            Self::Stranger { .. } => None,
        }
    }

    /// The key that it proved to have.
    pub fn key(&self) -> Fingerprint {
        match self {
            Self::Member { member } | Self::PeerNode { member, .. } => member.key,
            Self::Unlisted { key, .. } | Self::Stranger { key } => *key,
        }
    }

    /// The member, where the list has it.
    pub fn member(&self) -> Option<&Member> {
        match self {
            Self::Member { member } | Self::PeerNode { member, .. } => Some(member),
            Self::Unlisted { .. } | Self::Stranger { .. } => None,
        }
    }
}

/// What a certificate has proven, whatever the lists say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proven {
    /// The CA with this fingerprint vouches for the leaf, and the leaf names the CAP that the CA is pinned to.
    Node {
        /// What the certificate says.
        leaf: Leaf,
        /// The CA.
        ca: Fingerprint,
        /// The CA that is pinned here: the same one, or the one whose word led to it in the handshake.
        under: Fingerprint,
    },
    /// As `Node`, but the CA is known only from an invitation: no list can be asked yet.
    Invited {
        /// What the certificate says.
        leaf: Leaf,
    },
    /// A key that vouches for itself.
    Stranger {
        /// The key.
        key: Fingerprint,
    },
}

impl Proven {
    /// The key that the certificate is for.
    pub fn key(&self) -> Fingerprint {
        match self {
            Self::Node { leaf, .. } | Self::Invited { leaf } => leaf.key,
            Self::Stranger { key } => *key,
        }
    }

    /// The node's name that the certificate has.
    pub fn fqdn(&self) -> Option<&Fqdn> {
        match self {
            Self::Node { leaf, .. } | Self::Invited { leaf } => Some(&leaf.fqdn),
            Self::Stranger { .. } => None,
        }
    }

    /// The CAP that the certificate names.
    pub fn cap(&self) -> Option<&Fqdn> {
        match self {
            Self::Node { leaf, .. } | Self::Invited { leaf } => Some(&leaf.cap),
            Self::Stranger { .. } => None,
        }
    }
}

/// Why a certificate counts for nothing here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Distrust {
    /// Not a certificate as ours are.
    #[error("the certificate is malformed: {0}")]
    Malformed(String),
    /// No CA that this node knows has signed it.
    #[error("the certificate is signed by no cluster that this node knows")]
    UnknownIssuer,
    /// Its time is over.
    #[error("the certificate has expired, or this node's clock is wrong")]
    Expired,
    /// Its time has not come.
    #[error("the certificate is not valid yet, or this node's clock is wrong")]
    NotValidYet,
    /// A CA has signed for a CAP that is not its own.
    #[error("the CA of {pinned} has signed a certificate for {claimed}, which is another cluster's name")]
    WrongCap {
        /// The CAP that the CA is pinned to.
        pinned: Fqdn,
        /// The CAP that the certificate names.
        claimed: Fqdn,
    },
    /// The member list has this member or key otherwise.
    #[error("the certificate of {fqdn} (member {member} of {cap}) does not agree with the member list: {what}")]
    Mismatch {
        /// The cluster.
        cap: Fqdn,
        /// The name in the certificate.
        fqdn: Fqdn,
        /// The id in the certificate.
        member: MemberId,
        /// What differs.
        what: &'static str,
    },
    /// The member was removed.
    #[error("{fqdn} (member {member} of {cap}) was removed from its cluster")]
    Removed {
        /// The cluster.
        cap: Fqdn,
        /// The name in the certificate.
        fqdn: Fqdn,
        /// The id in the certificate.
        member: MemberId,
    },
    /// The cluster was forgotten.
    #[error("{cap} is not, or no longer, paired with this cluster")]
    Unpaired {
        /// The cluster.
        cap: Fqdn,
    },
    /// The CA counts no longer: another one has taken its place.
    #[error("the certificate is signed by a CA of {cap} that counts no longer")]
    Retired {
        /// The cluster.
        cap: Fqdn,
    },
    /// The caller wanted another node.
    #[error("the certificate belongs to another node than the one that was called")]
    OtherNode,
}

/// Which end shows the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that was dialled.
    Server,
    /// The one that dialled.
    Client,
}

impl TrustView {
    /// The cluster with this CAP.
    pub fn cluster(&self, cap: &Fqdn) -> Option<&ClusterTrust> {
        self.clusters().find(|cluster| cluster.cap == *cap)
    }

    /// Whether `cap` is this node's own cluster.
    pub fn is_own(&self, cap: &Fqdn) -> bool {
        self.own.as_ref().is_some_and(|own| own.cap == *cap)
    }

    fn clusters(&self) -> impl Iterator<Item = &ClusterTrust> {
        self.own.iter().chain(&self.peers)
    }

    /// Verifies a leaf certificate, DER, at the wall-clock time `now`. It is signed by a CA that counts directly; or by one
    /// that `chain`, which was shown behind it, leads to from the newest that counts.
    pub fn prove(
        &self,
        der: &[u8],
        chain: &[CertificateDer<'_>],
        side: Side,
        now: UnixMillis,
    ) -> Result<Proven, Distrust> {
        let der = CertificateDer::from(der);
        let parsed = EndEntityCert::try_from(&der).map_err(|error| Distrust::Malformed(error.to_string()))?;
        for (cluster, ca) in self.clusters().flat_map(|cluster| cluster.cas.iter().map(move |ca| (cluster, ca))) {
            match verify(&parsed, ca, side, now) {
                Err(Distrust::UnknownIssuer) => {}
                Err(distrust) => return Err(distrust),
                Ok(()) => {
                    let (leaf, ca) = (pinned_leaf(&der, &cluster.cap)?, ca_fingerprint(ca));
                    return Ok(Proven::Node { leaf, ca, under: ca });
                }
            }
        }
        if let Some(proven) = self.prove_followed(&der, &parsed, chain, side, now)? {
            return Ok(proven);
        }
        // Its own key as the only anchor: true of exactly those certificates that sign themselves.
        verify(&parsed, &der, side, now)?;
        Ok(Proven::Stranger { key: certificate::key_of(&parsed) })
    }

    /// As [`TrustView::prove`], by a CA that follows the newest one that counts.
    fn prove_followed(
        &self,
        der: &CertificateDer<'_>,
        leaf: &EndEntityCert<'_>,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: UnixMillis,
    ) -> Result<Option<Proven>, Distrust> {
        let claimed = (!chain.is_empty()).then(|| Leaf::read(der).ok()).flatten();
        let Some(cluster) = claimed.as_ref().and_then(|claimed| self.cluster(&claimed.cap)) else { return Ok(None) };
        let line = succession::shown(chain, &cluster.cap);
        for ca in succession::follow(cluster.newest(), &line, &cluster.cap, now) {
            match verify(leaf, ca, side, now) {
                Err(Distrust::UnknownIssuer) => {}
                Err(distrust) => return Err(distrust),
                Ok(()) => {
                    let (leaf, under) = (pinned_leaf(der, &cluster.cap)?, ca_fingerprint(cluster.newest()));
                    return Ok(Some(Proven::Node { leaf, ca: ca_fingerprint(ca), under }));
                }
            }
        }
        Ok(None)
    }

    /// Until when a certificate of a cluster that this view knows is good, whatever the time is now.
    pub fn expires_at(&self, der: &[u8]) -> Option<UnixMillis> {
        self.clusters().flat_map(|cluster| &cluster.cas).find_map(|ca| expires_at(der, ca))
    }

    /// What the lists make of a proven certificate.
    pub fn standing(&self, proven: &Proven) -> Result<Caller, Distrust> {
        let (leaf, ca, under) = match proven {
            Proven::Stranger { key } => return Ok(Caller::Stranger { key: *key }),
            Proven::Invited { leaf } => return Ok(unlisted(leaf)),
            Proven::Node { leaf, ca, under } => (leaf, ca, under),
        };
        let cluster = self.cluster(&leaf.cap).ok_or_else(|| Distrust::Unpaired { cap: leaf.cap.clone() })?;
        let counts = cluster.cas.iter().any(|one| ca_fingerprint(one) == *ca);
        if !counts && ca_fingerprint(cluster.newest()) != *under {
            return Err(Distrust::Retired { cap: leaf.cap.clone() });
        }
        let mismatch = |what| {
            let Leaf { fqdn, cap, member, .. } = leaf.clone();
            Err(Distrust::Mismatch { cap, fqdn, member, what })
        };
        match cluster.list.by_id(leaf.member) {
            Some(member) if member.key != leaf.key => mismatch("the key"),
            Some(member) if member.fqdn != leaf.fqdn => mismatch("the name"),
            Some(member) if self.is_own(&leaf.cap) => Ok(Caller::Member { member: member.clone() }),
            Some(member) => Ok(Caller::PeerNode { cap: leaf.cap.clone(), member: member.clone() }),
            None if cluster.list.by_key(&leaf.key).is_some() => mismatch("the member id"),
            None if leaf.member.0 > cluster.list.position || planted::is(Bug::RemovedComesBack) => Ok(unlisted(leaf)),
            None => {
                let Leaf { fqdn, cap, member, .. } = leaf.clone();
                Err(Distrust::Removed { cap, fqdn, member })
            }
        }
    }

    /// Both questions at once: who shows this certificate, and nothing behind it?
    pub fn classify(&self, der: &[u8], side: Side, now: UnixMillis) -> Result<Caller, Distrust> {
        self.standing(&self.prove(der, &[], side, now)?)
    }

    /// Whether `caller` may open a connection of protocol `alpn`. An own node that is not listed yet
    /// may speak consensus: a follower that was away must be able to hear of it from a newer leader.
    pub fn admits(&self, alpn: Alpn, caller: &Caller) -> bool {
        let own = match caller {
            Caller::Stranger { .. } => return alpn == Alpn::Join,
            Caller::Member { .. } => true,
            Caller::PeerNode { .. } => false,
            Caller::Unlisted { cap, .. } => self.is_own(cap),
        };
        match alpn {
            Alpn::Gossip | Alpn::Raft => own,
            Alpn::Broker => !own,
            Alpn::Control | Alpn::Data | Alpn::Join => true,
        }
    }
}

fn unlisted(leaf: &Leaf) -> Caller {
    let Leaf { fqdn, cap, member, key } = leaf.clone();
    Caller::Unlisted { cap, fqdn, key, member_id: member }
}
