//! A replication that was ended here while the cluster that keeps the replica did not answer: what to do once it does.

use landfall_proto::id::Fqdn;
use landfall_proto::{Class, Refusal};

use crate::surface::doctor::{Finding, Level};

/// What became of telling the other cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It has ended its half, or has none.
    Ended,
    /// It keeps the replica, and has a reason that does not pass by itself.
    Kept,
    /// It is not known to have heard: it is told again.
    Again,
}

/// With these the other cluster says that the replica is not this cluster's to end: it runs there, or another one sends it.
/// The last one says that there is no way to tell it.
const KEPT: [&str; 6] = [
    "failed_over",
    "other_primary",
    "wrong_trust_group",
    "unauthorized_primary",
    "replication_disabled",
    "unknown_peer",
];

/// What `answer` to the wish to end the replica means.
pub fn told(answer: &Result<(), Refusal>) -> Told {
    match answer {
        Ok(()) => Told::Ended,
        Err(refusal) if KEPT.contains(&refusal.code.as_str()) => Told::Kept,
        Err(refusal) if refusal.class == Class::NotFound => Told::Ended,
        Err(_) => Told::Again,
    }
}

/// What is wrong, of the VMs (by name) whose replica's cluster has not been told that they are replicated no more.
pub fn findings(waiting: &[(String, Fqdn)]) -> Vec<Finding> {
    let finding = |(name, cap): &(String, Fqdn)| Finding {
        level: Level::Warning,
        code: REPLICA_LEFT.to_owned(),
        about: name.clone(),
        message: format!("it is replicated no more, which {cap} could not be told yet: that one keeps its replica"),
        remedy: format!(
            "see that {cap} is reachable: it is told by itself then. To end it there at once: `landfall vm disable {name}` \
             there; where that cluster is gone for good: `landfall peer remove {cap}`"
        ),
    };
    waiting.iter().map(finding).collect()
}

/// The stable word for a replica whose cluster has not been told that its VM is replicated no more.
pub const REPLICA_LEFT: &str = "replica_left";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_hear_is_told_again_and_who_keeps_it_for_a_reason_is_not() {
        let of = |class, code: &str| told(&Err(Refusal::new(class, code, "why")));
        assert_eq!((told(&Ok(())), of(Class::NotFound, "not_found")), (Told::Ended, Told::Ended));
        for passing in
            [(Class::Unreachable, "no_quorum"), (Class::Refused, "peer_list_old"), (Class::Failed, "protocol")]
        {
            assert_eq!(of(passing.0, passing.1), Told::Again, "{passing:?}");
        }
        for (class, code) in
            [(Class::Refused, "failed_over"), (Class::Refused, "other_primary"), (Class::NotFound, "unknown_peer")]
        {
            assert_eq!(of(class, code), Told::Kept, "{code}");
        }
    }
}
