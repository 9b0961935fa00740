//! TLS 1.3 as every connection uses it: both sides show a certificate, nothing is ever resumed.
//!
//! A resumed session would skip the verifier, so that a removed node could return: no tickets, no session
//! storage, no early data. Signatures are always verified. The verifiers ask [`crate::trust`] and decide nothing else.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use crate::alpn::Alpn;
use crate::certificate::{Leaf, NodeKey};
use crate::id::{Fingerprint, Fqdn, UnixMillis};
use crate::model::{CaLine, Succession};
use crate::refusal::{Class, Refusal};
use crate::seam::{Clock, Outside};
use crate::trust::{Distrust, Proven, Side, Trust, TrustedClock, prove_invited};

/// The name that every dialler sends. Servers are told apart by what their certificates prove, not by this.
pub const SERVER_NAME: &str = "landfall";

/// Who this node says it is: its key, and once it belongs to a cluster, the certificate for it.
#[derive(Clone, Debug)]
pub struct Identity {
    key: Arc<NodeKey>,
    membership: Option<Membership>,
}

#[derive(Clone, Debug)]
struct Membership {
    leaf: Leaf,
    certificate: Vec<u8>,
    /// The CA, and after [`Identity::following`] the oldest that is kept.
    ca: Vec<u8>,
    /// Those that followed it.
    after: Vec<Succession>,
}

impl Membership {
    /// What is shown: the certificate, then how the cluster's CAs followed each other. One who has an invitation knows only
    /// a fingerprint, and is shown the oldest CA as well.
    fn chain(&self, with_first: bool) -> Vec<&[u8]> {
        let first = with_first.then_some(self.ca.as_slice());
        let after = self.after.iter().flat_map(|step| [step.ca.as_slice(), step.warrant.as_slice()]);
        std::iter::once(self.certificate.as_slice()).chain(first).chain(after).collect()
    }
}

impl Identity {
    /// A node that belongs to no cluster: it can dial `landfall-join/1` and nothing else, and listens to nobody.
    pub fn stranger(key: Arc<NodeKey>) -> Self {
        Self { key, membership: None }
    }

    /// A member with its certificate and its cluster's CA, both DER.
    pub fn member(key: Arc<NodeKey>, certificate: &[u8], ca: &[u8]) -> Result<Self, Refusal> {
        let broken =
            |why: String| Refusal::new(Class::Failed, "bad_certificate", format!("the node's certificate: {why}"));
        let leaf = Leaf::read(certificate).map_err(broken)?;
        if leaf.key != key.fingerprint() {
            return Err(broken("it belongs to another key than this node's".to_owned()));
        }
        let (certificate, ca) = (certificate.to_vec(), ca.to_vec());
        Ok(Self { key, membership: Some(Membership { leaf, certificate, ca, after: Vec::new() }) })
    }

    /// The same, of a cluster whose CAs are `line`: it shows how they followed each other.
    pub fn following(mut self, line: &CaLine) -> Self {
        if let Some(membership) = &mut self.membership {
            (membership.ca, membership.after) = (line.first.clone(), line.after.clone());
        }
        self
    }

    /// The key.
    pub fn key(&self) -> &Arc<NodeKey> {
        &self.key
    }

    /// The certificate, DER, where there is one.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.membership.as_ref().map(|membership| membership.certificate.as_slice())
    }

    /// What the certificate says, where there is one.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.membership.as_ref().map(|membership| &membership.leaf)
    }
}

/// What a dialler expects of the server.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// A node of a known cluster, perhaps one certain node.
    Node { cap: Fqdn, key: Option<Fingerprint> },
    /// A node of the cluster that an invitation names.
    Invited { cap: Fqdn, ca: Fingerprint },
}

/// Why a TLS configuration could not be made.
fn unconfigured(error: &dyn fmt::Display) -> Refusal {
    Refusal::new(Class::Failed, "tls_failed", format!("TLS could not be configured: {error}"))
}

/// The listening side for `alpns`; `None` for a node without a cluster.
pub(crate) fn server(
    outside: &Outside,
    trust: &Trust,
    identity: &Identity,
    alpns: &[Alpn],
) -> Result<Option<Arc<QuicServerConfig>>, Refusal> {
    let Some(membership) = &identity.membership else { return Ok(None) };
    let certificates = ServerCertificates {
        plain: certified(outside, &identity.key, &membership.chain(false))?,
        with_ca: certified(outside, &identity.key, &membership.chain(true))?,
    };
    let verifier =
        Verifier { trust: trust.clone(), crypto: Arc::clone(&outside.crypto), expect: None, verdict: Arc::default() };
    let mut config = rustls::ServerConfig::builder_with_details(Arc::clone(&outside.crypto), time(outside, trust))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unconfigured(&error))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.name().into()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Some(Arc::new(QuicServerConfig::try_from(config).map_err(|error| unconfigured(&error))?)))
}

/// The dialling side for one protocol. A join shows a self-signed certificate even where the node has another: the
/// server cannot know that one's CA. `verdict` keeps why the server was not believed, which TLS reduces to an alert.
pub(crate) fn client(
    outside: &Outside,
    trust: &Trust,
    identity: &Identity,
    alpn: Alpn,
    expect: Expect,
    verdict: Arc<OnceLock<Distrust>>,
) -> Result<Arc<QuicClientConfig>, Refusal> {
    let shown = match (&identity.membership, alpn) {
        (Some(membership), Alpn::Gossip | Alpn::Raft | Alpn::Control | Alpn::Broker | Alpn::Data) => {
            certified(outside, &identity.key, &membership.chain(false))?
        }
        (_, Alpn::Join) => {
            let own = identity.key.self_signed(&*outside.clock, &*outside.random)?;
            certified(outside, &identity.key, &[&own])?
        }
        (None, _) => {
            return Err(Refusal::new(Class::Failed, "no_cluster", "this node belongs to no cluster yet")
                .remedy("run `landfall cluster init` or `landfall cluster join TOKEN`"));
        }
    };
    let verifier =
        Verifier { trust: trust.clone(), crypto: Arc::clone(&outside.crypto), expect: Some(expect), verdict };
    let mut config = rustls::ClientConfig::builder_with_details(Arc::clone(&outside.crypto), time(outside, trust))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unconfigured(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(ClientCertificate(shown)));
    config.alpn_protocols = vec![alpn.name().into()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(Arc::new(QuicClientConfig::try_from(config).map_err(|error| unconfigured(&error))?))
}

fn certified(outside: &Outside, key: &NodeKey, chain: &[&[u8]]) -> Result<Arc<CertifiedKey>, Refusal> {
    let signing = outside
        .crypto
        .key_provider
        .load_private_key(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into())
        .map_err(|error| unconfigured(&error))?;
    let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    Ok(Arc::new(CertifiedKey::new(chain, signing)))
}

fn time(outside: &Outside, trust: &Trust) -> Arc<dyn TimeProvider> {
    Arc::new(WallClock(trust.clock(Arc::clone(&outside.clock))))
}

#[derive(Debug)]
struct WallClock(TrustedClock);

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall().0)))
    }
}

#[derive(Debug)]
struct ClientCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The server's certificate; with the CA for one who joins, who knows only its fingerprint.
#[derive(Debug)]
struct ServerCertificates {
    plain: Arc<CertifiedKey>,
    with_ca: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ServerCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let joins = hello.alpn()?.any(|name| name == Alpn::Join.name().as_bytes());
        Some(Arc::clone(if joins { &self.with_ca } else { &self.plain }))
    }
}

/// Verifies the other side, as server (with an expectation) or as client (without).
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    crypto: Arc<CryptoProvider>,
    expect: Option<Expect>,
    verdict: Arc<OnceLock<Distrust>>,
}

/// Whether a server that shows `leaf` and `chain` is what was expected; who it is.
pub(crate) fn judge_server(
    trust: &Trust,
    expect: &Expect,
    leaf: &[u8],
    chain: &[CertificateDer<'_>],
    now: UnixMillis,
) -> Result<Proven, Distrust> {
    match expect {
        Expect::Invited { cap, ca } => prove_invited(leaf, chain, cap, ca, now),
        Expect::Node { cap, key } => {
            let view = trust.view();
            let proven = view.prove(leaf, chain, Side::Server, now)?;
            match proven.cap() {
                None => return Err(Distrust::UnknownIssuer),
                Some(proven_cap) if proven_cap != cap => return Err(Distrust::OtherNode),
                Some(_) => {}
            }
            if key.is_some_and(|key| key != proven.key()) {
                return Err(Distrust::OtherNode);
            }
            view.standing(&proven)?;
            Ok(proven)
        }
    }
}

impl Verifier {
    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(rustls::PeerIncompatible::NoSignatureSchemesInCommon.into());
        }
        let algorithms = &self.crypto.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }
}

fn millis(now: UnixTime) -> UnixMillis {
    UnixMillis(now.as_secs().saturating_mul(1000))
}

fn refused(distrust: Distrust) -> rustls::Error {
    rustls::Error::InvalidCertificate(match distrust {
        Distrust::Malformed(_) => CertificateError::BadEncoding,
        Distrust::UnknownIssuer => CertificateError::UnknownIssuer,
        Distrust::Expired => CertificateError::Expired,
        Distrust::NotValidYet => CertificateError::NotValidYet,
        Distrust::WrongCap { .. }
        | Distrust::Mismatch { .. }
        | Distrust::Removed { .. }
        | Distrust::Unpaired { .. }
        | Distrust::Retired { .. }
        | Distrust::OtherNode => CertificateError::Other(OtherError(Arc::new(distrust))),
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let expect = self.expect.as_ref().ok_or_else(|| refused(Distrust::OtherNode))?;
        judge_server(&self.trust, expect, leaf, chain, millis(now)).map_err(|distrust| {
            let _ = self.verdict.set(distrust.clone());
            refused(distrust)
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// A chain to a known CA, or a key that vouches for itself: the protocol is not known here, so what each may do is
    /// decided right after the handshake, where a removed node can also be told so.
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.view().prove(leaf, chain, Side::Client, millis(now)).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
