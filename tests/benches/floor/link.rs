//! Two bare quinn endpoints on loopback with certificates at both ends.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// What a burst of full windows needs.
const SOCKET_BUFFER: usize = 8 << 20;
const NAME: &str = "floor.test";

/// What one end needs to prove itself and to believe the other: DER.
pub struct Papers {
    root: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Papers {
    /// A server's papers and a client's, of one CA that is forgotten.
    pub fn pair() -> (Self, Self) {
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&ca_key).expect("a certificate").der().to_vec();
        let issuer = Issuer::new(params, ca_key);
        (Self::issue(&issuer, &root), Self::issue(&issuer, &root))
    }

    fn issue(issuer: &Issuer<'_, KeyPair>, root: &[u8]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a valid name");
        let certificate = params.signed_by(&key, issuer).expect("a certificate").der().to_vec();
        Self { root: root.to_vec(), certificate, key: key.serialize_der() }
    }

    /// One line, for a process that serves.
    pub fn to_text(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        [&self.root, &self.certificate, &self.key].map(|part| hex(part)).join(" ")
    }

    /// The papers of [`Papers::to_text`].
    pub fn from_text(text: &str) -> Self {
        let byte = |at: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(at), 16).expect("hex");
        let mut parts = text.split(' ').map(|part| part.as_bytes().chunks(2).map(byte).collect::<Vec<u8>>());
        let mut next = || parts.next().expect("three parts");
        Self { root: next(), certificate: next(), key: next() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.root.clone())).expect("a root");
        Arc::new(roots)
    }

    fn leaf(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![CertificateDer::from(self.certificate.clone())], PrivateKeyDer::Pkcs8(self.key.clone().into()))
    }
}

/// An endpoint that accepts; call inside a runtime.
pub fn server(papers: &Papers) -> Endpoint {
    let (chain, key) = papers.leaf();
    let crypto = crypto();
    let verifier = WebPkiClientVerifier::builder_with_provider(papers.roots(), crypto.clone()).build().expect("a root");
    let mut tls = rustls::ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("a matching key");
    tls.alpn_protocols = vec![b"floor".to_vec()];
    endpoint(Some(ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("TLS 1.3")))))
}

/// An endpoint that connects to one server.
pub struct Client {
    endpoint: Endpoint,
    address: SocketAddr,
}

impl Client {
    /// Binds; call inside a runtime.
    pub fn new(papers: &Papers, address: SocketAddr) -> Self {
        let (chain, key) = papers.leaf();
        let mut tls = rustls::ClientConfig::builder_with_provider(crypto())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has TLS 1.3")
            .with_root_certificates(papers.roots())
            .with_client_auth_cert(chain, key)
            .expect("a matching key");
        tls.alpn_protocols = vec![b"floor".to_vec()];
        let mut endpoint = endpoint(None);
        endpoint
            .set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3"))));
        Self { endpoint, address }
    }

    /// Connects once more.
    pub async fn connect(&self) -> Connection {
        self.endpoint.connect(self.address, NAME).expect("a valid name").await.expect("a handshake on loopback")
    }
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    // As large as this user may make them.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER).ok();
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER).ok();
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}
