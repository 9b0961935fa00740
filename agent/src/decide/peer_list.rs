//! How long a peer's member list is believed.
//!
//! Whom that cluster has removed is known here only by its list. Past [`LIST_LIFETIME`] without hearing from it, its nodes
//! are served nothing but the exchange of lists, with which everything else resumes by itself.

use std::time::Duration;

use landfall_proto::id::UnixMillis;
use landfall_proto::model::Peer;
use landfall_proto::{Class, Refusal};

/// How long a list is believed without being confirmed: lists are exchanged hourly, so that a day of tries has failed.
pub const LIST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long ago the list of `peer` was confirmed.
pub fn age(peer: &Peer, now: UnixMillis) -> Duration {
    Duration::from_millis(now.0.saturating_sub(peer.confirmed_at.0))
}

/// Whether the list of `peer` is too old to be believed.
pub fn is_old(peer: &Peer, now: UnixMillis) -> bool {
    age(peer, now) > LIST_LIFETIME
}

/// Why the nodes of `peer` are served nothing but the exchange of lists, where that is so.
pub fn refusal(peer: &Peer, now: UnixMillis) -> Option<Refusal> {
    is_old(peer, now).then(|| {
        let (cap, hours) = (&peer.list.cap, age(peer, now).as_secs() / 3600);
        let message = format!("the member list of {cap} was last confirmed {hours} h ago: its nodes are not served");
        Refusal::new(Class::Refused, "peer_list_old", message).remedy(
            "see that the agents of both clusters reach each other's control addresses and that their clocks are \
             right; once the member lists are exchanged (`landfall peer list`), replication resumes by itself",
        )
    })
}

#[cfg(test)]
mod tests {
    use landfall_proto::id::Position;
    use landfall_proto::model::{CaLine, MemberList};

    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    fn peer(confirmed_at: u64) -> Peer {
        Peer {
            cluster: "Cluster-P".parse().unwrap(),
            ca: vec![],
            line: CaLine::default(),
            list: MemberList {
                cap: "p.contoso.com".parse().unwrap(),
                position: Position::default(),
                members: vec![],
                cap_addresses: vec![],
            },
            confirmed_at: UnixMillis(confirmed_at),
        }
    }

    #[test]
    fn a_peer_is_refused_past_a_day_without_its_list_and_served_again_with_it() {
        let mut peer = peer(1_000);
        assert_eq!(refusal(&peer, UnixMillis(1_000 + DAY)), None);
        let refused = refusal(&peer, UnixMillis(1_001 + DAY)).unwrap();
        assert_eq!((refused.class, refused.code.as_str()), (Class::Refused, "peer_list_old"));
        assert!(refused.message.contains("p.contoso.com") && refused.remedy.unwrap().contains("by itself"));
        peer.confirmed_at = UnixMillis(1_001 + DAY);
        assert_eq!(refusal(&peer, UnixMillis(1_001 + DAY)), None);
    }

    #[test]
    fn a_clock_that_was_set_back_refuses_nobody() {
        assert_eq!(refusal(&peer(10 * DAY), UnixMillis(0)), None);
    }
}
