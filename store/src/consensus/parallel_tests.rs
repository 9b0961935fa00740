//! A leader syncs its entries while they are on their way to the followers: what that gains, and that a power cut in
//! between takes nothing that anybody was told of. What the others answer for is on their disks first.

use std::time::Duration;

use landfall_proto::model::Command;
use openraft::CommittedLeaderId;
use openraft::raft::{VoteRequest, VoteResponse};
use tokio::task::JoinHandle;

use super::lab::{Lab, ONE, founding};
use super::*;

/// Longer than a start takes to show who leads, and far shorter than an election.
const SHOWN: Duration = Duration::from_millis(100);

/// Whether `id`, which has just started, leads without an election.
async fn goes_on(lab: &Lab, id: MemberId) -> bool {
    tokio::time::sleep(SHOWN).await;
    lab.node(id).status().is_leader
}

fn transfers(node: &Consensus) -> usize {
    node.state().resolved_settings().maximum_active_transfers
}

/// Three nodes of which the third is cut off, and an entry that sets 99: the second node has it on disk, the leader's own
/// sync hangs.
async fn half_committed(seed: u64) -> (Lab, [MemberId; 3], JoinHandle<Result<Applied, ProposeError>>) {
    let (lab, all) = Lab::three(seed, true).await;
    let [one, two, three] = all;
    lab.set(one, 5).await;
    lab.settled(&all).await;
    lab.isolate(three, true);
    lab.node(three).set_elections(false);
    let before = lab.node(one).status().last_log;
    lab.kv(one).hang(true);
    let changes = [("maximum_active_transfers".to_owned(), Some("99".to_owned()))].into();
    let command = Command::Set { changes, expect: None, by: "test".to_owned() };
    let (node, at) = (lab.node(one), lab.clock.wall());
    let proposal = Proposal { request: None, at, term: node.state().term(), command };
    let asked = tokio::spawn(async move { node.propose(proposal).await });
    let has = |lab: &Lab, index| {
        lab.kv(two).durable().contains_key([&b"log/"[..], &u64::to_be_bytes(index)].concat().as_slice())
    };
    let index = before.unwrap() + 1;
    lab.until("entry on the second node's disk", |lab| has(lab, index)).await;
    // Long enough for heartbeats, which must not tell that it is committed either.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!asked.is_finished(), "answered before the leader's own copy is on its disk");
    for id in [one, two] {
        assert_eq!((transfers(&lab.node(id)), lab.node(id).status().applied), (5, before), "{id} has applied it");
    }
    (lab, all, asked)
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_leader_has_not_synced_counts_once_it_has() {
    let (lab, all, asked) = half_committed(20).await;
    lab.kv(all[0]).hang(false);
    assert!(asked.await.unwrap().unwrap().answer.is_ok());
    lab.isolate(all[2], false);
    lab.settled(&all).await;
    assert!(all.iter().all(|id| transfers(&lab.node(*id)) == 99));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_leader_lost_with_the_power_can_be_replaced() {
    let (mut lab, all, asked) = half_committed(21).await;
    let [one, two, three] = all;
    lab.power_off(one).await;
    assert!(asked.await.unwrap().is_err());
    // The one node that has it is away: the other two, who are a majority, go on without it.
    lab.isolate(two, true);
    lab.isolate(three, false);
    lab.node(three).set_elections(true);
    lab.isolate(two, true);
    lab.start(one).await;
    let leader = lab.leader(&[one, three]).await;
    lab.claim(leader).await;
    lab.set(leader, 7).await;
    lab.isolate(two, false);
    lab.settled(&all).await;
    let archive = lab.node(one).state().archive().unwrap();
    for id in all {
        assert_eq!(transfers(&lab.node(id)), 7);
        assert_eq!(lab.node(id).state().archive().unwrap(), archive, "byte for byte");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_lost_entries_with_the_power_does_not_go_on_in_its_term() {
    let (mut lab, [one, two, three], asked) = half_committed(22).await;
    let term = lab.node(one).status().vote_term;
    lab.power_off(one).await;
    assert!(asked.await.unwrap().is_err());
    lab.start(one).await;
    assert!(!goes_on(&lab, one).await, "it would give the lost entry's place to another one");
    let leader = lab.leader(&[one, two]).await;
    assert_eq!(leader, two, "only that node has the whole log");
    assert!(lab.node(leader).status().vote_term > term);
    lab.claim(leader).await;
    lab.isolate(three, false);
    lab.settled(&[one, two, three]).await;
    let archive = lab.node(one).state().archive().unwrap();
    for id in [one, two, three] {
        assert_eq!(transfers(&lab.node(id)), 99, "{id}: a majority had it, and nobody replaced it");
        assert_eq!(lab.node(id).state().archive().unwrap(), archive, "byte for byte");
    }
}

#[tokio::test(start_paused = true)]
async fn the_leaders_sync_and_its_followers_run_at_the_same_time() {
    let (lab, all) = Lab::three(23, true).await;
    let sync = Duration::from_millis(100);
    all.into_iter().for_each(|id| lab.kv(id).set_latency(sync));
    for value in 5..15 {
        let asked = lab.clock.now();
        lab.set(ONE, value).await;
        let took = lab.clock.now().since(asked);
        assert!((sync..sync + sync / 2).contains(&took), "{took:?}");
    }
    lab.settled(&all).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_others_follow_is_elected_anew_however_it_was_stopped() {
    let (mut lab, all) = Lab::three(24, true).await;
    lab.set(ONE, 8).await;
    let term = lab.node(ONE).status().vote_term;
    // Its folder may be put back from a copy that was made meanwhile: the end of its log proves nothing.
    lab.stop(ONE).await;
    lab.start(ONE).await;
    assert!(!goes_on(&lab, ONE).await, "it would go on in its old term");
    lab.leader(&all).await;
    lab.settled(&all).await;
    assert!(lab.node(ONE).status().vote_term > term);
    assert!(all.iter().all(|id| transfers(&lab.node(*id)) == 8));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_alone_knows_what_it_knew_to_count_before() {
    let (mut lab, all) = Lab::three(28, true).await;
    let three = all[2];
    lab.set(ONE, 7).await;
    lab.set(ONE, 8).await;
    lab.settled(&all).await;
    lab.stop(three).await;
    lab.set(ONE, 9).await;
    // The first that it hears is an entry, before it has heard again how much counts.
    lab.start(three).await;
    lab.until("the entry", |lab| lab.node(three).status().last_log == lab.node(ONE).status().last_log).await;
    lab.stop(three).await;
    lab.isolate(three, true);
    lab.start(three).await;
    lab.until("what it knew", |lab| transfers(&lab.node(three)) >= 7).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_alone_goes_on_at_once_whatever_happened() {
    let mut lab = Lab::new(25, true);
    lab.start(ONE).await;
    lab.node(ONE).found(BTreeSet::from([ONE])).await.unwrap();
    lab.until("a first leader", |lab| lab.node(ONE).status().is_leader).await;
    lab.propose_as(ONE, None, Command::Found(Box::new(founding()))).await.unwrap().unwrap();
    lab.claim(ONE).await;
    lab.set(ONE, 6).await;
    lab.power_off(ONE).await;
    lab.start(ONE).await;
    assert!(goes_on(&lab, ONE).await, "nobody has entries that it has lost");
    lab.until("what it had acknowledged", |lab| transfers(&lab.node(ONE)) == 6).await;
    // As soon as somebody follows, even without a vote, that is over.
    lab.admit("r2", false).await;
    lab.power_off(ONE).await;
    lab.start(ONE).await;
    assert!(!goes_on(&lab, ONE).await);
    lab.leader(&[ONE]).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_counts_once_a_majority_has_it_on_disk() {
    let (lab, [one, two, three]) = Lab::three(26, true).await;
    [two, three].into_iter().for_each(|id| lab.kv(id).hang(true));
    let proposal =
        Proposal { request: None, at: lab.clock.wall(), term: lab.node(one).state().term(), command: Command::Probe };
    let node = lab.node(one);
    let asked = tokio::spawn(async move { node.propose(proposal).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!asked.is_finished(), "counted while the leader alone has it on disk");
    lab.kv(two).hang(false);
    assert!(asked.await.unwrap().unwrap().answer.is_ok());
}

/// Whether `id` gives `candidate` its vote in `term`.
async fn votes_for(lab: &Lab, id: MemberId, candidate: MemberId, term: u64) -> bool {
    // It has heard of no leader for a lease, and of none since it was started.
    tokio::time::sleep(Timing::STANDARD.lease() * 2).await;
    let log = LogId::new(CommittedLeaderId::new(term - 1, candidate.number()), 1_000_000);
    let request = VoteRequest::new(types::Vote::new(term, candidate.number()), Some(log));
    let answer = lab.node(id).serve(Rpc::Vote, &wire::encode_one(&request).unwrap()).await.unwrap();
    wire::decode_one::<VoteResponse<u64>>(&answer).unwrap().vote_granted
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_lost_its_power_does_not_vote_again_in_the_same_term() {
    let (mut lab, [one, two, three]) = Lab::three(27, true).await;
    lab.isolate(three, true);
    lab.node(three).set_elections(false);
    assert!(votes_for(&lab, three, one, 100).await);
    assert!(!votes_for(&lab, three, two, 100).await);
    lab.power_off(three).await;
    lab.start(three).await;
    lab.node(three).set_elections(false);
    assert!(!votes_for(&lab, three, two, 100).await, "two candidates of one term have its vote");
    assert!(votes_for(&lab, three, two, 101).await);
}
