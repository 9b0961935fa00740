//! `landfall broker`.

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::NodeName;

use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, or_dash};
use crate::surface::WaitSeconds;
use crate::surface::broker::{BrokerMove, BrokerMoved, BrokerStatus};
use crate::surface::cap_address::CapAddressStatus;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// The owner of the CAP, since when, its term, and the CAP's address where it has one.
    Status,
    /// Gives the CAP to another node that hosts VMs, and tells for how long nobody acted.
    Move {
        /// The node that is to own it. Example: landfall broker move r2
        node: NodeName,
    },
}

/// How long the agent may take: a node that does not take the CAP over is followed by an ordinary election.
const MOVE_SECONDS: u64 = 30;

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::Status => session.read::<BrokerStatus>("/v1/broker").await,
        Verb::Move { node } => {
            let patience = WaitSeconds::try_from(MOVE_SECONDS).ok();
            let request = BrokerMove { to: node };
            let answer = session.ask(Method::POST, "/v1/broker/move", Some(&request), patience, "handing over").await?;
            session.print::<BrokerMoved>(&answer)
        }
    }
}

impl Shown for BrokerMoved {
    fn text(&self) -> String {
        Facts::default()
            .fact("cap", &self.cap)
            .fact("owner", &self.owner)
            .fact("term", self.term)
            .fact("gap", format!("{} ms", self.gap_ms))
            .text()
    }
}

impl CapAddressStatus {
    /// Where it is and what is wrong with it, for people.
    pub(in crate::cli) fn lines(&self) -> Vec<String> {
        let addresses = self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let at = match &self.holder {
            Some(node) => format!("{addresses} port {}, at {node}", self.port),
            None => format!("{addresses} port {}, at no node", self.port),
        };
        let foreign = self.foreign.iter().map(|who| format!("ALSO HELD BY {who}"));
        [at].into_iter().chain(self.fault.clone()).chain(foreign).collect()
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
            .each("address", self.cap_address.iter().flat_map(CapAddressStatus::lines))
            .text()
    }
}
