//! A disk that forgets what was not synced when its power is cut.
//!
//! [`PowerDisk`] is a file system of its own (FUSE, in memory) mounted on a temporary folder. It keeps two versions of
//! everything: what programs see, and what would be there after the power went. `fsync` and `fdatasync` of a file make its
//! data and size durable; `fsync` of a folder makes the names in it durable: created, renamed, removed. This is what POSIX
//! promises and no more: a synced file whose folder was not synced is gone. `sync_file_range`, `flush` and closing
//! promise nothing and do nothing.
//!
//! At a cut, chance decides (by a seed) about everything that was not synced: each page of 4 KiB is kept, dropped or torn
//! at 512 bytes, a new size is kept or not, and names are kept in the order in which they were made, up to some point in
//! each folder. After a failed sync the pages that it was to write are clean and lost, as on Linux: a second sync succeeds
//! and saves nothing.
//!
//! Not modelled: `O_DIRECT` beyond what the kernel does with it by itself, writes through shared memory maps, extended
//! attributes, symbolic links.
//!
//! With [`Medium::Ext4`] programs see an ext4 instead, on a loop device on one file of that disk: what survives a cut goes
//! through its journal first.
//!
//! [`PowerCuts`] runs a [`Workload`] under many cuts and checks what it was promised.

mod child;
mod disk;
mod ext4;
mod fuse;
mod mount;
mod names;
mod pages;
mod workload;

pub use child::{rerun, role};
pub use disk::{Toll, Unsynced};
pub use mount::{Medium, PowerDisk};
pub use workload::{PowerCuts, Survived, Workload};

#[cfg(test)]
mod tests;
