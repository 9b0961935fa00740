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

/// A server's endpoint and a client's, which trust one another.
pub struct Link {
    /// Accepts.
    pub server: Endpoint,
    client: Endpoint,
    address: SocketAddr,
}

impl Link {
    /// Binds both; call inside the runtime.
    pub fn new() -> Self {
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("a root");
        let (roots, issuer) = (Arc::new(roots), Issuer::new(params, ca_key));
        let crypto = Arc::new(rustls::crypto::ring::default_provider());

        let server = endpoint(Some(server_config(&crypto, &roots, &issuer)));
        let mut client = endpoint(None);
        client.set_default_client_config(client_config(&crypto, &roots, &issuer));
        let address = server.local_addr().expect("a bound socket");
        Self { server, client, address }
    }

    /// Connects once more.
    pub async fn connect(&self) -> Connection {
        self.client.connect(self.address, NAME).expect("a valid name").await.expect("a handshake on loopback")
    }
}

fn server_config(
    crypto: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    issuer: &Issuer<'_, KeyPair>,
) -> ServerConfig {
    let (chain, key) = leaf(issuer);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), crypto.clone()).build().expect("a root");
    let mut tls = rustls::ServerConfig::builder_with_provider(crypto.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("a matching key");
    tls.alpn_protocols = vec![b"floor".to_vec()];
    ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("TLS 1.3")))
}

fn client_config(
    crypto: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    issuer: &Issuer<'_, KeyPair>,
) -> ClientConfig {
    let (chain, key) = leaf(issuer);
    let mut tls = rustls::ClientConfig::builder_with_provider(crypto.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain, key)
        .expect("a matching key");
    tls.alpn_protocols = vec![b"floor".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")))
}

fn leaf(issuer: &Issuer<'_, KeyPair>) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a valid name");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    // As large as this user may make them.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER).ok();
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER).ok();
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}
