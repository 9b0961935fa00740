//! Every bound of the network, with the reason for its size (rule R10): past one the peer gets an error, not the
//! process.

use std::time::Duration;

/// A control frame, without its length prefix. Every control message must fit: the largest is a member list of
/// [`MEMBERS_MAX`] members with the longest names (about 50 KiB, held by a test); lists of points and settings are
/// smaller by their own bounds.
pub const CONTROL_FRAME_MAX: usize = 64 * 1024;

/// A data frame: one extent of content, or the hashes of one comparison, each with its header.
pub const DATA_FRAME_MAX: usize = 1024 * 1024;

/// A consensus frame: append entries and pieces of a snapshot, which their senders cut to this.
pub const RAFT_FRAME_MAX: usize = DATA_FRAME_MAX;

/// Members of one cluster: what a control frame can carry, and five times the nodes that gossip was measured with.
pub const MEMBERS_MAX: usize = 128;

/// Peers of one cluster: each costs a list and a verification attempt where its CA's name matches.
pub const PEERS_MAX: usize = 64;

/// From the first packet to a verified peer. A handshake takes 0.5 ms on a quiet LAN; one lost packet costs 0.3 s.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(3);

/// A connection without a packet for so long is dead. A sender notices the death of a holder by it where no notice comes,
/// so it lies just above the five seconds after which a cluster takes a node for lost; a line that is out for longer
/// costs a handshake.
pub const IDLE_TIME: Duration = Duration::from_secs(6);

/// How long a stopping agent waits for its closes to be acknowledged.
pub const SHUT_DOWN_TIME: Duration = Duration::from_secs(1);

/// How often an unused connection shows that it is alive: a quarter of [`IDLE_TIME`], so that three may be lost.
pub const KEEP_ALIVE: Duration = Duration::from_millis(1500);

/// The round trip assumed before one was measured: retransmission starts after three of them.
pub const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Bidirectional streams that a peer may have open on one control connection: requests beyond them wait at the peer.
pub const CONTROL_STREAMS: u32 = 32;

/// Unidirectional streams on one control connection: gossip messages that no datagram can carry.
pub const CONTROL_UNI_STREAMS: u32 = 16;

/// Bytes in flight on one control stream: four control frames.
pub const CONTROL_STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes in flight on one control connection.
pub const CONTROL_WINDOW: u32 = 2 * 1024 * 1024;

/// Datagram bytes that wait for a slow reader or writer of a control connection: gossip repeats itself.
pub const DATAGRAM_BUFFER: usize = 256 * 1024;

/// Sessions that a peer may have open on one data connection, one a VM.
pub const DATA_STREAMS: u32 = 32;

/// Bytes in flight on one data stream: 1 Gbit/s over 64 ms.
pub const DATA_STREAM_WINDOW: u32 = 8 * 1024 * 1024;

/// Bytes in flight on one data connection.
pub const DATA_WINDOW: u32 = 16 * 1024 * 1024;

/// Open connections of one endpoint, both directions: 128 members and peers with a few protocols each.
pub const CONNECTIONS_MAX: usize = 1024;

/// Inbound connections of one identity and protocol: a restarted peer may come back before its old ones are known to
/// be dead. The oldest is closed for a newer one, so nobody locks himself out.
pub const CONNECTIONS_PER_IDENTITY: usize = 4;

/// Inbound connections with self-signed certificates, in all: joins are rare, and such keys cost nothing to make.
pub const STRANGERS_MAX: usize = 16;

/// Inbound handshakes under way.
pub const HANDSHAKES_MAX: usize = 128;

/// Inbound handshakes under way from one address: a whole test cluster behind one address fits.
pub const HANDSHAKES_PER_ADDRESS: usize = 48;

/// Past this many handshakes a new caller must first prove its address (QUIC Retry), which a spoofed one cannot.
pub const RETRY_ABOVE: usize = 32;

/// Connection attempts that wait for the listening task.
pub const INCOMING_MAX: usize = 128;

/// Early bytes kept for one waiting attempt: a client's first flight.
pub const INCOMING_BUFFER: u64 = 64 * 1024;

/// Early bytes kept for all waiting attempts.
pub const INCOMING_BUFFER_TOTAL: u64 = 4 * 1024 * 1024;

/// Verified connections that wait for the agent to take them.
pub const ACCEPT_QUEUE: usize = 64;

/// Refused connections that wait to be told of: a flood is told by its first ones.
pub const TURNED_AWAY_QUEUE: usize = 64;

/// Gossip packets that may be unacknowledged, and for how long one may be: two rounds of three messages, and less than
/// the time between two rounds.
pub const GOSSIP_UNACKNOWLEDGED: u32 = 6;

/// See [`GOSSIP_UNACKNOWLEDGED`].
pub const GOSSIP_ACK_DELAY: Duration = Duration::from_millis(200);

/// A connection on which nothing comes back for so long after a request is taken for dead, and another is made: whoever
/// lives confirms a packet within 25 ms and a round trip. Below what a dead owner's replacement takes.
pub const SILENT_AFTER: Duration = Duration::from_secs(1);

/// Connections kept for calls: [`CONNECTIONS_MAX`] halved, the rest is for inbound ones.
pub const POOL_MAX: usize = CONNECTIONS_MAX / 2;

/// The kernel's buffers of a UDP socket: 8 MiB holds a burst of 80 ms at 1 Gbit/s (measured, facts "peers").
pub const SOCKET_BUFFER: usize = 8 * 1024 * 1024;

/// Bytes of a reason in a connection's close: it fits one packet.
pub const REASON_MAX: usize = 256;

/// One attempt of a broker client at one agent: longer than an owner needs to place a replica, short enough that a
/// hung agent leaves time for another. (A changed owner answers after 3-4 s.)
pub const ATTEMPT_TIME: Duration = Duration::from_secs(5);

/// The shortest attempt, where a call's deadline leaves less than twice [`ATTEMPT_TIME`] and so is halved.
pub const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(500);

/// After so long without an answer a broker client asks the next agent as well, under the same request: many times what
/// an answer takes, and a third of what a dead owner's replacement takes.
pub const HEDGE_AFTER: Duration = Duration::from_secs(1);

/// The first wait of a broker client after a round of agents that all failed; it doubles up to [`RETRY_WAIT_MAX`].
pub const RETRY_WAIT: Duration = Duration::from_millis(50);

/// The longest wait of a broker client between rounds: a new owner is found within it, a seventh of what its election
/// takes.
pub const RETRY_WAIT_MAX: Duration = Duration::from_millis(500);

/// Referrals to another owner that a broker client follows without a wait: ownership that is in motion settles first.
pub const REFERRALS_MAX: u32 = 3;

/// Virtual machines whose epochs a broker client remembers.
pub const EPOCHS_REMEMBERED: usize = 16_384;
