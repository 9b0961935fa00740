//! Taking over from a replica's own files, piece by piece, what another node's files have alike.
//!
//! Where a node was away for longer than its points are kept, no point is common to both. The bases of a disk are laid out
//! alike all the same, since both were made by one rule, so that most pieces of the one are those of the other, at the same
//! place. Pieces are compared by hash. Whatever is taken over is proven like everything else before it counts: were the
//! layouts to differ, fewer pieces would be alike and more be copied, and nothing else. Everything blocks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use landfall_proto::Refusal;
use landfall_proto::message::data::{DIGEST_BYTES, EXTENT_MAX};

use super::import::Import;
use super::layout::Layout;
use super::leftover;
use super::manifest::Manifest;
use crate::drive::image::durable::{self, fault};

/// A file of another node, and the one here that may be alike.
#[derive(Clone, Debug)]
pub struct Similar {
    /// Its name there.
    pub name: String,
    /// Its size there, in bytes.
    pub bytes: u64,
    own: PathBuf,
}

impl Import {
    /// The bases of the first listing that may be alike to bases that are here. The first pass only, before anything is
    /// asked for.
    pub fn similar(&self, theirs: &Manifest) -> Vec<Similar> {
        let (Some(own), Some(oldest)) = (leftover::look(&self.folder, self.vm), theirs.points.first()) else {
            return Vec::new();
        };
        let here = Layout::new(&self.folder);
        let similar = oldest.disks.iter().filter(|disk| !self.kept.contains(&disk.file)).filter_map(|disk| {
            let base = own.points.first()?.disk(&disk.target).filter(|base| base.bytes == disk.bytes)?;
            let (name, bytes) = self.files.iter().find(|(name, _)| *name == disk.file)?.clone();
            Some(Similar { name, bytes, own: here.path(&base.file) })
        });
        similar.collect()
    }

    /// Compares the next pieces of a similar file by their hashes, and takes over those that are the same.
    pub fn compare(&mut self, similar: &Similar, digests: &[[u8; 32]]) -> Result<(), Refusal> {
        let path = self.layout.path(&similar.name);
        let failed = |error: std::io::Error| fault("copy", &path, &error);
        let own = File::open(&similar.own).map_err(|error| fault("open", &similar.own, &error))?;
        let own_bytes = own.metadata().map_err(failed)?.len();
        let alike = self.alike.entry(similar.name.clone()).or_default();
        let new = match alike.is_empty() {
            true => durable::create(&path)?,
            false => File::options().write(true).open(&path).map_err(failed)?,
        };
        new.set_len(similar.bytes).map_err(failed)?;
        let mut buffer = vec![0; DIGEST_BYTES as usize];
        for digest in digests {
            let start = alike.len() as u64 * DIGEST_BYTES;
            let length = similar.bytes.saturating_sub(start).min(DIGEST_BYTES);
            let (piece, there) = (&mut buffer[..length as usize], own_bytes.saturating_sub(start).min(length));
            piece.fill(0);
            own.read_exact_at(&mut piece[..there as usize], start).map_err(failed)?;
            let same = blake3::hash(piece).as_bytes() == digest;
            if same && piece.iter().any(|byte| *byte != 0) {
                durable::step("write copy").and_then(|()| new.write_all_at(piece, start)).map_err(failed)?;
            }
            alike.push(same);
        }
        Ok(())
    }

    /// The part of a listed file from `offset` on that is still to be asked for: where it begins, and how long it is.
    /// `None` at its end.
    pub(super) fn next_part(&self, name: &str, size: u64, offset: u64) -> Option<(u64, u32)> {
        let whole = |at: u64| (at < size).then(|| (at, (size - at).min(EXTENT_MAX as u64) as u32));
        let Some(alike) = self.alike.get(name) else { return whole(offset) };
        let taken = |at: u64| alike.get((at / DIGEST_BYTES) as usize).copied().unwrap_or(false);
        let start = (offset..size).step_by(DIGEST_BYTES as usize).find(|at| !taken(*at))?;
        let (_, most) = whole(start)?;
        let end = (start..start + u64::from(most)).step_by(DIGEST_BYTES as usize).find(|at| taken(*at));
        Some((start, end.map_or(most, |end| (end - start) as u32)))
    }

    /// Makes what was taken over durable.
    pub(super) fn settle_alike(&mut self) -> Result<(), Refusal> {
        for name in std::mem::take(&mut self.alike).into_keys() {
            let path = self.layout.path(&name);
            let file = File::open(&path).map_err(|error| fault("open", &path, &error))?;
            durable::sync(&file, &path)?;
            durable::set_read_only(&path, true)?;
        }
        Ok(())
    }
}
