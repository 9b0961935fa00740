//! What `doctor` finds about a rotation of the CA: what keeps it from ending, and what to do about it.

use std::time::Duration;

use landfall_proto::id::UnixMillis;

use crate::surface::doctor::{Finding, Level};

/// A rotation is over within seconds where everybody is there: past this it waits for somebody.
const SOON: Duration = Duration::from_secs(60);

/// A rotation that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RotationFact {
    /// When it began.
    pub begun_at: UnixMillis,
    /// When it ends at the latest.
    pub ends_by: String,
    /// Members without a certificate of the new CA, and whether each answers.
    pub nodes: Vec<(String, bool)>,
    /// Peers that have not committed it.
    pub peers: Vec<String>,
}

/// What is wrong with it at `now`.
pub fn findings(fact: &RotationFact, now: UnixMillis) -> Vec<Finding> {
    if u128::from(now.0.saturating_sub(fact.begun_at.0)) < SOON.as_millis() {
        return Vec::new();
    }
    let finding = |code: &str, about: &str, message: String, remedy: String| Finding {
        level: Level::Warning,
        code: code.to_owned(),
        about: about.to_owned(),
        message,
        remedy,
    };
    let end = format!("the rotation of the CA waits for it, until {}", fact.ends_by);
    let finish = "or end the rotation without it: landfall cluster rotate-ca --finish";
    let nodes = fact.nodes.iter().map(|(node, live)| {
        let remedy = match live {
            true => "see its log for why (`certificate_not_renewed`)".to_owned(),
            false => format!("start its agent; gone for good: landfall node remove {node}"),
        };
        let message = format!("it has no certificate of the new CA yet: {end}");
        finding("ca_rotation_node", node, message, format!("{remedy}; {finish}"))
    });
    let peers = fact.peers.iter().map(|cap| {
        let message = format!("it has not committed the new CA yet: {end}");
        let remedy = format!(
            "see that its agents run and reach this cluster's, and its events for `peer_ca_refused`; gone for good: landfall \
             peer remove {cap}; {finish}"
        );
        finding("ca_rotation_peer", cap, message, remedy)
    });
    nodes.chain(peers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_rotation_from_ending_is_named_with_what_to_do() {
        let fact = RotationFact {
            begun_at: UnixMillis(1_000),
            ends_by: "2026-12-07".to_owned(),
            nodes: vec![("r3".to_owned(), false), ("r2".to_owned(), true)],
            peers: vec!["p.contoso.com".to_owned()],
        };
        assert!(findings(&fact, UnixMillis(60_000)).is_empty(), "it may be over in a moment");
        let found = findings(&fact, UnixMillis(61_000));
        let codes: Vec<&str> = found.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(codes, ["ca_rotation_node", "ca_rotation_node", "ca_rotation_peer"]);
        assert!(found[0].remedy.contains("node remove r3") && found[1].remedy.contains("its log"));
        assert!(
            found.iter().all(|finding| finding.remedy.contains("--finish") && finding.message.contains("2026-12-07"))
        );
        assert!(findings(&RotationFact::default(), UnixMillis(u64::MAX)).is_empty());
    }
}
