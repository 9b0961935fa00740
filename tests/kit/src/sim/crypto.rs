//! TLS whose handshakes repeat byte for byte.

use std::fmt;
use std::sync::Arc;

use landfall_proto::seam::Random;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::{Error, NamedGroup, PeerMisbehaved};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

use super::SeededRandom;

/// ring's provider with its randomness and its key exchange drawn from `seed`; never secure, always the same.
///
/// Give each node a seed of its own. rustls wants the parts of a provider for ever, so each call leaks a few hundred
/// bytes: make one per node, not one per connection.
pub fn seeded_crypto(seed: u64) -> Arc<CryptoProvider> {
    let random: &'static TlsRandom = Box::leak(Box::new(TlsRandom(SeededRandom::named(seed, "tls"))));
    let group: &'static X25519 = Box::leak(Box::new(X25519(random)));
    Arc::new(CryptoProvider {
        secure_random: random,
        kx_groups: vec![group],
        ..rustls::crypto::ring::default_provider()
    })
}

#[derive(Debug)]
struct TlsRandom(SeededRandom);

impl SecureRandom for TlsRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.0.fill(bytes);
        Ok(())
    }
}

/// X25519 (RFC 7748) with secrets from the seed: ring's own key exchange takes the system's randomness only.
struct X25519(&'static TlsRandom);

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = self.0.0.bytes();
        Ok(Box::new(Exchange { secret, public: x25519(secret, X25519_BASEPOINT_BYTES) }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl fmt::Debug for X25519 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seeded X25519")
    }
}

struct Exchange {
    secret: [u8; 32],
    public: [u8; 32],
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        let shared = x25519(self.secret, peer);
        // A peer that sends a point of small order would fix the secret: RFC 7748, section 6.1.
        if shared == [0; 32] {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&shared[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
