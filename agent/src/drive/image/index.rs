//! The hashes of one disk as a file: of its 4 KiB blocks (a sender's index, a holder's newest content) or of its
//! 64 KiB leaves (beside each point).
//!
//! ```text
//!   0     magic, version, node bytes, disk bytes, root, check       (one sector; written last)
//!   4096  32 bytes a node, in order
//! ```
//!
//! A file is either written in order to a temporary name and renamed when its root is in it ([`IndexWriter`]), or kept
//! beside changing content and patched in place ([`HashIndex::patch`]); then its root is withdrawn or set by whoever
//! patches. It is used only if its root is the wanted one. Reading and writing hold one buffer of [`BUFFER_BYTES`],
//! whatever the disk. Everything here blocks.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root};
use landfall_proto::message::data::COMPARE_MAX;
use landfall_proto::refusal::Class;

use super::durable::{self, fault};
use super::tree::{self, BLOCK_BYTES, Hash, Merger};

/// What one reader or writer of an index holds in memory; an agent has at most a few dozen open at a time.
pub const BUFFER_BYTES: usize = 256 * 1024;
/// Where the hashes begin.
const HEADER_BYTES: u64 = 4096;
/// The header proper: it fits one sector, which a disk writes whole.
const HEADER_USED: usize = 128;
const MAGIC: [u8; 8] = *b"LFHASHES";
const VERSION: u32 = 1;
const HASH_BYTES: u64 = 32;
/// The largest node that hashes are asked for.
const NODE_BYTES_MAX: u64 = 1 << 30;
/// The hash of a block whose content is not known: no block has it.
pub const UNKNOWN: Hash = [0; 32];

fn header(node_bytes: u64, disk_bytes: u64, root: Option<Root>) -> [u8; HEADER_USED] {
    let mut bytes = [0; HEADER_USED];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&node_bytes.to_le_bytes());
    bytes[24..32].copy_from_slice(&disk_bytes.to_le_bytes());
    bytes[32..64].copy_from_slice(&root.map_or([0; 32], |root| root.0));
    let check = blake3::hash(&bytes[..96]);
    bytes[96..].copy_from_slice(check.as_bytes());
    bytes
}

/// Writes an index in order; it exists under its name only once it is finished.
pub struct IndexWriter {
    file: BufWriter<File>,
    path: PathBuf,
    node_bytes: u64,
    disk_bytes: u64,
    merger: Merger,
}

impl IndexWriter {
    /// Begins the index of a disk's nodes of `node_bytes` at `path`.
    pub fn create(path: &Path, disk_bytes: u64, node_bytes: u64) -> Result<Self, Refusal> {
        let temporary = durable::temporary(path);
        let mut file = durable::create(&temporary)?;
        file.seek(SeekFrom::Start(HEADER_BYTES)).map_err(|error| fault("write", &temporary, &error))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, path: path.to_owned(), node_bytes, disk_bytes, merger: Merger::default() })
    }

    /// The size of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Takes the next node's hash.
    pub fn push(&mut self, hash: Hash) -> Result<(), Refusal> {
        self.merger.push(hash);
        self.file.write_all(&hash).map_err(|error| fault("write", &durable::temporary(&self.path), &error))
    }

    /// Takes the hashes of all nodes below an aligned one, a power of two of them, whose hash is `above`.
    pub fn push_all(&mut self, hashes: &[Hash], above: Hash) -> Result<(), Refusal> {
        self.merger.push_subtree(above, hashes.len() as u64);
        self.file
            .write_all(hashes.as_flattened())
            .map_err(|error| fault("write", &durable::temporary(&self.path), &error))
    }

    /// Completes it: syncs the hashes, then writes the root, then gives the file its name. Returns the disk's root.
    pub fn finish(self) -> Result<Root, Refusal> {
        let temporary = durable::temporary(&self.path);
        let wanted = tree::node_count(self.disk_bytes, self.node_bytes);
        let found = self.merger.pushed();
        let Some(root) = self.merger.finish(true).map(Root).filter(|_| found == wanted) else {
            let message = format!("an index of {wanted} nodes got {found}");
            return Err(fault("write", &temporary, &io::Error::other(message)));
        };
        durable::step("write hashes").map_err(|error| fault("write", &temporary, &error))?;
        let file = self.file.into_inner().map_err(|error| fault("write", &temporary, error.error()))?;
        durable::sync(&file, &temporary)?;
        let head = header(self.node_bytes, self.disk_bytes, Some(root));
        durable::step("write root")
            .and_then(|()| file.write_all_at(&head, 0))
            .map_err(|error| fault("write", &temporary, &error))?;
        durable::sync(&file, &temporary)?;
        durable::rename(&temporary, &self.path)?;
        durable::sync_folder(durable::folder_of(&self.path))?;
        Ok(root)
    }
}

/// An index, open.
#[derive(Debug)]
pub struct HashIndex {
    file: File,
    path: PathBuf,
    node_bytes: u64,
    disk_bytes: u64,
    root: Option<Root>,
}

impl HashIndex {
    /// Opens the index at `path`; `None` where there is none, or one that is damaged or of another version.
    pub fn open(path: &Path) -> Result<Option<Self>, Refusal> {
        let Some(file) = durable::open_if_there(path)? else { return Ok(None) };
        Self::from_file(file, path)
    }

    /// Opens the index at `path` for patching; `None` as for [`HashIndex::open`].
    pub fn open_writable(path: &Path) -> Result<Option<Self>, Refusal> {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => Self::from_file(file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fault("open", path, &error)),
        }
    }

    fn from_file(file: File, path: &Path) -> Result<Option<Self>, Refusal> {
        let mut bytes = [0; HEADER_USED];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(fault("read", path, &error)),
        }
        let number = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let (node_bytes, disk_bytes) = (number(16), number(24));
        let root = Root(bytes[32..64].try_into().unwrap_or_default());
        let root = (root.0 != [0; 32]).then_some(root);
        let sound = node_bytes.is_power_of_two() && node_bytes >= BLOCK_BYTES && disk_bytes <= tree::MAX_DISK_BYTES;
        if !sound || header(node_bytes, disk_bytes, root) != bytes {
            return Ok(None);
        }
        let length = file.metadata().map_err(|error| fault("look at", path, &error))?.len();
        let wanted = HEADER_BYTES + tree::node_count(disk_bytes, node_bytes) * HASH_BYTES;
        Ok((length >= wanted).then(|| Self { file, path: path.to_owned(), node_bytes, disk_bytes, root }))
    }

    /// The root of the disk that it describes; `None` while it is being patched towards one.
    pub fn root(&self) -> Option<Root> {
        self.root
    }

    /// The size of the disk that it describes.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The size of its nodes.
    pub fn node_bytes(&self) -> u64 {
        self.node_bytes
    }

    /// How many nodes it has.
    pub fn count(&self) -> u64 {
        tree::node_count(self.disk_bytes, self.node_bytes)
    }

    /// Its hashes in order, from node `first` on.
    pub fn hashes_from(&self, first: u64) -> Result<Hashes, Refusal> {
        let mut file = File::open(&self.path).map_err(|error| fault("open", &self.path, &error))?;
        file.seek(SeekFrom::Start(HEADER_BYTES + first * HASH_BYTES))
            .map_err(|error| fault("read", &self.path, &error))?;
        let left = self.count().saturating_sub(first);
        Ok(Hashes { file: BufReader::with_capacity(BUFFER_BYTES, file), path: self.path.clone(), left })
    }

    /// The hashes of nodes `first` and after, at most `count` of them.
    pub fn read(&self, first: u64, count: u64) -> Result<Vec<Hash>, Refusal> {
        let count = count.min(self.count().saturating_sub(first));
        let mut bytes = vec![0; (count * HASH_BYTES) as usize];
        self.file
            .read_exact_at(&mut bytes, HEADER_BYTES + first * HASH_BYTES)
            .map_err(|error| fault("read", &self.path, &error))?;
        Ok(bytes.chunks_exact(32).map(|hash| hash.try_into().unwrap_or_default()).collect())
    }

    /// The hashes of the tree's nodes of `node_bytes`, from node `first` on, fewer than `count` only at the disk's end:
    /// what a Compare asks for.
    pub fn node_hashes(&self, node_bytes: u64, first: u64, count: u32) -> Result<Vec<Hash>, Refusal> {
        check_question(node_bytes, first, count, self.disk_bytes)?;
        if node_bytes < self.node_bytes {
            return Err(Refusal::invalid("node_bytes", &node_bytes.to_string(), "ask for nodes of the index's size"));
        }
        if node_bytes == self.node_bytes {
            return self.read(first, u64::from(count));
        }
        let per_node = node_bytes / self.node_bytes;
        let count = u64::from(count).min(tree::node_count(self.disk_bytes, node_bytes).saturating_sub(first));
        let mut below = self.hashes_from(first * per_node)?;
        let mut out = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let mut merger = Merger::default();
            while merger.pushed() < per_node {
                let Some(hash) = below.next_hash()? else { break };
                merger.push(hash);
            }
            out.extend(merger.finish(self.disk_bytes <= node_bytes));
        }
        Ok(out)
    }

    /// The root that its hashes have, read through.
    pub fn compute_root(&self) -> Result<Option<Root>, Refusal> {
        let (mut hashes, mut merger) = (self.hashes_from(0)?, Merger::default());
        while let Some(hash) = hashes.next_hash()? {
            merger.push(hash);
        }
        Ok(merger.finish(true).map(Root))
    }

    /// Overwrites the hashes of nodes `first` and after, in place.
    pub fn patch(&mut self, first: u64, hashes: &[Hash]) -> Result<(), Refusal> {
        let bytes = hashes.as_flattened();
        durable::step("patch index")
            .and_then(|()| self.file.write_all_at(bytes, HEADER_BYTES + first * HASH_BYTES))
            .map_err(|error| fault("write", &self.path, &error))
    }

    /// Marks the bytes of `range` as not known: a scan will find them changed.
    pub fn forget(&mut self, range: &std::ops::Range<u64>) -> Result<(), Refusal> {
        let (mut block, end) = (range.start / self.node_bytes, range.end.div_ceil(self.node_bytes).min(self.count()));
        while block < end {
            let count = (end - block).min(BUFFER_BYTES as u64 / HASH_BYTES);
            self.patch(block, &vec![UNKNOWN; count as usize])?;
            block += count;
        }
        Ok(())
    }

    /// Makes it the index of a disk of `disk_bytes`, grown by zeroes: a short last node and all new ones become those of
    /// zeroes. Its root is withdrawn. The caller patches whatever of the grown part is not zero.
    pub fn grow(&mut self, disk_bytes: u64) -> Result<(), Refusal> {
        let mut node = self.disk_bytes / self.node_bytes;
        self.disk_bytes = disk_bytes;
        self.set_root(None)?;
        while node < self.count() {
            let end = self.count().min(node + BUFFER_BYTES as u64 / HASH_BYTES);
            let hashes: Vec<Hash> = (node..end)
                .map(|at| {
                    let length = tree::node_length(disk_bytes, self.node_bytes, at);
                    tree::zero_hash(disk_bytes, at * self.node_bytes, length)
                })
                .collect();
            self.patch(node, &hashes)?;
            node = end;
        }
        Ok(())
    }

    /// Says which root it describes now, or that it describes none. Not synced.
    pub fn set_root(&mut self, root: Option<Root>) -> Result<(), Refusal> {
        durable::step("set root")
            .and_then(|()| self.file.write_all_at(&header(self.node_bytes, self.disk_bytes, root), 0))
            .map_err(|error| fault("write", &self.path, &error))?;
        self.root = root;
        Ok(())
    }

    /// Syncs what was patched.
    pub fn sync(&self) -> Result<(), Refusal> {
        durable::sync(&self.file, &self.path)
    }
}

/// Refuses a question about nodes that no tree has.
pub fn check_question(node_bytes: u64, first: u64, count: u32, disk_bytes: u64) -> Result<(), Refusal> {
    if !node_bytes.is_power_of_two() || !(BLOCK_BYTES..=NODE_BYTES_MAX).contains(&node_bytes) {
        let text = node_bytes.to_string();
        return Err(Refusal::invalid("node_bytes", &text, "use a power of two from 4 KiB to 1 GiB"));
    }
    if count == 0 || count > COMPARE_MAX {
        return Err(Refusal::invalid("count", &count.to_string(), "ask for 1 to 16384 hashes"));
    }
    if first >= tree::node_count(disk_bytes, node_bytes) {
        return Err(Refusal::invalid("first", &first.to_string(), "ask for nodes within the disk"));
    }
    Ok(())
}

/// The hashes of an index, one after the other.
pub struct Hashes {
    file: BufReader<File>,
    path: PathBuf,
    left: u64,
}

impl Hashes {
    /// The next one; `None` past the last.
    pub fn next_hash(&mut self) -> Result<Option<Hash>, Refusal> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut hash = [0; 32];
        self.file.read_exact(&mut hash).map_err(|error| fault("read", &self.path, &error))?;
        self.left -= 1;
        Ok(Some(hash))
    }

    /// Passes over `count` hashes.
    pub fn skip(&mut self, count: u64) -> Result<(), Refusal> {
        let count = count.min(self.left);
        self.file.seek_relative((count * HASH_BYTES) as i64).map_err(|error| fault("read", &self.path, &error))?;
        self.left -= count;
        Ok(())
    }
}

/// A folder of a sender's indexes, each named by its disk and the root that it describes.
#[derive(Clone, Debug)]
pub struct IndexFolder {
    folder: PathBuf,
}

const INDEX_SUFFIX: &str = ".index";
/// A fuzzy index has no root that names it: there is at most one for each disk.
const FUZZY_SUFFIX: &str = ".fuzzy";

impl IndexFolder {
    /// The indexes in `folder`, which is made where it is missing; what a crash left half written is removed.
    pub fn open(folder: &Path) -> Result<Self, Refusal> {
        std::fs::create_dir_all(folder).map_err(|error| fault("create", folder, &error))?;
        let this = Self { folder: folder.to_owned() };
        this.remove_where(|name| name.ends_with(durable::TEMPORARY))?;
        Ok(this)
    }

    fn path(&self, target: &DiskTarget, root: &Root) -> PathBuf {
        self.folder.join(format!("{target}-{root}{INDEX_SUFFIX}"))
    }

    /// Where an index of `target` that describes no instant is kept.
    pub fn fuzzy_path(&self, target: &DiskTarget) -> PathBuf {
        self.folder.join(format!("{target}{FUZZY_SUFFIX}"))
    }

    /// The index that describes `root` of `target`, where there is one for a disk of that size.
    pub fn find(&self, target: &DiskTarget, root: &Root) -> Result<Option<HashIndex>, Refusal> {
        Ok(HashIndex::open(&self.path(target, root))?.filter(|index| index.root() == Some(*root)))
    }

    /// An index of `target` for a disk of that size, of whatever root, to guess by; `None` where there is none.
    pub fn any(&self, target: &DiskTarget, disk_bytes: u64) -> Result<Option<HashIndex>, Refusal> {
        let failed = |error| fault("list", &self.folder, &error);
        let begins = format!("{target}-");
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with(&begins) || !name.ends_with(INDEX_SUFFIX) {
                continue;
            }
            let fits = |index: &HashIndex| index.disk_bytes() == disk_bytes && index.node_bytes() == BLOCK_BYTES;
            if let Some(index) = HashIndex::open(&path)?.filter(fits) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Begins an index of `target`, to be given its name by [`IndexFolder::keep`].
    pub fn begin(&self, target: &DiskTarget, disk_bytes: u64) -> Result<IndexWriter, Refusal> {
        IndexWriter::create(&self.fuzzy_path(target), disk_bytes, BLOCK_BYTES)
    }

    /// Names the index of `target` that was finished last after the root that it describes.
    pub fn keep(&self, target: &DiskTarget, root: &Root) -> Result<(), Refusal> {
        durable::rename(&self.fuzzy_path(target), &self.path(target, root))?;
        durable::sync_folder(&self.folder)
    }

    /// Removes every named index that is not one of `wanted`.
    pub fn retain(&self, wanted: &[(DiskTarget, Root)]) -> Result<(), Refusal> {
        let names: Vec<String> = wanted.iter().map(|(target, root)| format!("{target}-{root}{INDEX_SUFFIX}")).collect();
        self.remove_where(|name| name.ends_with(INDEX_SUFFIX) && !names.iter().any(|wanted| wanted == name))
    }

    fn remove_where(&self, unwanted: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        let failed = |error| fault("list", &self.folder, &error);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_some_and(&unwanted) {
                durable::remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl IndexWriter {
    /// A refusal for a writer that was given the wrong disk.
    pub(crate) fn wrong_size(&self, found: u64) -> Refusal {
        let message = format!("an index of a disk of {} bytes was begun for one of {found}", self.disk_bytes);
        Refusal::new(Class::Failed, "image_size", message)
    }
}
