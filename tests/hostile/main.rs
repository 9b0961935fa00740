//! Hostile peers, given to real agents: whoever has a member's key and certificate and speaks the protocols by hand, and
//! whoever has neither. Nothing moves by it, nobody is held for dead, and it costs next to nothing (R7, R10).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../proto/tests/wire/attacker.rs"]
mod attacker;
mod authority;
mod crowd;
mod double;
mod gossip;
mod handshakes;
mod process;
mod twin;

use std::time::Duration;

use landfall_kit::process::{Cluster, ClusterBuilder, NodeSpec};

/// For what is a matter of a moment.
const SOON: Duration = Duration::from_secs(60);
/// For what includes an election or an initial copy on a machine with other work.
const LONG: Duration = Duration::from_secs(120);

/// The program under test.
const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall");

/// A cluster called `name` whose change sets are due at once.
fn cluster(name: &str, nodes: &[&str]) -> ClusterBuilder {
    let cap = format!("{}.contoso.test", name.to_lowercase());
    nodes.iter().fold(Cluster::of(LANDFALL, name, &cap), |cluster, node| {
        let mut spec = NodeSpec::new(node);
        spec.config.insert("testing".to_owned(), toml::toml! { interval_ms = 300 }.into());
        cluster.spec(spec)
    })
}
