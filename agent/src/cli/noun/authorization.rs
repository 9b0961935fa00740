//! `landfall authorization`.

use clap::Subcommand;
use hyper::Method;
use landfall_proto::id::{PrimaryPattern, StorageName, TrustGroup};

use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Shown, Table, joined};
use crate::surface::authorization::{Authorization, AuthorizationRemoved, DEFAULT_TRUST_GROUP};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// The authorization table.
    List,
    /// Allows a primary to replicate into this cluster, or changes its entry; replicas that exist stay where they are.
    Add {
        /// The primary's CAP (or FQDN, for a standalone server), or * as the whole first label. Example: *.contoso.com
        primary: PrimaryPattern,
        /// Where its replicas are stored: a storage location of the nodes' files. Default: default. Example: --storage ssd
        #[arg(long, value_name = "NAME", default_value = "default", hide_default_value = true)]
        storage: StorageName,
        /// Replicas take data only from primaries of the same group. Default: DEFAULT. Example: --trust-group tenant-a
        #[arg(long, value_name = "NAME", default_value = DEFAULT_TRUST_GROUP, hide_default_value = true)]
        trust_group: TrustGroup,
    },
    /// Removes an entry. The replication of the VMs that lived under it stops; they are listed.
    Remove {
        /// The primary, as the table has it.
        primary: PrimaryPattern,
    },
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::List => session.read::<Vec<Authorization>>("/v1/authorizations").await,
        Verb::Add { primary, storage, trust_group } => {
            let entry = Authorization { primary, storage, trust_group };
            let answer = session.ask(Method::POST, "/v1/authorizations", Some(&entry), None, "adding").await?;
            session.print::<Authorization>(&answer)
        }
        Verb::Remove { primary } => {
            let path = route(&["authorizations", primary.as_str()]);
            let answer = session.ask(Method::DELETE, &path, None::<&()>, None, "removing").await?;
            session.print::<AuthorizationRemoved>(&answer)
        }
    }
}

impl Shown for Authorization {
    fn text(&self) -> String {
        vec![self.clone()].text()
    }
}

impl Shown for Vec<Authorization> {
    fn text(&self) -> String {
        let mut table = Table::new(["PRIMARY", "STORAGE", "TRUST GROUP"]);
        for entry in self {
            table.row([entry.primary.to_string(), entry.storage.to_string(), entry.trust_group.to_string()]);
        }
        table.text()
    }
}

impl Shown for AuthorizationRemoved {
    fn text(&self) -> String {
        let stopped: Vec<_> = self.stopped.iter().map(|vm| format!("{} ({})", vm.name, vm.uuid)).collect();
        let mut table = Table::new(["REMOVED", "STOPPED"]);
        table.row([self.primary.to_string(), joined(&stopped)]);
        table.text()
    }
}
