//! What is known of a replica's files beside what they say: when each point was last read back and what was found, and how
//! the files looked when this store last had to do with them.
//!
//! It stands in a file of its own that is no part of any copy: it is about these very files. Losing it loses no point; what
//! is not known is read again.

use std::collections::BTreeMap;
use std::path::Path;

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Root, UnixMillis};
use serde::{Deserialize, Serialize};

use super::chain;
use super::layout::{Layout, PROOFS};
use super::manifest::{Manifest, PointEntry, hex};
use crate::drive::image::durable;
use crate::drive::image::skip::FileStamp;

/// Damaged ranges that are kept of one point: enough to see what happened, and to repair what a bad sector does.
pub const RANGES_MAX: usize = 256;

/// What is known of a replica's files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proofs {
    /// Of each point, by its number.
    points: BTreeMap<u64, Proof>,
    /// The stamp of each file that a listed point needs.
    stamps: BTreeMap<String, FileStamp>,
}

/// What reading a point back found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    #[serde(with = "hex")]
    root: Root,
    /// When it was last read whole and found right.
    pub verified_at: Option<UnixMillis>,
    /// What is not what it should be.
    pub damage: Vec<Damage>,
    /// Whether its files were touched by somebody else since: it is read again soon.
    pub suspect: bool,
}

/// A range of a disk that is not what its point lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damage {
    /// The disk.
    pub disk: DiskTarget,
    /// Its first damaged byte.
    pub start: u64,
    /// The first byte behind.
    pub end: u64,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "disk {}, bytes {} to {}", self.disk, self.start, self.end)
    }
}

impl Proofs {
    /// What stands in a replica's folder; nothing where it cannot be read. Blocks.
    pub fn load(layout: &Layout) -> Self {
        let bytes = std::fs::read(layout.path(PROOFS)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes it, durably. Blocks.
    pub fn save(&self, layout: &Layout) -> Result<(), Refusal> {
        durable::replace(&layout.path(PROOFS), &self.encoded())
    }

    /// Writes it so that another process finds it, and a power cut may lose it: what only says that files are untouched
    /// is read again then, as it has to be.
    pub fn save_lightly(&self, layout: &Layout) -> Result<(), Refusal> {
        let (path, bytes) = (layout.path(PROOFS), self.encoded());
        let temporary = durable::temporary(&path);
        std::fs::write(&temporary, bytes).map_err(|error| durable::fault("write", &temporary, &error))?;
        durable::rename(&temporary, &path)
    }

    fn encoded(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What is known of a point.
    pub fn of(&self, point: &PointEntry) -> Option<&Proof> {
        self.points.get(&point.sequence).filter(|proof| proof.root == point.root)
    }

    /// The same, to be changed.
    pub fn of_mut(&mut self, point: &PointEntry) -> &mut Proof {
        let fresh = Proof { root: point.root, verified_at: None, damage: Vec::new(), suspect: false };
        let proof = self.points.entry(point.sequence).or_insert_with(|| fresh.clone());
        if proof.root != point.root {
            *proof = fresh;
        }
        proof
    }

    /// Forgets what is not listed any more.
    pub fn trim(&mut self, manifest: &Manifest) {
        self.points.retain(|sequence, _| manifest.point(*sequence).is_some());
    }

    /// Takes in how the files of the listed points look now. Returns which of them looked otherwise before, or were not
    /// known.
    pub fn stamp(&mut self, layout: &Layout, manifest: &Manifest) -> Result<Vec<String>, Refusal> {
        let (mut now, mut changed) = (BTreeMap::new(), Vec::new());
        for disk in manifest.points.iter().flat_map(|point| &point.disks) {
            for name in files(layout, &disk.file)? {
                if now.contains_key(&name) {
                    continue;
                }
                let Some(stamp) = FileStamp::of(&layout.path(&name))? else { continue };
                if self.stamps.get(&name) != Some(&stamp) {
                    changed.push(name.clone());
                }
                now.insert(name, stamp);
            }
        }
        self.stamps = now;
        Ok(changed)
    }
}

/// The files of a chain, as far as it can be followed.
fn files(layout: &Layout, name: &str) -> Result<Vec<String>, Refusal> {
    match chain::chain(layout, name) {
        Ok(names) => Ok(names),
        Err(_) if Path::new(&layout.path(name)).exists() => Ok(vec![name.to_owned()]),
        Err(refusal) => Err(refusal),
    }
}
