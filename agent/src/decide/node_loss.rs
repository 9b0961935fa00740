//! When a silent node is held for dead, and where its replicas go then.
//!
//! Gossip only makes the owner look. The owner then asks the node itself, and up to two others to ask for it; only a node
//! that nobody reached for all of `node_down_after` is down, and an owner whose own loop stood still accuses no one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_proto::id::{MemberId, StorageName, VmId};
use landfall_proto::message::control::StagingFaults;
use landfall_proto::model::Replica;
use landfall_proto::planted::{self, Bug};
use landfall_proto::seam::Time;

/// A pause of the owner's own loop that makes it doubt itself rather than the others. The loop runs four times a second;
/// a second late means that this machine, not the others, stood still.
pub const SELF_DOUBT: Duration = Duration::from_secs(1);

/// How often a suspect is asked again.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(1_000);

/// How many others are asked to reach a suspect.
pub const PROXIES: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Time,
    probed: Option<Time>,
    down: bool,
}

/// What the owner has seen of its fellow members.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    suspicions: BTreeMap<MemberId, Suspicion>,
    ticked: Option<Time>,
}

impl Watch {
    /// Takes in which members gossip holds for live, and returns the suspects that are due to be asked.
    pub fn tick(&mut self, now: Time, live: &BTreeMap<MemberId, bool>, down_after: Duration) -> Vec<MemberId> {
        let stood_still = self.ticked.is_some_and(|before| now.since(before) >= SELF_DOUBT);
        self.ticked = Some(now);
        self.suspicions.retain(|member, _| live.get(member) == Some(&false));
        let mut due = Vec::new();
        for member in live.iter().filter(|(_, live)| !**live).map(|(member, _)| *member) {
            let entry = self.suspicions.entry(member).or_insert(Suspicion { since: now, probed: None, down: false });
            if stood_still && !entry.down && !planted::is(Bug::StandstillAccuses) {
                *entry = Suspicion { since: now, probed: None, down: false };
            }
            // One probe at least must have failed: silence alone convicts nobody.
            entry.down |=
                (entry.probed.is_some() || planted::is(Bug::SilenceConvicts)) && now.since(entry.since) >= down_after;
            if entry.probed.is_none_or(|at| now.since(at) >= PROBE_INTERVAL) {
                due.push(member);
            }
        }
        due
    }

    /// Takes in that `member` was asked, and whether anybody reached it.
    pub fn probed(&mut self, now: Time, member: MemberId, reached: bool) {
        let Some(entry) = self.suspicions.get_mut(&member) else { return };
        if reached {
            *entry = Suspicion { since: now, probed: Some(now), down: false };
        } else {
            entry.probed = Some(now);
        }
    }

    /// Since when `member` is held for dead.
    pub fn down_since(&self, member: MemberId) -> Option<Time> {
        self.suspicions.get(&member).filter(|entry| entry.down).map(|entry| entry.since)
    }

    /// Whether `member` is silent, though not yet held for dead.
    pub fn suspects(&self, member: MemberId) -> bool {
        self.suspicions.get(&member).is_some_and(|entry| !entry.down)
    }
}

/// The members asked to reach `suspect` on the owner's behalf: live, neither of the two, at most [`PROXIES`].
pub fn proxies(owner: MemberId, suspect: MemberId, live: &BTreeMap<MemberId, bool>) -> Vec<MemberId> {
    live.iter()
        .filter(|(member, live)| **live && **member != owner && **member != suspect)
        .map(|(member, _)| *member)
        .take(PROXIES)
        .collect()
}

/// How long to wait, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A receiver that is alive but cannot stage for this long is replaced like a dead one.
    pub down_after: Duration,
    /// Without another copy, a new home is filled from the primary only after this.
    pub without_copy: Duration,
}

/// What is known about the nodes that one replica could be on.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// Members that are up.
    pub up: BTreeSet<MemberId>,
    /// Members held for dead, and since when.
    pub down: BTreeMap<MemberId, Time>,
    /// What has not been able to stage on members that are up.
    pub unable: BTreeMap<MemberId, Unable>,
    /// Those that come and go: they take over where no other one has the data.
    pub quarantined: BTreeSet<MemberId>,
}

/// What cannot stage on one member, and since when. One replica's fault is that replica's alone; a storage location's is
/// every replica's that lies there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unable {
    /// Its storage locations.
    pub storage: BTreeMap<StorageName, Time>,
    /// Replicas that it receives.
    pub replicas: BTreeMap<VmId, Time>,
}

impl Unable {
    /// Takes in what the member says now: what it said before keeps its time, what it says no more is forgotten.
    pub fn heard(&mut self, faults: &StagingFaults, now: Time) {
        let since = |before: Option<&Time>| before.copied().unwrap_or(now);
        self.storage = faults.storage.iter().map(|(name, _)| (name.clone(), since(self.storage.get(name)))).collect();
        self.replicas = faults.replicas.iter().map(|(vm, _)| (*vm, since(self.replicas.get(vm)))).collect();
    }

    /// Since when `replica` cannot be staged there.
    pub fn since(&self, replica: &Replica) -> Option<Time> {
        let (storage, own) = (self.storage.get(&replica.storage), self.replicas.get(&replica.vm.id));
        storage.into_iter().chain(own).min().copied()
    }
}

impl Nodes {
    /// Since when `member`, which is up, cannot stage `replica`.
    fn unable_since(&self, member: MemberId, replica: &Replica) -> Option<Time> {
        self.unable.get(&member).and_then(|unable| unable.since(replica))
    }
}

/// What to do about a replica whose receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rehome {
    /// This member has every acknowledged byte and takes over.
    Assign(MemberId),
    /// Nobody has: fill another node.
    Seed {
        /// The member that did not answer, and is not chosen.
        instead_of: MemberId,
    },
}

/// What to do now about `replica`, if anything. Which node is seeded is placement's business.
pub fn rehome(replica: &Replica, nodes: &Nodes, patience: Patience, now: Time) -> Option<Rehome> {
    let calmest = |fit: &mut dyn Iterator<Item = &MemberId>| {
        fit.copied().min_by_key(|member| (nodes.quarantined.contains(member), *member))
    };
    let able = |member: &MemberId| nodes.up.contains(member) && nodes.unable_since(*member, replica).is_none();
    if replica.seeding.is_some() {
        // A returning member takes the replica back: what it has was acknowledged, what is being filled was not.
        if let Some(back) = calmest(&mut replica.in_sync.iter().filter(|member| able(member))) {
            return Some(Rehome::Assign(back));
        }
    }
    let receiver = replica.receiver();
    let gone_since =
        nodes.down.get(&receiver).copied().or_else(|| {
            nodes.unable_since(receiver, replica).filter(|since| now.since(*since) >= patience.down_after)
        })?;
    let set = if planted::is(Bug::RehomedToAnyNode) { &nodes.up } else { &replica.in_sync };
    if let Some(copy) = calmest(&mut set.iter().filter(|member| **member != receiver && able(member))) {
        return Some(Rehome::Assign(copy));
    }
    let waited = now.since(gone_since) >= patience.without_copy || planted::is(Bug::RehomedWithoutPatience);
    let nothing_to_lose = !replica.acknowledged || replica.seeding == Some(receiver);
    (waited || nothing_to_lose).then_some(Rehome::Seed { instead_of: receiver })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOWN_AFTER: Duration = Duration::from_secs(5);

    fn at(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    fn id(number: u64) -> MemberId {
        MemberId::from_number(number)
    }

    fn live(pairs: &[(u64, bool)]) -> BTreeMap<MemberId, bool> {
        pairs.iter().map(|(member, live)| (id(*member), *live)).collect()
    }

    fn replica(holder: u64, in_sync: &[u64], seeding: Option<u64>, acknowledged: bool) -> Replica {
        Replica {
            holder: id(holder),
            in_sync: in_sync.iter().map(|n| id(*n)).collect(),
            seeding: seeding.map(id),
            acknowledged,
            ..crate::decide::copies::sample()
        }
    }

    fn patience() -> Patience {
        Patience { down_after: DOWN_AFTER, without_copy: Duration::from_secs(900) }
    }

    #[test]
    fn a_silent_node_is_down_only_after_the_time_and_only_when_nobody_reached_it() {
        let mut watch = Watch::default();
        let mut now = 0;
        while now < 4_750 {
            for suspect in watch.tick(at(now), &live(&[(1, true), (2, false)]), DOWN_AFTER) {
                watch.probed(at(now), suspect, false);
            }
            assert_eq!(watch.down_since(id(2)), None, "at {now}");
            now += 250;
        }
        watch.tick(at(5_000), &live(&[(1, true), (2, false)]), DOWN_AFTER);
        assert_eq!(watch.down_since(id(2)), Some(at(0)));
        watch.tick(at(5_250), &live(&[(1, true), (2, true)]), DOWN_AFTER);
        assert_eq!(watch.down_since(id(2)), None);
    }

    #[test]
    fn a_node_that_was_never_asked_is_not_down_however_long_it_is_silent() {
        let mut watch = Watch::default();
        for step in 0..100 {
            let due = watch.tick(at(step * 250), &live(&[(1, true), (2, false)]), DOWN_AFTER);
            assert_eq!(due, [id(2)]);
            assert_eq!(watch.down_since(id(2)), None, "gossip alone convicts");
        }
    }

    #[test]
    fn one_answer_starts_the_time_anew() {
        let mut watch = Watch::default();
        for step in 0..60 {
            let now = at(step * 250);
            for suspect in watch.tick(now, &live(&[(2, false)]), DOWN_AFTER) {
                watch.probed(now, suspect, step % 16 == 0);
            }
            assert_eq!(watch.down_since(id(2)), None);
        }
    }

    #[test]
    fn an_owner_that_stood_still_accuses_no_one() {
        let mut watch = Watch::default();
        for suspect in watch.tick(at(0), &live(&[(2, false)]), DOWN_AFTER) {
            watch.probed(at(0), suspect, false);
        }
        watch.tick(at(60_000), &live(&[(2, false)]), DOWN_AFTER);
        assert_eq!(watch.down_since(id(2)), None);
        assert!(watch.suspects(id(2)));
    }

    #[test]
    fn a_copy_takes_over_at_once_and_without_one_the_primary_is_not_asked_early() {
        let nodes = |up: &[u64], down: &[(u64, u64)]| Nodes {
            up: up.iter().map(|n| id(*n)).collect(),
            down: down.iter().map(|(n, since)| (id(*n), at(*since))).collect(),
            unable: BTreeMap::new(),
            ..Nodes::default()
        };
        let two = replica(1, &[1, 2], None, true);
        assert_eq!(rehome(&two, &nodes(&[2, 3], &[(1, 0)]), patience(), at(5_000)), Some(Rehome::Assign(id(2))));
        let one = replica(1, &[1], None, true);
        assert_eq!(rehome(&one, &nodes(&[2], &[(1, 0)]), patience(), at(899_999)), None);
        assert_eq!(
            rehome(&one, &nodes(&[2], &[(1, 0)]), patience(), at(900_000)),
            Some(Rehome::Seed { instead_of: id(1) })
        );
        let fresh = replica(1, &[], None, false);
        assert_eq!(
            rehome(&fresh, &nodes(&[2], &[(1, 0)]), patience(), at(5_000)),
            Some(Rehome::Seed { instead_of: id(1) })
        );
        let seeding = replica(1, &[1], Some(2), true);
        assert_eq!(rehome(&seeding, &nodes(&[1, 2], &[]), patience(), at(0)), Some(Rehome::Assign(id(1))));
    }

    fn faults(storage: &[&str], replicas: &[u128]) -> StagingFaults {
        StagingFaults::new(
            storage.iter().map(|name| (name.parse().unwrap(), "read-only".to_owned())),
            replicas.iter().map(|vm| (VmId(uuid::Uuid::from_u128(*vm)), "damaged".to_owned())),
        )
    }

    #[test]
    fn a_fault_moves_only_what_has_it() {
        let here = replica(1, &[1, 2], None, true);
        let mut other = here.clone();
        other.vm.id = VmId(uuid::Uuid::from_u128(8));
        let mut elsewhere = here.clone();
        elsewhere.storage = "fast".parse().unwrap();
        let mut unable = Unable::default();
        let moved = |unable: &Unable, replica: &Replica| {
            let unable = BTreeMap::from([(id(1), unable.clone())]);
            let nodes = Nodes { up: BTreeSet::from([id(1), id(2)]), unable, ..Nodes::default() };
            rehome(replica, &nodes, patience(), at(5_000)) == Some(Rehome::Assign(id(2)))
        };
        unable.heard(&faults(&[], &[7]), at(0));
        assert!(moved(&unable, &here) && !moved(&unable, &other));
        unable.heard(&faults(&["default"], &[]), at(0));
        assert!(moved(&unable, &here) && moved(&unable, &other) && !moved(&unable, &elsewhere));
        unable.heard(&faults(&[], &[]), at(1_000));
        assert!(!moved(&unable, &here));
        // A fault that went and came back has not lasted.
        unable.heard(&faults(&[], &[7]), at(2_000));
        unable.heard(&faults(&["fast"], &[7]), at(4_000));
        assert!(!moved(&unable, &here));
        assert_eq!((unable.since(&here), unable.since(&elsewhere)), (Some(at(2_000)), Some(at(2_000))));
        assert_eq!(unable.since(&other), None);
    }

    #[test]
    fn a_member_that_cannot_stage_this_replica_does_not_take_it_over() {
        let two = replica(1, &[1, 2], None, true);
        let mut unable = Unable::default();
        unable.heard(&faults(&[], &[7]), at(0));
        let mut nodes = Nodes {
            up: BTreeSet::from([id(2)]),
            down: BTreeMap::from([(id(1), at(0))]),
            unable: BTreeMap::from([(id(2), unable.clone())]),
            ..Nodes::default()
        };
        assert_eq!(rehome(&two, &nodes, patience(), at(5_000)), None);
        unable.heard(&faults(&[], &[8]), at(0));
        nodes.unable.insert(id(2), unable);
        assert_eq!(rehome(&two, &nodes, patience(), at(5_000)), Some(Rehome::Assign(id(2))));
    }

    #[test]
    fn a_member_that_comes_and_goes_takes_over_where_no_other_has_the_data() {
        let three = replica(1, &[1, 2, 3], None, true);
        let mut nodes = Nodes {
            up: BTreeSet::from([id(2), id(3)]),
            down: BTreeMap::from([(id(1), at(0))]),
            quarantined: BTreeSet::from([id(2)]),
            ..Nodes::default()
        };
        assert_eq!(rehome(&three, &nodes, patience(), at(5_000)), Some(Rehome::Assign(id(3))));
        nodes.up.remove(&id(3));
        assert_eq!(rehome(&three, &nodes, patience(), at(5_000)), Some(Rehome::Assign(id(2))));
    }

    proptest! {
        /// R13: a new holder comes only from the in-sync set.
        #[test]
        fn only_a_live_member_of_the_set_is_ever_assigned(
            holder in 1u64..5, set in 0u8..16, up in 0u8..16, unable in 0u8..16, seeding in 0u64..5,
            acknowledged in any::<bool>(), now in 0u64..2_000_000
        ) {
            let bits = |mask: u8| (1..5u64).filter(move |n| mask >> (n - 1) & 1 == 1);
            let members: Vec<u64> = bits(set).collect();
            let replica = replica(holder, &members, Some(seeding).filter(|s| *s > 0), acknowledged);
            let nodes = Nodes {
                up: bits(up).map(id).collect(),
                down: (1..5).filter(|n| !bits(up).any(|u| u == *n)).map(|n| (id(n), at(0))).collect(),
                unable: bits(unable)
                    .map(|n| (id(n), Unable { storage: [(replica.storage.clone(), at(0))].into(), ..Unable::default() }))
                    .collect(),
                ..Nodes::default()
            };
            if let Some(Rehome::Assign(to)) = rehome(&replica, &nodes, patience(), at(now)) {
                prop_assert!(replica.in_sync.contains(&to) && nodes.up.contains(&to));
                prop_assert!(!nodes.unable.contains_key(&to));
            }
        }
    }
}
