//! What the owner does about copies, and what it never does.

use landfall_proto::id::{Epoch, Position, UnixMillis};
use landfall_proto::model::{Frequency, Joiner, VmSpec};
use proptest::prelude::*;

use super::super::placement::candidate;
use super::*;

fn id(number: u64) -> MemberId {
    MemberId::from_number(number)
}

fn set(numbers: &[u64]) -> BTreeSet<MemberId> {
    numbers.iter().map(|number| id(*number)).collect()
}

fn replica(in_sync: &[u64]) -> Replica {
    Replica {
        vm: VmSpec {
            id: VmId(uuid::Uuid::from_u128(7)),
            name: "vm".parse().unwrap(),
            disks: vec![],
            adapters: vec![],
            launch: Default::default(),
        },
        primary: "p.contoso.com".parse().unwrap(),
        trust_group: "T".parse().unwrap(),
        storage: "default".parse().unwrap(),
        frequency: Frequency::HalfMinute,
        recovery_points: 0,
        holder: id(1),
        in_sync: set(in_sync),
        epoch: Epoch::from_number(9),
        seeding: None,
        acknowledged: true,
        handover: None,
        joiner: None,
        stopped: None,
        created_at: UnixMillis(0),
        paused: None,
    }
}

/// A replica on one node.
pub(crate) fn sample() -> Replica {
    replica(&[1])
}

#[derive(Default)]
struct Around {
    candidates: Vec<Candidate>,
    down: BTreeSet<MemberId>,
    unfit: BTreeSet<MemberId>,
    resting: BTreeSet<MemberId>,
}

impl Around {
    fn of(count: u64) -> Self {
        Self { candidates: (1..=count).map(candidate).collect(), ..Self::default() }
    }

    fn next(&self, replica: &Replica, wanted: usize) -> Option<Step> {
        let Self { candidates, down, unfit, resting } = self;
        next(replica, wanted, false, Site { candidates, down, unfit, resting }, [5; 32]).0
    }
}

#[test]
fn a_replica_with_too_few_copies_gets_one_by_the_rules_of_placement() {
    let mut around = Around::of(4);
    around.candidates[1].witness = true;
    around.candidates[2].rooms[0].free_bytes = 0;
    assert_eq!(around.next(&replica(&[1]), 2), Some(Step::Copy(id(4))));
    assert_eq!(around.next(&replica(&[1]), 1), None, "one is wanted");
    let Around { candidates, down, unfit, resting } = &around;
    let site = Site { candidates, down, unfit, resting };
    let (_, report) = next(&replica(&[1]), 2, false, site, [5; 32]);
    let reason = |node: &str| report.iter().find(|one| one.node.as_str() == node).unwrap().reason.clone();
    assert!(reason("r2").contains("witness") && reason("r3").contains("bytes free"), "{report:?}");
    assert!(reason("r1").contains("has it already"), "{report:?}");
    around.resting = set(&[4]);
    assert_eq!(around.next(&replica(&[1]), 2), None, "one that failed a moment ago rests");
    assert_eq!(Around::of(1).next(&replica(&[1]), 2), None, "nobody else is there");
}

#[test]
fn nothing_is_begun_before_the_first_point_nor_while_the_replica_goes_elsewhere() {
    let around = Around::of(3);
    let not = |change: &dyn Fn(&mut Replica)| {
        let mut replica = replica(&[1]);
        change(&mut replica);
        around.next(&replica, 2)
    };
    assert_eq!(not(&|replica| replica.acknowledged = false), None);
    assert_eq!(not(&|replica| replica.seeding = Some(id(2))), None);
    let handover = |to| landfall_proto::model::Handover { to, since: UnixMillis(0), begun: Position::default() };
    assert_eq!(not(&|replica| replica.handover = Some(handover(id(2)))), None);
}

#[test]
fn a_promoted_replica_keeps_the_copies_it_has_and_gets_none() {
    let around = Around::of(3);
    let Around { candidates, down, unfit, resting } = &around;
    let site = Site { candidates, down, unfit, resting };
    let promoted = |replica: &Replica| next(replica, 2, true, site, [5; 32]).0;
    assert_eq!(promoted(&replica(&[1])), None);
    assert_eq!(promoted(&replica(&[1, 2, 3])), None);
    let joiner = Some(Joiner { member: id(2), begun: Position::default() });
    assert_eq!(promoted(&Replica { joiner, ..replica(&[1]) }), Some(Step::GiveUp));
}

#[test]
fn a_dead_copy_leaves_unless_the_holder_is_dead_too() {
    let mut around = Around::of(3);
    around.down = set(&[2]);
    assert_eq!(around.next(&replica(&[1, 2]), 2), Some(Step::Leave(id(2))));
    around.down = set(&[1, 2]);
    assert_eq!(around.next(&replica(&[1, 2]), 2), None, "whichever comes back first has everything");
    around.down.clear();
    around.candidates[0].standing = Standing::Suspect;
    assert_eq!(around.next(&replica(&[1]), 2), None);
}

#[test]
fn a_copy_that_could_not_take_over_is_replaced_and_leaves_only_then() {
    let mut around = Around::of(3);
    around.candidates[1].vm_service_fault = Some("is stopped".to_owned());
    around.unfit = set(&[2]);
    assert_eq!(around.next(&replica(&[1, 2]), 2), Some(Step::Copy(id(3))));
    assert_eq!(around.next(&replica(&[1, 2, 3]), 2), Some(Step::Leave(id(2))));
    around.candidates.truncate(2);
    assert_eq!(around.next(&replica(&[1, 2]), 2), None, "it is all that there is");
}

#[test]
fn a_node_that_copies_is_given_up_when_it_dies_or_is_not_needed() {
    let mut around = Around::of(3);
    let joining = Replica { joiner: Some(Joiner { member: id(2), begun: Position::default() }), ..replica(&[1]) };
    assert_eq!(around.next(&joining, 2), None);
    assert_eq!(around.next(&joining, 1), Some(Step::GiveUp));
    around.down = set(&[2]);
    assert_eq!(around.next(&joining, 2), Some(Step::GiveUp));
    around.down.clear();
    around.candidates[1].drained = true;
    assert_eq!(around.next(&joining, 2), Some(Step::GiveUp));
}

#[test]
fn who_left_rests_for_a_while_and_who_is_out_of_order_is_so_only_after_a_while() {
    let at = |seconds| Time(Duration::from_secs(seconds));
    let (mut ledger, one) = (Ledger::default(), replica(&[1, 2]));
    let vm = one.vm.id;
    ledger.look([&one], at(0));
    ledger.look([&replica(&[1])], at(1));
    assert_eq!(ledger.resting(vm), set(&[2]));
    ledger.look([&replica(&[1])], at(10));
    assert_eq!(ledger.resting(vm), set(&[2]));
    ledger.look([&replica(&[1])], at(11));
    assert_eq!(ledger.resting(vm), set(&[]));
    // A joiner that becomes a member has not left; one that is given up has.
    let joining = Replica { joiner: Some(Joiner { member: id(2), begun: Position::default() }), ..replica(&[1]) };
    ledger.look([&joining], at(12));
    ledger.look([&one], at(13));
    assert_eq!(ledger.resting(vm), set(&[]));
    ledger.look([&joining], at(14));
    ledger.look([&replica(&[1])], at(15));
    assert_eq!(ledger.resting(vm), set(&[2]));

    let mut candidates = vec![candidate(1), candidate(2)];
    let patience = Duration::from_secs(5);
    candidates[1].drained = true;
    ledger.look([&one], at(20));
    assert_eq!(ledger.unfit(&one, &candidates, patience, at(20)), set(&[]));
    assert_eq!(ledger.unfit(&one, &candidates, patience, at(25)), set(&[2]));
    candidates[1].drained = false;
    assert_eq!(ledger.unfit(&one, &candidates, patience, at(26)), set(&[]));
    candidates[1].drained = true;
    assert_eq!(ledger.unfit(&one, &candidates, patience, at(27)), set(&[]), "it begins anew");
}

proptest! {
    /// The set never loses its holder or a node that is well and wanted, and never gets one that cannot take a replica.
    #[test]
    fn steps_never_cost_a_copy_that_is_wanted(
        count in 1u64..6, members in 0u8..32, down in 0u8..32, unfit in 0u8..32, faults in 0u8..32, wanted in 1usize..3,
        seed in any::<u64>(),
    ) {
        let bits = |mask: u8| (1..=count).filter(move |n| mask >> (n - 1) & 1 == 1);
        let in_sync: Vec<u64> = std::iter::once(1).chain(bits(members).filter(|n| *n != 1)).collect();
        let mut around = Around::of(count);
        bits(faults).for_each(|n| around.candidates[n as usize - 1].drained = true);
        around.down = bits(down).map(id).collect();
        around.unfit = bits(unfit).map(id).collect();
        let replica = replica(&in_sync);
        let Around { candidates, down, unfit, resting } = &around;
        let site = Site { candidates, down, unfit, resting };
        match next(&replica, wanted, false, site, *blake3::hash(&seed.to_le_bytes()).as_bytes()).0 {
            Some(Step::Leave(member)) => {
                prop_assert!(member != replica.holder && replica.in_sync.contains(&member));
                prop_assert!(down.contains(&member) || replica.in_sync.len() > wanted);
            }
            Some(Step::Copy(member)) => {
                prop_assert!(!replica.in_sync.contains(&member));
                prop_assert!(!candidates.iter().any(|one| one.member == member && one.drained));
            }
            Some(Step::GiveUp) => prop_assert!(false, "nobody copies"),
            None => {}
        }
    }
}
