//! A primary's disks: reading them at one instant, finding what changed, and keeping it until it is acknowledged.
//!
//! ```text
//!   Image --open--> Source --scan--> HashIndex (4 KiB block hashes, named by the disk's root)
//!                              |
//!                              +---> Extents --> ChangeSetWriter (spool) --> the session
//!   HashIndex + the holder's hashes --Comparison--> ranges --send_ranges--> Extents
//! ```
//!
//! Every function here that takes a path, a file or a [`Readable`] blocks on disk IO: call it where blocking is
//! allowed. Only [`tree`], [`compare`] and [`skip`] never do. Nothing here knows of sessions, VMs' states or points.

pub mod change_set;
pub mod compare;
pub mod durable;
pub mod extent;
pub mod index;
mod pieces;
pub mod qcow2;
pub mod scan;
pub mod skip;
pub mod source;
pub mod tree;
pub(crate) mod wait;

#[cfg(test)]
mod change_set_test;
#[cfg(test)]
pub(crate) mod test_disk;
#[cfg(test)]
mod tests;

pub use change_set::{ChangeSetReader, ChangeSetWriter, Inspection, inspect};
pub use compare::{Comparison, Question};
pub use index::{HashIndex, IndexFolder, IndexWriter};
pub use scan::{Baseline, ExtentSink, ScanReport, scan, send_ranges};
pub use skip::{FileStamp, LastScan, may_skip};
pub use source::{Readable, Run, Source};
pub use tree::{BLOCK_BYTES, Hash, LEAF_BYTES, MAX_DISK_BYTES, MAX_DISKS, MIN_DISK_BYTES, content_root};
