//! Commands that this version knows by name only.

use std::ffi::OsString;

use clap::{Args, Subcommand};
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

/// Failover addresses: nothing of them is in this version.
#[derive(Debug, Subcommand)]
pub(super) enum NetworkVerb {
    /// The failover addresses of a VM's adapters (comes later).
    Show(Later),
    /// Gives an adapter its failover addresses (comes later).
    Set(Later),
    /// Takes them away (comes later).
    Clear(Later),
    /// Which network here stands for which there (comes later).
    Map(Later),
}

impl NetworkVerb {
    /// Why not.
    pub(super) fn refuse(&self) -> Refusal {
        comes_later(match self {
            Self::Show(_) => "network show",
            Self::Set(_) => "network set",
            Self::Clear(_) => "network clear",
            Self::Map(_) => "network map",
        })
    }
}
