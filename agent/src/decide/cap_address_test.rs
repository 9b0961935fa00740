//! When the address is whose: the figures, and what holds whatever stalls, dies or drifts.

use proptest::prelude::*;

use super::*;

const L: Duration = Duration::from_secs(2);

fn at(ms: u64) -> Time {
    Time(Duration::from_millis(ms))
}

/// A machine's clock that runs at `rate` of the true one: what the clock shows after a true time, and back.
#[derive(Clone, Copy, Debug)]
struct Skewed(f64);

impl Skewed {
    fn shows(self, truth: f64) -> Time {
        Time(Duration::from_secs_f64(truth * self.0))
    }

    fn truth(self, shown: Time) -> f64 {
        shown.0.as_secs_f64() / self.0
    }

    /// A span of this clock in true seconds.
    fn span(self, shown: Duration) -> f64 {
        shown.as_secs_f64() / self.0
    }
}

/// One renewal of an owner, in true seconds: when it asked, how long the quorum took, and how long the process stood
/// still between looking at the clock and doing what that allowed, and before it looked again.
#[derive(Clone, Copy, Debug)]
struct Step {
    pause: f64,
    answer: f64,
    stall: f64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![4 => 0.0..0.05f64, 1 => 0.0..0.7, 1 => 0.0..6.0];
    let stall = prop_oneof![6 => Just(0.0f64), 1 => 0.0..8.0];
    let step = (length.clone(), length, stall).prop_map(|(pause, answer, stall)| Step { pause, answer, stall });
    prop::collection::vec(step, 1..30)
}

/// When an owner that renews by `steps` and dies (or hangs for ever) after `alive` true seconds last has the address, and
/// when its last quorum was asked. `late` is how late the kernel looks for what has expired.
fn last_held(clock: Skewed, steps: &[Step], lease: Duration, alive: f64, late: f64) -> Option<(f64, f64)> {
    let mut now = 0.0;
    let (mut held, mut asked) = (None, 0.0);
    for step in steps {
        now += step.pause;
        let t0 = now;
        now += step.answer;
        if now > alive {
            break;
        }
        asked = t0;
        // The kernel is asked right after the clock is read; what stands still does so before or after both.
        let may = renewal(clock.shows(t0), Time::default(), lease, clock.shows(now)) == Renewal::Send;
        if may {
            held = Some(now + clock.span(LIFETIME) + late);
            now += step.stall;
            if now <= alive && is_late(clock.shows(t0), lease, clock.shows(now)) {
                held = held.map(|until: f64| until.min(now));
            }
        }
    }
    held.map(|until| (until, asked))
}

proptest! {
    /// Whatever an owner does before it is killed, stopped or hangs, whoever is elected next has the address alone.
    #[test]
    fn a_new_owner_adds_the_address_only_after_the_old_one_has_lost_it(
        steps in steps(),
        lease_ms in 400u64..20_000,
        (old, voters, new) in (0.999..=1.001f64, 0.999..=1.001f64, 0.999..=1.001f64),
        alive in 0.0..30.0f64,
        late in 0.0..=1.0f64,
    ) {
        let lease = Duration::from_millis(lease_ms);
        let (old, voters, new) = (Skewed(old), Skewed(voters), Skewed(new));
        // The first owner of all waits for nobody: its clock begins long after its election.
        let Some((held, asked)) = last_held(old, &steps, lease, alive, late) else { return Ok(()) };
        prop_assert!(held <= asked + old.span(lease / 4 + LIFETIME) + late + 1e-9, "beyond t0 + L/4 + 2 s");
        prop_assert!(held <= old.truth(gone_by(old.shows(asked), lease)) + 1e-6);
        // No voter grants its vote before a lease of its own clock has passed since it was asked.
        let elected = asked + voters.span(lease);
        let taken = new.truth(taken_from(new.shows(elected), lease));
        prop_assert!(taken > held, "held until {held}, taken at {taken}");
    }
}

#[test]
fn the_figures_of_the_standard_lease() {
    assert_eq!(sent_until(at(10_000), L), at(10_500));
    assert_eq!(gone_by(at(10_000), L), at(12_500));
    // 2 s - 3/4 L, drift and margin.
    let wait = taken_from(at(12_000), L).since(at(12_000));
    assert!((Duration::from_millis(550)..Duration::from_millis(560)).contains(&wait), "{wait:?}");
    // A long lease outlives the predecessor's address: only the margin is waited for.
    assert_eq!(taken_from(at(0), Duration::from_secs(10)), Time(MARGIN));
}

#[test]
fn when_the_quorum_was_asked_follows_from_the_end_of_the_lease() {
    assert_eq!(asked_at(lease::ends_at(at(12_345), L), L), at(12_345));
}

#[test]
fn it_is_sent_within_a_quarter_of_the_lease_and_not_before_the_predecessors_is_gone() {
    let from = taken_from(at(9_000), L);
    assert_eq!(renewal(at(9_100), from, L, at(9_200)), Renewal::Wait(from));
    assert_eq!(renewal(at(10_000), from, L, at(10_499)), Renewal::Send);
    assert_eq!(renewal(at(10_000), from, L, at(10_500)), Renewal::TooLate);
    assert!(!is_late(at(10_000), L, at(10_499)));
    assert!(is_late(at(10_000), L, at(10_500)));
    // A clock that went back proves nothing.
    assert!(is_late(at(10_000), L, at(9_999)));
}

#[test]
fn it_is_announced_at_once_and_again_and_missed_times_are_made_up_for_by_one() {
    let mut announcements = Announcements::new(at(1000));
    assert_eq!(announcements.next(), Some(at(1000)));
    assert!(announcements.is_due(at(1000)) && !announcements.is_due(at(1050)));
    assert!(announcements.is_due(at(1100)));
    assert!(announcements.is_due(at(5000)) && !announcements.is_due(at(5000)));
    assert_eq!(announcements.next(), Some(at(8000)));
    assert!(announcements.is_due(at(99_000)) && announcements.next().is_none());
}

#[test]
fn another_holder_is_told_once_and_answered_at_a_limited_rate() {
    let mut rival = Rival::default();
    assert_eq!(rival.seen("aa", at(0)), Defence { alarm: true, announce: true });
    assert_eq!(rival.seen("aa", at(1000)), Defence::default());
    assert_eq!(rival.seen("bb", at(1500)), Defence { alarm: true, announce: false });
    assert_eq!(rival.seen("bb", at(2000)), Defence { alarm: false, announce: true });
    assert_eq!((rival.gone(at(9000)), rival.who()), (None, Some("bb")));
    assert_eq!(rival.gone(at(10_000)).as_deref(), Some("bb"));
    assert_eq!((rival.gone(at(11_000)), rival.who()), (None, None));
    // One that comes back is news again.
    assert!(rival.seen("bb", at(20_000)).alarm);
}

#[test]
fn each_thing_in_the_way_is_named_with_what_to_do() {
    let interface: InterfaceName = "eth0".parse().unwrap();
    let link = Link { index: 2, up: true, running: true };
    let well = Means { link: Some(link), permitted: true, fixed: None };
    assert_eq!(fault(&interface, &well), None);
    for (means, word) in [
        (Means { permitted: false, ..well.clone() }, "CAP_NET_ADMIN"),
        (Means { link: None, ..well.clone() }, "no interface eth0"),
        (Means { link: Some(Link { up: false, ..link }), ..well.clone() }, "is down"),
        (Means { link: Some(Link { running: false, ..link }), ..well.clone() }, "no carrier"),
        (Means { fixed: Some("10.0.0.50/24".to_owned()), ..well.clone() }, "10.0.0.50/24 for good"),
    ] {
        let told = fault(&interface, &means).unwrap();
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn a_node_that_listens_elsewhere_does_not_answer_at_the_address() {
    let cap = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        CapAddress::new(addresses, "eth0".parse().unwrap(), 7443).unwrap()
    };
    let told = |listen: &str, addresses: &[&str]| {
        let (ip, port) = listen.rsplit_once(':').unwrap();
        unanswered((ip.trim_matches(['[', ']']).parse().unwrap(), port.parse().unwrap()), &cap(addresses))
    };
    let (four, both) = (&["10.0.0.50/24"][..], &["10.0.0.50/24", "fd00::50/64"][..]);
    assert_eq!(told("0.0.0.0:7443", four), None);
    assert_eq!(told("[::]:7443", both), None);
    assert!(told("10.0.0.11:7443", four).unwrap().contains("use listen = \"0.0.0.0:7443\""));
    assert!(told("0.0.0.0:7443", both).unwrap().contains("fd00::50 arrives: use listen = \"[::]:7443\""));
    assert!(told("0.0.0.0:9000", four).unwrap().contains("port 7443"));
}
