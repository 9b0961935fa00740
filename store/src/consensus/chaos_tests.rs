//! Consensus under random faults, and on a real disk.

use std::time::Duration;

use landfall_proto::id::{Revision, UnixMillis};
use landfall_proto::model::{Command, Outcome};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::lab::{Lab, ONE, founding};
use super::*;
use crate::durable_sled::{DurableSled, OpenError as StoreError};

/// Cuts, power losses and proposals at random; nothing acknowledged may be missing at the end, nor differ anywhere.
async fn chaos(seed: u64) {
    let (mut lab, all) = Lab::three(seed, true).await;
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xC0FFEE);
    for id in all {
        lab.kv(id).set_latency(Duration::from_millis(2 + seed % 7));
    }
    let mut acknowledged = BTreeSet::new();
    for _ in 0..60 {
        let id = all[random.random_range(0..3)];
        match random.random_range(0..6) {
            0 => lab.isolate(id, true),
            1 => all.into_iter().for_each(|id| lab.isolate(id, false)),
            2 => {
                lab.power_off(id).await;
                lab.start(id).await;
                forgot_nothing(&lab, &all, id, seed);
            }
            3 => drop(try_mark(&lab, id).await),
            _ => {
                let value = random.random_range(4..1000u64);
                acknowledged.extend(try_set(&lab, id, value).await);
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..900))).await;
    }
    for id in all {
        lab.isolate(id, false);
    }
    lab.settled(&all).await;
    let state = lab.node(ONE).state();
    let kept: BTreeSet<_> = state.settings.history.iter().map(|change| change.revision).collect();
    assert!(acknowledged.is_subset(&kept), "seed {seed}: lost {:?}", acknowledged.difference(&kept));
    for id in all {
        assert_eq!(lab.node(id).state().archive().unwrap(), state.archive().unwrap(), "seed {seed}");
    }
}

/// Nobody remembers more of the log of `id`, which has just started, than its disk has kept: what later leaders replaced is
/// not remembered.
fn forgot_nothing(lab: &Lab, all: &[MemberId], id: MemberId, seed: u64) {
    let kept = lab.node(id).kept();
    for other in all.iter().filter(|other| **other != id).map(|other| lab.node(*other)) {
        let noted = other.state().marks.get(&id).copied().unwrap_or_default();
        assert!(noted.vote <= kept.vote && noted.index <= kept.index, "seed {seed}: {noted} of {kept}");
        let led = other.status().led(id).unwrap_or_default();
        let holds = led.vote < kept.vote || led.index <= kept.index;
        assert!(led.vote <= kept.vote && holds, "seed {seed}: {led} of {kept}");
    }
}

/// Tries, for half a second, to note at `id`, as its own owner where it has to, how far everybody is.
async fn try_mark(lab: &Lab, id: MemberId) -> Option<()> {
    let half = Duration::from_millis(500);
    let node = lab.node(id);
    if node.state().claim.is_none_or(|claim| claim.member != id) {
        tokio::time::timeout(half, lab.propose_as(id, None, Command::Claim(id))).await.ok()?.ok()?.ok()?;
    }
    let marks = Command::Mark(node.status().marks(id));
    tokio::time::timeout(half, lab.propose_as(id, node.state().term(), marks)).await.ok()?.ok()?.ok()?;
    Some(())
}

/// A node's disk is put back from a copy while nobody looks: what its leader makes of it.
async fn put_back(id_at: usize, seed: u64) {
    let (mut lab, all) = Lab::three(seed, true).await;
    let id = all[id_at];
    lab.set(ONE, 5).await;
    lab.settled(&all).await;
    let copy = lab.kv(id).durable();
    for value in 6..40 {
        lab.set(ONE, value).await;
    }
    lab.settled(&all).await;
    lab.propose(ONE, Command::Mark(lab.node(ONE).status().marks(ONE))).await;
    lab.settled(&all).await;
    let marks = lab.node(ONE).state().marks.clone();
    assert_eq!(marks.len(), 3);
    lab.stop(id).await;
    lab.kv(id).put_back(copy);
    lab.start(id).await;
    let kept = lab.node(id).kept();
    let noted = all
        .map(|other| lab.node(other).state().marks.get(&id).copied())
        .into_iter()
        .flatten()
        .max_by_key(|mark| mark.index);
    assert!(kept.index < noted.unwrap().index, "its loss shows: {kept} of {noted:?}");
    // Here nobody asks it to stay away. The leader lives, and the node gets again what it has lost.
    lab.settled(&all).await;
    lab.leader(&all).await;
    assert!(all.iter().all(|id| lab.node(*id).status().fault.is_none()), "seed {seed}");
    assert_eq!(lab.node(id).state().marks.get(&id), marks.get(&id));
}

#[tokio::test(start_paused = true)]
async fn a_leader_outlives_a_follower_whose_log_goes_back() {
    for seed in 0..4 {
        put_back(1 + seed as usize % 2, 130 + seed).await;
    }
}

/// Tries, for half a second, to change a setting at `id`, as its own owner where it has to; returns the revision.
async fn try_set(lab: &Lab, id: MemberId, value: u64) -> Option<Revision> {
    let half = Duration::from_millis(500);
    let node = lab.node(id);
    if node.state().claim.is_none_or(|claim| claim.member != id) {
        tokio::time::timeout(half, lab.propose_as(id, None, Command::Claim(id))).await.ok()?.ok()?.ok()?;
    }
    let changes = [("maximum_active_transfers".to_owned(), Some(value.to_string()))].into();
    let set = Command::Set { changes, expect: None, by: "chaos".to_owned() };
    let asked = tokio::time::timeout(half, lab.propose_as(id, node.state().term(), set)).await;
    match asked.ok()?.ok()?.ok()? {
        Outcome::Set(revision) => Some(revision),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_whatever_fails() {
    for seed in 100..112 {
        chaos(seed).await;
    }
}

/// Opens the store again once every task of the node before has let go of it.
async fn reopen(folder: &std::path::Path) -> DurableSled {
    for _ in 0..1000 {
        match DurableSled::open(folder, &"r1".parse().unwrap()) {
            Ok(store) => return store,
            Err(StoreError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("a node that was shut down keeps its store open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_disk_lets_go_of_its_store_and_finds_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let timing = Timing { heartbeat_ms: 20, election_min_ms: 50, election_max_ms: 100 };
    let mut term = None;
    for life in 1..4u64 {
        let kv = Arc::new(reopen(folder.path()).await);
        let ground = Ground { kv, timing, ..Lab::new(life, true).ground(ONE) };
        let node = Consensus::open(ground).await.unwrap();
        node.found(BTreeSet::from([ONE])).await.unwrap();
        let mut status = node.watch_status();
        let leads = status.wait_for(|status| status.is_leader);
        drop(tokio::time::timeout(Duration::from_secs(60), leads).await.unwrap().unwrap());
        node.linearizable().await.unwrap();
        assert_eq!(node.state().term(), term, "life {life}");
        let propose = |term, command| node.propose(Proposal { request: None, at: UnixMillis(1), term, command });
        propose(None, Command::Found(Box::new(founding()))).await.unwrap().answer.unwrap();
        propose(None, Command::Claim(ONE)).await.unwrap().answer.unwrap();
        for number in 0..50 {
            let changes = [("apply_vm_limit".to_owned(), Some((life * 50 + number).to_string()))].into();
            let set = Command::Set { changes, expect: None, by: "test".to_owned() };
            propose(node.state().term(), set).await.unwrap().answer.unwrap();
        }
        assert_eq!(node.state().settings.history.len() as u64, life * 50);
        term = node.state().term();
        node.shutdown().await;
    }
}
