//! Listening for keys that are in two hands, on every connection that came in ([`twins`](crate::decide::twins)).

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_proto::alpn::Alpn;
use landfall_proto::endpoint::{Direction, Link};
use landfall_proto::trust::Caller;
use tokio::sync::watch;

use crate::decide::twins::{Heard, TWICE, Twin, Twins, remedy};
use crate::drive::admission::who;
use crate::drive::events::Happening;
use crate::drive::node::Node;

/// How often: every living connection shows itself within [`landfall_proto::limits::KEEP_ALIVE`].
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Looks for as long as the agent runs, and tells what stands.
pub async fn watch_over(node: Node, standing: watch::Sender<Vec<Twin>>) {
    let mut look = node.rhythm(LOOK_INTERVAL);
    let mut twins = Twins::default();
    let mut before: BTreeMap<usize, u64> = BTreeMap::new();
    loop {
        look.tick().await;
        // Not where data comes in: that is an endpoint of its own at the other end, too, with a port of its own.
        let links = node.calls.endpoint(Alpn::Control).links();
        let mut counted = BTreeMap::new();
        let mut heard = Vec::new();
        for link in links.iter().filter(|link| link.direction() == Direction::Inbound) {
            let key = link.connection().stable_id();
            let datagrams = link.connection().stats().udp_rx.datagrams;
            if before.get(&key).copied().unwrap_or_default() < datagrams {
                heard.extend(of(link));
            }
            counted.insert(key, datagrams);
        }
        before = counted;
        for twin in twins.look(&heard, node.outside.clock.now()) {
            let Twin { who, addresses } = &twin;
            let told = format!("{who} is heard at {} at the same time: {}", addresses.join(" and "), remedy(who));
            node.events.record(Happening::critical(TWICE, told).with("peer", who).with("at", &addresses.join(",")));
        }
        let fresh: Vec<Twin> = twins.standing().cloned().collect();
        standing.send_if_modified(|standing| {
            let changed = *standing != fresh;
            *standing = fresh;
            changed
        });
    }
}

/// Whose connection it is.
fn of(link: &Link) -> Option<Heard> {
    let caller = link.caller();
    let listed = matches!(caller.as_ref(), Caller::Member { .. } | Caller::PeerNode { .. });
    listed.then(|| Heard {
        key: caller.key(),
        who: who(&caller),
        here: link.connection().local_ip().map(|address| address.to_string()).unwrap_or_default(),
        there: link.remote().to_string(),
    })
}
