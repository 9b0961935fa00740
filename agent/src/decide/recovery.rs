//! Whether one node may begin a cluster's next life, and what that gives up.

use landfall_proto::id::NodeName;
use landfall_proto::{Class, Refusal};
use landfall_store::state::GivenUp;

/// What is known of the cluster where it is to be recovered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// This node.
    pub node: String,
    /// Whether it is a witness.
    pub witness: bool,
    /// Whether a majority of the voters answers, this node included.
    pub quorate: bool,
    /// The other members that answer.
    pub answering: Vec<NodeName>,
    /// How many other members there are.
    pub others: usize,
}

fn refused(code: &str, message: String, remedy: &str) -> Refusal {
    Refusal::new(Class::Refused, code, message).remedy(remedy)
}

/// Everything that stands in the way. That the members which do not answer are off, and stay off, nobody but an operator
/// can know.
pub fn blockers(standing: &Standing) -> Vec<Refusal> {
    let Standing { node, witness, quorate, answering, others } = standing;
    let mut blockers = Vec::new();
    if *witness {
        blockers.push(refused(
            "witness",
            format!("{node} is a witness: it hosts no VM and holds no key of the CA"),
            "recover the cluster at a node that hosts VMs; where there is none left, found a new cluster and pair it anew",
        ));
    }
    if *others == 0 {
        blockers.push(refused(
            "nothing_lost",
            format!("{node} is the only member of its cluster"),
            "there is nothing to recover: it needs no other node to decide",
        ));
    } else if *quorate {
        blockers.push(refused(
            "quorate",
            "a majority of the voters answers: the cluster decides by itself".to_owned(),
            "remove nodes that are gone for good: `landfall node remove NODE`",
        ));
    } else if !answering.is_empty() {
        let names: Vec<&str> = answering.iter().map(NodeName::as_str).collect();
        blockers.push(refused(
            "others_answer",
            format!("{} still answers, and would go on in the old life of the cluster", names.join(", ")),
            "bring enough of the others back, or stop every other agent for good and recover at the one that has the newest \
             state (`applied` in `landfall node show`)",
        ));
    }
    blockers
}

/// What is given up, a sentence each.
pub fn lost(given_up: &GivenUp) -> Vec<String> {
    let mut lost = Vec::new();
    let names: Vec<&str> = given_up.members.iter().map(NodeName::as_str).collect();
    lost.push(format!(
        "whatever the cluster decided and this node has not heard of: settings, tokens, authorizations, placements, failovers; \
         only {} can have it",
        list(&names)
    ));
    lost.push(format!("{}: no member any more; make sure that it is off, it can only join anew", list(&names)));
    let each = |vms: &[String], what: &str| (!vms.is_empty()).then(|| format!("{}: {what}", vms.join(", ")));
    lost.extend(each(
        &given_up.without_points,
        "this node has no recovery point of it; it is filled anew from its primary",
    ));
    lost.extend(each(&given_up.older_points, "the others may have newer recovery points of it than this node"));
    lost.extend(each(
        &given_up.runs,
        "failed over to a node that is given up; whether it runs there still, and what it wrote, nobody here knows",
    ));
    lost.extend(each(
        &given_up.senders,
        "ran at a node that is given up; it is sent again once its folder is at this node",
    ));
    lost.extend(each(
        &given_up.hand_overs,
        "a planned failover is under way; it is cancelled, unless the other cluster has taken the VM",
    ));
    lost.push("join tokens and pairing codes that are not used yet".to_owned());
    lost
}

/// What is to be done afterwards.
pub fn next(given_up: &GivenUp) -> Vec<String> {
    let mut next = vec![
        "`landfall cluster status` shows this node as the owner within seconds".to_owned(),
        "each paired cluster is asked where the right to run each VM is; `landfall failover status VM` says `unknown` until \
         it has answered, and `landfall failover resolve VM --keep here|there` decides where it cannot"
            .to_owned(),
        "add a node or a witness, so that the next loss is survived: `landfall token create`, or with --witness".to_owned(),
    ];
    if !given_up.members.is_empty() {
        next.push(
            "at a node of the old life that comes back: `landfall cluster leave --force`, then `landfall cluster join TOKEN`"
                .to_owned(),
        );
    }
    next
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn codes(standing: &Standing) -> Vec<String> {
        blockers(standing).into_iter().map(|blocker| blocker.code.to_string()).collect()
    }

    #[test]
    fn only_a_node_that_is_left_alone_begins_the_next_life() {
        let alone = Standing { node: "r1".to_owned(), others: 1, ..Standing::default() };
        assert_eq!(codes(&alone), [""; 0]);
        assert_eq!(codes(&Standing { witness: true, ..alone.clone() }), ["witness"]);
        assert_eq!(codes(&Standing { others: 0, ..alone.clone() }), ["nothing_lost"]);
        assert_eq!(codes(&Standing { quorate: true, answering: vec![name("r2")], ..alone.clone() }), ["quorate"]);
        let heard = Standing { answering: vec![name("r2")], others: 4, ..alone };
        assert_eq!(codes(&heard), ["others_answer"]);
        assert!(blockers(&heard)[0].message.contains("r2") && blockers(&heard)[0].remedy.is_some());
    }

    #[test]
    fn what_is_given_up_is_named() {
        let given_up = GivenUp {
            members: vec![name("r2"), name("rw")],
            without_points: vec!["db".to_owned()],
            runs: vec!["web".to_owned()],
            ..GivenUp::default()
        };
        let told = lost(&given_up);
        assert!(told[1].starts_with("r2 and rw: no member any more"), "{told:?}");
        assert!(told.iter().any(|line| line.starts_with("db: this node has no recovery point")), "{told:?}");
        assert!(told.iter().any(|line| line.starts_with("web: failed over to a node that is given up")), "{told:?}");
        assert!(!told.iter().any(|line| line.contains("ran at a node")), "{told:?}");
    }
}
