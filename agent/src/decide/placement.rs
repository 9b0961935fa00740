//! Where a new replica goes: a random node among those that can take it, and why each other one was not taken.
//!
//! Hyper-V's broker picks a random node that is up and whose VMMS runs; room at the storage location is added here,
//! because a replica that cannot be stored is no replica.

use landfall_proto::id::{MemberId, NodeName, StorageName, VmId};
use landfall_proto::message::broker::PassedOver;
use landfall_proto::model::Replica;
use landfall_proto::planted::{self, Bug};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// How a node stands with the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its heartbeats arrive.
    Up,
    /// They have stopped.
    Suspect,
    /// It is held for dead.
    Down,
}

/// What is known of one storage location on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The location.
    pub name: StorageName,
    /// Bytes free.
    pub free_bytes: u64,
    /// Bytes of them that replicas on their way there may still need: see [`promised_bytes`].
    pub promised_bytes: u64,
    /// Why nothing can be stored there.
    pub fault: Option<String>,
}

/// A member as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The member.
    pub member: MemberId,
    /// Its name, for the report.
    pub node: NodeName,
    /// Whether it only votes.
    pub witness: bool,
    /// Whether it is up.
    pub standing: Standing,
    /// Whether an administrator has drained it.
    pub drained: bool,
    /// Why it gets nothing new, where something else is in the way.
    pub kept_out: Option<String>,
    /// Why it is left alone for a while, where it comes and goes.
    pub quarantine: Option<String>,
    /// Why its VM service does not run, where it does not.
    pub vm_service_fault: Option<String>,
    /// Its storage locations.
    pub rooms: Vec<Room>,
}

/// What a replica needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The storage location of the authorization entry.
    pub storage: StorageName,
    /// Bytes of all disks together: what it may grow to.
    pub bytes: u64,
    /// A node that did not answer the primary, and is not tried again.
    pub except: Option<MemberId>,
    /// Whether a quarantined node is taken where no other one will do: what is acknowledged is worth more than calm.
    pub even_quarantined: bool,
}

/// Room that stays free at a storage location whatever is placed there, for logs and metadata.
pub const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// Why each of them was passed over, as one line.
pub fn told(passed_over: &[PassedOver]) -> String {
    let reasons: Vec<String> = passed_over.iter().map(|one| format!("{}: {}", one.node, one.reason)).collect();
    reasons.join("; ")
}

/// The chosen member, and why each other one was passed over, in the order of `candidates`.
///
/// `seed` decides among the nodes that will do: the same seed and candidates give the same node.
pub fn choose(candidates: &[Candidate], wish: &Wish, seed: [u8; 32]) -> (Option<MemberId>, Vec<PassedOver>) {
    let objections: Vec<Option<String>> = candidates.iter().map(|candidate| objection(candidate, wish)).collect();
    let will_do = |quarantined: bool| -> Vec<MemberId> {
        let all = candidates.iter().zip(&objections).filter(|(_, why)| why.is_none());
        all.filter(|(one, _)| one.quarantine.is_some() == quarantined).map(|(one, _)| one.member).collect()
    };
    let fit =
        Some(will_do(false)).filter(|fit| !fit.is_empty() || !wish.even_quarantined).unwrap_or_else(|| will_do(true));
    let chosen = match fit.len() {
        0 => None,
        count => Some(fit[ChaCha20Rng::from_seed(seed).random_range(0..count)]),
    };
    let report = candidates
        .iter()
        .zip(objections)
        .filter(|(candidate, _)| Some(candidate.member) != chosen)
        .map(|(candidate, why)| PassedOver {
            node: candidate.node.clone(),
            reason: why
                .or_else(|| candidate.quarantine.as_ref().map(|why| format!("is quarantined: it {why}")))
                .unwrap_or_else(|| "would do, not drawn".to_owned()),
        })
        .collect();
    (chosen, report)
}

/// Why `candidate` cannot take a replica, if it cannot.
pub fn objection(candidate: &Candidate, wish: &Wish) -> Option<String> {
    if candidate.witness {
        return Some("is a witness".to_owned());
    }
    if wish.except == Some(candidate.member) {
        return Some("did not answer the primary".to_owned());
    }
    match candidate.standing {
        Standing::Up => {}
        _ if planted::is(Bug::PlacedOnDeadNode) => {}
        Standing::Suspect => return Some("has stopped answering".to_owned()),
        Standing::Down => return Some("is down".to_owned()),
    }
    if candidate.drained {
        return Some("is drained".to_owned());
    }
    if let Some(why) = &candidate.kept_out {
        return Some(why.clone());
    }
    if let Some(fault) = &candidate.vm_service_fault {
        return Some(format!("VM service {fault}"));
    }
    let Some(room) = candidate.rooms.iter().find(|room| room.name == wish.storage) else {
        return Some(format!("has no storage location '{}'", wish.storage));
    };
    if let Some(fault) = &room.fault {
        return Some(format!("storage '{}': {fault}", room.name));
    }
    let needed = wish.bytes.saturating_add(RESERVE_BYTES);
    let Room { name, free_bytes, promised_bytes, .. } = room;
    (free_bytes.saturating_sub(*promised_bytes) < needed).then(|| match promised_bytes {
        0 => format!("storage '{name}' has {free_bytes} bytes free, the disks may need {needed}"),
        promised => format!(
            "storage '{name}' has {free_bytes} bytes free, {promised} of them promised to replicas that are being \
             filled, the disks may need {needed}"
        ),
    })
}

/// Bytes at the storage location `storage` of `member` that replicas other than `vm`'s may still need there: those that
/// are being filled for the first time or after a loss, and those that are to be copied to it. A disk counts whole,
/// though part of it may be there already: the free room is a hint that is some seconds old.
pub fn promised_bytes<'a>(
    replicas: impl IntoIterator<Item = &'a Replica>,
    vm: VmId,
    member: MemberId,
    storage: &StorageName,
) -> u64 {
    let on_its_way = |replica: &Replica| {
        let filling = replica.receiver() == member && (!replica.acknowledged || replica.seeding == Some(member));
        filling || replica.copying_since(member).is_some()
    };
    replicas
        .into_iter()
        .filter(|replica| replica.vm.id != vm && replica.storage == *storage && on_its_way(replica))
        .flat_map(|replica| &replica.vm.disks)
        .fold(0, |sum, disk| sum.saturating_add(disk.bytes))
}

#[cfg(test)]
pub(crate) use tests::candidate;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use landfall_proto::id::{Position, UnixMillis};
    use landfall_proto::model::{DiskSpec, Handover, Joiner, VmSpec};
    use proptest::prelude::*;

    use super::*;

    /// A member that will do, called `r` and its number.
    pub(crate) fn candidate(id: u64) -> Candidate {
        Candidate {
            member: MemberId::from_number(id),
            node: format!("r{id}").parse().unwrap(),
            witness: false,
            standing: Standing::Up,
            drained: false,
            kept_out: None,
            quarantine: None,
            vm_service_fault: None,
            rooms: vec![Room { name: "default".parse().unwrap(), free_bytes: 1 << 40, promised_bytes: 0, fault: None }],
        }
    }

    fn wish() -> Wish {
        Wish { storage: "default".parse().unwrap(), bytes: 1 << 30, except: None, even_quarantined: false }
    }

    fn seed(request: u64) -> [u8; 32] {
        *blake3::hash(&request.to_le_bytes()).as_bytes()
    }

    #[test]
    fn each_reason_keeps_a_node_out_and_is_told() {
        let bad: [(&str, Candidate); 9] = [
            ("witness", Candidate { witness: true, ..candidate(2) }),
            ("down", Candidate { standing: Standing::Down, ..candidate(3) }),
            ("stopped answering", Candidate { standing: Standing::Suspect, ..candidate(4) }),
            ("drained", Candidate { drained: true, ..candidate(5) }),
            ("rolled back", Candidate { kept_out: Some("was rolled back".to_owned()), ..candidate(5) }),
            ("VM service", Candidate { vm_service_fault: Some("is stopped".to_owned()), ..candidate(6) }),
            ("no storage location", Candidate { rooms: vec![], ..candidate(7) }),
            ("bytes free", {
                let mut full = candidate(8);
                full.rooms[0].free_bytes = 1 << 30;
                full
            }),
            ("promised", {
                let mut promised = candidate(9);
                promised.rooms[0].promised_bytes = (1 << 40) - (1 << 30);
                promised
            }),
        ];
        for (word, other) in bad {
            let candidates = [other, candidate(1)];
            for request in 0..50 {
                let (chosen, report) = choose(&candidates, &wish(), seed(request));
                assert_eq!(chosen, Some(candidates[1].member));
                assert!(report[0].reason.contains(word), "{word}: {}", report[0].reason);
            }
        }
    }

    #[test]
    fn a_quarantined_node_is_taken_for_what_is_there_already_where_no_other_will_do_and_for_nothing_new() {
        let held = Candidate { quarantine: Some("was lost 3 times".to_owned()), ..candidate(2) };
        let even = Wish { even_quarantined: true, ..wish() };
        for request in 0..50 {
            let both = [held.clone(), candidate(1)];
            for wish in [wish(), even.clone()] {
                let (chosen, report) = choose(&both, &wish, seed(request));
                assert_eq!(chosen, Some(both[1].member));
                assert!(report[0].reason.contains("is quarantined: it was lost 3 times"), "{report:?}");
            }
        }
        let alone = std::slice::from_ref(&held);
        assert_eq!(choose(alone, &wish(), seed(1)).0, None);
        assert_eq!(choose(alone, &even, seed(1)).0, Some(held.member));
        let full = [Candidate { rooms: vec![], ..candidate(1) }, held.clone()];
        assert_eq!(choose(&full, &even, seed(1)).0, Some(held.member));
    }

    #[test]
    fn room_is_promised_to_what_is_on_its_way_and_to_nothing_else() {
        let (here, other) = (MemberId::from_number(1), MemberId::from_number(2));
        let storage: StorageName = "default".parse().unwrap();
        let vm = |number: u128| VmId(uuid::Uuid::from_u128(number));
        let replica = |number: u128, holder: MemberId| Replica {
            vm: VmSpec {
                id: vm(number),
                name: "vm".parse().unwrap(),
                disks: ["vda", "vdb"].map(|disk| DiskSpec { target: disk.parse().unwrap(), bytes: 5 }).to_vec(),
                adapters: vec![],
                launch: Default::default(),
            },
            storage: storage.clone(),
            holder,
            in_sync: [holder].into(),
            ..crate::decide::copies::sample()
        };
        let promised = |replica: &Replica| promised_bytes([replica], vm(1), here, &storage);
        assert_eq!(promised(&replica(2, here)), 0, "what was acknowledged has its room");
        let filling = Replica { acknowledged: false, ..replica(2, here) };
        assert_eq!(promised(&filling), 10);
        assert_eq!(promised(&Replica { acknowledged: false, ..replica(1, here) }), 0, "the VM that is placed");
        assert_eq!(promised(&Replica { acknowledged: false, ..replica(2, other) }), 0);
        assert_eq!(promised(&Replica { storage: "fast".parse().unwrap(), ..filling.clone() }), 0);
        assert_eq!(promised(&Replica { seeding: Some(here), ..replica(2, other) }), 10);
        assert_eq!(promised(&Replica { seeding: Some(other), ..filling.clone() }), 0);
        assert_eq!(
            promised(&Replica {
                handover: Some(Handover { to: here, since: UnixMillis(0), begun: Position::default() }),
                ..replica(2, other)
            }),
            10
        );
        let joiner = Some(Joiner { member: here, begun: Position::default() });
        assert_eq!(promised(&Replica { joiner, ..replica(2, other) }), 10);
        let three = [filling, Replica { seeding: Some(here), ..replica(3, other) }, replica(4, here)];
        assert_eq!(promised_bytes(&three, vm(1), here, &storage), 20);
    }

    /// Pearson's statistic for 3,000 placements on four nodes; 16.27 is the 0.1 % point for three degrees of freedom.
    #[test]
    fn placements_are_even_by_chi_square() {
        let candidates: Vec<Candidate> = (1..=4).map(candidate).collect();
        let mut counts: BTreeMap<MemberId, f64> = BTreeMap::new();
        for request in 0..3_000 {
            let (chosen, _) = choose(&candidates, &wish(), seed(request));
            *counts.entry(chosen.unwrap()).or_default() += 1.0;
        }
        let expected = 3_000.0 / 4.0;
        let statistic: f64 = counts.values().map(|seen| (seen - expected).powi(2) / expected).sum();
        assert!(counts.len() == 4 && statistic < 16.27, "{statistic} {counts:?}");
    }

    proptest! {
        #[test]
        fn the_same_seed_chooses_the_same_node_and_everyone_else_is_accounted_for(
            count in 0u64..8, down in any::<u8>(), request in any::<u64>()
        ) {
            let candidates: Vec<Candidate> = (0..count)
                .map(|i| Candidate {
                    standing: if down >> i & 1 == 1 { Standing::Down } else { Standing::Up },
                    ..candidate(i + 1)
                })
                .collect();
            let first = choose(&candidates, &wish(), seed(request));
            prop_assert_eq!(&first, &choose(&candidates, &wish(), seed(request)));
            let (chosen, report) = first;
            prop_assert_eq!(report.len(), candidates.len() - usize::from(chosen.is_some()));
            prop_assert_eq!(chosen.is_none(), candidates.iter().all(|c| c.standing == Standing::Down));
        }
    }
}
