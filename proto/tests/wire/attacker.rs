//! A bare QUIC client that shows whatever certificate it likes, or none, and believes any server. `tests/hostile` sends the
//! same one against real agents.

use std::sync::Arc;

use landfall_proto::authority::Authority;
use landfall_proto::certificate::NodeKey;
use landfall_proto::id::Fqdn;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};

/// What a forged certificate says.
pub struct Forged<'a> {
    /// Who signs.
    pub authority: &'a Authority,
    /// By which name.
    pub issuer: &'a Fqdn,
    /// The names in it.
    pub names: &'a [&'a str],
    /// The member id in it.
    pub member: &'a str,
    /// Whether it is for servers and clients.
    pub usable: bool,
    /// From and until which year.
    pub years: (i32, i32),
}

impl Forged<'_> {
    /// The certificate for this key, DER.
    pub fn leaf(&self, key: &NodeKey) -> Vec<u8> {
        struct Raw(Vec<u8>);
        impl rcgen::PublicKeyData for Raw {
            fn der_bytes(&self) -> &[u8] {
                &self.0
            }
            fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
                &rcgen::PKCS_ED25519
            }
        }
        let der = PrivatePkcs8KeyDer::from(self.authority.pkcs8());
        let signing = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(self.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(self.years.1, 1, 1);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "forged");
        params.subject_alt_names =
            self.names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
        let member = format!("landfall:member:{}", self.member);
        params.subject_alt_names.push(SanType::URI(member.try_into().unwrap()));
        params.extended_key_usages = match self.usable {
            true => vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            false => vec![ExtendedKeyUsagePurpose::CodeSigning],
        };
        let mut ca = CertificateParams::default();
        ca.distinguished_name = DistinguishedName::new();
        ca.distinguished_name.push(DnType::OrganizationName, "Landfall");
        ca.distinguished_name.push(DnType::OrganizationalUnitName, "Cluster CA");
        ca.distinguished_name.push(DnType::CommonName, self.issuer.as_str());
        let issuer = Issuer::new(ca, signing);
        params.signed_by(&Raw(key.public_key()[12..].to_vec()), &issuer).unwrap().der().to_vec()
    }
}

/// The TLS of a client that shows a certificate with whatever key, or nothing.
pub fn tls(shown: Option<(&[u8], &NodeKey)>, alpn: &str) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut tls = match shown {
        None => builder.with_no_client_auth(),
        Some((leaf, key)) => {
            let der = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into();
            let signing = provider.key_provider.load_private_key(der).unwrap();
            let chain = vec![CertificateDer::from(leaf.to_vec())];
            builder.with_client_cert_resolver(Arc::new(Shows(Arc::new(CertifiedKey::new(chain, signing)))))
        }
    };
    tls.alpn_protocols = vec![alpn.into()];
    tls
}

/// A client's settings with that TLS.
pub fn client(tls: rustls::ClientConfig) -> quinn::ClientConfig {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    quinn::ClientConfig::new(Arc::new(crypto))
}

/// Believes any server: an attacker does not care.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
