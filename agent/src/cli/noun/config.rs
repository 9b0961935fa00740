//! `landfall config`.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::cli::command::Format;
use crate::cli::session::Ended;
use crate::cli::{Console, Hooks};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Reads a node's file as the daemon would, and tells every fault with its line; exit 2 if there is one.
    Check {
        /// The file. Example: landfall config check /etc/landfall/r1.toml
        file: PathBuf,
    },
}

pub(in crate::cli) fn run(verb: &Verb, output: Format, console: &mut Console, hooks: &dyn Hooks) -> Result<(), Ended> {
    let Verb::Check { file } = verb;
    hooks.config_check(file)?;
    let line = match output {
        Format::Json => json!({"file": file.display().to_string(), "valid": true}).to_string(),
        Format::Table => format!("{}: no fault found", file.display()),
    };
    Ok(console.data(format!("{line}\n").as_bytes())?)
}
