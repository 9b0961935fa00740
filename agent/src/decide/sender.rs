//! Which node of the primary's cluster sends a VM: the one where the VM is, once the last one has let go of it.

use std::time::Duration;

use landfall_proto::id::MemberId;
use landfall_proto::model::Primary;
use landfall_proto::seam::Time;

/// How long a VM may be seen on two nodes before that is a conflict: both notice a moved folder within a second or two.
pub const CONFLICT_GRACE: Duration = Duration::from_secs(5);

/// The VM as this node's VM service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// Since when it has been here.
    pub since: Time,
    /// Whether it runs.
    pub running: bool,
}

/// What this node should commit about its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Claim the role; `down` says that the present sender is held for dead.
    Claim {
        /// Whether the present sender is down.
        down: bool,
    },
    /// Give up the role, or the rivalry.
    Release,
}

/// The next step of `me`. `here` is `None` only where a running VM service says that the VM is not here; a service that
/// does not answer proves nothing, and is not asked about here. `sender_down` is the owner's judgement of the sender.
pub fn next(primary: &Primary, me: MemberId, here: Option<Here>, sender_down: bool, now: Time) -> Option<Step> {
    let rival = primary.rivals.contains(&me);
    let Some(here) = here else {
        return (primary.sender == Some(me) || rival).then_some(Step::Release);
    };
    match primary.sender {
        Some(sender) if sender == me => None,
        None => Some(Step::Claim { down: false }),
        // A stopped VM changes its sender only by release: that the old sender seems dead proves nothing about the VM.
        Some(_) if sender_down && here.running => Some(Step::Claim { down: true }),
        Some(_) if sender_down || rival => None,
        Some(_) => (now.since(here.since) >= CONFLICT_GRACE).then_some(Step::Claim { down: false }),
    }
}

/// The next step of `me` where the sender is silent to it, and not held for lost by the owner, which holds a silent node for
/// lost after `down_after`: where that takes longer, the sender lives, and the VM is on two nodes.
pub fn overruled(primary: &Primary, me: MemberId, here: Option<Here>, down_after: Duration, now: Time) -> Option<Step> {
    let long = here.is_some_and(|here| now.since(here.since) >= down_after + CONFLICT_GRACE);
    if long { next(primary, me, here, false, now) } else { None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use landfall_proto::id::{SenderEpoch, UnixMillis, VmId};
    use landfall_proto::model::{Frequency, VmSpec};

    use super::*;

    fn id(number: u64) -> MemberId {
        MemberId::from_number(number)
    }

    fn primary(sender: Option<u64>, rivals: &[u64]) -> Primary {
        Primary {
            vm: VmSpec {
                id: VmId(uuid::Uuid::from_u128(7)),
                name: "vm".parse().unwrap(),
                disks: vec![],
                adapters: vec![],
                launch: Default::default(),
            },
            to: "r.contoso.com".parse().unwrap(),
            frequency: Frequency::HalfMinute,
            recovery_points: 0,
            sender: sender.map(id),
            sender_epoch: SenderEpoch::from_number(3),
            rivals: rivals.iter().map(|n| id(*n)).collect::<BTreeSet<_>>(),
            stopped: None,
            created_at: UnixMillis(0),
            paused: None,
            resync: None,
            starts_at: None,
            limit: None,
            excluded: Vec::new(),
        }
    }

    fn here(running: bool) -> Option<Here> {
        Some(Here { since: Time::default(), running })
    }

    fn at(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    #[test]
    fn a_migrated_vm_is_claimed_once_it_is_released() {
        assert_eq!(next(&primary(Some(1), &[]), id(1), None, false, at(0)), Some(Step::Release));
        assert_eq!(next(&primary(Some(1), &[]), id(2), here(true), false, at(1_000)), None);
        assert_eq!(next(&primary(None, &[]), id(2), here(true), false, at(1_000)), Some(Step::Claim { down: false }));
    }

    #[test]
    fn a_dead_senders_vm_is_claimed_only_where_it_runs() {
        let dead = primary(Some(1), &[]);
        assert_eq!(next(&dead, id(2), here(true), true, at(0)), Some(Step::Claim { down: true }));
        assert_eq!(next(&dead, id(2), here(false), true, at(60_000)), None);
    }

    #[test]
    fn a_vm_on_two_live_nodes_becomes_a_conflict_and_ends_when_one_lets_go() {
        assert_eq!(
            next(&primary(Some(1), &[]), id(2), here(true), false, at(5_000)),
            Some(Step::Claim { down: false })
        );
        assert_eq!(next(&primary(Some(1), &[2]), id(2), here(true), false, at(60_000)), None);
        assert_eq!(next(&primary(Some(1), &[2]), id(2), None, false, at(60_000)), Some(Step::Release));
        assert_eq!(next(&primary(Some(1), &[2]), id(1), None, false, at(60_000)), Some(Step::Release));
    }

    #[test]
    fn a_node_to_which_a_live_sender_is_silent_waits_for_the_owners_judgement_before_it_is_a_rival() {
        let down_after = Duration::from_secs(5);
        let at = |ms| overruled(&primary(Some(1), &[]), id(2), here(true), down_after, at(ms));
        assert_eq!((at(9_999), at(10_000)), (None, Some(Step::Claim { down: false })));
        assert_eq!(overruled(&primary(Some(1), &[2]), id(2), here(true), down_after, Time::default()), None);
    }
}
