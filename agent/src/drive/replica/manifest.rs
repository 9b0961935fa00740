//! What a replica's folder holds: exactly what stands here is listed.
//!
//! The file is one line with a version and the BLAKE3 of the rest, then JSON that people can read. It is replaced at
//! once and durably; a damaged one is refused, never guessed.

use std::path::Path;

use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Epoch, Fingerprint, Root, SenderEpoch, UnixMillis, VmId};
use landfall_proto::message::control::{Consistency, Point, PointState};
use landfall_proto::message::data::Tip;
use landfall_proto::model::DiskSpec;
use landfall_proto::refusal::{Class, quoted};
use serde::{Deserialize, Serialize};

use super::layout::is_plain;
use crate::drive::image::durable::{self, fault};
use crate::drive::image::tree::{self, MAX_DISKS, content_root};

/// The most older points beside the newest, Hyper-V's own bound.
pub const RECOVERY_POINTS_MAX: u8 = 24;
/// The most listed points: pins may hold a few beyond what retention keeps.
pub const POINTS_MAX: usize = 60;
const TITLE: &str = "landfall-replica 1 ";

/// What a replica's folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The VM.
    pub vm: VmId,
    /// The highest assignment epoch that was seen here.
    pub epoch: Epoch,
    /// The highest sender epoch that was seen of each primary cluster, the present one's last.
    pub senders: Vec<SenderSeen>,
    /// Older points to keep beside the newest.
    pub recovery_points: u8,
    /// Disks whose first content is under construction.
    pub filling: Vec<DiskSpec>,
    /// The listed points, oldest first.
    pub points: Vec<PointEntry>,
    /// Points that are known to be on other nodes, oldest first.
    pub elsewhere: Vec<Point>,
    /// Whether the newest point's content was found not to be what it should: the next change set must be compared.
    pub doubted: bool,
}

/// The most primary clusters whose senders are remembered: a VM has one, another after each site was made anew or moved.
const SENDERS_MAX: usize = 8;

/// The newest sender of one primary cluster. A sender epoch is a position in that cluster's log, and says nothing beside
/// another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SenderSeen {
    /// The cluster, by its CA: a cluster that was made anew has another one, whatever it is called.
    #[serde(with = "hex")]
    pub cluster: Fingerprint,
    /// The highest sender epoch that was seen of it.
    pub epoch: SenderEpoch,
}

/// A listed point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointEntry {
    /// Its sequence number.
    pub sequence: u64,
    /// The content root over its disks.
    #[serde(with = "hex")]
    pub root: Root,
    /// The sender's wall clock at the instant.
    pub taken_at: UnixMillis,
    /// What the instant was.
    pub consistency: Consistency,
    /// Bytes of changed content that made it, with those of the change sets before it that were no points to stay.
    pub bytes: u64,
    /// Whether it stays, as long as retention keeps it, once there is a newer one.
    pub stays: bool,
    /// Its disks, in the order of the VM's.
    pub disks: Vec<DiskEntry>,
}

/// One disk of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskEntry {
    /// The disk.
    pub target: DiskTarget,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its root.
    #[serde(with = "hex")]
    pub root: Root,
    /// The qcow2 file that shows it; a disk that did not change shares the file of the point before.
    pub file: String,
    /// The file of its leaf hashes.
    pub leaves: String,
}

impl PointEntry {
    /// Its identity.
    pub fn tip(&self) -> Tip {
        Tip { sequence: self.sequence, root: self.root }
    }

    /// Its entry of one disk.
    pub fn disk(&self, target: &DiskTarget) -> Option<&DiskEntry> {
        self.disks.iter().find(|disk| disk.target == *target)
    }

    /// The point as it is listed; which nodes have it is for the caller to say.
    pub fn point(&self) -> Point {
        Point {
            sequence: self.sequence,
            taken_at: self.taken_at,
            consistency: self.consistency,
            bytes: self.bytes,
            root: self.root,
            copies: Vec::new(),
            state: PointState::Listed,
            stays: self.stays,
            verified_at: None,
        }
    }
}

impl Manifest {
    /// The longest manifest that is read: 60 points of 256 disks take less.
    pub const BYTES_MAX: u64 = 16 << 20;

    /// A manifest that lists nothing.
    pub fn empty(vm: VmId) -> Self {
        Self {
            vm,
            epoch: Epoch::default(),
            senders: Vec::new(),
            recovery_points: 0,
            filling: Vec::new(),
            points: Vec::new(),
            elsewhere: Vec::new(),
            doubted: false,
        }
    }

    /// The highest sender epoch that was seen of a primary cluster; the lowest where it never sent here.
    pub fn seen_of(&self, cluster: &Fingerprint) -> SenderEpoch {
        let seen = self.senders.iter().find(|seen| seen.cluster == *cluster);
        seen.map_or_else(SenderEpoch::default, |seen| seen.epoch)
    }

    /// Takes in who sends now.
    pub fn see(&mut self, cluster: Fingerprint, epoch: SenderEpoch) {
        self.senders.retain(|seen| seen.cluster != cluster);
        self.senders.push(SenderSeen { cluster, epoch });
        self.senders.drain(..self.senders.len().saturating_sub(SENDERS_MAX));
    }

    /// The newest listed point.
    pub fn newest(&self) -> Option<&PointEntry> {
        self.points.last()
    }

    /// The disk of `entry` at the newest point before `point` that shows it out of another file.
    pub fn below(&self, point: &PointEntry, entry: &DiskEntry) -> Option<&DiskEntry> {
        let older = self.points.iter().rev().filter(|older| older.sequence < point.sequence);
        older.filter_map(|older| older.disk(&entry.target)).find(|below| below.file != entry.file)
    }

    /// The point with this sequence number, where it is listed.
    pub fn point(&self, sequence: u64) -> Option<&PointEntry> {
        self.points.iter().find(|point| point.sequence == sequence)
    }

    /// Reads the manifest at `path`; `None` where there is none. Blocks.
    pub fn load(path: &Path) -> Result<Option<Self>, Refusal> {
        let Some(file) = durable::open_if_there(path)? else { return Ok(None) };
        let length = file.metadata().map_err(|error| fault("look at", path, &error))?.len();
        if length > Self::BYTES_MAX {
            return Err(bad(path, &format!("has {length} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| fault("read", path, &error))?;
        Self::decode(&bytes, path).map(Some)
    }

    /// Reads a manifest out of `bytes`; `path` is for messages.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(bytes).map_err(|_| bad(path, "is not text"))?;
        let (title, body) = text.split_once('\n').ok_or_else(|| bad(path, "has no title"))?;
        let check = title.strip_prefix(TITLE).ok_or_else(|| bad(path, "has another version"))?;
        if check != blake3::hash(body.as_bytes()).to_hex().as_str() {
            return Err(bad(path, "is damaged: its checksum does not match"));
        }
        let manifest: Self = serde_json::from_str(body).map_err(|error| bad(path, &format!("is damaged: {error}")))?;
        manifest.check().map_err(|why| bad(path, &why))?;
        Ok(manifest)
    }

    /// The bytes of its file.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let failed = |error: serde_json::Error| Refusal::new(Class::Failed, "bad_manifest", error.to_string());
        let body = serde_json::to_string_pretty(self).map_err(failed)?;
        Ok(format!("{TITLE}{}\n{body}", blake3::hash(body.as_bytes()).to_hex()).into_bytes())
    }

    /// Replaces the file at `path`, durably and at once. Blocks.
    pub fn save(&self, path: &Path) -> Result<(), Refusal> {
        durable::replace(path, &self.encode()?)
    }

    fn check(&self) -> Result<(), String> {
        if self.points.len() > POINTS_MAX || self.recovery_points > RECOVERY_POINTS_MAX {
            return Err(format!("lists {} points", self.points.len()));
        }
        if self.senders.len() > SENDERS_MAX {
            return Err(format!("names {} primary clusters", self.senders.len()));
        }
        if !self.filling.is_empty() {
            tree::check_disks(&self.filling).map_err(|refusal| refusal.message)?;
        }
        let mut last = None;
        for point in &self.points {
            if last.is_some_and(|last| point.sequence <= last) {
                return Err(format!("lists point {} out of order", point.sequence));
            }
            last = Some(point.sequence);
            if point.disks.is_empty() || point.disks.len() > MAX_DISKS {
                return Err(format!("lists point {} with {} disks", point.sequence, point.disks.len()));
            }
            if point.root != content_root(point.disks.iter().map(|disk| (&disk.target, disk.bytes, &disk.root))) {
                return Err(format!("lists point {} with disks that do not make its root", point.sequence));
            }
            for disk in &point.disks {
                tree::check_size(&disk.target, disk.bytes).map_err(|refusal| refusal.message)?;
                if !is_plain(&disk.file) || !is_plain(&disk.leaves) {
                    return Err(format!("names the file {}", quoted(&disk.file)));
                }
            }
        }
        Ok(())
    }
}

/// The refusal for a manifest that cannot be used.
pub fn bad(path: &Path, why: &str) -> Refusal {
    let shown = quoted(&path.to_string_lossy());
    Refusal::new(Class::Failed, "bad_manifest", format!("the manifest {shown} {why}")).field("path").remedy(
        "restore the replica's folder from another copy, or move it away and replicate the VM anew (`landfall vm \
             disable`, then `enable`, at the primary)",
    )
}

pub(super) mod hex {
    //! 32 bytes as text.

    use std::fmt::Display;

    use landfall_proto::id::{Fingerprint, Root};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) trait Wide: Display {
        fn of(bytes: [u8; 32]) -> Self;
    }

    impl Wide for Root {
        fn of(bytes: [u8; 32]) -> Self {
            Self(bytes)
        }
    }

    impl Wide for Fingerprint {
        fn of(bytes: [u8; 32]) -> Self {
            Self(bytes)
        }
    }

    pub(in super::super) fn serialize<T: Wide, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T: Wide, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map(T::of).map_err(|_| D::Error::custom("a hash has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn entry(sequence: u64) -> PointEntry {
        let target: DiskTarget = "vda".parse().unwrap();
        let root = Root([sequence as u8; 32]);
        PointEntry {
            sequence,
            root: content_root([(&target, 65_536, &root)]),
            taken_at: UnixMillis(5),
            consistency: Consistency::Crash,
            bytes: 4096,
            stays: true,
            disks: vec![DiskEntry {
                file: super::super::layout::point_name(&target, sequence),
                leaves: super::super::layout::leaves_name(&target, sequence),
                target,
                bytes: 65_536,
                root,
            }],
        }
    }

    #[test]
    fn a_manifest_reads_back_and_any_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest");
        assert_eq!(Manifest::load(&path).unwrap(), None);
        let mut manifest = Manifest::empty(VmId(uuid::Uuid::from_u128(7)));
        manifest.points = vec![entry(3), entry(9)];
        manifest.elsewhere = vec![entry(2).point()];
        manifest.see(Fingerprint([4; 32]), SenderEpoch::from_number(6));
        manifest.save(&path).unwrap();
        assert_eq!(Manifest::load(&path).unwrap().unwrap(), manifest);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Manifest::decode(&bad, &path).unwrap_err().code, "bad_manifest", "byte {at}");
            assert!(Manifest::decode(&good[..at], &path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_manifest_that_cannot_be_true_is_refused() {
        let path = Path::new("manifest");
        let good = Manifest { points: vec![entry(3), entry(9)], ..Manifest::empty(VmId(uuid::Uuid::nil())) };
        let refused = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = good.clone();
            change(&mut manifest);
            Manifest::decode(&manifest.encode().unwrap(), path).is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|manifest| manifest.points.reverse()));
        assert!(refused(&|manifest| manifest.points[0].disks[0].file = "../../etc/shadow".into()));
        assert!(refused(&|manifest| manifest.points[0].root = Root([0; 32])));
        assert!(refused(&|manifest| manifest.points[0].disks.clear()));
        assert!(refused(&|manifest| manifest.recovery_points = 25));
    }
}
