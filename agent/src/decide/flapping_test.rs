//! What makes a node flap, and how it comes out of its quarantine.

use proptest::prelude::*;

use super::*;

fn id(number: u64) -> MemberId {
    MemberId::from_number(number)
}

fn at(seconds: u64) -> Time {
    Time(Duration::from_secs(seconds))
}

/// An agent of three, `r1`, that looks twice a second.
struct Sight {
    flapping: Flapping,
    half_seconds: u64,
}

impl Sight {
    fn new() -> Self {
        let mut sight = Self { flapping: Flapping::default(), half_seconds: 0 };
        sight.see(1, &[2, 3]);
        sight
    }

    fn now(&self) -> Time {
        Time(Duration::from_millis(self.half_seconds * 500))
    }

    /// For so many seconds it sees these.
    fn see(&mut self, seconds: u64, live: &[u64]) -> Vec<Change> {
        let mut changes = Vec::new();
        for _ in 0..seconds * 2 {
            self.half_seconds += 1;
            let live = (1..=3).map(|n| (id(n), n == 1 || live.contains(&n))).collect();
            changes.extend(self.flapping.look(self.now(), id(1), &live));
        }
        changes
    }

    /// `r3` is lost for ten seconds and seen for twenty, so often.
    fn flap(&mut self, times: u64) -> Vec<Change> {
        (0..times).flat_map(|_| [self.see(10, &[2]), self.see(20, &[2, 3])].concat()).collect()
    }
}

#[test]
fn a_node_that_is_lost_three_times_in_ten_minutes_is_quarantined_until_it_is_steady() {
    let mut sight = Sight::new();
    assert_eq!(sight.flap(2), []);
    assert_eq!(sight.flap(1), [Change::Began(id(3))]);
    let held = sight.flapping.quarantined();
    assert_eq!((held.len(), held[&id(3)].losses, held[&id(3)].needs), (1, 3, STEADY));
    assert_eq!(held[&id(3)].until, Some(sight.now().after(STEADY - Duration::from_millis(19_500))));
    assert_eq!(sight.see(250, &[2, 3]), []);
    // One more loss, and the time begins anew.
    assert_eq!(sight.flap(1), []);
    assert_eq!(sight.see(275, &[2, 3]), []);
    assert_eq!(sight.see(10, &[2, 3]), [Change::Ended(id(3))]);
    assert!(sight.flapping.quarantined().is_empty());
    assert_eq!(sight.flap(2), [], "it begins with nothing against it");
}

#[test]
fn a_relapse_takes_twice_as_long_up_to_a_bound_and_is_forgotten_in_time() {
    let mut sight = Sight::new();
    let mut needs = Vec::new();
    for _ in 0..6 {
        assert_eq!(sight.flap(3), [Change::Began(id(3))]);
        let held = sight.flapping.quarantined()[&id(3)];
        needs.push(held.needs.as_secs() / 60);
        assert_eq!(sight.see(held.needs.as_secs(), &[2, 3]), [Change::Ended(id(3))]);
    }
    assert_eq!(needs, [5, 10, 20, 40, 80, 80]);
    sight.see(RELAPSE_WITHIN.as_secs(), &[2, 3]);
    sight.flap(3);
    assert_eq!(sight.flapping.quarantined()[&id(3)].needs, STEADY);
}

#[test]
fn an_operator_ends_it_at_once_and_it_begins_with_nothing_against_it() {
    let mut sight = Sight::new();
    sight.flap(3);
    assert!(sight.flapping.forgive(id(3)));
    assert!(!sight.flapping.forgive(id(3)) && sight.flapping.quarantined().is_empty());
    assert_eq!(sight.flap(2), []);
    sight.flap(1);
    assert_eq!(sight.flapping.quarantined()[&id(3)].needs, STEADY, "no relapse");
}

#[test]
fn an_agent_that_loses_its_majority_or_stands_still_accuses_nobody() {
    let mut sight = Sight::new();
    for _ in 0..5 {
        // It is this agent that is cut off; it finds out one after the other.
        let lost = [sight.see(3, &[2]), sight.see(10, &[]), sight.see(2, &[3]), sight.see(20, &[2, 3])];
        assert_eq!(lost.concat(), []);
    }
    for _ in 0..5 {
        sight.half_seconds += 20;
        assert_eq!([sight.see(3, &[2]), sight.see(20, &[2, 3])].concat(), []);
    }
    // Of two nodes neither knows which one it is.
    let mut two = Flapping::default();
    for look in 0..4_000 {
        let live = BTreeMap::from([(id(1), true), (id(2), look / 40 % 2 == 0)]);
        assert_eq!(two.look(Time(Duration::from_millis(look * 500)), id(1), &live), []);
    }
}

#[test]
fn a_node_that_is_removed_is_forgotten_and_one_that_was_never_seen_was_not_lost() {
    let mut flapping = Flapping::default();
    for look in 0..100 {
        let live = BTreeMap::from([(id(1), true), (id(2), true), (id(3), false)]);
        assert_eq!(flapping.look(at(look), id(1), &live), []);
    }
    let mut sight = Sight::new();
    sight.flap(3);
    assert_eq!(sight.flapping.look(sight.now(), id(1), &BTreeMap::from([(id(1), true), (id(2), true)])), []);
    assert!(sight.flapping.quarantined().is_empty());
}

#[test]
fn people_are_told_why_and_what_to_do() {
    let held = Quarantined { member: id(3), losses: 4, steady_seconds: 600, until: None };
    let found = findings(&[("r3".parse().unwrap(), held)]);
    assert_eq!((found[0].code.as_str(), found[0].about.as_str()), (QUARANTINED, "r3"));
    assert!(found[0].message.contains("lost 4 times within 10 minutes") && found[0].message.contains("10 minutes"));
    assert!(found[0].remedy.contains("node restore r3"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However a node comes and goes: with fewer losses in any window it is never quarantined, and steady it comes out.
    #[test]
    fn fewer_losses_never_quarantine_and_whoever_is_steady_comes_out(
        spans in proptest::collection::vec((1u64..400, 1u64..60), 0..30)
    ) {
        let mut sight = Sight::new();
        let mut lost = Vec::new();
        for (up, down) in spans {
            let mut changes = sight.see(up, &[2, 3]);
            lost.push(sight.half_seconds / 2);
            changes.extend(sight.see(down, &[2]));
            let within = |end: u64| lost.iter().filter(|at| (end.saturating_sub(WINDOW.as_secs())..=end).contains(*at)).count();
            let most = lost.iter().map(|at| within(*at)).max().unwrap_or(0);
            if changes.iter().any(|change| matches!(change, Change::Began(_))) {
                prop_assert!(most >= LOSSES, "{lost:?}");
            }
        }
        sight.see(STEADY_MAX.as_secs() + 1, &[2, 3]);
        prop_assert!(sight.flapping.quarantined().is_empty());
    }
}
