//! Which node can own the CAP next, and which is best.

use landfall_proto::id::{MemberId, NodeName};
use landfall_proto::planted::{self, Bug};
use landfall_proto::{Class, Refusal};

/// Entries that a next owner may lack when it is chosen: it catches up while the owner still acts.
const LAG_MAX: u64 = 100;

/// A member as the next owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heir {
    /// The member.
    pub member: MemberId,
    /// Its name.
    pub node: NodeName,
    /// Whether it only votes.
    pub witness: bool,
    /// Whether it is drained.
    pub drained: bool,
    /// Whether it comes and goes.
    pub quarantined: bool,
    /// Whether it answers.
    pub up: bool,
    /// Whether it votes.
    pub votes: bool,
    /// How many entries of the log it lacks; `None` where nothing has been heard of it.
    pub lag: Option<u64>,
}

/// Refuses a node that an operator should not give the CAP to now.
pub fn check(heir: &Heir) -> Result<(), Refusal> {
    check_able(heir)?;
    let node = &heir.node;
    if heir.quarantined {
        let remedy = format!("name another node, or vouch for it: `landfall node restore {node}`");
        return refused("quarantined", format!("{node} comes and goes, and is quarantined"), remedy);
    }
    Ok(())
}

fn refused(code: &str, message: String, remedy: String) -> Result<(), Refusal> {
    Err(Refusal::new(Class::Refused, code, message).field("node").remedy(remedy))
}

/// Refuses a node that cannot own the CAP now. One that comes and goes can: where there is no other it is better than an owner
/// that cannot go on.
pub fn check_able(heir: &Heir) -> Result<(), Refusal> {
    let node = &heir.node;
    if heir.witness {
        let message = format!("{node} is a witness, which never owns the CAP");
        return refused("witness", message, "name a node that hosts VMs".to_owned());
    }
    if heir.drained {
        let remedy = format!("end the drain first (`landfall node restore {node}`), or name another node");
        return refused("drained", format!("{node} is drained"), remedy);
    }
    if !heir.up {
        let remedy = "see `landfall node list`; name a node that is up".to_owned();
        return refused("node_down", format!("{node} does not answer"), remedy);
    }
    match heir.lag {
        Some(lag) if lag <= LAG_MAX => Ok(()),
        _ if planted::is(Bug::SuccessorBehind) => Ok(()),
        _ => {
            let message = format!("{node} does not have the cluster's newest state yet");
            refused("node_behind", message, "try again in a moment".to_owned())
        }
    }
}

/// The one that would own it soonest: a voter before one that has yet to become one, then the one that lacks least. One that
/// comes and goes only where there is no other.
pub fn best(heirs: &[Heir]) -> Option<&Heir> {
    let able = heirs.iter().filter(|heir| check_able(heir).is_ok());
    able.min_by_key(|heir| (heir.quarantined, !heir.votes, heir.lag, heir.member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heir(number: u64) -> Heir {
        Heir {
            member: MemberId::from_number(number),
            node: format!("r{number}").parse().unwrap(),
            witness: false,
            drained: false,
            quarantined: false,
            up: true,
            votes: true,
            lag: Some(0),
        }
    }

    #[test]
    fn whoever_cannot_own_it_is_told_why() {
        let bad = [
            ("witness", Heir { witness: true, ..heir(2) }),
            ("drained", Heir { drained: true, ..heir(2) }),
            ("node_down", Heir { up: false, ..heir(2) }),
            ("quarantined", Heir { quarantined: true, ..heir(2) }),
            ("node_behind", Heir { lag: Some(LAG_MAX + 1), ..heir(2) }),
            ("node_behind", Heir { lag: None, ..heir(2) }),
        ];
        for (code, heir) in bad {
            let refusal = check(&heir).unwrap_err();
            assert_eq!((refusal.code.as_str(), refusal.class), (code, Class::Refused));
            assert!(refusal.remedy.is_some());
            assert_eq!(best(std::slice::from_ref(&heir)).is_some(), heir.quarantined, "{code}");
            assert_eq!(best(&[heir, self::heir(3)]), Some(&self::heir(3)), "{code}");
        }
        assert_eq!(check(&heir(2)), Ok(()));
    }

    #[test]
    fn the_one_that_is_nearest_is_best() {
        let (learner, late, near) = (Heir { votes: false, ..heir(2) }, Heir { lag: Some(3), ..heir(3) }, heir(4));
        assert_eq!(best(&[learner.clone(), late.clone(), near.clone()]), Some(&near));
        assert_eq!(best(&[learner.clone(), late.clone()]), Some(&late));
        assert_eq!(best(std::slice::from_ref(&learner)), Some(&learner));
    }
}
