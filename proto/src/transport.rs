//! quinn's configuration: every default that is loose for a control plane, set; every source of randomness, pinned.
//!
//! With seeded [`Random`], the same wall clock and a seeded key exchange, two runs send the same bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig, VarInt,
};
use quinn_proto::InvalidCid;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::alpn::Alpn;
use crate::certificate::NodeKey;
use crate::endpoint::Role;
use crate::limits;
use crate::seam::{Clock, Random};

/// The transport of one endpoint's connections, the same in both directions.
fn transport(role: Role) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = u32::try_from(limits::IDLE_TIME.as_millis()).unwrap_or(u32::MAX);
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .initial_rtt(limits::INITIAL_RTT);
    match role {
        Role::Control => config
            .max_concurrent_bidi_streams(VarInt::from_u32(limits::CONTROL_STREAMS))
            .max_concurrent_uni_streams(VarInt::from_u32(limits::CONTROL_UNI_STREAMS))
            .stream_receive_window(VarInt::from_u32(limits::CONTROL_STREAM_WINDOW))
            .receive_window(VarInt::from_u32(limits::CONTROL_WINDOW))
            .send_window(u64::from(limits::CONTROL_WINDOW))
            .datagram_receive_buffer_size(Some(limits::DATAGRAM_BUFFER))
            .datagram_send_buffer_size(limits::DATAGRAM_BUFFER),
        Role::Data => config
            .max_concurrent_bidi_streams(VarInt::from_u32(limits::DATA_STREAMS))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(limits::DATA_STREAM_WINDOW))
            .receive_window(VarInt::from_u32(limits::DATA_WINDOW))
            .send_window(u64::from(limits::DATA_WINDOW))
            .datagram_receive_buffer_size(None),
    };
    config
}

/// Asks for few acknowledgements: gossip goes one way on a connection, a few datagrams a round which nobody repeats, so
/// that each acknowledgement would be a packet of its own and wake both ends for nothing.
fn seldom_acknowledged() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config
        .ack_eliciting_threshold(VarInt::from_u32(limits::GOSSIP_UNACKNOWLEDGED))
        .max_ack_delay(Some(limits::GOSSIP_ACK_DELAY));
    config
}

/// What one endpoint is made with. The reset and connection-id keys follow from the node's key, so that an agent that
/// was restarted can tell its peers at once that their connections are gone.
pub(crate) fn endpoint(role: Role, key: &NodeKey, random: &dyn Random) -> EndpointConfig {
    let (reset_purpose, cid_purpose) = match role {
        Role::Control => ("landfall 2026 control stateless reset", "landfall 2026 control connection ids"),
        Role::Data => ("landfall 2026 data stateless reset", "landfall 2026 data connection ids"),
    };
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key.derive(reset_purpose));
    let cid_key = key.derive(cid_purpose);
    let cid_seed = seed(random);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config
        .rng_seed(Some(seed(random)))
        .cid_generator(move || Box::new(ConnectionIds { key: cid_key, nonces: ChaCha20Rng::from_seed(cid_seed) }));
    config
}

/// The listening side.
pub(crate) fn server(
    role: Role,
    crypto: Arc<QuicServerConfig>,
    random: &dyn Random,
    clock: &Arc<dyn Clock>,
) -> quinn::ServerConfig {
    let salt = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]);
    let token_key = salt.extract(&seed(random));
    let mut config = quinn::ServerConfig::new(crypto, Arc::new(token_key));
    config
        .transport_config(Arc::new(transport(role)))
        .migration(false)
        .max_incoming(limits::INCOMING_MAX)
        .incoming_buffer_size(limits::INCOMING_BUFFER)
        .incoming_buffer_size_total(limits::INCOMING_BUFFER_TOTAL)
        .time_source(Arc::new(WallClock(Arc::clone(clock))));
    // No tokens for later visits: who comes under load proves his address each time.
    config.validation_token.sent(0);
    config
}

/// The dialling side of a connection for `alpn`.
pub(crate) fn client(alpn: Alpn, crypto: Arc<QuicClientConfig>, random: &Arc<dyn Random>) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(crypto);
    let random = Arc::clone(random);
    let mut transport = transport(Role::of(alpn));
    if alpn == Alpn::Gossip {
        transport.ack_frequency_config(Some(seldom_acknowledged()));
    }
    config.transport_config(Arc::new(transport)).token_store(Arc::new(quinn::NoneTokenStore)).initial_dst_cid_provider(
        Arc::new(move || {
            let mut id = [0; 16];
            random.fill(&mut id);
            ConnectionId::new(&id)
        }),
    );
    config
}

fn seed(random: &dyn Random) -> [u8; 32] {
    let mut seed = [0; 32];
    random.fill(&mut seed);
    seed
}

#[derive(Debug)]
struct WallClock(Arc<dyn Clock>);

impl quinn::TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.wall().0)
    }
}

const NONCE: usize = 6;
const TAG: usize = 4;

/// Connection ids that this endpoint recognises as its own: garbage at the socket costs one hash, no answer.
struct ConnectionIds {
    key: [u8; 32],
    nonces: ChaCha20Rng,
}

impl ConnectionIds {
    fn tag(&self, nonce: &[u8]) -> [u8; TAG] {
        let hash = blake3::keyed_hash(&self.key, nonce);
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hash.as_bytes()[..TAG]);
        tag
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; NONCE + TAG];
        self.nonces.fill_bytes(&mut id[..NONCE]);
        let tag = self.tag(&id[..NONCE]);
        id[NONCE..].copy_from_slice(&tag);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.split_at_checked(NONCE) {
            Some((nonce, tag)) if self.tag(nonce) == tag => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        NONCE + TAG
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A lock that a panic elsewhere does not make unusable: what it guards is consistent between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
