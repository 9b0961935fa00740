//! A cluster's certificate authority: made at `cluster init`, kept by the data nodes that vote, never in the log.

use std::fmt;
use std::time::Duration;

use rcgen::{BasicConstraints, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;

use crate::certificate::{self, Leaf, NodeKey, PublicKey};
use crate::id::{Fingerprint, Fqdn, MemberId};
use crate::refusal::{Class, Refusal, quoted};
use crate::seam::{Clock, Random};

/// How long a CA is valid: it outlives the hardware, and `cluster rotate-ca` replaces it earlier.
pub const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The most characters of a common name (RFC 5280). The whole CAP is in the alternative name.
const COMMON_NAME_MAX: usize = 64;

/// BLAKE3 of a CA certificate's DER: what an invitation names.
pub fn ca_fingerprint(ca: &[u8]) -> Fingerprint {
    Fingerprint(*blake3::hash(ca).as_bytes())
}

/// The CA of one cluster, with its key.
pub struct Authority {
    cap: Fqdn,
    key: NodeKey,
    certificate: Vec<u8>,
}

impl Authority {
    /// Makes the CA of a new cluster.
    pub fn found(cap: &Fqdn, random: &dyn Random, clock: &dyn Clock) -> Result<Self, Refusal> {
        let key = NodeKey::generate(random)?;
        let mut params = certificate::params(clock, random, CA_LIFE);
        params.distinguished_name = subject(cap);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![dns_name(cap)?];
        let certificate = params.self_signed(key.pair()).map_err(|error| certificate::unsigned(&error))?;
        Self::from_parts(key.pkcs8(), certificate.der())
    }

    /// The CA that [`Authority::pkcs8`] and [`Authority::certificate`] gave.
    pub fn from_parts(pkcs8: &[u8], certificate: &[u8]) -> Result<Self, Refusal> {
        let broken = |why: &str| {
            Refusal::new(Class::Failed, "bad_authority", format!("the cluster's CA cannot be used: {why}"))
                .remedy("take ca.key and the certificate from another node that votes")
        };
        let key = NodeKey::from_pkcs8(pkcs8).map_err(|_| broken("its key is malformed"))?;
        let der = CertificateDer::from(certificate);
        let parsed = webpki::EndEntityCert::try_from(&der).map_err(|_| broken("its certificate is malformed"))?;
        if certificate::key_of(&parsed) != key.fingerprint() {
            return Err(broken("its key belongs to another certificate"));
        }
        let mut names = parsed.valid_dns_names();
        let cap = match (names.next().map(str::parse), names.next()) {
            (Some(Ok(cap)), None) => cap,
            _ => return Err(broken("its certificate does not name exactly one CAP")),
        };
        Ok(Self { cap, key, certificate: certificate.to_vec() })
    }

    /// The CAP that this CA vouches for.
    pub fn cap(&self) -> &Fqdn {
        &self.cap
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its key, PKCS #8: the cluster's greatest secret.
    pub fn pkcs8(&self) -> &[u8] {
        self.key.pkcs8()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        self.key.pair()
    }

    /// What an invitation names this CA by.
    pub fn fingerprint(&self) -> Fingerprint {
        ca_fingerprint(&self.certificate)
    }

    /// Issues a node certificate for `public_key` (SubjectPublicKeyInfo, DER). The caller has committed the member.
    pub fn issue(
        &self,
        fqdn: &Fqdn,
        member: MemberId,
        public_key: &[u8],
        random: &dyn Random,
        clock: &dyn Clock,
    ) -> Result<Vec<u8>, Refusal> {
        let subject_key = PublicKey::from_der(public_key)?;
        let mut params = certificate::node_params(clock, random, certificate::LEAF_LIFE);
        params.distinguished_name.push(DnType::CommonName, common_name(fqdn));
        let uri = certificate::member_uri(member).try_into().map_err(|error| certificate::unsigned(&error))?;
        params.subject_alt_names = vec![dns_name(fqdn)?, dns_name(&self.cap)?, SanType::URI(uri)];
        let mut issuer = rcgen::CertificateParams::default();
        issuer.distinguished_name = subject(&self.cap);
        let issuer: Issuer<'_, &KeyPair> = Issuer::new(issuer, self.key.pair());
        let der =
            params.signed_by(&subject_key, &issuer).map_err(|error| certificate::unsigned(&error))?.der().to_vec();
        // Some names are well formed for people and not for X.509: found here, not at the first handshake.
        let expected =
            Leaf { fqdn: fqdn.clone(), cap: self.cap.clone(), member, key: certificate::fingerprint(public_key) };
        match Leaf::read(&der) {
            Ok(leaf) if leaf == expected => Ok(der),
            _ => Err(Refusal::invalid(
                "fqdn",
                fqdn.as_str(),
                "use names whose last label is not a number: certificates cannot carry others",
            )),
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.cap)
    }
}

pub(crate) fn dns_name(name: &Fqdn) -> Result<SanType, Refusal> {
    let text = name.as_str().try_into().map_err(|_| {
        Refusal::new(Class::Usage, "invalid_value", format!("name: {} cannot be certified", quoted(name.as_str())))
    })?;
    Ok(SanType::DnsName(text))
}

fn common_name(name: &Fqdn) -> String {
    name.as_str().chars().take(COMMON_NAME_MAX).collect()
}

/// The CA's own name: it follows from the CAP, so that an issuer can be rebuilt without parsing the certificate.
pub(crate) fn subject(cap: &Fqdn) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Landfall");
    subject.push(DnType::OrganizationalUnitName, "Cluster CA");
    subject.push(DnType::CommonName, common_name(cap));
    subject
}
