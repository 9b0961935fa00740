//! What a qcow2 file's header says, checked against the length of the file.
//!
//! A reader of qcow2 takes what is missing at a file's end for zeroes; a truncated image would be replicated as if the
//! guest had zeroed its disk. So the header, the first table and the tables that it names are checked to lie in the
//! file before an image is read. Nothing here reads guest data.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::refusal::{Class, quoted};

use super::durable::{fault, folder_of};

/// The first bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The most files that are followed from an image to its base: a chain of 25 points and some slack.
pub const CHAIN_MAX: usize = 64;
/// The largest first-level table, QEMU's own bound.
const L1_BYTES_MAX: u64 = 32 << 20;
/// The longest backing name, QEMU's own bound.
const BACKING_NAME_MAX: usize = 1023;
/// Bytes of the header that version 2 has; version 3 adds feature bits.
const HEADER_BYTES: usize = 104;
/// Bits of a first-level entry that are the offset of a table.
const OFFSET_BITS: u64 = 0x00ff_ffff_ffff_fe00;
/// Incompatible feature: the image is known to be corrupt.
const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: the data is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// One qcow2 file, without what it is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The file.
    pub path: PathBuf,
    /// The size that a guest sees.
    pub bytes: u64,
    /// The size of a cluster.
    pub cluster_bytes: u64,
    /// The name of what it is based on, as it stands in the file.
    pub backing: Option<String>,
}

impl Layer {
    /// The path of what it is based on: relative names begin at the layer's folder.
    pub fn backing_path(&self) -> Option<PathBuf> {
        self.backing.as_ref().map(|name| folder_of(&self.path).join(name))
    }
}

fn broken(path: &Path, why: &str) -> Refusal {
    Refusal::new(Class::Failed, "bad_image", format!("{} {why}", quoted(&path.to_string_lossy())))
        .field("path")
        .remedy("check it with `qemu-img check`, and restore it from a backup where it is damaged")
}

fn be32(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, |b| u64::from(u32::from_be_bytes(b)))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn read(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(broken(path, &format!("is truncated: its tables at {offset} (+{length}) are missing")))
        }
        Err(error) => Err(fault("read", path, &error)),
    }
}

/// Whether the file at `path` begins as a qcow2 image does. Blocks.
pub fn is_qcow2(path: &Path) -> Result<bool, Refusal> {
    let file = File::open(path).map_err(|error| fault("open", path, &error))?;
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) => Ok(magic == MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(fault("read", path, &error)),
    }
}

/// Reads and checks one file. Refuses what is no qcow2 image, is truncated, or cannot be read faithfully. Blocks.
pub fn inspect(path: &Path) -> Result<Layer, Refusal> {
    let file = File::open(path).map_err(|error| fault("open", path, &error))?;
    let length = file.metadata().map_err(|error| fault("look at", path, &error))?.len();
    if length < HEADER_BYTES as u64 {
        return Err(broken(path, &format!("has {length} bytes, too few for a qcow2 image")));
    }
    let header = read(&file, path, 0, HEADER_BYTES)?;
    if header[..4] != MAGIC {
        return Err(broken(path, "is not a qcow2 image"));
    }
    let (version, cluster_bits) = (be32(&header, 4), be32(&header, 20));
    if !(2..=3).contains(&version) || !(9..=21).contains(&cluster_bits) {
        return Err(broken(path, &format!("is of an unknown qcow2 version ({version}, cluster bits {cluster_bits})")));
    }
    let features = if version >= 3 { be64(&header, 72) } else { 0 };
    if features & CORRUPT != 0 {
        return Err(broken(path, "is marked as corrupt"));
    }
    if features & EXTERNAL_DATA != 0 || be32(&header, 32) != 0 {
        return Err(broken(path, "keeps its data elsewhere or encrypted, which is not replicated"));
    }
    let layer = Layer {
        path: path.to_owned(),
        bytes: be64(&header, 24),
        cluster_bytes: 1 << cluster_bits,
        backing: backing_name(&file, path, &header)?,
    };
    check_tables(&file, &layer, &header, length)?;
    Ok(layer)
}

fn backing_name(file: &File, path: &Path, header: &[u8]) -> Result<Option<String>, Refusal> {
    let (offset, size) = (be64(header, 8), be32(header, 16) as usize);
    if offset == 0 {
        return Ok(None);
    }
    if size > BACKING_NAME_MAX {
        return Err(broken(path, "has a backing name that is too long"));
    }
    let name = read(file, path, offset, size)?;
    String::from_utf8(name).map(Some).map_err(|_| broken(path, "has a backing name that is not UTF-8"))
}

fn check_tables(file: &File, layer: &Layer, header: &[u8], length: u64) -> Result<(), Refusal> {
    let (path, entries, offset) = (&layer.path, be32(header, 36), be64(header, 40));
    let per_table = layer.cluster_bytes * (layer.cluster_bytes / 8);
    if entries * 8 > L1_BYTES_MAX || entries < layer.bytes.div_ceil(per_table) {
        return Err(broken(path, &format!("has {entries} first-level entries for {} bytes", layer.bytes)));
    }
    let table = read(file, path, offset, (entries * 8) as usize)?;
    for at in 0..entries as usize {
        let second = be64(&table, at * 8) & OFFSET_BITS;
        if second != 0 && second.saturating_add(layer.cluster_bytes) > length {
            return Err(broken(path, &format!("is truncated: it has {length} bytes and a table at {second}")));
        }
    }
    Ok(())
}

/// The image at `path` and every qcow2 file below it, top first; what a raw base at the bottom is called comes second.
///
/// A base without a format is taken for what it looks like, as every reader of qcow2 does. Blocks.
pub fn chain(path: &Path) -> Result<(Vec<Layer>, Option<PathBuf>), Refusal> {
    let mut layers = vec![inspect(path)?];
    loop {
        let Some(below) = layers.last().and_then(Layer::backing_path) else { return Ok((layers, None)) };
        if layers.len() >= CHAIN_MAX {
            return Err(broken(path, &format!("is based on more than {CHAIN_MAX} files")));
        }
        if !is_qcow2(&below)? {
            return Ok((layers, Some(below)));
        }
        layers.push(inspect(&below)?);
    }
}
