//! A replica's files as another node reads them.
//!
//! The listing is one moment's: the manifest as it was then, and the files that its points need, which are pinned until
//! the source is dropped. While they are pinned no file of the listing changes: overlays are written once, and nothing
//! is merged into a base whose point is listed. A source that is made while an earlier one exists lists every file of
//! that one as it was. New points are taken meanwhile, up to [`POINTS_MAX`](super::manifest::POINTS_MAX) with those that
//! are pinned; with `freeze` none are. A piece may be shorter than what was asked for: the rest of it is zero, so that the
//! holes of a sparse file cost no bytes on the wire.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use landfall_proto::Refusal;
use landfall_proto::message::data::{CopyListing, DIGEST_BYTES, DIGESTS_MAX, EXTENT_MAX};
use landfall_proto::refusal::Class;

use super::chain;
use super::layout::MANIFEST;
use super::pins::Pin;
use super::store::ReplicaStore;
use crate::drive::image::durable::fault;

/// A replica's files, for one copying session. Its methods block, and may be used beside the store.
#[derive(Debug)]
pub struct CopySource {
    pin: Pin,
    manifest: Vec<u8>,
    listing: CopyListing,
    /// The file that was read last: pieces of one file follow each other.
    open: Option<(String, File)>,
}

impl ReplicaStore {
    /// Opens the replica's files for a copy. With `freeze` nothing new is taken until it is dropped; that is refused
    /// while a change set is staged whole, because the copy would not have it.
    pub fn copy_source(&mut self, freeze: bool) -> Result<CopySource, Refusal> {
        // A commit that is not complete also keeps merges waiting, which would change files under the reader.
        if self.applying.is_some() || (freeze && self.standing().staged_whole) {
            return Err(Refusal::new(Class::Failed, "staged_pending", "a change set is staged and not applied yet")
                .remedy("complete or drop it first"));
        }
        if self.manifest().points.is_empty() {
            return Err(Refusal::not_found("point", "newest").remedy("there is nothing to copy yet: let it be sent"));
        }
        self.check_untouched()?;
        // Merges that are due come first.
        self.retain()?;
        let sequences = self.manifest().points.iter().map(|point| point.sequence).collect();
        let pin = Pin::new(&self.shared, sequences, freeze);
        let mut names = BTreeSet::new();
        for disk in self.manifest().points.iter().flat_map(|point| &point.disks) {
            names.extend(chain::chain(self.layout(), &disk.file)?);
            names.insert(disk.leaves.clone());
        }
        let manifest = self.manifest().encode()?;
        let mut files = vec![(MANIFEST.to_owned(), manifest.len() as u64)];
        for name in names {
            let path = self.layout().path(&name);
            let meta = std::fs::metadata(&path).map_err(|error| fault("look at", &path, &error))?;
            files.push((name, meta.len()));
        }
        let damaged = self.manifest().points.iter().filter(|point| self.is_damaged(point)).map(|point| point.sequence);
        let listing = CopyListing { files, damaged: damaged.collect() };
        Ok(CopySource { pin, manifest, listing, open: None })
    }
}

impl CopySource {
    /// Whether nothing new has come since the listing was made, and nothing comes.
    pub fn is_frozen(&self) -> bool {
        self.pin.still_freezes()
    }

    /// What there is to copy.
    pub fn listing(&self) -> &CopyListing {
        &self.listing
    }

    /// The files and their sizes; the manifest is the first.
    pub fn files(&self) -> &[(String, u64)] {
        &self.listing.files
    }

    /// BLAKE3 of `count` pieces of [`DIGEST_BYTES`] of a listed file from `offset` on; fewer where it ends before.
    pub fn digests(&mut self, file: &str, offset: u64, count: u32) -> Result<Vec<[u8; 32]>, Refusal> {
        if file == MANIFEST || count > DIGESTS_MAX || !offset.is_multiple_of(DIGEST_BYTES) {
            let text = format!("{offset} (+{count})");
            return Err(Refusal::invalid("offset", &text, "ask for at most 1,024 pieces of 64 KiB of a disk's file"));
        }
        let size = self.listing.files.iter().find(|(name, _)| name == file).map_or(0, |(_, size)| *size);
        let (mut digests, mut at) = (Vec::new(), offset);
        while at < size && digests.len() < count as usize {
            let length = (size - at).min(DIGEST_BYTES);
            let mut piece = self.read(file, at, length as u32)?;
            piece.resize(length as usize, 0);
            digests.push(*blake3::hash(&piece).as_bytes());
            at += length;
        }
        Ok(digests)
    }

    /// `length` bytes of a listed file from `offset` on, without the zeroes that they end in.
    pub fn read(&mut self, file: &str, offset: u64, length: u32) -> Result<Vec<u8>, Refusal> {
        let Some(size) = self.listing.files.iter().find(|(name, _)| name == file).map(|(_, size)| *size) else {
            return Err(Refusal::not_found("file", file).remedy("read one of the listed files"));
        };
        let end = offset.checked_add(u64::from(length)).filter(|end| *end <= size);
        if end.is_none() || length as usize > EXTENT_MAX {
            let text = format!("{offset} (+{length})");
            return Err(Refusal::invalid("offset", &text, "read at most 512 KiB within the file"));
        }
        let mut piece = vec![0; length as usize];
        if file == MANIFEST {
            piece.copy_from_slice(&self.manifest[offset as usize..offset as usize + length as usize]);
            return Ok(piece);
        }
        let path = self.pin.shared().layout.path(file);
        if self.open.as_ref().is_none_or(|(name, _)| name != file) {
            let opened = File::open(&path).map_err(|error| fault("open", &path, &error))?;
            self.open = Some((file.to_owned(), opened));
        }
        let Some((_, open)) = &self.open else {
            return Err(fault("open", &path, &io::Error::other("it is not open")));
        };
        open.read_exact_at(&mut piece, offset).map_err(|error| fault("read", &path, &error))?;
        let used = piece.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        piece.truncate(used);
        Ok(piece)
    }
}
