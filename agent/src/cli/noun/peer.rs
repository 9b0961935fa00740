//! `landfall peer`.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::Fqdn;

use crate::cli::amount::{Waiting, duration};
use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Shown, Table, joined, word};
use crate::surface::peer::{PeerAccept, PeerInvite, PeerInvited, PeerRemoved, PeerStatus};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Makes a pairing code and prints it. It is a secret, and good for one cluster.
    Invite {
        /// For how long it is good (s, m, h, d; at most 7d). Default: 1h. Example: --ttl 15m
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
    },
    /// Pairs with the cluster that made a code: both then know each other's CA, CAP and addresses.
    Accept {
        /// What `landfall peer invite` printed there; `-` reads it from standard input, which keeps it out of `ps`.
        code: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// The clusters that this one is paired with.
    List,
    /// Forgets a peer: its nodes are refused from now on, and the replication with it stops.
    Remove {
        /// Its CAP. Example: landfall peer remove p-broker-cap.contoso.com
        cap: Fqdn,
    },
}

/// How long `--wait` waits for both member lists where no time is given.
const WAIT_SECONDS: u64 = 60;

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::Invite { ttl } => {
            let request = PeerInvite { ttl_seconds: ttl.map(|ttl| ttl.as_secs()) };
            let answer = session.ask(Method::POST, "/v1/peers/invite", Some(&request), None, "making a code").await?;
            session.print::<PeerInvited>(&answer)?;
            let expires_at = answer.shape::<PeerInvited>()?.expires_at;
            session.console().note(&format!("good for one cluster until {expires_at}: landfall peer accept CODE"));
            Ok(())
        }
        Verb::Accept { code, waiting } => {
            let wait = waiting.or(WAIT_SECONDS);
            let code = session.console().secret(code)?;
            let request = PeerAccept { code, wait_seconds: wait };
            let answer = session.ask(Method::POST, "/v1/peers", Some(&request), wait, "pairing").await?;
            session.print::<PeerStatus>(&answer)
        }
        Verb::List => session.read::<Vec<PeerStatus>>("/v1/peers").await,
        Verb::Remove { cap } => {
            let path = route(&["peers", cap.as_str()]);
            let answer = session.ask(Method::DELETE, &path, None::<&()>, None, "removing").await?;
            session.print::<PeerRemoved>(&answer)
        }
    }
}

impl Shown for PeerInvited {
    /// The code alone, so that `CODE=$(landfall peer invite)` works.
    fn text(&self) -> String {
        format!("{}\n", self.code)
    }
}

impl Shown for PeerStatus {
    fn text(&self) -> String {
        vec![self.clone()].text()
    }
}

impl Shown for Vec<PeerStatus> {
    fn text(&self) -> String {
        let mut table = Table::new(["CAP", "CLUSTER", "HEALTH", "CONFIRMED", "MEMBERS", "REASONS"]);
        for peer in self {
            let members: Vec<_> =
                peer.members.iter().map(|member| format!("{}={}", member.node, member.address)).collect();
            table.row([
                peer.cap.to_string(),
                peer.cluster.to_string(),
                word(&peer.health),
                peer.confirmed_at.to_string(),
                joined(&members),
                joined(&peer.health_reasons),
            ]);
        }
        table.text()
    }
}

impl Shown for PeerRemoved {
    fn text(&self) -> String {
        let stopped: Vec<_> = self.stopped.iter().map(|vm| format!("{} ({})", vm.name, vm.uuid)).collect();
        let mut table = Table::new(["REMOVED", "STOPPED"]);
        table.row([self.cap.to_string(), joined(&stopped)]);
        table.text()
    }
}
