//! Recovery points.

use std::path::PathBuf;

use landfall_proto::id::{DiskTarget, NodeName, VmId};
use landfall_proto::message::control::{Consistency, Point, PointState};
use serde::{Deserialize, Serialize};

use crate::surface::hex::RootHex;
use crate::surface::{Utc, WaitSeconds};

/// A row of `point list`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointStatus {
    /// Its sequence number: what orders points, and what `--point` takes.
    pub point: u64,
    /// The instant, by the sender's clock.
    pub taken_at: Utc,
    /// What kind of instant it was: `crash` or `off`.
    pub consistency: Consistency,
    /// Bytes of changed content that made it.
    pub bytes: u64,
    /// The content root over all disks.
    pub root: RootHex,
    /// Nodes that have it whole, as far as is known.
    pub copies: Vec<NodeName>,
    /// Nodes on which it is damaged.
    pub damaged_at: Vec<NodeName>,
    /// When it was last read back and compared with its root; null where it never was.
    pub verified_at: Option<Utc>,
    /// Whether it can be restored now: `listed`, `unconfirmed`, `unreachable` or `damaged`, which is how a point stays
    /// shown that is not to be had any more, until its time is over.
    pub state: PointState,
    /// Whether it stays when there is a newer one; what changed in one that does not becomes part of the next.
    pub stays: bool,
}

impl From<Point> for PointStatus {
    fn from(point: Point) -> Self {
        let Point { sequence, taken_at, consistency, bytes, root, copies, state, stays, verified_at } = point;
        let (taken_at, root, verified_at) = (taken_at.into(), root.into(), verified_at.map(Utc::from));
        let damaged_at = Vec::new();
        Self { point: sequence, taken_at, consistency, bytes, root, copies, damaged_at, verified_at, state, stays }
    }
}

/// `point diff`: which bytes differ between two points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointDiff {
    /// One point.
    pub from: u64,
    /// The other.
    pub to: u64,
    /// Ranges to list at most, over all disks.
    #[serde(default = "ranges_listed")]
    pub limit: u32,
}

/// As many as fit a screen or two.
pub const RANGES_LISTED: u32 = 100;

fn ranges_listed() -> u32 {
    RANGES_LISTED
}

/// The answer of `point diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDifference {
    /// The VM.
    pub uuid: VmId,
    /// One point.
    pub from: u64,
    /// The other.
    pub to: u64,
    /// The disks of either, by target.
    pub disks: Vec<DiskDifference>,
}

/// What differs of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDifference {
    /// The disk.
    pub target: DiskTarget,
    /// Its size at the one point; 0 where it was not there.
    pub from_bytes: u64,
    /// Its size at the other.
    pub to_bytes: u64,
    /// Bytes of the blocks of 4 KiB that differ.
    pub differing_bytes: u64,
    /// Where they are, in order.
    pub ranges: Vec<ByteRange>,
    /// Ranges that are not listed, but counted in `differing_bytes`.
    pub left_out: u64,
}

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteRange {
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

/// `point export`: writes each disk of a point as one raw image into a folder of the machine that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointExport {
    /// The point; the newest where none is given.
    #[serde(default)]
    pub point: Option<u64>,
    /// The folder, absolute. It is created; an image that exists there is never overwritten.
    pub dir: PathBuf,
    /// Give up after this long; without it the export takes as long as it takes.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// The answer of `point export`: every byte is on disk and agrees with the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointExported {
    /// The VM.
    pub uuid: VmId,
    /// The point.
    pub point: u64,
    /// The root that the images were compared with.
    pub root: RootHex,
    /// The images, in the order of the VM's disks.
    pub files: Vec<ExportedFile>,
}

/// `point verify`: reads a point back on every node that has it, and compares it with its hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointVerify {
    /// The point; the newest where none is given.
    #[serde(default)]
    pub point: Option<u64>,
    /// Wait until it is read; without it the answer says how far that is, and asking again says it again.
    #[serde(default)]
    pub wait_seconds: Option<WaitSeconds>,
}

/// The answer of `point verify`. A damaged point is a failure with the code `damaged` that names node, disk and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointProof {
    /// The VM.
    pub uuid: VmId,
    /// The point.
    pub point: u64,
    /// The root that it is compared with.
    pub root: RootHex,
    /// The sizes of its disks together.
    pub bytes: u64,
    /// How much of that was read at the node that receives the replica.
    pub read_bytes: u64,
    /// When it was found whole there; null while it is being read.
    pub verified_at: Option<Utc>,
    /// What was damaged there and is repaired, out of which copies; null where nothing was.
    pub repaired: Option<String>,
    /// The same of every node that has a copy, the one that receives it first.
    pub copies: Vec<CopyProof>,
}

/// A point on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProof {
    /// The node.
    pub node: NodeName,
    /// How much was read.
    pub read_bytes: u64,
    /// When it was found whole; null while it is being read, and where it cannot be.
    pub verified_at: Option<Utc>,
    /// What was damaged and is repaired, out of which copies; null where nothing was.
    pub repaired: Option<String>,
    /// Why it is not read there; null where it is.
    pub fault: Option<String>,
}

/// One exported disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// The disk.
    pub target: DiskTarget,
    /// Its raw image.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The BLAKE3 hash of the image, as `b3sum` prints it.
    pub root: RootHex,
}
