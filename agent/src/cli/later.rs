//! Commands that this version knows by name only.

use std::ffi::OsString;

use clap::Args;
use landfall_proto::{Class, Refusal};

/// Whatever such a command is given.
#[derive(Debug, Args)]
pub(super) struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// The refusal of a command that comes later.
pub(super) fn comes_later(command: &str) -> Refusal {
    let version = env!("CARGO_PKG_VERSION");
    let message = format!("`landfall {command}` comes later: version {version} does not have it, and nothing was done");
    Refusal::new(Class::Usage, "comes_later", message).remedy("`landfall --help` shows what this version has")
}
