//! Three real nodes: what is acknowledged stays, a lease is safe, nobody is stuck.

use std::time::Duration;

use super::lab::{Lab, ONE};
use super::*;
use crate::state::Survivor;
use landfall_proto::model::Command;

fn transfers(node: &Consensus) -> usize {
    node.state().resolved_settings().maximum_active_transfers
}

#[tokio::test(start_paused = true)]
async fn three_nodes_elect_propose_and_agree() {
    let (lab, all) = Lab::three(1, true).await;
    lab.set(ONE, 7).await;
    lab.settled(&all).await;
    let archive = lab.node(ONE).state().archive().unwrap();
    for id in all {
        assert_eq!(transfers(&lab.node(id)), 7);
        assert_eq!(lab.node(id).state().archive().unwrap(), archive, "byte for byte");
        assert_eq!(lab.node(id).status().voters, BTreeSet::from(all));
        assert_eq!(lab.node(id).status().leader, Some(ONE));
    }
    let status = lab.node(ONE).status();
    assert_eq!(status.followers.len(), 2);
    assert!(status.followers.values().all(|follower| follower.lag == 0), "{status:?}");
    let refused = lab.propose_as(all[1], None, Command::Probe).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(ONE) }));
    assert_eq!(lab.node(all[1]).linearizable().await, Err(ProposeError::NotLeader { leader: Some(ONE) }));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_confirms_nothing_and_another_takes_over() {
    let (lab, [one, two, three]) = Lab::three(2, true).await;
    lab.isolate(one, true);
    assert_eq!(lab.node(one).linearizable().await, Err(ProposeError::NoQuorum));
    assert!(lab.node(one).status().is_leader, "it goes on saying that it leads: that is no authority");
    let next = lab.leader(&[two, three]).await;
    let term = lab.claim(next).await;
    lab.set(next, 9).await;
    lab.isolate(one, false);
    lab.settled(&[one, two, three]).await;
    assert_eq!(lab.node(one).state().term(), Some(term));
    assert_eq!(transfers(&lab.node(one)), 9);
}

#[tokio::test(start_paused = true)]
async fn a_proposal_of_a_deposed_owner_is_refused_though_it_commits() {
    let (lab, all) = Lab::three(3, true).await;
    let old = lab.node(ONE).state().term();
    lab.isolate(ONE, true);
    let next = lab.leader(&all[1..]).await;
    lab.claim(next).await;
    lab.isolate(ONE, false);
    let answer = lab.propose_as(next, old, Command::Probe).await.unwrap();
    assert_eq!(answer.unwrap_err().code, "stale_term");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_missed_two_thousand_commits_catches_up_by_a_snapshot() {
    let (lab, all) = Lab::three(4, true).await;
    let [_, _, three] = all;
    lab.isolate(three, true);
    lab.node(three).set_elections(false);
    let missed = lab.node(three).status().last_log.unwrap();
    for number in 0..2000u64 {
        lab.set(ONE, 1 + number % 1000).await;
    }
    let logs = lab.kv(ONE).scan(b"log/", b"log0", usize::MAX).unwrap();
    assert!(logs.len() as u64 <= limits::SNAPSHOT_EVERY + limits::LOG_KEEP + 50, "{} entries are kept", logs.len());
    let first = u64::from_be_bytes(logs[0].0[4..].try_into().unwrap());
    assert!(first > missed + 1, "the entries that it lacks are gone from the leader's log");
    lab.isolate(three, false);
    lab.settled(&all).await;
    let (left, right) = (lab.node(ONE).state(), lab.node(three).state());
    assert_eq!(left.archive().unwrap(), right.archive().unwrap(), "replayed and through a snapshot: the same bytes");
    assert!(lab.node(three).status().snapshot.unwrap() > missed);
    let largest = lab.net.largest.load(Ordering::SeqCst);
    assert!(largest < 1 << 20, "a call of {largest} bytes");
}

#[tokio::test(start_paused = true)]
async fn everything_acknowledged_is_there_after_all_nodes_lost_power() {
    let (mut lab, all) = Lab::three(5, true).await;
    for id in all {
        lab.kv(id).set_latency(Duration::from_millis(5));
    }
    for round in 0..12u64 {
        let leader = lab.leader(&all).await;
        if lab.node(leader).state().claim.is_none_or(|claim| claim.member != leader) {
            lab.claim(leader).await;
        }
        for step in 0..(3 + round % 5) {
            lab.set(leader, 1 + round * 20 + step).await;
        }
        let acknowledged = lab.node(leader).state();
        // One more is under way when the power goes.
        let (node, term) = (lab.node(leader), acknowledged.term());
        let at = lab.clock.wall();
        let under_way =
            tokio::spawn(
                async move { node.propose(Proposal { request: None, at, term, command: Command::Probe }).await },
            );
        tokio::time::sleep(Duration::from_millis(round)).await;
        for id in all {
            lab.power_off(id).await;
        }
        let _ = under_way.await.unwrap();
        for id in all {
            lab.start(id).await;
        }
        lab.settled(&all).await;
        for id in all {
            let state = lab.node(id).state();
            assert_eq!(state.settings, acknowledged.settings, "round {round}");
            assert_eq!(state.members, acknowledged.members);
            assert_eq!(state.term(), acknowledged.term());
        }
    }
}

/// What the returning voter of the next two tests could do: whether another node led while the owner's lease was alive.
async fn second_leader_within_a_lease(seed: u64, holds: bool) -> bool {
    let (lab, [owner, _, isolated]) = Lab::three(seed, holds).await;
    let lease = Timing::STANDARD.lease();
    lab.isolate(isolated, true);
    let mut overlap = false;
    let mut until = Time::default();
    for tick in 0..1200u32 {
        if tick == 400 {
            lab.isolate(isolated, false);
        }
        if tick % 50 == 0 {
            let asked = lab.clock.now();
            lab.node(owner).hold_votes_until(asked.after(lease));
            let node = lab.node(owner);
            if matches!(tokio::time::timeout(Duration::from_millis(300), node.linearizable()).await, Ok(Ok(_))) {
                until = asked.after(lease);
            }
        }
        overlap |= lab.node(isolated).status().is_leader && lab.clock.now() < until;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // No hold is for ever: in the end there is one leader and it commits.
    let leader = lab.leader(&[owner, isolated]).await;
    lab.claim(leader).await;
    overlap
}

#[tokio::test(start_paused = true)]
async fn a_returning_voter_never_wins_within_a_lease() {
    for seed in 0..12 {
        assert!(!second_leader_within_a_lease(seed, true).await, "two lead within a lease, seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_vote_hold_a_returning_voter_wins_within_a_lease() {
    let mut won = 0;
    for seed in 0..12 {
        won += u32::from(second_leader_within_a_lease(seed, false).await);
    }
    assert!(won > 0, "the test above could not fail");
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_the_dead_leader_and_the_witness_heals_once_the_witness_may_stand() {
    let mut lab = Lab::new(6, true);
    lab.start(ONE).await;
    lab.node(ONE).found(BTreeSet::from([ONE])).await.unwrap();
    lab.until("a first leader", |lab| lab.node(ONE).status().is_leader).await;
    lab.propose_as(ONE, None, Command::Found(Box::new(lab::founding()))).await.unwrap().unwrap();
    lab.claim(ONE).await;
    let two = lab.admit("r2", false).await;
    let witness = lab.admit("rw", true).await;
    lab.node(witness).set_elections(false);
    lab.node(ONE).change_voters(BTreeSet::from([ONE, two, witness])).await.unwrap();
    lab.settled(&[ONE, two, witness]).await;

    lab.isolate(two, true);
    lab.set(ONE, 42).await;
    lab.power_off(ONE).await;
    lab.isolate(two, false);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let leads = |lab: &Lab, id| lab.node(id).status().is_leader;
    assert!(!leads(&lab, two) && !leads(&lab, witness), "the data node's log is too old, the witness does not stand");

    lab.node(witness).set_elections(true);
    assert_eq!(lab.leader(&[two, witness]).await, witness);
    lab.until("copy", |lab| lab.node(two).status().applied == lab.node(witness).status().last_log).await;
    lab.node(witness).set_elections(false);
    lab.node(witness).set_heartbeats(false);
    lab.until("data node that leads", |lab| leads(lab, two)).await;
    lab.node(witness).set_heartbeats(true);
    lab.claim(two).await;
    assert_eq!(transfers(&lab.node(two)), 42);
    let refused = lab.propose_as(two, None, Command::Claim(witness)).await.unwrap();
    assert_eq!(refused.unwrap_err().code, "witness");
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_sync_failed_says_so_and_votes_no_more() {
    let (lab, all) = Lab::three(7, true).await;
    let [one, two, three] = all;
    lab.kv(three).fail_sync_after(0);
    lab.set(one, 5).await;
    lab.until("fault", |lab| lab.node(three).status().fault.is_some()).await;
    lab.isolate(one, true);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!lab.node(two).status().is_leader, "its only possible second vote is that of a node that has failed");
    lab.isolate(one, false);
    lab.leader(&[one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn voters_change_and_members_leave() {
    let (mut lab, [one, two, three]) = Lab::three(8, true).await;
    let four = lab.admit("r4", false).await;
    lab.until("learner", |lab| lab.node(one).status().followers.get(&four).is_some_and(|f| f.lag == 0)).await;
    lab.node(one).change_voters(BTreeSet::from([one, two, four])).await.unwrap();
    let status = lab.node(one).status();
    assert_eq!((status.voters, status.learners), (BTreeSet::from([one, two, four]), BTreeSet::from([three])));
    lab.node(one).remove(three).await.unwrap();
    lab.node(one).remove(four).await.unwrap();
    let status = lab.node(one).status();
    assert_eq!((status.voters, status.learners), (BTreeSet::from([one, two]), BTreeSet::new()));
    let unknown = lab.node(one).change_voters(BTreeSet::from([one, two, MemberId::from_number(999)])).await;
    assert!(matches!(unknown, Err(ProposeError::Membership(_))), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn large_entries_are_cut_into_calls_below_a_frame_and_larger_ones_refused() {
    let (lab, all) = Lab::three(9, true).await;
    lab.isolate(all[2], true);
    lab.node(all[2]).set_elections(false);
    let large = |length: usize, value: u64| {
        let changes = [("apply_vm_limit".to_owned(), Some(value.to_string()))].into();
        Command::Set { changes, expect: None, by: "x".repeat(length) }
    };
    for value in 1..60 {
        lab.propose(ONE, large(62 << 10, value)).await;
    }
    lab.isolate(all[2], false);
    lab.settled(&all).await;
    let largest = lab.net.largest.load(Ordering::SeqCst);
    assert!((500 << 10..1 << 20).contains(&largest), "the largest call has {largest} bytes");
    let refused = lab.propose_as(ONE, None, large(64 << 10, 1)).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_begins_its_next_life_with_one_node() {
    let (mut lab, [one, two, three]) = Lab::three(10, true).await;
    lab.set(one, 6).await;
    lab.settled(&[one, two, three]).await;
    let before = lab.node(two).state();
    for id in [one, two, three] {
        lab.power_off(id).await;
    }
    let survivor = Survivor { member: two, points: BTreeSet::new(), at: UnixMillis(9) };
    recover(Arc::new(lab.kv(two).clone()), &survivor).await.unwrap();
    lab.start(two).await;
    assert_eq!(lab.leader(&[two]).await, two);
    let state = lab.node(two).state();
    assert_eq!((state.incarnation, state.claim), (1, None));
    assert_eq!(state.settings.values, before.settings.values);
    assert!(state.revision() > before.revision());
    assert_eq!(lab.node(two).status().voters, BTreeSet::from([two]));
    let term = lab.claim(two).await;
    assert!(Some(term) > before.term());
    assert_eq!(lab.node(two).state().members.keys().copied().collect::<Vec<_>>(), [two]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_the_next_life_is_begun_leaves_either_life_whole() {
    let (mut lab, [one, two, three]) = Lab::three(12, true).await;
    lab.set(one, 6).await;
    lab.settled(&[one, two, three]).await;
    for id in [one, two, three] {
        lab.power_off(id).await;
    }
    let survivor = Survivor { member: two, points: BTreeSet::new(), at: UnixMillis(9) };
    let mut lives = Vec::new();
    for syncs in 0..3 {
        let kv = lab.kv(two).clone();
        kv.fail_sync_after(syncs);
        let begun = recover(Arc::new(kv.clone()), &survivor).await;
        kv.cut();
        lab.start(two).await;
        let life = lab.node(two).state().incarnation;
        if life > 0 {
            assert_eq!(lab.leader(&[two]).await, two);
            lab.claim(two).await;
            lab.set(two, 7).await;
        }
        lives.push((begun.is_ok(), life));
        lab.power_off(two).await;
    }
    assert_eq!(lives, [(false, 0), (false, 1), (true, 2)]);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let mut traces = BTreeSet::new();
    for _ in 0..3 {
        let (lab, all) = Lab::three(11, true).await;
        let mut trace = Vec::new();
        for id in [0, 1, 2, 0] {
            lab.isolate(all[id], true);
            tokio::time::sleep(Duration::from_millis(5700)).await;
            lab.isolate(all[id], false);
            let leader = lab.leader(&all).await;
            trace.push((leader, lab.clock.now(), all.map(|id| lab.node(id).status().vote_term)));
        }
        traces.insert(format!("{trace:?}"));
    }
    assert_eq!(traces.len(), 1, "{traces:#?}");
}
