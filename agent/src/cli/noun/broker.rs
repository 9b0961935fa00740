//! `landfall broker`.

use clap::Subcommand;

use crate::cli::later::{Later, comes_later};
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, or_dash};
use crate::surface::broker::BrokerStatus;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// The owner of the CAP, since when, its term, and the CAP's address where it has one.
    Status,
    /// Gives the CAP to another node (comes later).
    Move(Later),
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::Status => session.read::<BrokerStatus>("/v1/broker").await,
        Verb::Move(_) => Err(comes_later("broker move").into()),
    }
}

impl Shown for BrokerStatus {
    fn text(&self) -> String {
        Facts::default()
            .fact("cap", &self.cap)
            .fact("owner", or_dash(self.owner.as_ref()))
            .fact("owner since", or_dash(self.owner_since))
            .fact("term", or_dash(self.term))
            .fact("address", or_dash(self.address))
            .text()
    }
}
