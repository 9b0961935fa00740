//! Every bound of the store, with its reason. Past one of them the asker gets an error; the process goes on.

use std::time::Duration;

/// Members of a cluster. Windows failover clusters stop at 64 too; gossip is comfortable up to about 25.
pub const MEMBERS: usize = 64;
/// Join tokens and pairing codes that are valid at one time: a person hands each out.
pub const TICKETS: usize = 64;
/// Rows of the authorization table: each is looked at for every placement.
pub const AUTHORIZATION_ENTRIES: usize = 1024;
/// Clusters that this one is paired with. Every member keeps their member lists in memory.
pub const PEERS: usize = 256;
/// Replicas that a cluster keeps, about a kilobyte of state each.
pub const REPLICAS: usize = 8192;
/// VMs of a cluster that are replicated elsewhere.
pub const PRIMARIES: usize = 8192;
/// Replications that were ended and whose other cluster is to be told: more than one table of VMs that all end while their
/// cluster is away is not remembered.
pub const FAREWELLS: usize = PRIMARIES;
/// VMs that came here by a failover and are replicated neither way any more: each keeps its lineage.
pub const DETACHED: usize = 1024;
/// Branches of a VM that were dropped and are remembered: a word of one of them may come late, seconds and not months.
pub const DROPPED_BRANCHES: usize = 64;
/// Stopped VMs that one answer names: 17 bytes each, in a control frame of 64 KiB.
pub const STOPPED_LISTED: usize = 2048;
/// Hand-overs between clusters whose answer is remembered, one for each VM and its primary's cluster.
pub const HAND_OFF_FLOORS: usize = 2 * REPLICAS;
/// Client sessions; each run of the command line is one. The longest unused goes first.
pub const SESSIONS: usize = 1024;
/// Answers that a session keeps, which is also how many requests of one client may be under way at once.
pub const SESSION_ANSWERS: usize = 16;
/// Settings changes that are kept for `settings history` and for watchers that come back.
pub const SETTINGS_HISTORY: usize = 256;
/// Settings changed by one command: more than there are keys is a mistake.
pub const SETTINGS_CHANGES: usize = 64;
/// Characters of a setting's value: the longest valid one is a storage location's name.
pub const SETTING_VALUE: usize = 256;
/// Characters kept of who asked for a change.
pub const ASKER: usize = 128;
/// Disks of one VM: Hyper-V allows 4 IDE and 256 SCSI disks, a specification of 128 stays below 16 KiB.
pub const DISKS: usize = 128;
/// Adapters of one VM: Hyper-V allows 12.
pub const ADAPTERS: usize = 16;
/// Bytes of an adapter's name.
pub const ADAPTER_NAME: usize = 64;
/// Adapters with failover addresses, of all VMs: two for each replica and each primary, about a hundred bytes each.
pub const FAILOVER_ADDRESSES: usize = 4 * REPLICAS;
/// Rules of subnets, of all peers: each is looked at for every address of a VM that is brought up.
pub const NETWORK_RULES: usize = 1024;
/// Bytes of a disk: the largest VHDX is 64 TiB.
pub const DISK_BYTES: u64 = 64 << 40;
/// Older points kept beside the newest; a qcow2 chain of 25 layers already reads three times slower than its base.
pub const RECOVERY_POINTS: u8 = 24;
/// Bytes of a CA certificate.
pub const CA_CERTIFICATE: usize = 8 << 10;

/// Bytes of one encoded proposal. A forwarded one arrives in a control frame of 64 KiB and gains a few on the way.
pub const PROPOSAL_BYTES: usize = 63 << 10;
/// Bytes of entries in one append call: with the largest entry on top it stays below a frame of 1 MiB.
pub const APPEND_BYTES: usize = 768 << 10;
/// Entries in one append call.
pub const APPEND_ENTRIES: u64 = 512;
/// Bytes of one snapshot chunk on the wire: four fit a frame of 1 MiB.
pub const SNAPSHOT_CHUNK: u64 = 256 << 10;
/// Bytes of a whole snapshot: every table at its bound, with room.
pub const SNAPSHOT_BYTES: u64 = 256 << 20;
/// Bytes of one value in the key-value store that a snapshot is cut into: far below what sled moves to blob files.
pub const SNAPSHOT_VALUE: usize = 16 << 10;
/// Applied entries between two snapshots.
pub const SNAPSHOT_EVERY: u64 = 1000;
/// Entries kept behind a snapshot, so that a node that was away for a moment needs none.
pub const LOG_KEEP: u64 = 200;
/// How far a follower may be behind before it gets a snapshot instead of entries; above [`SNAPSHOT_EVERY`].
pub const LAG_FOR_SNAPSHOT: u64 = 2000;
/// How long one snapshot chunk may take, its installation included.
pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Proposals that wait for their commit on one node.
pub const PROPOSALS_WAITING: usize = 1024;

/// Entries, and their bytes, at the end of the log that are kept in memory though they are on disk: followers are sent
/// and this node applies them a moment later. What is not on disk yet is kept besides; proposals are bounded.
pub const TAIL_ENTRIES: usize = 64;
/// See [`TAIL_ENTRIES`].
pub const TAIL_BYTES: usize = 256 << 10;
/// How long the word that an entry is committed waits for the leader's own sync: a fifth of a heartbeat, with which it
/// goes out otherwise.
pub const COMMIT_NOTICE_WAIT: Duration = Duration::from_millis(50);

/// Commits that wait for the store's thread; further callers wait their turn.
pub const COMMITS_WAITING: usize = 1024;
/// Commits that one sync covers.
pub const COMMITS_TOGETHER: usize = 256;
/// Bytes of memory for sled's page cache: the whole log and state are a few megabytes.
pub const SLED_CACHE: u64 = 16 << 20;
/// Bytes of a small file: keys, certificates, marks.
pub const FILE_BYTES: u64 = 1 << 20;
/// Files that a listing returns.
pub const FILES_LISTED: usize = 4096;
