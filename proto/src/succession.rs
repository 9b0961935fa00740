//! How a cluster's CAs follow each other: one vouches for the next, so that whoever has pinned the one follows to the other.
//!
//! The word is a certificate, the *warrant*: signed by the old CA's key, it names the CAP, the place in the cluster's log at
//! which it was given, and the new CA's certificate by its fingerprint. It is good for nothing else: its key usage is its
//! own, and it names no node. A node shows its certificate followed by the line of its cluster's CAs, so that the other end
//! can follow in the handshake, before it has been told.

use rcgen::{ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

use crate::authority::{Authority, ca_fingerprint, dns_name, subject};
use crate::certificate;
use crate::id::{Fingerprint, Fqdn, Position, UnixMillis};
use crate::model::{CaLine, Succession};
use crate::planted::{self, Bug};
use crate::refusal::Refusal;
use crate::seam::{Clock, Random};

/// Successions that are kept and shown: about a kilobyte each in every handshake of a cluster that has rotated its CA. A
/// peer that was away for more rotations than that is paired anew.
pub const CHAIN_MAX: usize = 4;

/// Bytes of the certificate of a CA, or of a warrant, that is kept for others: ours fit with the longest CAP, and a whole
/// line fits a control frame beside the longest member list.
pub const SUCCESSION_CERTIFICATE: usize = 1 << 10;

/// What precedes the place and the fingerprint in the URI name of a warrant.
const WARRANT_URI: &str = "landfall:ca:";

/// The extended key usage of a warrant, 2.25.7443: no TLS library takes it for a node's certificate.
const WARRANT_USAGE: [u64; 3] = [2, 25, 7443];
/// The same, DER.
const WARRANT_USAGE_DER: &[u8] = &[0x69, 0xba, 0x13];

/// Why a CA does not follow another one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unfit {
    /// Not certificates as ours are.
    #[error("it is malformed: {0}")]
    Malformed(String),
    /// The CA before has not signed it.
    #[error("the CA that it is to follow has not signed it")]
    Unsigned,
    /// It was signed for another cluster.
    #[error("it was signed for {claimed}, not for {cap}")]
    OtherCap {
        /// Whose CA is to follow.
        cap: Fqdn,
        /// Whose it was signed for.
        claimed: Fqdn,
    },
    /// It was signed for another CA.
    #[error("another CA than this one was named as the next")]
    OtherCa,
    /// It is older than what is known.
    #[error("it is as of {told}, and what is known is as of {known}")]
    Stale {
        /// The place of what was told.
        told: Position,
        /// The place of what is known.
        known: Position,
    },
    /// Another CA was named as the next one before.
    #[error("another CA was named as the next one before, in the same life of that cluster")]
    Rival,
    /// None of the CAs that are known leads to it.
    #[error("no CA that is known leads to it")]
    Unconnected,
    /// It names more CAs than are kept.
    #[error("it names {0} CAs that followed, and {CHAIN_MAX} are kept at most")]
    TooMany(usize),
}

/// What a warrant says. Nothing here is proven by reading it.
struct Warrant {
    cap: Fqdn,
    at: Position,
    next: Fingerprint,
}

fn read(der: &CertificateDer<'_>) -> Result<Warrant, Unfit> {
    let malformed = |why: &str| Unfit::Malformed(why.to_owned());
    let parsed = EndEntityCert::try_from(der).map_err(|error| malformed(&error.to_string()))?;
    let names: Vec<&str> = parsed.valid_dns_names().collect();
    let uris: Vec<&str> = parsed.valid_uri_names().collect();
    let ([cap], [uri]) = (names.as_slice(), uris.as_slice()) else {
        return Err(malformed("it does not have one DNS name and one URI name"));
    };
    let said = uri.strip_prefix(WARRANT_URI).and_then(|said| said.split_once(':'));
    let (at, next) = said.ok_or_else(|| malformed("its URI name names no CA"))?;
    let next = data_encoding::HEXLOWER.decode(next.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    Ok(Warrant {
        cap: cap.parse().map_err(|_| malformed("its DNS name is malformed"))?,
        at: at.parse().map(Position::from_number).map_err(|_| malformed("its place is no number"))?,
        next: Fingerprint(next.ok_or_else(|| malformed("its fingerprint is malformed"))?),
    })
}

/// Whether `before`, a CA certificate of `cap` (DER), has signed that `step` follows it; the place in the cluster's log at
/// which it did.
pub fn verify(before: &[u8], step: &Succession, cap: &Fqdn, now: UnixMillis) -> Result<Position, Unfit> {
    let warrant = CertificateDer::from(step.warrant.as_slice());
    let said = read(&warrant)?;
    if said.cap != *cap {
        return Err(Unfit::OtherCap { cap: cap.clone(), claimed: said.cap });
    }
    if said.next != ca_fingerprint(&step.ca) {
        return Err(Unfit::OtherCa);
    }
    let ca = CertificateDer::from(step.ca.as_slice());
    let named = EndEntityCert::try_from(&ca).map_err(|error| Unfit::Malformed(error.to_string()))?;
    if named.valid_dns_names().collect::<Vec<_>>() != [cap.as_str()] {
        return Err(Unfit::Malformed("the certificate of the CA does not name exactly that CAP".to_owned()));
    }
    let before = CertificateDer::from(before);
    let anchor = webpki::anchor_from_trusted_cert(&before).map_err(|error| Unfit::Malformed(error.to_string()))?;
    let parsed = EndEntityCert::try_from(&warrant).map_err(|error| Unfit::Malformed(error.to_string()))?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
    let usage = KeyUsage::required(WARRANT_USAGE_DER);
    match parsed.verify_for_usage(&[webpki::ring::ED25519], &[anchor], &[], now, usage, None, None) {
        Ok(_) => Ok(said.at),
        Err(_) if planted::is(Bug::SuccessorUnsigned) => Ok(said.at),
        Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => Err(Unfit::Unsigned),
        Err(error) => Err(Unfit::Malformed(error.to_string())),
    }
}

/// Every CA that follows `from`, in order, by the steps of `line`, which may begin before it or lead elsewhere.
pub(crate) fn follow<'a>(from: &[u8], line: &'a [Succession], cap: &Fqdn, now: UnixMillis) -> Vec<&'a [u8]> {
    let mut reached: Vec<&[u8]> = Vec::new();
    for step in line.iter().take(CHAIN_MAX) {
        let before = reached.last().copied().unwrap_or(from);
        if verify(before, step, cap, now).is_ok() {
            reached.push(&step.ca);
        }
    }
    reached
}

/// The successions that a node shows behind its certificate, for `cap`: pairs of a CA and its warrant. What is none of them
/// is left out.
pub(crate) fn shown(chain: &[CertificateDer<'_>], cap: &Fqdn) -> Vec<Succession> {
    let pairs = chain.windows(2).take(2 * CHAIN_MAX + 1);
    let named = pairs.filter(|pair| match pair {
        [ca, warrant] => read(warrant).is_ok_and(|said| said.cap == *cap && said.next == ca_fingerprint(ca)),
        _ => false,
    });
    named.map(|pair| Succession { ca: pair[0].to_vec(), warrant: pair[1].to_vec() }).collect()
}

/// Whether a cluster's word on its CAs, which is `told`, may take the place of `known`. Every CA that is to count counts
/// already, or follows from one that does; and of two that are named as the next one the first stays, unless the cluster has
/// begun another life since.
pub fn check(known: &CaLine, told: &CaLine, cap: &Fqdn, now: UnixMillis) -> Result<(), Unfit> {
    if told.changed <= known.changed {
        return Err(Unfit::Stale { told: told.changed, known: known.changed });
    }
    if told.after.len() > CHAIN_MAX {
        return Err(Unfit::TooMany(told.after.len()));
    }
    let trusted = known.trusted();
    let mut before: Option<&[u8]> = None;
    let mut counts = Vec::new();
    let mut signed = Ok(());
    for (index, ca) in told.all().enumerate() {
        let led = match (before, index.checked_sub(1).and_then(|step| told.after.get(step))) {
            (Some(before), Some(step)) => verify(before, step, cap, now).map(drop),
            _ => Err(Unfit::Unconnected),
        };
        let good = led.is_ok() || trusted.iter().any(|one| one == ca);
        if let (Err(unfit), false) = (led, good) {
            signed = Err(unfit);
        }
        counts.push(good);
        before = good.then_some(ca);
    }
    let wanted = 1 + usize::from(told.rotating);
    if counts.len() < wanted || !counts.iter().rev().take(wanted).all(|good| *good) {
        return Err(signed.err().unwrap_or(Unfit::Unconnected));
    }
    let next = known.next().filter(|next| told.all().all(|ca| ca != next.ca));
    match next {
        Some(_) if told.changed.incarnation() <= known.changed.incarnation() => Err(Unfit::Rival),
        _ => Ok(()),
    }
}

impl Authority {
    /// This CA's word that `next`, of the same CAP, follows it, given at `at` of the cluster's log.
    pub fn warrant(
        &self,
        next: &Self,
        at: Position,
        random: &dyn Random,
        clock: &dyn Clock,
    ) -> Result<Succession, Refusal> {
        let mut params = certificate::params(clock, random, crate::authority::CA_LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(WARRANT_USAGE.to_vec())];
        let uri = format!("{WARRANT_URI}{}:{}", at.number(), next.fingerprint());
        let uri = uri.try_into().map_err(|error| certificate::unsigned(&error))?;
        params.subject_alt_names = vec![dns_name(self.cap())?, SanType::URI(uri)];
        let mut issuer = rcgen::CertificateParams::default();
        issuer.distinguished_name = subject(self.cap());
        let issuer: Issuer<'_, &KeyPair> = Issuer::new(issuer, self.pair());
        let warrant = params.signed_by(next.pair(), &issuer).map_err(|error| certificate::unsigned(&error))?;
        Ok(Succession { ca: next.certificate().to_vec(), warrant: warrant.der().to_vec() })
    }
}
