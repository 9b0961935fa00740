//! A replica's files on the node that holds it: landing change sets in recovery points, and getting them out again.
//!
//! One folder belongs to one replica:
//!
//! ```text
//!   manifest                        what is listed, exactly; replaced at once
//!   lock                            held by the process that has the replica open
//!   vda-00000000000000000007.qcow2  the content of vda at point 7: the oldest listed one is a base with all its tables
//!                                   preallocated, each later one an overlay, written once and never opened for writing
//!   vda-00000000000000000007.leaves its 64 KiB leaf hashes
//!   vda.index                       the block hashes of the newest content
//!   vda.filling.qcow2               first content under construction: no point yet
//!   proofs                          when each point was last read back, what was damaged, how the files looked last
//!   run-<id>/                       what a failed-over or tested VM writes (`run`)
//!   staged.log                      a change set that is being staged or is staged
//!   applying.log                    one that is being applied
//! ```
//!
//! A change set goes through [`ReplicaStore::begin`], [`append`](ReplicaStore::append) and
//! [`finish`](ReplicaStore::finish), after which it is staged and durable, and then [`commit`](ReplicaStore::commit),
//! which applies and lists it. Between the two the caller waits for the other nodes. A commit that a crash cut off is
//! completed by [`ReplicaStore::open`]; what was only staged stays staged, for the caller to commit or drop: whether
//! it was acknowledged is not known here.
//!
//! Everything here blocks on disk IO and nothing needs a runtime. A [`ReplicaStore`] is used by one caller at a time;
//! [`PinnedPoint`] and [`CopySource`] read beside it, from any thread.

pub mod agreed;
pub mod alike;
pub mod base;
pub mod branch;
pub mod chain;
mod check;
pub mod copy;
pub mod diff;
pub mod export;
pub mod fill;
mod fold;
pub mod import;
pub mod landing;
pub mod layout;
pub mod leftover;
pub mod local;
pub mod manifest;
pub mod pins;
pub mod proofs;
mod rehash;
pub mod repair;
pub mod retention;
pub mod run;
pub mod stage;
pub mod store;
mod untouched;
mod verify;

#[cfg(test)]
mod agreed_test;
#[cfg(test)]
mod chain_test;
#[cfg(test)]
mod fault_test;
#[cfg(test)]
mod figures_test;
#[cfg(test)]
mod head_test;
#[cfg(test)]
mod import_test;
#[cfg(test)]
mod kill_test;
#[cfg(test)]
mod matrix_test;
#[cfg(test)]
mod run_test;
#[cfg(test)]
mod session_test;
#[cfg(test)]
mod test_primary;
#[cfg(test)]
mod verify_test;

pub use agreed::StagedLog;
pub use alike::Similar;
pub use copy::CopySource;
pub use export::{ExportReport, PinnedPoint};
pub use import::{CopyStep, Import};
pub use manifest::{DiskEntry, Manifest, PointEntry};
pub use run::{NetworkPlaces, RunFolder};
pub use stage::Begun;
pub use store::{Epochs, ReplicaStore, Standing, check_acknowledged, make_folder};
