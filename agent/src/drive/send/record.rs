//! What a sender remembers between cycles and lives: the points that were acknowledged, and how the disks looked at the
//! last scan. Losing it costs a comparison of hashes, never a full copy.

use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::codec;
use landfall_proto::id::{DiskTarget, Root, UnixMillis};
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
    /// When the relationship began whose points these are.
    pub relationship: UnixMillis,
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
    /// Reads the record in `folder`; an unreadable one counts as none. Of an earlier relationship only what describes the
    /// disks is kept: its points are not this one's, and nobody may wait for them or ask for them.
    pub fn load(folder: &Path, relationship: UnixMillis) -> Self {
        let bytes = std::fs::read(path(folder)).unwrap_or_default();
        let mut record: Self = codec::decode(&bytes).unwrap_or_default();
        if record.relationship != relationship {
            record.points.clear();
            record.relationship = relationship;
        }
        record
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

#[cfg(test)]
mod tests {
    use landfall_proto::message::control::{Consistency, PointState};

    use super::*;

    #[test]
    fn another_relationship_knows_the_disks_but_none_of_the_points() {
        let folder = tempfile::tempdir().unwrap();
        let (tip, disks) = (Tip { sequence: 7, root: Root([1; 32]) }, vec![("vda".parse().unwrap(), Root([2; 32]))]);
        let point = Point {
            sequence: tip.sequence,
            taken_at: UnixMillis(5),
            consistency: Consistency::Crash,
            bytes: 4096,
            root: tip.root,
            copies: vec!["r1".parse().unwrap()],
            state: PointState::Listed,
        };
        let mut record = Record::load(folder.path(), UnixMillis(1));
        record.acknowledge(point, Known { tip, disks });
        record.save(folder.path()).unwrap();
        assert_eq!(Record::load(folder.path(), UnixMillis(1)), record);
        let other = Record::load(folder.path(), UnixMillis(2));
        assert_eq!((other.points.len(), &other.acknowledged), (0, &record.acknowledged));
    }
}
