//! Rotating the CA: when it may begin, and when it ends.

use std::collections::BTreeSet;

use landfall_proto::id::{MemberId, NodeName, UnixMillis};
use landfall_proto::{Class, Refusal};
use landfall_store::State;
use landfall_store::state::ROTATION_MOST;

/// What the owner does about a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is none.
    None,
    /// Members or peers have not followed yet.
    Wait,
    /// The old CA is retired.
    Retire,
}

/// What to do at `now`: the old CA goes once all have followed, or could have.
pub fn step(state: &State, now: UnixMillis) -> Step {
    let (Some(rotation), Some((members, peers))) = (&state.ca.rotation, state.waits_for()) else { return Step::None };
    let over = u128::from(now.0.saturating_sub(rotation.begun_at.0)) >= ROTATION_MOST.as_millis();
    if over || (members.is_empty() && peers.is_empty()) { Step::Retire } else { Step::Wait }
}

/// Refuses to begin where the new CA's key would be lost with a minority: of `issuers` nodes that host VMs `missed` did not
/// take it.
pub fn check_issuers(issuers: usize, missed: &[NodeName]) -> Result<(), Refusal> {
    if 2 * missed.len() < issuers {
        return Ok(());
    }
    let names: Vec<&str> = missed.iter().map(NodeName::as_str).collect();
    let message = format!(
        "the new CA's key must be on most of the {issuers} nodes that host VMs, and {} cannot take it now",
        names.join(", ")
    );
    Err(Refusal::new(Class::Refused, "too_few_issuers", message)
        .field("node")
        .remedy("start their agents; a node that is gone for good: `landfall node remove NODE`"))
}

/// Refuses to retire the old CA where most of `voters` would be shut out with it: the cluster could decide nothing any more.
pub fn check_voters(voters: &BTreeSet<MemberId>, left_behind: &[MemberId]) -> Result<(), Refusal> {
    let left = voters.iter().filter(|voter| left_behind.contains(voter)).count();
    if 2 * left < voters.len() {
        return Ok(());
    }
    let message = format!("{left} of {} voters have no certificate of the new CA: nobody could decide", voters.len());
    Err(Refusal::new(Class::Refused, "no_quorum_left", message)
        .field("finish")
        .remedy("start their agents, and see `landfall cluster status` for who has followed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(nodes: &[&str]) -> Vec<NodeName> {
        nodes.iter().map(|node| node.parse().unwrap()).collect()
    }

    #[test]
    fn the_new_key_survives_the_loss_of_any_minority_of_issuers() {
        assert!(check_issuers(1, &[]).is_ok());
        assert!(check_issuers(2, &names(&["r2"])).is_err());
        assert!(check_issuers(3, &names(&["r3"])).is_ok());
        let refusal = check_issuers(3, &names(&["r2", "r3"])).unwrap_err();
        assert!(refusal.message.contains("r2, r3"), "{refusal}");
    }

    #[test]
    fn a_majority_of_the_voters_stays_in() {
        let voters: BTreeSet<MemberId> = (1..=3).map(MemberId::from_number).collect();
        let behind = |ids: &[u64]| ids.iter().copied().map(MemberId::from_number).collect::<Vec<_>>();
        assert!(check_voters(&voters, &behind(&[])).is_ok());
        assert!(check_voters(&voters, &behind(&[3, 9])).is_ok(), "a learner counts for nothing here");
        assert_eq!(check_voters(&voters, &behind(&[2, 3])).unwrap_err().code, "no_quorum_left");
        let two: BTreeSet<MemberId> = (1..=2).map(MemberId::from_number).collect();
        assert!(check_voters(&two, &behind(&[2])).is_err());
    }

    #[test]
    fn without_a_rotation_nothing_is_done() {
        assert_eq!(step(&State::default(), UnixMillis(0)), Step::None);
    }
}
