//! `landfall vm seed`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::Method;
use landfall_proto::{Class, Refusal};

use crate::cli::amount::{bytes, timeout};
use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Shown, Table};
use crate::surface::WaitSeconds;
use crate::surface::seed::{SeedAction, SeedRequest, Seeded};
use crate::surface::vm::VmSelector;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Writes the VM's disks at one instant into a folder of the node that has it, to be carried to the replica's cluster.
    Export(Given),
    /// Takes a seed for the replica, from a folder of the node that receives it; what changed since is then sent.
    Import(Given),
}

/// What both take.
#[derive(Debug, Args)]
pub(in crate::cli) struct Given {
    /// Its UUID or name.
    vm: VmSelector,
    /// Give up after this long (s, m, h, d). Default: as long as it takes. Example: --timeout 2h
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<WaitSeconds>,
    /// The folder. An export makes it where it is missing; a file that exists there is never overwritten.
    dir: PathBuf,
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    let (action, given, doing) = match verb {
        Verb::Export(given) => (SeedAction::Export, given, "writing the seed"),
        Verb::Import(given) => (SeedAction::Import, given, "taking the seed"),
    };
    // The agent has another working directory than we have.
    let dir = std::path::absolute(&given.dir).map_err(|error| {
        let message = format!("{}: {error}", given.dir.display());
        Refusal::new(Class::Usage, "invalid_value", message).field("dir")
    })?;
    let path = route(&["vms", &given.vm.to_string(), "seed"]);
    let request = SeedRequest { action, dir, wait_seconds: given.timeout };
    let answer = match given.timeout {
        Some(_) => session.ask(Method::POST, &path, Some(&request), given.timeout, doing).await?,
        None => session.ask_endlessly(Method::POST, &path, &request, doing).await?,
    };
    session.print::<Seeded>(&answer)
}

impl Shown for Seeded {
    fn text(&self) -> String {
        let mut table = Table::new(["NODE", "TAKEN", "DISK", "SIZE", "FILE", "ROOT"]);
        for file in &self.files {
            table.row([
                self.node.to_string(),
                self.taken_at.to_string(),
                file.target.to_string(),
                bytes(file.bytes),
                file.path.display().to_string(),
                file.root.to_string(),
            ]);
        }
        table.text()
    }
}
