//! The feed against a state that moves faster than its watchers.

use std::collections::BTreeMap;

use landfall_proto::id::{Position, UnixMillis};
use landfall_proto::model::{Command, Proposal};

use super::*;
use crate::limits;

struct Source {
    state: watch::Sender<Arc<State>>,
    index: u64,
}

impl Source {
    /// A state that takes settings, though no cluster was founded around it.
    fn new() -> Self {
        let mut state = State::default();
        let found = crate::state::fixture::founding();
        let proposal = |term, command| Proposal { request: None, at: UnixMillis(1), term, command };
        state.apply(Position::new(0, 2), &proposal(None, Command::Found(Box::new(found.clone())))).unwrap();
        state.apply(Position::new(0, 3), &proposal(None, Command::Claim(found.founder.id))).unwrap();
        Self { state: watch::channel(Arc::new(state)).0, index: 3 }
    }

    fn feed(&self) -> SettingsFeed {
        SettingsFeed::new(self.state.subscribe())
    }

    fn revision(&self) -> Revision {
        self.state.borrow().revision()
    }

    fn set(&mut self, pairs: &[(&str, &str)]) -> Revision {
        self.index += 1;
        let mut state = State::clone(&self.state.borrow());
        let changes: BTreeMap<_, _> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
        let command = Command::Set { changes, expect: None, by: "test".into() };
        let proposal = Proposal { request: None, at: UnixMillis(1), term: state.term(), command };
        state.apply(Position::new(0, self.index), &proposal).unwrap();
        self.state.send_replace(Arc::new(state));
        self.revision()
    }

    fn count(&mut self, number: u64) -> Revision {
        self.set(&[("maximum_active_transfers", &(1 + number % 1024).to_string())])
    }
}

async fn changed(watcher: &mut Watcher) -> SettingChanged {
    let minute = std::time::Duration::from_secs(60);
    match tokio::time::timeout(minute, watcher.next()).await.expect("no notice within a minute").unwrap() {
        Notice::Changed(changed) => changed,
        other => panic!("{other:?}"),
    }
}

async fn is_quiet(watcher: &mut Watcher) -> bool {
    tokio::time::timeout(std::time::Duration::from_secs(1), watcher.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn every_change_comes_once_in_order_with_old_and_new() {
    let mut source = Source::new();
    let mut watcher = source.feed().watch(Revision::default());
    assert!(is_quiet(&mut watcher).await);
    let first = source.set(&[("placement", "random"), ("apply_vm_limit", "2"), ("default_storage_location", "big")]);
    let one = changed(&mut watcher).await;
    assert_eq!((one.key.as_str(), one.revision), ("apply_vm_limit", first));
    assert_eq!((one.old.as_deref(), one.new.as_deref()), (Some("0"), Some("2")));
    let two = changed(&mut watcher).await;
    assert_eq!((two.key.as_str(), two.old, two.new.as_deref()), ("default_storage_location", None, Some("big")));
    assert!(is_quiet(&mut watcher).await, "an unchanged value is no change");
    for number in 1..100 {
        let revision = source.count(number * 2 + 10);
        assert_eq!(changed(&mut watcher).await.revision, revision);
    }
    assert!(is_quiet(&mut watcher).await);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_begins_where_it_says_and_one_that_is_ahead_waits() {
    let mut source = Source::new();
    let revisions: Vec<_> = (1..=20).map(|number| source.count(number)).collect();
    let mut watcher = source.feed().watch(revisions[4]);
    for revision in &revisions[5..] {
        assert_eq!(changed(&mut watcher).await.revision, *revision);
    }
    assert!(is_quiet(&mut watcher).await);
    // This node is behind the one that the watcher came from.
    let ahead = Revision(Position::new(0, source.index + 2));
    let mut watcher = source.feed().watch(ahead);
    source.count(100);
    source.count(101);
    assert!(is_quiet(&mut watcher).await);
    let next = source.count(102);
    assert_eq!(changed(&mut watcher).await.revision, next);
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_told_to_resync_and_goes_on_from_there() {
    let mut source = Source::new();
    let mut slow = source.feed().watch(Revision::default());
    source.count(1);
    let first = changed(&mut slow).await.revision;
    for number in 0..=limits::SETTINGS_HISTORY as u64 {
        source.count(number + 2);
    }
    assert!(first < source.state.borrow().settings.floor);
    assert_eq!(slow.next().await, Ok(Notice::Resync { from: source.revision() }));
    assert!(is_quiet(&mut slow).await);
    let next = source.count(900);
    assert_eq!(changed(&mut slow).await.revision, next);
    let mut late = source.feed().watch(first);
    assert_eq!(late.next().await, Ok(Notice::Resync { from: next }));
}

/// Nobody reads, and every change is made all the same; whoever reads at last is told once to resync, and goes on.
#[tokio::test(start_paused = true)]
async fn a_thousand_watchers_that_stand_still_hold_nothing_up() {
    let mut source = Source::new();
    let mut watchers: Vec<_> = (0..1000).map(|_| source.feed().watch(Revision::default())).collect();
    source.count(1);
    for watcher in watchers.iter_mut().step_by(2) {
        changed(watcher).await;
    }
    let last = (0..2 * limits::SETTINGS_HISTORY as u64).map(|number| source.count(number + 2)).last();
    assert_eq!(last, Some(source.revision()), "every change was made");
    for watcher in &mut watchers {
        assert_eq!(watcher.next().await, Ok(Notice::Resync { from: source.revision() }));
    }
    let next = source.count(900);
    for watcher in &mut watchers {
        assert_eq!(changed(watcher).await.revision, next);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_of_another_life_is_told_to_resync_once() {
    let mut source = Source::new();
    source.count(1);
    let mut watcher = source.feed().watch(Revision(Position::new(3, 1)));
    assert_eq!(watcher.next().await, Ok(Notice::Resync { from: source.revision() }));
    assert!(is_quiet(&mut watcher).await);
    let next = source.count(2);
    assert_eq!(changed(&mut watcher).await.revision, next);
}

#[tokio::test(start_paused = true)]
async fn many_watchers_see_the_same_and_the_end() {
    let mut source = Source::new();
    let watchers: Vec<_> = (0..50)
        .map(|_| {
            let mut watcher = source.feed().watch(Revision::default());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Ok(notice) = watcher.next().await {
                    seen.push(notice);
                }
                seen
            })
        })
        .collect();
    for number in 1..200 {
        source.count(number);
        if number % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    drop(source);
    for watcher in watchers {
        let seen = watcher.await.unwrap();
        assert_eq!(seen.len(), 199);
        assert!(seen.iter().all(|notice| matches!(notice, Notice::Changed(_))));
    }
}
