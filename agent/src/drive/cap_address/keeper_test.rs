//! The thread's steps, against a model of a kernel: what it has, until when, and how long a call takes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use landfall_proto::id::UnixMillis;
use landfall_proto::model::HostAddress;

use super::super::host::Hosts;
use super::super::{CapAddressKeeper, Ground};
use super::*;
use crate::config::NodeConfig;
use crate::decide::cap_address::{LATE, LIFETIME, Means};

const L: Duration = Duration::from_secs(2);
const GOOD: Link = Link { index: 2, up: true, running: true };

/// A machine that can be told what to do next. Its kernel ends an address as late as a kernel may.
#[derive(Debug)]
struct State {
    now: Time,
    link: Option<Link>,
    has: BTreeMap<IpAddr, Time>,
    /// How long the next call to the kernel takes.
    slow: Duration,
    refuses: bool,
    claimants: Vec<String>,
    announced: usize,
}

#[derive(Clone, Debug)]
struct Model(Arc<Mutex<State>>);

impl Model {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            now: at(10_000),
            link: Some(GOOD),
            has: BTreeMap::new(),
            slow: Duration::ZERO,
            refuses: false,
            claimants: Vec::new(),
            announced: 0,
        })))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap();
        let changed = change(&mut state);
        let now = state.now;
        state.has.retain(|_, until| now < *until);
        changed
    }

    fn pass(&self, millis: u64) {
        self.change(|state| state.now = state.now.after(Duration::from_millis(millis)));
    }

    fn has(&self) -> usize {
        self.change(|_| ());
        self.0.lock().unwrap().has.len()
    }
}

impl Clock for Model {
    fn now(&self) -> Time {
        self.0.lock().unwrap().now
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

impl Host for Model {
    fn means(&mut self) -> io::Result<Means> {
        Ok(Means { link: self.change(|state| state.link), permitted: true, fixed: None })
    }

    fn link(&mut self) -> io::Result<Option<Link>> {
        Ok(self.change(|state| state.link))
    }

    fn put(&mut self, _: &Link, address: &HostAddress) -> io::Result<()> {
        self.change(|state| {
            if state.refuses {
                return Err(io::Error::from_raw_os_error(nix::libc::EPERM));
            }
            state.now = state.now.after(std::mem::take(&mut state.slow));
            state.has.insert(address.ip(), state.now.after(LIFETIME + LATE));
            Ok(())
        })
    }

    fn clear(&mut self) -> io::Result<usize> {
        Ok(self.change(|state| std::mem::take(&mut state.has).len()))
    }

    fn attend(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn announce(&mut self) -> io::Result<()> {
        self.change(|state| state.announced += 1);
        Ok(())
    }

    fn probe(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn claimants(&mut self) -> Vec<String> {
        self.change(|state| std::mem::take(&mut state.claimants))
    }

    fn leave(&mut self) {}
}

fn at(ms: u64) -> Time {
    Time(Duration::from_millis(ms))
}

fn cap() -> CapAddress {
    let addresses = vec!["10.0.0.50/24".parse().unwrap(), "fd00::50/64".parse().unwrap()];
    CapAddress::new(addresses, "eth0".parse().unwrap(), 7443).unwrap()
}

fn keeper(model: &Model) -> (Keeper, Events) {
    let events = Events::new(Arc::new(model.clone()));
    let keeper = Keeper {
        host: Box::new(model.clone()),
        clock: Arc::new(model.clone()),
        lease: L,
        interface: "eth0".parse().unwrap(),
        cap: cap(),
        unanswered: None,
        events: events.clone(),
        node: "r1".parse().unwrap(),
        standing: watch::Sender::new(Standing::default()),
        dropped: watch::Sender::new(Dropped::default()),
        having: None,
        waiting: None,
    };
    (keeper, events)
}

fn kinds(events: &Events) -> Vec<String> {
    events.follow(100).0.into_iter().map(|event| event.kind).collect()
}

#[test]
fn it_is_held_from_when_it_is_free_and_goes_when_it_is_dropped() {
    let model = Model::new();
    let (mut keeper, events) = keeper(&model);
    let hold = Hold { t0: at(10_000), from: at(10_300) };
    keeper.renew(hold);
    assert_eq!((model.has(), keeper.waiting), (0, Some(hold)), "the predecessor may still have it");
    model.pass(300);
    keeper.renew(hold);
    assert_eq!(model.has(), 2);
    assert!(keeper.standing.borrow().held);
    keeper.tend();
    model.pass(100);
    keeper.tend();
    assert_eq!(model.change(|state| state.announced), 2);
    assert!(keeper.release().is_ok());
    assert_eq!((model.has(), keeper.standing.borrow().held), (0, false));
    assert_eq!(kinds(&events), ["cap_address_taken", "cap_address_dropped"]);
}

#[test]
fn a_renewal_that_is_late_is_not_sent_and_one_that_became_late_is_taken_back() {
    let model = Model::new();
    let (mut keeper, _) = keeper(&model);
    let old = Hold { t0: at(9_500), from: at(0) };
    keeper.renew(old);
    assert_eq!(model.has(), 0);
    // The process stood still between the look at the clock and the kernel's answer.
    model.change(|state| state.slow = Duration::from_millis(500));
    keeper.renew(Hold { t0: at(10_000), from: at(0) });
    assert_eq!((model.has(), keeper.standing.borrow().held), (0, false));
    // What was sent in time stays, when the next is late, until the kernel ends it.
    keeper.renew(Hold { t0: at(10_400), from: at(0) });
    assert_eq!(model.has(), 2);
    model.pass(700);
    keeper.renew(Hold { t0: at(10_500), from: at(0) });
    assert_eq!(model.has(), 2);
    model.pass(1300);
    assert_eq!(model.has(), 0);
}

#[test]
fn an_interface_that_goes_and_a_kernel_that_refuses_are_told_and_the_address_is_gone() {
    for (spoil, word) in [
        (&(|state: &mut State| state.link = None) as &dyn Fn(&mut State), "no interface eth0"),
        (&|state: &mut State| state.link = Some(Link { up: false, ..GOOD }), "is down"),
        (&|state: &mut State| state.link = Some(Link { running: false, ..GOOD }), "no carrier"),
        (&|state: &mut State| state.refuses = true, "kernel refuses"),
    ] {
        let model = Model::new();
        let (mut keeper, events) = keeper(&model);
        keeper.renew(Hold { t0: at(10_000), from: at(0) });
        assert_eq!(model.has(), 2);
        model.change(spoil);
        keeper.renew(Hold { t0: at(10_000), from: at(0) });
        let standing = keeper.standing.borrow().clone();
        assert_eq!((model.has(), standing.held), (0, false), "{word}");
        assert!(standing.fault.as_ref().unwrap().contains(word), "{standing:?}");
        assert_eq!(kinds(&events), ["cap_address_taken", "cap_address_lost"]);
        // It comes back by itself when all is well again.
        model.change(|state| (state.link, state.refuses) = (Some(GOOD), false));
        keeper.renew(Hold { t0: at(10_000), from: at(0) });
        assert_eq!((model.has(), keeper.standing.borrow().fault.clone()), (2, None));
    }
}

#[test]
fn a_look_finds_a_lost_link_between_renewals_and_a_node_that_could_not_hold_it() {
    let model = Model::new();
    let (mut holder, _) = keeper(&model);
    holder.renew(Hold { t0: at(10_000), from: at(0) });
    model.change(|state| state.link = Some(Link { running: false, ..GOOD }));
    holder.look();
    assert_eq!(model.has(), 0);
    let (mut idle, events) = keeper(&model);
    idle.look();
    idle.look();
    model.change(|state| state.link = Some(GOOD));
    idle.look();
    assert_eq!(kinds(&events), ["cap_address_unfit", "cap_address_fit"]);
    idle.unanswered = Some("listen has 10.0.0.11".to_owned());
    idle.renew(Hold { t0: at(10_000), from: at(0) });
    assert_eq!(model.has(), 0);
}

#[test]
fn another_holder_is_an_alarm_and_announcements_and_no_resignation() {
    let model = Model::new();
    let (mut keeper, events) = keeper(&model);
    keeper.renew(Hold { t0: at(10_000), from: at(0) });
    keeper.tend();
    let before = model.change(|state| state.announced);
    for _ in 0..4 {
        model.change(|state| state.claimants = vec!["52:54:00:00:00:01".to_owned()]);
        keeper.tend();
    }
    assert_eq!(model.change(|state| state.announced), before + 1, "at a limited rate");
    let standing = keeper.standing.borrow().clone();
    assert_eq!((standing.held, standing.rival.as_deref()), (true, Some("52:54:00:00:00:01")));
    model.pass(8000);
    keeper.tend();
    assert_eq!(keeper.standing.borrow().rival, None);
    assert_eq!(kinds(&events), ["cap_address_taken", "cap_address_foreign", "cap_address_foreign_gone"]);
}

impl Hosts for Model {
    fn host(&self, _: &InterfaceName, _: &CapAddress) -> io::Result<Box<dyn Host>> {
        Ok(Box::new(self.clone()))
    }
}

#[tokio::test]
async fn what_an_earlier_life_left_is_gone_before_the_node_stands_ready() {
    let model = Model::new();
    model.change(|state| state.has.insert("10.0.0.50".parse().unwrap(), at(99_000)));
    let text = "node = \"r1\"\ndata_dir = \"/x\"\nlisten = \"[::]:7443\"\nadvertise = \"10.0.0.11:7443\"\n\
                socket = \"/y\"\n[vm_service]\nkind = \"directory\"\npath = \"/z\"\n";
    let config = NodeConfig::parse(std::path::Path::new("r1.toml"), text).unwrap();
    let clock = Arc::new(model.clone());
    let events = Events::new(clock.clone());
    let ground = Ground { hosts: &model, clock, lease: L, config: &config, events };
    let kept = CapAddressKeeper::of(ground, Some(cap())).await.unwrap().unwrap();
    assert_eq!(model.has(), 0);
    assert!(kept.give_up().await.is_ok());
}
