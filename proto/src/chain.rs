//! Whether a certificate is signed by a CA, directly or by one that it leads to; who the lists make of its owner is
//! [`crate::trust`]'s question.

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::authority::ca_fingerprint;
use crate::certificate::Leaf;
use crate::id::{Fingerprint, Fqdn, UnixMillis};
use crate::succession;
use crate::trust::{Distrust, Proven, Side};

/// Verifies what a server shows to a node that knows only an invitation: behind the leaf in `chain` are the oldest CA that
/// its cluster keeps and those that followed it. The invitation names one of them by its fingerprint, which is `ca`; that
/// one has signed the leaf, or leads to the one that has.
pub fn prove_invited(
    leaf: &[u8],
    chain: &[CertificateDer<'_>],
    cap: &Fqdn,
    ca: &Fingerprint,
    now: UnixMillis,
) -> Result<Proven, Distrust> {
    let named = chain.iter().take(1 + 2 * succession::CHAIN_MAX).find(|one| ca_fingerprint(one) == *ca);
    let authority = named.ok_or(Distrust::UnknownIssuer)?;
    let leaf = CertificateDer::from(leaf);
    let parsed = EndEntityCert::try_from(&leaf).map_err(|error| Distrust::Malformed(error.to_string()))?;
    let line = succession::shown(chain, cap);
    for ca in std::iter::once(authority.as_ref()).chain(succession::follow(authority, &line, cap, now)) {
        match verify(&parsed, ca, Side::Server, now) {
            Err(Distrust::UnknownIssuer) => {}
            Err(distrust) => return Err(distrust),
            Ok(()) => return Ok(Proven::Invited { leaf: pinned_leaf(&leaf, cap)? }),
        }
    }
    Err(Distrust::UnknownIssuer)
}

pub(crate) fn pinned_leaf(der: &[u8], pinned: &Fqdn) -> Result<Leaf, Distrust> {
    let leaf = Leaf::read(der).map_err(Distrust::Malformed)?;
    match leaf.cap == *pinned {
        true => Ok(leaf),
        false => Err(Distrust::WrongCap { pinned: pinned.clone(), claimed: leaf.cap }),
    }
}

/// Until when the certificate `der` is good, where the CA `ca` (DER) has signed it: what verifying it after the end of time
/// complains about. That comes before the signature is looked at, which is done then.
pub fn expires_at(der: &[u8], ca: &[u8]) -> Option<UnixMillis> {
    let (der, ca) = (CertificateDer::from(der), CertificateDer::from(ca));
    let leaf = EndEntityCert::try_from(&der).ok()?;
    let anchor = [webpki::anchor_from_trusted_cert(&ca).ok()?];
    let at = |now| {
        let usage = KeyUsage::server_auth();
        leaf.verify_for_usage(&[webpki::ring::ED25519], &anchor, &[], now, usage, None, None).map(drop)
    };
    let never = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::from(u32::MAX) * 50));
    let Err(webpki::Error::CertExpired { not_after, .. }) = at(never) else { return None };
    at(not_after).is_ok().then(|| UnixMillis(not_after.as_secs().saturating_mul(1000)))
}

/// Whether `ca` has signed `leaf` directly, for this use, and its time has come.
pub(crate) fn verify(leaf: &EndEntityCert<'_>, ca: &[u8], side: Side, now: UnixMillis) -> Result<(), Distrust> {
    let ca = CertificateDer::from(ca);
    let anchor: TrustAnchor<'_> = webpki::anchor_from_trusted_cert(&ca).map_err(|_| Distrust::UnknownIssuer)?;
    let usage = match side {
        Side::Server => KeyUsage::server_auth(),
        Side::Client => KeyUsage::client_auth(),
    };
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
    match leaf.verify_for_usage(&[webpki::ring::ED25519], &[anchor], &[], now, usage, None, None) {
        Ok(_) => Ok(()),
        Err(webpki::Error::CertExpired { .. }) => Err(Distrust::Expired),
        Err(webpki::Error::CertNotValidYet { .. }) => Err(Distrust::NotValidYet),
        Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => Err(Distrust::UnknownIssuer),
        Err(error) => Err(Distrust::Malformed(error.to_string())),
    }
}
