//! What an image file is: raw or qcow2, how large its disk is, and whether it can be whole.
//!
//! Source of the header's layout: QEMU's docs/interop/qcow2.txt. Nothing but the header is read.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use landfall_proto::Refusal;
use landfall_proto::id::DiskTarget;

use super::foreign::{FileId, unusable};
use crate::vm_service::{Image, ImageFormat};

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// The header of version 2; version 3 has the same fields up to here, and feature bits from here on.
const HEADER_V2: usize = 72;
const HEADER_V3: usize = 104;
/// Incompatible feature bits of version 3.
const FEATURE_CORRUPT: u64 = 1 << 1;
const FEATURE_DATA_FILE: u64 = 1 << 2;
/// The unit in which a guest addresses a disk.
const SECTOR: u64 = 512;

/// A file's state as far as its inode tells: whoever writes changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print {
    /// The file.
    pub file: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            file: FileId::from(metadata),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The state of the file at `path`, if there is one.
    pub(super) fn take(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::of)
    }
}

/// Looks at the image of disk `target`.
pub(super) fn inspect(target: &DiskTarget, path: &Path) -> Result<(Image, Print), Refusal> {
    let broken = |why: String| unusable(path, &why);
    let file = File::open(path).map_err(|error| broken(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| broken(error.to_string()))?;
    if !metadata.is_file() {
        return Err(broken("not a regular file".to_owned()));
    }
    let length = metadata.len();
    let mut header = [0; HEADER_V3];
    let got = read_up_to(&file, &mut header).map_err(|error| broken(error.to_string()))?;
    let (format, bytes) = if header[..got].starts_with(&QCOW2_MAGIC) {
        (ImageFormat::Qcow2, qcow2_size(&header[..got], length).map_err(broken)?)
    } else {
        (ImageFormat::Raw, raw_size(length).map_err(broken)?)
    };
    Ok((Image { target: target.clone(), path: path.to_owned(), format, bytes }, Print::of(&metadata)))
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], got as u64)? {
            0 => break,
            more => got += more,
        }
    }
    Ok(got)
}

fn raw_size(length: u64) -> Result<u64, String> {
    match length {
        0 => Err("empty".to_owned()),
        odd if !odd.is_multiple_of(SECTOR) => Err(format!("truncated: {odd} bytes are not whole sectors of {SECTOR}")),
        whole => Ok(whole),
    }
}

/// The guest's size, checked against what the header says must be in the file.
fn qcow2_size(header: &[u8], length: u64) -> Result<u64, String> {
    let word = |at: usize| u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let long = |at: usize| (word(at) << 32) | word(at + 4);
    if header.len() < HEADER_V2 {
        return Err(format!("truncated: {length} bytes do not hold a qcow2 header"));
    }
    match word(4) {
        2 => {}
        3 if header.len() < HEADER_V3 => return Err(format!("truncated: {length} bytes do not hold a qcow2 header")),
        3 if long(HEADER_V2) & FEATURE_CORRUPT != 0 => return Err("marked as corrupt by whoever wrote it".to_owned()),
        3 if long(HEADER_V2) & FEATURE_DATA_FILE != 0 => {
            return Err("an external data file, which cannot be frozen with it".to_owned());
        }
        3 => {}
        other => return Err(format!("qcow2 version {other}, but only 2 and 3 are known")),
    }
    let (size, l1_entries, l1_table, refcounts) = (long(24), word(36), long(40), long(48));
    let end = l1_table.saturating_add(l1_entries * 8).max(refcounts);
    if end > length {
        return Err(format!("truncated: its tables end at byte {end}, the file at {length}"));
    }
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(format!("a disk of {size} bytes"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, bytes: &[u8]) -> Result<Image, Refusal> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        inspect(&"vda".parse().unwrap(), &path).map(|(image, _)| image)
    }

    fn qcow2(version: u32, features: u64, l1_table: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(&QCOW2_MAGIC);
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[24..32].copy_from_slice(&(64_u64 << 20).to_be_bytes());
        bytes[36..40].copy_from_slice(&1_u32.to_be_bytes());
        bytes[40..48].copy_from_slice(&l1_table.to_be_bytes());
        bytes[72..80].copy_from_slice(&features.to_be_bytes());
        bytes
    }

    #[test]
    fn format_and_size_come_from_the_file() {
        let raw = at("a", &[7; 1024]).unwrap();
        assert_eq!((raw.format, raw.bytes), (ImageFormat::Raw, 1024));
        for version in [2, 3] {
            let image = at("b", &qcow2(version, 0, 512)).unwrap();
            assert_eq!((image.format, image.bytes), (ImageFormat::Qcow2, 64 << 20));
        }
    }

    #[test]
    fn what_cannot_be_whole_is_named_with_its_path() {
        let cases: [(&[u8], &str); 7] = [
            (&[], "empty"),
            (&[7; 1000], "truncated"),
            (&qcow2(3, 0, 512)[..60], "truncated"),
            (&qcow2(3, 0, 8192), "truncated: its tables end at byte 8200"),
            (&qcow2(4, 0, 512), "version 4"),
            (&qcow2(3, 2, 512), "corrupt"),
            (&qcow2(3, 4, 512), "external data file"),
        ];
        for (bytes, why) in cases {
            let refusal = at("disk.img", bytes).unwrap_err();
            assert!(refusal.message.contains(why) && refusal.message.contains("disk.img"), "{refusal}");
            assert!(refusal.remedy.is_some());
        }
        let missing = inspect(&"vda".parse().unwrap(), Path::new("/none/disk.raw")).unwrap_err();
        assert!(missing.message.contains("/none/disk.raw"), "{missing}");
    }
}
