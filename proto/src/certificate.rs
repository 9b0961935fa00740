//! Node keys (Ed25519) and what a node's certificate says. Whether to believe it is [`crate::trust`]'s question.

use std::fmt;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ED25519,
    PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::id::{Fingerprint, Fqdn, MemberId};
use crate::refusal::{Class, Refusal};
use crate::seam::{Clock, Random};

/// How long a node certificate is valid; it is renewed at half of that. Long enough for a holiday of a whole site, short
/// enough that what a stolen disk knows is soon worth nothing.
pub const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How far before its making a certificate starts: nodes' wall clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(3600);

/// What precedes the number in the URI name that carries the member id.
const MEMBER_URI: &str = "landfall:member:";

/// PKCS #8 version 1 of an Ed25519 key (RFC 8410), up to its seed.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410), up to the key.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// The fingerprint of the key with this SubjectPublicKeyInfo.
pub fn fingerprint(public_key: &[u8]) -> Fingerprint {
    Fingerprint(*blake3::hash(public_key).as_bytes())
}

/// A private key: a node's, or a cluster's CA's.
pub struct NodeKey {
    pkcs8: Vec<u8>,
    public_key: Vec<u8>,
    pair: KeyPair,
}

impl NodeKey {
    /// Makes a new key out of `random`.
    pub fn generate(random: &dyn Random) -> Result<Self, Refusal> {
        let mut seed = [0; 32];
        random.fill(&mut seed);
        Self::from_pkcs8(&[PKCS8_PREFIX.as_slice(), &seed].concat())
    }

    /// The key that [`NodeKey::pkcs8`] gave.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Refusal> {
        let ours = pkcs8.len() == PKCS8_PREFIX.len() + 32 && pkcs8.starts_with(&PKCS8_PREFIX);
        let pair = ours
            .then(|| KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519).ok())
            .flatten()
            .ok_or_else(|| Refusal::new(Class::Failed, "bad_key", "the private key is not an Ed25519 key of ours"))?;
        Ok(Self { pkcs8: pkcs8.to_vec(), public_key: pair.subject_public_key_info(), pair })
    }

    /// The private key, PKCS #8: a secret.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key, SubjectPublicKeyInfo, DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The public key's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.public_key)
    }

    /// A secret for `purpose` that only the owner of this key can know and that survives a restart.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.pkcs8)
    }

    /// A certificate in which this key vouches for itself: what a node shows that no cluster knows yet.
    pub fn self_signed(&self, clock: &dyn Clock, random: &dyn Random) -> Result<Vec<u8>, Refusal> {
        let mut params = node_params(clock, random, LEAF_LIFE);
        params.distinguished_name.push(DnType::CommonName, "Landfall node");
        Ok(params.self_signed(&self.pair).map_err(|error| unsigned(&error))?.der().to_vec())
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:?})", self.fingerprint())
    }
}

/// Why a certificate could not be made.
pub(crate) fn unsigned(error: &rcgen::Error) -> Refusal {
    Refusal::new(Class::Failed, "certificate_failed", format!("the certificate could not be made: {error}"))
}

/// The last second that a certificate's dates can express, less the longest life: a wild clock gives no panic.
const LATEST_SECOND: u64 = 200_000_000_000;

/// What all our certificates have in common.
pub(crate) fn params(clock: &dyn Clock, random: &dyn Random, life: Duration) -> CertificateParams {
    let mut serial = [0; 16];
    random.fill(&mut serial);
    // Positive, and always of the same length.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let now = Duration::from_secs((clock.wall().0 / 1000).min(LATEST_SECOND));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Landfall");
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now.saturating_add(life);
    params
}

/// What all node certificates have in common.
pub(crate) fn node_params(clock: &dyn Clock, random: &dyn Random, life: Duration) -> CertificateParams {
    let mut params = params(clock, random, life);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// A public key that a certificate is issued for.
#[derive(Debug)]
pub(crate) struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads SubjectPublicKeyInfo, DER: Ed25519 only.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, Refusal> {
        der.strip_prefix(&SPKI_PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok()).map(Self).ok_or_else(|| {
            Refusal::new(Class::Usage, "invalid_value", "public_key: this is not the public half of an Ed25519 key")
                .field("public_key")
                .remedy("let the node make its own key")
        })
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// The URI name for a member id.
pub(crate) fn member_uri(member: MemberId) -> String {
    format!("{MEMBER_URI}{}", member.number())
}

/// What a node certificate says of its owner. Nothing here is proven by reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The node's name: the first DNS name.
    pub fqdn: Fqdn,
    /// The cluster's CAP: the second DNS name.
    pub cap: Fqdn,
    /// The member id: the URI name.
    pub member: MemberId,
    /// The key.
    pub key: Fingerprint,
}

impl Leaf {
    /// Reads a certificate; the error says what is missing.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let der = CertificateDer::from(der);
        let certificate = webpki::EndEntityCert::try_from(&der).map_err(|error| error.to_string())?;
        let names: Vec<&str> = certificate.valid_dns_names().collect();
        let uris: Vec<&str> = certificate.valid_uri_names().collect();
        let ([fqdn, cap], [uri]) = (names.as_slice(), uris.as_slice()) else {
            return Err(format!("it has {} DNS names and {} URI names, not 2 and 1", names.len(), uris.len()));
        };
        let member = uri
            .strip_prefix(MEMBER_URI)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0'))
            .and_then(|digits| digits.parse().ok())
            .ok_or("its URI name is no member id")?;
        Ok(Self {
            fqdn: fqdn.parse().map_err(|_| "its first DNS name is malformed")?,
            cap: cap.parse().map_err(|_| "its second DNS name is malformed")?,
            member: MemberId::from_number(member),
            key: key_of(&certificate),
        })
    }
}

/// The fingerprint of a parsed certificate's key.
pub(crate) fn key_of(certificate: &webpki::EndEntityCert<'_>) -> Fingerprint {
    fingerprint(&certificate.subject_public_key_info())
}
