//! The names of the files in a replica's folder.

use std::path::{Path, PathBuf};

use landfall_proto::id::DiskTarget;

/// The most files that a folder is expected to have: 25 points of 256 disks, two files each, and a few more.
pub const FILES_MAX: usize = 16_384;

/// The file that says what is listed.
pub const MANIFEST: &str = "manifest";
/// The file whose lock says who has the replica open.
pub const LOCK: &str = "lock";
/// A change set that is being staged, or is staged.
pub const STAGED: &str = "staged.log";
/// A change set that is being applied.
pub const APPLYING: &str = "applying.log";
/// What is known of the files, beside what they say.
pub const PROOFS: &str = "proofs";
/// Every log whose change set may have been acknowledged once it is there whole.
pub const LOGS: [&str; 2] = [STAGED, APPLYING];

/// A replica's folder.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// The folder at `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The block hashes of the newest content of a disk.
    pub fn index(&self, target: &DiskTarget) -> PathBuf {
        self.path(&index_name(target))
    }

    /// The first content of a disk while it is under construction.
    pub fn filling(&self, target: &DiskTarget) -> PathBuf {
        self.path(&filling_name(target))
    }
}

/// The name of a disk's file at a point.
pub fn point_name(target: &DiskTarget, sequence: u64) -> String {
    format!("{target}-{sequence:020}.qcow2")
}

/// The name of the leaf hashes of a disk at a point.
pub fn leaves_name(target: &DiskTarget, sequence: u64) -> String {
    format!("{target}-{sequence:020}.leaves")
}

/// The name of a disk's index.
pub fn index_name(target: &DiskTarget) -> String {
    format!("{target}.index")
}

/// The name of a disk's first content under construction.
pub fn filling_name(target: &DiskTarget) -> String {
    format!("{target}.filling.qcow2")
}

/// Whether `name` is one that [`point_name`] makes.
pub fn is_point_name(name: &str) -> bool {
    name.strip_suffix(".qcow2").and_then(|rest| rest.rsplit_once('-')).is_some_and(|(target, digits)| {
        !target.is_empty() && digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Whether `name` stays in its folder: what a manifest or a peer names is checked with this before it is opened.
pub fn is_plain(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether a file of this name is ours to remove when nothing refers to it.
pub fn is_ours(name: &str) -> bool {
    [".qcow2", ".leaves", ".index", super::super::image::durable::TEMPORARY].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_stay_in_their_folder() {
        let target: DiskTarget = "vda-1.x".parse().unwrap();
        assert!(is_point_name(&point_name(&target, 7)) && is_plain(&point_name(&target, u64::MAX)));
        assert!(!is_point_name(&filling_name(&target)) && !is_point_name("vda-7.qcow2"));
        for bad in ["", ".", "..", "../x", "/etc/passwd", "a/b", ".hidden", "a\0b"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
