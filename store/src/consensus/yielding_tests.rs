//! A lead that is given: at once, to whoever is named, and no later word of it counts.

use std::time::Duration;

use landfall_proto::model::Command;

use super::lab::{Lab, ONE};
use super::*;

/// Far below a lease: nobody has waited for one.
const AT_ONCE: Duration = Duration::from_millis(200);

async fn give(lab: &Lab, from: MemberId, to: MemberId) -> Result<(), ProposeError> {
    let node = lab.node(from);
    let upto = node.status().last_log.unwrap();
    node.begin_to_yield(to).await?.finish(upto).await
}

/// Waits until `id` leads and a majority confirms it, and returns how long that took.
async fn leads(lab: &Lab, id: MemberId) -> Duration {
    let begun = lab.clock.now();
    assert_eq!(lab.leader(&[id]).await, id);
    lab.clock.now().since(begun)
}

#[tokio::test(start_paused = true)]
async fn a_lead_is_given_at_once_and_back() {
    let (lab, all) = Lab::three(21, true).await;
    let [one, two, three] = all;
    for (from, to) in [(one, three), (three, two), (two, one)] {
        lab.settled(&all).await;
        let term = lab.node(from).status().vote_term;
        // As an owner does: it refuses its own vote for a lease.
        lab.node(from).hold_votes_until(lab.clock.now().after(Timing::STANDARD.lease()));
        let begun = lab.clock.now();
        give(&lab, from, to).await.unwrap();
        lab.until("the next leader", |lab| lab.node(to).status().is_leader).await;
        assert!(lab.clock.now().since(begun) < AT_ONCE, "{:?}", lab.clock.now().since(begun));
        assert_eq!(lab.node(to).status().vote_term, term + 1, "in the very next term");
        assert!(!lab.node(from).status().is_leader);
        lab.claim(to).await;
        lab.set(to, 5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lead_is_given_while_a_voter_is_away() {
    let (lab, [one, two, three]) = Lab::three(22, true).await;
    lab.settled(&[one, two, three]).await;
    lab.isolate(three, true);
    lab.node(three).set_elections(false);
    lab.set(one, 9).await;
    lab.until("a copy", |lab| lab.node(one).status().followers[&two].lag == 0).await;
    give(&lab, one, two).await.unwrap();
    assert!(leads(&lab, two).await < AT_ONCE);
    lab.claim(two).await;
    lab.isolate(three, false);
    lab.settled(&[one, two, three]).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lacks_an_entry_or_does_not_vote_is_given_nothing() {
    let (mut lab, [one, two, three]) = Lab::three(23, true).await;
    lab.settled(&[one, two, three]).await;
    lab.isolate(two, true);
    lab.node(two).set_elections(false);
    lab.set(one, 9).await;
    let refused = lab.node(one).begin_to_yield(two).await.map(drop);
    assert!(matches!(refused, Err(ProposeError::Busy(_))), "{refused:?}");
    let four = lab.admit("r4", false).await;
    let refused = lab.node(one).begin_to_yield(four).await.map(drop);
    assert!(matches!(refused, Err(ProposeError::Membership(_))), "{refused:?}");
    let refused = lab.node(three).begin_to_yield(one).await.map(drop);
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    // It leads as before.
    lab.claim(one).await;
    // And one that comes to lack an entry in between is not waited for.
    let yielding = lab.node(one);
    let yielding = yielding.begin_to_yield(three).await.unwrap();
    lab.isolate(three, true);
    let upto = lab.node(one).status().last_log.unwrap() + 1;
    assert!(matches!(yielding.finish(upto).await, Err(ProposeError::Busy(_))));
    lab.isolate(three, false);
    assert_eq!(lab.leader(&[one]).await, one);
}

#[tokio::test(start_paused = true)]
async fn where_the_next_leader_is_gone_another_is_elected_soon() {
    let (lab, all) = Lab::three(24, true).await;
    let [one, two, three] = all;
    lab.settled(&all).await;
    let owner = lab.node(one);
    let yielding = owner.begin_to_yield(two).await.unwrap();
    lab.isolate(two, true);
    lab.node(two).set_elections(false);
    let upto = owner.status().last_log.unwrap();
    let given = yielding.finish(upto).await;
    assert!(matches!(given, Err(ProposeError::Membership(_))), "{given:?}");
    // As an owner does: the others stand before it.
    owner.set_elections(false);
    let begun = lab.clock.now();
    let next = lab.leader(&[three]).await;
    assert!(lab.clock.now().since(begun) < Timing::STANDARD.lease() * 2, "{:?}", lab.clock.now().since(begun));
    lab.claim(next).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_about_to_stop_does_not_take_over() {
    let (lab, all) = Lab::three(25, true).await;
    lab.settled(&all).await;
    lab.node(all[1]).set_succeeds(false);
    let given = give(&lab, all[0], all[1]).await;
    assert!(matches!(given, Err(ProposeError::Membership(_))), "{given:?}");
    lab.claim(lab.leader(&all).await).await;
}

/// The word of a leader of the past, as the wire would carry it.
fn late_word(from_term: u64, from: MemberId, to: MemberId) -> Vec<u8> {
    let from = types::Vote::new_committed(from_term, from.number());
    wire::encode_one(&(from, to.number())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_late_word_of_a_lead_that_is_over_releases_nobody() {
    let (lab, all) = Lab::three(26, true).await;
    let [one, two, three] = all;
    lab.settled(&all).await;
    let past = lab.node(one).status().vote_term;
    lab.isolate(one, true);
    let next = lab.leader(&[two, three]).await;
    lab.claim(next).await;
    lab.isolate(one, false);
    lab.settled(&all).await;
    let now = lab.node(next).status();
    assert!(now.vote_term > past);
    for at in all {
        for rpc in [Rpc::Yield, Rpc::Stand] {
            let answer = lab.node(at).serve(rpc, &late_word(past, one, at)).await.unwrap();
            assert!(!wire::decode_one::<bool>(&answer).unwrap(), "{at} took a late word");
        }
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((lab.node(next).status().vote_term, lab.node(next).status().is_leader), (now.vote_term, true));
    // The word of the present leader is taken: the test above can fail.
    let answer = lab.node(one).serve(Rpc::Stand, &late_word(now.vote_term, next, one)).await.unwrap();
    assert!(wire::decode_one::<bool>(&answer).unwrap());
}

#[tokio::test(start_paused = true)]
async fn whoever_wins_another_term_than_it_was_to_stand_in_waits_for_the_lease_of_the_one_before() {
    let (lab, all) = Lab::three(29, true).await;
    let [one, two, three] = all;
    lab.settled(&all).await;
    // It is asked to stand, and nobody hears it.
    let now = lab.node(one).status();
    lab.isolate(two, true);
    let (asked, word) = (lab.clock.now(), late_word(now.vote_term, one, two));
    assert!(wire::decode_one::<bool>(&lab.node(two).serve(Rpc::Stand, &word).await.unwrap()).unwrap());
    let until = asked.after(Timing::STANDARD.lease());
    assert_eq!(lab.node(two).counts_from(now.vote_term + 1), None, "the term that it was asked to stand in");
    lab.isolate(two, false);
    lab.isolate(one, true);
    [one, three].into_iter().for_each(|id| lab.node(id).set_elections(false));
    lab.leader(&[two]).await;
    let won = lab.node(two).status().vote_term;
    assert!(won > now.vote_term + 1);
    assert_eq!(lab.node(two).counts_from(won), Some(until), "it counts on its lease at once");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nobody_steps_aside_and_is_elected_again() {
    let (lab, all) = Lab::three(27, true).await;
    lab.settled(&all).await;
    // It is heard, and does not hear.
    lab.node(ONE).step_aside().await.unwrap();
    assert!(!lab.node(ONE).status().is_leader);
    let next = lab.leader(&all).await;
    lab.claim(next).await;
    // A node that does not lead has nothing to step aside from.
    let other = all.into_iter().find(|id| *id != next).unwrap();
    let before = lab.node(other).status().vote_term;
    lab.node(other).step_aside().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((lab.node(next).status().is_leader, lab.node(next).status().vote_term), (true, before));
    lab.propose(next, Command::Probe).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_of_a_leader_is_forgotten_when_it_gives_up() {
    let (lab, all) = Lab::three(28, true).await;
    lab.settled(&all).await;
    let heard = |id: MemberId| lab.node(id).heard_leader().map(|at| lab.clock.now().since(at));
    assert_eq!(heard(ONE), None, "it leads");
    assert!(all[1..].iter().all(|id| heard(*id).unwrap() < Duration::from_millis(500)));
    lab.isolate(all[2], true);
    lab.node(all[2]).set_elections(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(heard(all[2]).unwrap() > Duration::from_secs(4), "{:?}", heard(all[2]));
}
