//! `landfall token`.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::NodeName;

use crate::cli::amount::duration;
use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Shown, Table, or_dash, word};
use crate::surface::token::{TokenCreate, TokenCreated, TokenId, TokenRevoked, TokenStatus};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Makes a join token and prints it. It is a secret, good for one node, and cannot be shown again.
    Create {
        /// The token admits a witness: an agent that votes, and hosts no VM. Default: a node. Example: --witness
        #[arg(long)]
        witness: bool,
        /// For how long it is good (s, m, h, d; at most 7d). Default: 1h. Example: --ttl 15m
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
        /// The joining node takes the name of this member, which is removed. Default: none. Example: --replaces r2
        #[arg(long, value_name = "NODE")]
        replaces: Option<NodeName>,
    },
    /// The tokens and pairing codes that have not expired.
    List,
    /// Makes a token or pairing code worthless.
    Revoke {
        /// Its ID in `landfall token list`: 16 hex digits.
        id: TokenId,
    },
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::Create { witness, ttl, replaces } => {
            let request = TokenCreate { witness, ttl_seconds: ttl.map(|ttl| ttl.as_secs()), replaces };
            let answer = session.ask(Method::POST, "/v1/tokens", Some(&request), None, "making a token").await?;
            session.print::<TokenCreated>(&answer)?;
            let expires_at = answer.shape::<TokenCreated>()?.expires_at;
            session.console().note(&format!("good for one node until {expires_at}: landfall cluster join TOKEN"));
            Ok(())
        }
        Verb::List => session.read::<Vec<TokenStatus>>("/v1/tokens").await,
        Verb::Revoke { id } => {
            let path = route(&["tokens", &id.to_string()]);
            let answer = session.ask(Method::DELETE, &path, None::<&()>, None, "revoking").await?;
            session.print::<TokenRevoked>(&answer)
        }
    }
}

impl Shown for TokenCreated {
    /// The token alone, so that `TOKEN=$(landfall token create)` works.
    fn text(&self) -> String {
        format!("{}\n", self.token)
    }
}

impl Shown for TokenRevoked {
    fn text(&self) -> String {
        format!("{} admits nobody any more\n", self.id)
    }
}

impl Shown for Vec<TokenStatus> {
    fn text(&self) -> String {
        let mut table = Table::new(["ID", "KIND", "REPLACES", "EXPIRES", "USED BY"]);
        for token in self {
            let used_by = token.used_by.map(|key| key.to_string());
            table.row([
                token.id.to_string(),
                word(&token.kind),
                or_dash(token.replaces.as_ref()),
                token.expires_at.to_string(),
                or_dash(used_by),
            ]);
        }
        table.text()
    }
}
