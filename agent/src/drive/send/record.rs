//! What a sender remembers between cycles and lives: the points that were acknowledged, and how the disks looked at the
//! last scan. Losing it costs a comparison of hashes, never a full copy.

use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::codec;
use landfall_proto::id::{DiskTarget, Root};
use landfall_proto::message::control::Point;
use landfall_proto::message::data::Tip;
use serde::{Deserialize, Serialize};

use crate::drive::image::LastScan;
use crate::drive::image::durable;

/// Acknowledged points that are remembered: all that a chain can list, and the newest.
const POINTS_KEPT: usize = 25;

/// The record of one VM's sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Points that were acknowledged, oldest first.
    pub points: Vec<Point>,
    /// The newest acknowledged content, with the root of each disk: what the indexes are named after.
    pub acknowledged: Option<Known>,
    /// The last scan of each disk, for skipping.
    pub scans: Vec<(DiskTarget, LastScan)>,
}

/// The content of one point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The point.
    pub tip: Tip,
    /// The root of each disk.
    pub disks: Vec<(DiskTarget, Root)>,
}

impl Record {
    /// Reads the record in `folder`; an unreadable one counts as none.
    pub fn load(folder: &Path) -> Self {
        let bytes = std::fs::read(path(folder)).unwrap_or_default();
        codec::decode(&bytes).unwrap_or_default()
    }

    /// Writes it durably. Blocks.
    pub fn save(&self, folder: &Path) -> Result<(), Refusal> {
        let bytes = codec::encode(self).map_err(|error| {
            Refusal::new(landfall_proto::Class::Failed, "record", format!("the sender's record: {error}"))
        })?;
        durable::replace(&path(folder), &bytes)
    }

    /// Takes in an acknowledged point.
    pub fn acknowledge(&mut self, point: Point, known: Known) {
        self.points.retain(|earlier| earlier.sequence < point.sequence);
        if self.points.len() >= POINTS_KEPT {
            self.points.remove(0);
        }
        self.points.push(point);
        self.acknowledged = Some(known);
    }

    /// The scan of `disk` that was remembered.
    pub fn scan(&self, disk: &DiskTarget) -> Option<&LastScan> {
        self.scans.iter().find(|(target, _)| target == disk).map(|(_, scan)| scan)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("record")
}
