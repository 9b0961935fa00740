//! `landfall-data/1`: from the sender to the holder, and between nodes that copy a replica.
//!
//! One bidirectional stream is one session over one VM. The opener sends [`Hello`] and gets [`Welcome`]; then it sends
//! [`DataRequest`] frames one after the other, each answered by one [`DataAnswer`] frame, except that what carries content
//! ([`DataRequest::Fill`], [`DataRequest::Extent`], packed or not) is answered only when it fails: it streams without
//! waiting.

use serde::{Deserialize, Serialize};

use crate::id::{DiskTarget, Epoch, Root, SenderEpoch, UnixMillis, VmId};
use crate::message::broker::Location;
use crate::message::control::{Consistency, Point};
use crate::message::pass::PassHello;
use crate::model::DiskSpec;
use crate::refusal::Refusal;

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// A primary's node sends change sets.
    Send {
        /// The VM.
        vm: VmId,
        /// The assignment that the sender believes in.
        epoch: Epoch,
        /// The sender's own.
        sender_epoch: SenderEpoch,
        /// The VM's disks.
        disks: Vec<DiskSpec>,
        /// Points that the sender knows to have been acknowledged, at most [`POINTS_TOLD`], so that a new home can say which are unreachable.
        known: Vec<Point>,
    },
    /// A member copies the replica's files.
    Copy {
        /// The VM.
        vm: VmId,
        /// The assignment of the node that is asked.
        epoch: Epoch,
    },
    /// The holder passes change sets on to a node that has a copy: see [`super::pass`].
    Pass(Box<PassHello>),
    /// A member that has a copy asks another one for parts of its points: see [`super::leaves`].
    Leaves {
        /// The VM.
        vm: VmId,
    },
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Ready {
        /// The newest listed point.
        newest: Option<Tip>,
        /// What an earlier session left staged and durable, to be resumed where the end root is the same.
        staged: Option<Staged>,
        /// Whether there is content to compare with, though no point is listed (a seeding, an initial copy cut off).
        comparable: bool,
        /// The points that are listed here, oldest first, at most [`POINTS_TOLD`]: a sender that has just taken over
        /// knows none of those that were made before it.
        points: Vec<Point>,
        /// Whether this node is sure, of late, that it still is the one to receive the replica.
        confirmed: bool,
    },
    /// The replica is received elsewhere.
    Moved(Location),
    /// This node does not receive that VM and does not know who does.
    NotHere,
    /// Refused; nothing was changed.
    Refused(Refusal),
}

/// Points that each side tells the other: the newest and the 24 older ones that a replica can be asked to keep.
pub const POINTS_TOLD: usize = 25;

/// The identity of a point's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Its sequence number.
    pub sequence: u64,
    /// Its content root.
    pub root: Root,
}

/// A change set that was received in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The point it will make.
    pub tip: Tip,
    /// Extents that are durable.
    pub extents: u64,
}

/// A frame of a sending session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataRequest {
    /// Hashes of the holder's present content.
    Compare {
        /// The disk.
        disk: DiskTarget,
        /// The size of a node of the tree in bytes: a power of two from 4 KiB to 1 GiB.
        node_bytes: u32,
        /// The first node.
        first: u64,
        /// How many, at most [`COMPARE_MAX`].
        count: u32,
    },
    /// Writes content into a replica that has no point yet: it is no point until `Begin` and `End` have made one.
    Fill(Extent),
    /// A change set begins.
    Begin(ChangeSet),
    /// One extent of it, in order of disk and offset.
    Extent(Extent),
    /// It is complete: stage, verify, make durable, acknowledge.
    End {
        /// How many extents it had.
        extents: u64,
    },
    /// The sender goes away in peace.
    Bye,
    /// As `Fill`, compressed on the way.
    FillPacked(Packed),
    /// As `Extent`, compressed on the way.
    ExtentPacked(Packed),
}

/// Hashes in one answer: 16,384 of 32 bytes fit one data frame of 1 MiB.
pub const COMPARE_MAX: u32 = 16_384;

/// The identity of a change set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// The content it changes; `None` where there is no point yet and what is there was compared.
    pub base: Option<Tip>,
    /// What it makes.
    pub tip: Tip,
    /// The root of each disk, in the order of the VM's disks.
    pub disks: Vec<(DiskSpec, Root)>,
    /// The sender's wall clock at the instant.
    pub taken_at: UnixMillis,
    /// What the instant was.
    pub consistency: Consistency,
    /// Whether its point stays listed once there is a newer one. The holder decides it; what a sender says counts for
    /// nothing.
    pub stays: bool,
    /// Extents of it that were staged by an earlier session and are not sent again.
    pub resume_at: u64,
}

/// Changed content of one disk, 4 KiB aligned except at a disk's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Index of the disk in the VM's disks.
    pub disk: u16,
    /// Byte offset.
    pub offset: u64,
    /// What is there now.
    pub content: Content,
}

/// The content of an extent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// These bytes, at most [`EXTENT_MAX`], and their BLAKE3.
    Data(#[serde(with = "crate::codec::bytes")] Vec<u8>, [u8; 32]),
    /// So many zero bytes.
    Zero(u64),
}

/// An extent of data as zstd made it smaller on its way: what is kept, compared and hashed is always the raw content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Index of the disk in the VM's disks.
    pub disk: u16,
    /// Byte offset.
    pub offset: u64,
    /// Bytes of the raw content, at most [`EXTENT_MAX`]: checked before room for them is made.
    pub length: u32,
    /// BLAKE3 of the raw content.
    pub hash: [u8; 32],
    /// One zstd frame.
    #[serde(with = "crate::codec::bytes")]
    pub frame: Vec<u8>,
}

/// Bytes of content in one extent: with its header it stays well below a data frame.
pub const EXTENT_MAX: usize = 512 * 1024;

/// The answer to a [`DataRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataAnswer {
    /// To Compare: BLAKE3 chaining values of the nodes, in order.
    Hashes(Vec<[u8; 32]>),
    /// To Begin.
    Go,
    /// To End: staged and durable on `copies` nodes; `confirmed` unless the holder could not ask its quorum.
    Acknowledged {
        /// The point.
        point: Point,
        /// Whether the holder is sure that it still is the holder.
        confirmed: bool,
    },
    /// The replica is received elsewhere from now on.
    Moved(Location),
    /// Refused or failed; the change set in flight is dropped.
    Refused(Refusal),
}

/// Bytes of a file that one digest is of.
pub const DIGEST_BYTES: u64 = 64 * 1024;

/// Digests in one answer: 64 MiB of a file, which is read within the time that a copying session waits.
pub const DIGESTS_MAX: u32 = 1024;

/// A frame of a copying session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyRequest {
    /// What files does the replica have? With `freeze` the holder takes nothing new until the session ends.
    List {
        /// Whether to stop accepting change sets.
        freeze: bool,
    },
    /// A piece of one file.
    Read {
        /// The file's name in the replica's folder.
        file: String,
        /// Byte offset.
        offset: u64,
        /// Bytes, at most [`EXTENT_MAX`].
        length: u32,
    },
    /// BLAKE3 of each [`DIGEST_BYTES`] of a part of one file, so that what the asker has alike is not sent.
    Digests {
        /// The file's name in the replica's folder.
        file: String,
        /// Byte offset, a multiple of [`DIGEST_BYTES`].
        offset: u64,
        /// How many, at most [`DIGESTS_MAX`]; the last piece of the file may be shorter.
        count: u32,
    },
    /// The copy is complete, verified and durable: hand the replica over, or admit the asker to the in-sync set,
    /// whichever it was to copy for. Only after a `List` with `freeze`.
    Complete,
}

/// A replica's files at one moment, for a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyListing {
    /// Names and sizes; the names are plain and end in no folder of their own.
    pub files: Vec<(String, u64)>,
    /// Points that are known to be damaged there and could not be repaired, by number: they are copied as they are.
    pub damaged: Vec<u64>,
}

/// The answer to a [`CopyRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyAnswer {
    /// The files.
    Files(CopyListing),
    /// The asker holds the replica from now on, at this assignment.
    Handed(Epoch),
    /// The asker is in the in-sync set from now on.
    Admitted,
    /// BLAKE3 of the pieces, in order.
    Digests(Vec<[u8; 32]>),
    /// The bytes; what is missing of those asked for is zero.
    Piece(#[serde(with = "crate::codec::bytes")] Vec<u8>),
    /// Refused or failed.
    Refused(Refusal),
}
