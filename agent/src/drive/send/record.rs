//! What a sender remembers between cycles and lives: the points that were acknowledged, and how the disks looked at the
//! last scan. Losing it costs a comparison of hashes, never a full copy.

use std::path::{Path, PathBuf};

use landfall_proto::Refusal;
use landfall_proto::codec;
use landfall_proto::id::{DiskTarget, Root, UnixMillis};
use landfall_proto::message::control::{Point, PointState};
use landfall_proto::message::data::{POINTS_TOLD, Tip};
use serde::{Deserialize, Serialize};

use crate::drive::image::LastScan;
use crate::drive::image::durable;

/// The record of one VM's sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When the relationship began whose points these are.
    pub relationship: UnixMillis,
    /// Points that were acknowledged to this sender, oldest first.
    pub points: Vec<Point>,
    /// Points that a holder listed and this sender did not send, oldest first: an earlier sender did.
    pub told: Vec<Point>,
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
    /// Reads the record in `folder`, and says whether it begins anew; an unreadable one counts as none. Of an earlier
    /// relationship only what describes the disks is kept: its points are not this one's, and nobody may wait for them or
    /// ask for them.
    pub fn load(folder: &Path, relationship: UnixMillis) -> (Self, bool) {
        let bytes = std::fs::read(path(folder)).unwrap_or_default();
        let mut record: Self = codec::decode(&bytes).unwrap_or_default();
        let is_new = record.relationship != relationship;
        if is_new {
            record.points.clear();
            record.told.clear();
            record.relationship = relationship;
        }
        (record, is_new)
    }

    /// Writes it durably. Blocks.
    pub fn save(&self, folder: &Path) -> Result<(), Refusal> {
        let bytes = codec::encode(self).map_err(|error| {
            Refusal::new(landfall_proto::Class::Failed, "record", format!("the sender's record: {error}"))
        })?;
        durable::replace(&path(folder), &bytes)
    }

    /// Takes in an acknowledged point that was made upon `base`. One that the holder is sure of covers those below it that
    /// it was not sure of.
    pub fn acknowledge(&mut self, point: Point, base: Option<Tip>, known: Known) {
        self.points.retain(|earlier| earlier.sequence < point.sequence);
        let below = self.points.last().map(|last| Tip { sequence: last.sequence, root: last.root });
        if point.state != PointState::Unconfirmed && base.is_some() && base == below {
            for earlier in self.points.iter_mut().filter(|earlier| earlier.state == PointState::Unconfirmed) {
                earlier.state = point.state;
            }
        }
        if point.state != PointState::Unconfirmed {
            // What does not stay is part of this one: nobody lists it any more, and nobody may ask for it.
            self.points.retain(|earlier| earlier.stays);
            self.told.retain(|earlier| earlier.stays || earlier.sequence > point.sequence);
        }
        self.points.push(point);
        keep_newest(&mut self.points);
        self.acknowledged = Some(known);
    }

    /// Takes in the points that a holder lists; whether that was news. What was acknowledged here, or told before, is
    /// not replaced by a point of another content under its number. Of a point with the same content the holder knows
    /// better where it is now; that it is unreachable is its own view, and no news about the place.
    pub fn learn(&mut self, listed: &[Point]) -> bool {
        let before = (self.points.clone(), self.told.clone());
        for point in listed {
            match self.points.iter_mut().chain(&mut self.told).find(|known| known.sequence == point.sequence) {
                Some(known) if known.root == point.root && point.state == PointState::Listed => {
                    known.copies.clone_from(&point.copies);
                    known.stays = point.stays;
                }
                Some(_) => {}
                None => self.told.push(point.clone()),
            }
        }
        self.told.sort_by_key(|point| point.sequence);
        keep_newest(&mut self.told);
        before != (self.points.clone(), self.told.clone())
    }

    /// The newest points that are known to have been acknowledged, oldest first.
    pub fn known(&self) -> Vec<Point> {
        let mut known: Vec<Point> = self.points.iter().chain(&self.told).cloned().collect();
        known.sort_by_key(|point| point.sequence);
        keep_newest(&mut known);
        known
    }

    /// The newest point that counts, and the newest of those after it that the holder was not sure of.
    pub fn newest(&self) -> (Option<&Point>, Option<&Point>) {
        let counts = |point: &&Point| point.state != PointState::Unconfirmed;
        (self.points.iter().rfind(counts), self.points.last().filter(|point| !counts(point)))
    }

    /// The highest number of a point that is known; 0 where none is.
    pub fn last(&self) -> u64 {
        self.points.iter().chain(&self.told).map(|point| point.sequence).max().unwrap_or(0)
    }

    /// The scan of `disk` that was remembered.
    pub fn scan(&self, disk: &DiskTarget) -> Option<&LastScan> {
        self.scans.iter().find(|(target, _)| target == disk).map(|(_, scan)| scan)
    }
}

/// As many as a replica can be asked to keep: older ones are de-listed wherever they are.
fn keep_newest(points: &mut Vec<Point>) {
    points.drain(..points.len().saturating_sub(POINTS_TOLD));
}

fn path(folder: &Path) -> PathBuf {
    folder.join("record")
}

#[cfg(test)]
mod tests {
    use landfall_proto::message::control::Consistency;

    use super::*;

    fn point(sequence: u64, root: u8, at: &str) -> Point {
        Point {
            sequence,
            taken_at: UnixMillis(5),
            consistency: Consistency::Crash,
            bytes: 4096,
            root: Root([root; 32]),
            copies: vec![at.parse().unwrap()],
            state: PointState::Listed,
            stays: true,
            verified_at: None,
        }
    }

    fn acknowledge(record: &mut Record, point: Point) {
        let tip = Tip { sequence: point.sequence, root: point.root };
        record.acknowledge(point, None, Known { tip, disks: vec![("vda".parse().unwrap(), Root([2; 32]))] });
    }

    #[test]
    fn a_point_that_the_holder_was_not_sure_of_counts_once_a_sure_one_is_made_upon_it() {
        let tip = |sequence| Tip { sequence, root: Root([sequence as u8; 32]) };
        let known = |sequence| Known { tip: tip(sequence), disks: Vec::new() };
        let unsure = |sequence| Point { state: PointState::Unconfirmed, ..point(sequence, sequence as u8, "r1") };
        let shown = |record: &Record| {
            let (newest, unconfirmed) = record.newest();
            (newest.map(|point| point.sequence), unconfirmed.map(|point| point.sequence))
        };
        let mut record = Record::default();
        record.acknowledge(point(1, 1, "r1"), None, known(1));
        record.acknowledge(unsure(2), Some(tip(1)), known(2));
        record.acknowledge(unsure(3), Some(tip(2)), known(3));
        assert_eq!(shown(&record), (Some(1), Some(3)));
        let mut covered = record.clone();
        covered.acknowledge(point(4, 4, "r1"), Some(tip(3)), known(4));
        assert_eq!(shown(&covered), (Some(4), None));
        assert!(covered.points.iter().all(|point| point.state == PointState::Listed));
        // Another node received it meanwhile: what the first one took counts for nothing there.
        record.acknowledge(point(4, 4, "r2"), Some(tip(1)), known(4));
        assert_eq!(shown(&record), (Some(4), None));
        assert_eq!(record.points[1].state, PointState::Unconfirmed);
    }

    #[test]
    fn a_point_that_does_not_stay_is_forgotten_once_a_sure_one_follows() {
        let passing = |sequence| Point { stays: false, ..point(sequence, sequence as u8, "r1") };
        let unsure = |sequence| Point { state: PointState::Unconfirmed, ..passing(sequence) };
        let known = |record: &Record| record.known().iter().map(|point| point.sequence).collect::<Vec<_>>();
        let mut record = Record::default();
        record.learn(&[point(1, 1, "r1"), passing(2)]);
        acknowledge(&mut record, passing(3));
        assert_eq!(known(&record), [1, 3]);
        acknowledge(&mut record, unsure(4));
        assert_eq!((known(&record), record.newest().0.map(|point| point.sequence)), (vec![1, 3, 4], Some(3)));
        acknowledge(&mut record, point(5, 5, "r1"));
        acknowledge(&mut record, passing(6));
        assert_eq!(known(&record), [1, 5, 6]);
    }

    #[test]
    fn another_relationship_knows_the_disks_but_none_of_the_points() {
        let folder = tempfile::tempdir().unwrap();
        let (mut record, is_new) = Record::load(folder.path(), UnixMillis(1));
        assert!(is_new);
        acknowledge(&mut record, point(7, 1, "r1"));
        assert!(record.learn(&[point(6, 6, "r1")]));
        record.save(folder.path()).unwrap();
        assert_eq!(Record::load(folder.path(), UnixMillis(1)), (record.clone(), false));
        let (other, is_new) = Record::load(folder.path(), UnixMillis(2));
        assert!(is_new);
        assert_eq!((other.known(), &other.acknowledged), (Vec::new(), &record.acknowledged));
    }

    #[test]
    fn a_new_sender_learns_what_the_holder_lists_and_keeps_what_it_knows_itself() {
        let mut record = Record::default();
        acknowledge(&mut record, point(4, 4, "r1"));
        assert!(record.learn(&[point(2, 2, "r2"), point(3, 3, "r2"), point(4, 4, "r2"), point(5, 5, "r2")]));
        assert!(record.known().iter().map(|point| (point.sequence, point.root.0[0])).eq([
            (2, 2),
            (3, 3),
            (4, 4),
            (5, 5)
        ]));
        assert!(record.known().iter().all(|point| point.copies == ["r2".parse().unwrap()]), "where they are now");
        assert_eq!((record.points.len(), record.last()), (1, 5), "what was acknowledged here is one point still");
        assert!(!record.learn(&record.known()), "no news");

        // Another content under a number that is known, and a view that says nothing about the place.
        let lost = Point { state: PointState::Unreachable, ..point(3, 3, "r9") };
        assert!(!record.learn(&[point(4, 99, "r3"), point(2, 98, "r3"), lost]));
        acknowledge(&mut record, point(6, 6, "r2"));
        assert_eq!(record.last(), 6);
    }

    #[test]
    fn as_many_points_are_known_as_a_replica_can_keep() {
        let mut record = Record::default();
        let listed: Vec<Point> = (1..=60).map(|sequence| point(sequence, 1, "r1")).collect();
        record.learn(&listed);
        (61..=70).for_each(|sequence| acknowledge(&mut record, point(sequence, 1, "r1")));
        let known: Vec<u64> = record.known().iter().map(|point| point.sequence).collect();
        assert_eq!(known, (46..=70).collect::<Vec<_>>());
        record.learn(&[point(u64::MAX, 1, "r1")]);
        assert_eq!(record.last(), u64::MAX, "a number that no sender gives is no fault here");
    }
}
