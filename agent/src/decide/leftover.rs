//! Whether the files of a replica that stayed on a node after another one took over may be removed.
//!
//! They are somebody's recovery points until the committed state proves that they are not needed: another node holds the
//! replica, has acknowledged a point at a newer assignment, and this node is in no way on the way back. Where the state
//! does not know the replica at all (it was removed, or this is another cluster's disk) nothing is proven, and the files
//! are an operator's to remove.

use std::time::Duration;

use landfall_proto::id::{Epoch, MemberId};
use landfall_proto::model::Replica;
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::Time;

/// How long files must have been superseded, without a break, before they are removed: a day. An operator can export from
/// them meanwhile, and a replica that comes back to the node is compared with them instead of being sent whole. It counts
/// while the agent runs: a restart begins it anew, because no clock that outlives a process is trusted with deleting.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);

/// What a node has of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// The newest assignment that they have seen.
    pub epoch: Epoch,
    /// Whether the node's VM service has the replica registered, or does not say.
    pub registered: bool,
    /// Whether somebody reads them.
    pub in_use: bool,
    /// Whether a branch is kept among them.
    pub branches: bool,
}

/// Why files stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The committed state does not know the replica.
    Unknown,
    /// The node holds the replica, or is being filled.
    Receives,
    /// Another node is being filled: until it is complete what is here may be taken back.
    Seeding,
    /// The node has every acknowledged byte.
    InSync,
    /// The node is to copy the replica, to hold it or to have one more copy of it.
    Copies,
    /// The holder has not acknowledged a point since it was assigned.
    NotAcknowledged,
    /// The files have seen the present assignment: they are no leftover of an earlier one.
    NotOlder,
    /// The node's VM service still has the replica.
    Registered,
    /// Somebody reads them.
    InUse,
    /// A branch that gave way to another one is among them, which nobody removes but an operator.
    Branch,
}

/// Why `files` on `me` stay whatever their age; `None` where they are superseded. `replica` is as committed.
pub fn kept_for(replica: Option<&Replica>, me: MemberId, files: Files) -> Option<Keep> {
    let Some(replica) = replica else { return Some(Keep::Unknown) };
    let reasons = [
        (replica.holder == me || replica.receiver() == me, Keep::Receives),
        (replica.seeding.is_some(), Keep::Seeding),
        (replica.in_sync.contains(&me) && !planted::is(Bug::CopyIsLeftOver), Keep::InSync),
        (replica.copying_since(me).is_some(), Keep::Copies),
        (!replica.acknowledged || !replica.in_sync.contains(&replica.holder), Keep::NotAcknowledged),
        (files.epoch >= replica.epoch, Keep::NotOlder),
        (files.registered, Keep::Registered),
        (files.in_use, Keep::InUse),
        (files.branches, Keep::Branch),
    ];
    reasons.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
}

/// Whether files that have been superseded since `since` may go now.
pub fn is_due(since: Time, now: Time) -> bool {
    now.since(since) >= GRACE
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use landfall_proto::id::{Position, UnixMillis, VmId};
    use landfall_proto::model::{Frequency, Handover, Joiner, VmSpec};

    use super::*;

    const ME: MemberId = MemberId::from_number(2);
    const OTHER: MemberId = MemberId::from_number(3);
    const THIRD: MemberId = MemberId::from_number(4);

    fn moved_on() -> Replica {
        let vm = VmSpec {
            id: VmId(uuid::Uuid::from_u128(1)),
            name: "Work".parse().unwrap(),
            disks: Vec::new(),
            adapters: Vec::new(),
            launch: Default::default(),
        };
        Replica {
            vm,
            primary: "p.contoso.com".parse().unwrap(),
            trust_group: "T".parse().unwrap(),
            storage: "default".parse().unwrap(),
            frequency: Frequency::HalfMinute,
            recovery_points: 4,
            holder: OTHER,
            in_sync: BTreeSet::from([OTHER]),
            epoch: Epoch::from_number(20),
            seeding: None,
            acknowledged: true,
            handover: None,
            joiner: None,
            stopped: None,
            created_at: UnixMillis(1),
            paused: None,
        }
    }

    const FILES: Files = Files { epoch: Epoch::from_number(10), registered: false, in_use: false, branches: false };

    #[test]
    fn only_what_another_holder_has_superseded_is_not_kept() {
        assert_eq!(kept_for(Some(&moved_on()), ME, FILES), None);
        assert_eq!(kept_for(None, ME, FILES), Some(Keep::Unknown));
        let kept = |change: &dyn Fn(&mut Replica)| {
            let mut replica = moved_on();
            change(&mut replica);
            kept_for(Some(&replica), ME, FILES)
        };
        assert_eq!(kept(&|replica| replica.holder = ME), Some(Keep::Receives));
        assert_eq!(kept(&|replica| replica.seeding = Some(ME)), Some(Keep::Receives));
        assert_eq!(kept(&|replica| replica.seeding = Some(THIRD)), Some(Keep::Seeding));
        assert_eq!(kept(&|replica| replica.in_sync.extend([ME])), Some(Keep::InSync));
        let handover = |to| Some(Handover { to, since: UnixMillis(1), begun: Position::default() });
        assert_eq!(kept(&|replica| replica.handover = handover(ME)), Some(Keep::Copies));
        assert_eq!(kept(&|replica| replica.handover = handover(THIRD)), None, "the files here are no part of that");
        let joiner = |member| Some(Joiner { member, begun: Position::default() });
        assert_eq!(kept(&|replica| replica.joiner = joiner(ME)), Some(Keep::Copies));
        assert_eq!(kept(&|replica| replica.joiner = joiner(THIRD)), None);
        assert_eq!(kept(&|replica| replica.acknowledged = false), Some(Keep::NotAcknowledged));
        assert_eq!(kept(&|replica| replica.in_sync.clear()), Some(Keep::NotAcknowledged));
        assert_eq!(kept(&|replica| replica.epoch = FILES.epoch), Some(Keep::NotOlder));
        let replica = moved_on();
        assert_eq!(kept_for(Some(&replica), ME, Files { registered: true, ..FILES }), Some(Keep::Registered));
        assert_eq!(kept_for(Some(&replica), ME, Files { in_use: true, ..FILES }), Some(Keep::InUse));
        assert_eq!(kept_for(Some(&replica), ME, Files { branches: true, ..FILES }), Some(Keep::Branch));
    }

    #[test]
    fn they_go_after_a_day_and_not_before() {
        let since = Time(Duration::from_secs(500));
        assert!(!is_due(since, since));
        assert!(!is_due(since, since.after(GRACE - Duration::from_millis(1))));
        assert!(is_due(since, since.after(GRACE)));
        assert!(!is_due(since.after(GRACE), since), "a clock that ran back removes nothing");
    }
}
