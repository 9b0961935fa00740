//! One VM's replication, as each side's committed state has it: [`Primary`] in P, [`Replica`] in R.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{DiskTarget, Epoch, Fqdn, MemberId, Position, SenderEpoch, StorageName, TrustGroup, UnixMillis};
use crate::model::{Bandwidth, VmSpec};
use crate::refusal::Refusal;

/// How often a change set is due. Hyper-V allows exactly these three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum Frequency {
    /// Every 30 seconds.
    HalfMinute,
    /// Every five minutes, Hyper-V's default.
    FiveMinutes,
    /// Every quarter of an hour.
    QuarterHour,
}

impl TryFrom<u32> for Frequency {
    type Error = Refusal;
    fn try_from(seconds: u32) -> Result<Self, Refusal> {
        match seconds {
            30 => Ok(Self::HalfMinute),
            300 => Ok(Self::FiveMinutes),
            900 => Ok(Self::QuarterHour),
            other => Err(Refusal::invalid("frequency", &other.to_string(), "use 30, 300 or 900 seconds")),
        }
    }
}

impl From<Frequency> for u32 {
    fn from(frequency: Frequency) -> Self {
        match frequency {
            Frequency::HalfMinute => 30,
            Frequency::FiveMinutes => 300,
            Frequency::QuarterHour => 900,
        }
    }
}

/// Why a relationship transfers nothing, though nobody has removed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// The authorization entry it lived under is gone.
    AuthorizationRemoved,
    /// The peer cluster is gone.
    PeerRemoved,
}

/// A hand-over of a replica to another node of the same cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The node that will hold the replica.
    pub to: MemberId,
    /// When it was asked for.
    pub since: UnixMillis,
    /// The entry that began it: what is admitted to the in-sync set names it.
    pub begun: Position,
}

/// A node that copies a replica to join its in-sync set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    /// The node.
    pub member: MemberId,
    /// The entry that began it: whoever is admitted names it, so that an answer that comes late admits nobody who has
    /// begun anew meanwhile.
    pub begun: Position,
}

/// A replica that this cluster keeps for a primary elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The VM.
    pub vm: VmSpec,
    /// The primary's CAP (or its FQDN, where it is a standalone server).
    pub primary: Fqdn,
    /// Data is accepted only from primaries whose entry has this trust group.
    pub trust_group: TrustGroup,
    /// Where its files are, on whichever node holds it.
    pub storage: StorageName,
    /// The change set interval that the primary chose.
    pub frequency: Frequency,
    /// Older points kept beside the newest, 0-24.
    pub recovery_points: u8,
    /// The node that receives it.
    pub holder: MemberId,
    /// The nodes that have every acknowledged byte, the holder included once it has a complete point.
    pub in_sync: BTreeSet<MemberId>,
    /// Where the holder was assigned: data for another epoch is refused.
    pub epoch: Epoch,
    /// The node that is being filled because no live member of the in-sync set was left.
    pub seeding: Option<MemberId>,
    /// Whether any point was ever acknowledged.
    pub acknowledged: bool,
    /// A hand-over under way.
    pub handover: Option<Handover>,
    /// The node that is to become another copy, while it copies. None during a hand-over or a seeding.
    pub joiner: Option<Joiner>,
    /// Why it is stopped, if it is.
    pub stopped: Option<Stop>,
    /// When it was created.
    pub created_at: UnixMillis,
    /// Since when an operator has it paused: nothing new is taken, everything else goes on.
    pub paused: Option<UnixMillis>,
}

impl Replica {
    /// The node that primaries should send to: the seeding node where there is one, else the holder.
    pub fn receiver(&self) -> MemberId {
        self.seeding.unwrap_or(self.holder)
    }

    /// Whether `member` receives the replica or has every acknowledged byte of it.
    pub fn is_kept_at(&self, member: MemberId) -> bool {
        self.receiver() == member || self.in_sync.contains(&member)
    }

    /// Where `member` was told to copy the replica, to hold it or to join the in-sync set; `None` where it was not.
    pub fn copying_since(&self, member: MemberId) -> Option<Position> {
        let joining = self.joiner.filter(|joiner| joiner.member == member).map(|joiner| joiner.begun);
        let taking = self.handover.as_ref().filter(|handover| handover.to == member).map(|handover| handover.begun);
        joining.or(taking)
    }
}

/// A VM of this cluster that is replicated elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    /// The VM.
    pub vm: VmSpec,
    /// The CAP (or FQDN) that it replicates to.
    pub to: Fqdn,
    /// The change set interval.
    pub frequency: Frequency,
    /// Older points kept beside the newest, 0-24.
    pub recovery_points: u8,
    /// The node that sends, once one has claimed the role.
    pub sender: Option<MemberId>,
    /// Where that node claimed it: the holder refuses lower ones.
    pub sender_epoch: SenderEpoch,
    /// Nodes that claim to run the VM while another has not released it: nothing is sent while there is one.
    pub rivals: BTreeSet<MemberId>,
    /// Why it is stopped, if it is.
    pub stopped: Option<Stop>,
    /// When replication was enabled.
    pub created_at: UnixMillis,
    /// Since when an operator has it paused: no change set is made, the VM runs on.
    pub paused: Option<UnixMillis>,
    /// Where an operator last asked to compare both sides: a sender that has not done so since then does it first.
    pub resync: Option<Position>,
    /// When the first copy begins, where it was not to begin at once.
    pub starts_at: Option<UnixMillis>,
    /// What its sender may take of the line at most.
    pub limit: Option<Bandwidth>,
    /// Disks of the VM that are not replicated: they are in no form at the replica. `vm` is without them.
    pub excluded: Vec<DiskTarget>,
}
