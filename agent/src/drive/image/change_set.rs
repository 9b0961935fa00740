//! A change set on disk: the sender's spool and the holder's redo log have one format.
//!
//! ```text
//!   0      magic, version, length, the ChangeSet as JSON, check      (128 KiB; the sender writes it last)
//!   128 K  records: 64 bytes of head, then the payload of a data extent
//!   ...    one trailer record with the counts
//! ```
//!
//! Each head has a check over its own number and fields, and names the BLAKE3 of its payload; so whatever a crash or a
//! power cut left at the end is recognised, and everything before it is usable: "durable up to extent N". Everything
//! here blocks.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::message::data::{ChangeSet, Content, EXTENT_MAX, Extent};
use landfall_proto::planted::{self, Bug};
use landfall_proto::refusal::{Class, quoted};

use super::durable::{self, fault};
use super::extent::Order;

/// Where the records begin; the description of 256 disks fits before it.
pub(super) const HEADER_BYTES: u64 = 128 * 1024;
pub(super) const HEAD_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"LFCHANGE";
const VERSION: u32 = 1;
/// Bytes before the JSON: magic, version, length, check.
pub(super) const FIXED: usize = 48;
/// What a writer or reader holds in memory.
const BUFFER_BYTES: usize = 1 << 20;

const DATA: u8 = 1;
const ZERO: u8 = 2;
const TRAILER: u8 = 3;

/// The counts of a change set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Extents.
    pub extents: u64,
    /// Bytes that they cover.
    pub bytes: u64,
}

/// What a change set's file was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// What it makes; `None` where the sender had not come to know it yet.
    pub change_set: Option<ChangeSet>,
    /// The extents that are whole, from the first on.
    pub counts: Counts,
    /// Whether the trailer is there: nothing is missing.
    pub complete: bool,
    /// How far those extents have got.
    pub order: Order,
    /// Where the last whole extent ends.
    end: u64,
}

struct Head {
    kind: u8,
    disk: u16,
    payload: u32,
    offset: u64,
    length: u64,
    hash: [u8; 32],
}

fn check_of(number: u64, fields: &[u8]) -> [u8; 8] {
    let hash = *blake3::Hasher::new().update(&number.to_le_bytes()).update(fields).finalize().as_bytes();
    hash[..8].try_into().unwrap_or_default()
}

impl Head {
    fn encode(&self, number: u64) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0] = self.kind;
        bytes[2..4].copy_from_slice(&self.disk.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.payload.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.hash);
        let check = check_of(number, &bytes[..56]);
        bytes[56..].copy_from_slice(&check);
        bytes
    }

    fn decode(bytes: &[u8; HEAD_BYTES], number: u64) -> Option<Self> {
        if bytes[56..] != check_of(number, &bytes[..56]) {
            return None;
        }
        let long = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let payload = bytes[4..8].try_into().map_or(0, u32::from_le_bytes);
        let kind = bytes[0];
        let sound = matches!(kind, DATA | ZERO | TRAILER) && payload as usize <= EXTENT_MAX;
        sound.then(|| Self {
            kind,
            disk: u16::from_le_bytes([bytes[2], bytes[3]]),
            payload,
            offset: long(8),
            length: long(16),
            hash: bytes[24..56].try_into().unwrap_or_default(),
        })
    }

    fn of(extent: &Extent) -> Self {
        let (disk, offset) = (extent.disk, extent.offset);
        match &extent.content {
            Content::Data(data, hash) => {
                let length = data.len() as u64;
                Self { kind: DATA, disk, payload: data.len() as u32, offset, length, hash: *hash }
            }
            Content::Zero(length) => Self { kind: ZERO, disk, payload: 0, offset, length: *length, hash: [0; 32] },
        }
    }
}

fn encode_header(change_set: Option<&ChangeSet>, path: &Path) -> Result<Vec<u8>, Refusal> {
    let too_large = || fault("write", path, &io::Error::other("its change set has too many disks"));
    let json = change_set.map(serde_json::to_vec).transpose().map_err(|_| too_large())?.unwrap_or_default();
    if json.len() + FIXED > HEADER_BYTES as usize {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(FIXED + json.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    let check = *blake3::Hasher::new().update(&bytes).update(&json).finalize().as_bytes();
    bytes.extend_from_slice(&check);
    bytes.extend_from_slice(&json);
    Ok(bytes)
}

/// The change set of a header; the outer `None` where the header is torn.
fn decode_header(bytes: &[u8]) -> Option<Option<ChangeSet>> {
    let length = bytes.get(12..16)?.try_into().map_or(0, u32::from_le_bytes) as usize;
    let json = bytes.get(FIXED..FIXED.checked_add(length)?)?;
    let check = *blake3::Hasher::new().update(&bytes[..16]).update(json).finalize().as_bytes();
    if bytes[..8] != MAGIC || bytes[8..12] != VERSION.to_le_bytes() || bytes[16..FIXED] != check {
        return None;
    }
    if json.is_empty() { Some(None) } else { serde_json::from_slice(json).ok().map(Some) }
}

/// Writes a change set's file.
#[derive(Debug)]
pub struct ChangeSetWriter {
    file: BufWriter<File>,
    path: PathBuf,
    counts: Counts,
    /// Where the next record goes.
    end: u64,
    sealed: bool,
}

impl ChangeSetWriter {
    /// Begins one at `path`, replacing what is there. A sender does not know yet what it will make.
    pub fn create(path: &Path, change_set: Option<&ChangeSet>) -> Result<Self, Refusal> {
        let head = encode_header(change_set, path)?;
        let file = durable::create(path)?;
        durable::step("write")
            .and_then(|()| file.write_all_at(&head, 0))
            .map_err(|error| fault("write", path, &error))?;
        Self::at(file, path, Counts::default(), HEADER_BYTES)
    }

    fn at(mut file: File, path: &Path, counts: Counts, end: u64) -> Result<Self, Refusal> {
        file.seek(SeekFrom::Start(end)).map_err(|error| fault("write", path, &error))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, path: path.to_owned(), counts, end, sealed: false })
    }

    /// Goes on where an earlier writer of `path` got to, at extent `keep` at most: what is behind it, and what a crash
    /// tore, is cut off, and what is kept is synced.
    pub fn resume(path: &Path, keep: u64) -> Result<(Self, Inspection), Refusal> {
        let found = inspect_up_to(path, keep)?;
        let file = File::options().read(true).write(true).open(path).map_err(|error| fault("open", path, &error))?;
        if !found.complete {
            file.set_len(found.end).map_err(|error| fault("cut", path, &error))?;
        }
        durable::sync(&file, path)?;
        durable::sync_folder(durable::folder_of(path))?;
        let mut writer = Self::at(file, path, found.counts, found.end)?;
        writer.sealed = found.complete;
        Ok((writer, found))
    }

    /// What was appended so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Appends an extent, whose hash the caller has checked or made. It is durable only once the file is sealed.
    pub fn append(&mut self, extent: &Extent) -> Result<(), Refusal> {
        if self.sealed {
            return Err(fault("write", &self.path, &io::Error::other("it is sealed")));
        }
        let head = Head::of(extent);
        let bytes = head.encode(self.counts.extents);
        let payload: &[u8] = if let Content::Data(data, _) = &extent.content { data } else { &[] };
        durable::step("append")
            .and_then(|()| self.file.write_all(&bytes))
            .and_then(|()| self.file.write_all(payload))
            .map_err(|error| fault("write", &self.path, &error))?;
        self.counts.extents += 1;
        self.counts.bytes += head.length;
        self.end += (HEAD_BYTES + payload.len()) as u64;
        Ok(())
    }

    /// Hands what was appended to the file, so that a reader finds it. Not synced.
    pub fn flush(&mut self) -> Result<(), Refusal> {
        durable::step("flush").and_then(|()| self.file.flush()).map_err(|error| fault("write", &self.path, &error))
    }

    /// Completes it: writes the trailer and, where `change_set` is given, the header; syncs file and folder.
    pub fn seal(&mut self, change_set: Option<&ChangeSet>) -> Result<(), Refusal> {
        if !self.sealed {
            let Counts { extents, bytes } = self.counts;
            let trailer = Head { kind: TRAILER, disk: 0, payload: 0, offset: extents, length: bytes, hash: [0; 32] };
            durable::step("write trailer")
                .and_then(|()| self.file.write_all(&trailer.encode(extents)))
                .map_err(|error| fault("write", &self.path, &error))?;
        }
        self.flush()?;
        if change_set.is_some() {
            let head = encode_header(change_set, &self.path)?;
            self.file.get_ref().write_all_at(&head, 0).map_err(|error| fault("write", &self.path, &error))?;
        }
        if !planted::is(Bug::StagedNotSynced) {
            durable::sync(self.file.get_ref(), &self.path)?;
            durable::sync_folder(durable::folder_of(&self.path))?;
        }
        self.sealed = true;
        Ok(())
    }
}

/// Reads a change set's file.
pub struct ChangeSetReader {
    file: BufReader<File>,
    path: PathBuf,
    change_set: Option<ChangeSet>,
    next: u64,
    /// Whether anything but a trailer at the end is damage.
    whole: bool,
}

impl ChangeSetReader {
    /// Opens the file at `path`; refuses one whose header is torn.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let mut file = File::open(path).map_err(|error| fault("open", path, &error))?;
        let mut head = Vec::new();
        let failed = |error: io::Error| fault("read", path, &error);
        Read::by_ref(&mut file).take(HEADER_BYTES).read_to_end(&mut head).map_err(failed)?;
        let Some(change_set) = decode_header(&head) else {
            let message = format!("{} is no change set, or its header is torn", quoted(&path.to_string_lossy()));
            return Err(Refusal::new(Class::Failed, "bad_change_set", message).field("path"));
        };
        file.seek(SeekFrom::Start(HEADER_BYTES)).map_err(failed)?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, path: path.to_owned(), change_set, next: 0, whole: false })
    }

    /// Opens a file that was sealed: where it ends without its trailer, or a record is not what was written, reading it
    /// is an error instead of an early end.
    pub fn open_sealed(path: &Path) -> Result<Self, Refusal> {
        Self::open(path).map(|reader| Self { whole: true, ..reader })
    }

    /// A record that is torn or damaged: the end, or an error in a file that was sealed.
    fn broken<T>(&self) -> Result<Option<T>, Refusal> {
        if !self.whole {
            return Ok(None);
        }
        let shown = quoted(&self.path.to_string_lossy());
        Err(Refusal::new(Class::Failed, "damaged", format!("{shown} is damaged at extent {}", self.next))
            .field("path")
            .remedy("fetch the replica from another copy"))
    }

    /// What it makes, where the writer knew.
    pub fn change_set(&self) -> Option<&ChangeSet> {
        self.change_set.as_ref()
    }

    /// Passes over the extents before number `first`, unread and unchecked.
    pub fn skip_to(&mut self, first: u64) -> Result<(), Refusal> {
        while self.next < first {
            let Some(head) = self.head()?.filter(|head| head.kind != TRAILER) else { return Ok(()) };
            self.pass(&head)?;
        }
        Ok(())
    }

    /// Passes over the extents before those of disk `disk`, and returns the first of it; `None` where it has none.
    pub fn first_of(&mut self, disk: u16) -> Result<Option<Extent>, Refusal> {
        loop {
            let Some(head) = self.head()?.filter(|head| head.kind != TRAILER) else { return Ok(None) };
            if head.disk >= disk {
                return self.body(&head);
            }
            self.pass(&head)?;
        }
    }

    /// The next extent, checked against its hash; `None` past the last whole one.
    pub fn next_extent(&mut self) -> Result<Option<Extent>, Refusal> {
        match self.head()? {
            Some(head) if head.kind != TRAILER => self.body(&head),
            _ => Ok(None),
        }
    }

    fn head(&mut self) -> Result<Option<Head>, Refusal> {
        let mut bytes = [0; HEAD_BYTES];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => match Head::decode(&bytes, self.next) {
                Some(head) => Ok(Some(head)),
                None => self.broken(),
            },
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.broken(),
            Err(error) => Err(fault("read", &self.path, &error)),
        }
    }

    fn pass(&mut self, head: &Head) -> Result<(), Refusal> {
        self.next += 1;
        self.file.seek_relative(i64::from(head.payload)).map_err(|error| fault("read", &self.path, &error))
    }

    fn body(&mut self, head: &Head) -> Result<Option<Extent>, Refusal> {
        let content = if head.kind == ZERO {
            Content::Zero(head.length)
        } else {
            let mut data = vec![0; head.payload as usize];
            match self.file.read_exact(&mut data) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return self.broken(),
                Err(error) => return Err(fault("read", &self.path, &error)),
            }
            if *blake3::hash(&data).as_bytes() != head.hash {
                return self.broken();
            }
            Content::Data(data, head.hash)
        };
        self.next += 1;
        Ok(Some(Extent { disk: head.disk, offset: head.offset, content }))
    }
}

/// The counts of a complete change set, by its heads alone. Blocks.
pub fn counts(path: &Path) -> Result<Counts, Refusal> {
    let (mut reader, mut counts) = (ChangeSetReader::open_sealed(path)?, Counts::default());
    while let Some(head) = reader.head()?.filter(|head| head.kind != TRAILER) {
        counts.extents += 1;
        counts.bytes += head.length;
        reader.pass(&head)?;
    }
    Ok(counts)
}

/// Reads a change set's file through and says how far it can be used. Blocks.
pub fn inspect(path: &Path) -> Result<Inspection, Refusal> {
    inspect_up_to(path, u64::MAX)
}

fn inspect_up_to(path: &Path, keep: u64) -> Result<Inspection, Refusal> {
    let mut reader = ChangeSetReader::open(path)?;
    let mut found = Inspection {
        change_set: reader.change_set.clone(),
        counts: Counts::default(),
        complete: false,
        order: Order::default(),
        end: HEADER_BYTES,
    };
    loop {
        let Some(head) = reader.head()? else { return Ok(found) };
        if head.kind == TRAILER {
            found.complete = head.offset == found.counts.extents && head.length == found.counts.bytes;
            return Ok(found);
        }
        if found.counts.extents == keep || reader.body(&head)?.is_none() {
            return Ok(found);
        }
        found.counts.extents += 1;
        found.counts.bytes += head.length;
        found.order.passed(head.disk, head.offset.saturating_add(head.length));
        found.end += HEAD_BYTES as u64 + u64::from(head.payload);
    }
}
