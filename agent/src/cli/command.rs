//! The top of the command line: the nouns.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use landfall_proto::{Class, Refusal};

use super::Demo;
use super::noun;

/// Landfall: a replica broker for virtual machines.
///
/// Gives a cluster of hypervisors one address to replicate VMs to, keeps each replica available when its node dies, and
/// redirects the primary when it moves. Any agent takes any command.
#[derive(Debug, Parser)]
#[command(
    name = "landfall",
    bin_name = "landfall",
    version,
    disable_help_subcommand = true,
    subcommand_required = true
)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused for safety, 4 not found, 5 no quorum or \
    unreachable.\nData goes to standard output, talk to standard error; a failure is one JSON object there, unless \
    standard output is a terminal.")]
pub(super) struct Cli {
    /// The socket of the agent to ask. Example: --socket /run/landfall/r1.sock
    #[arg(long, global = true, env = "LANDFALL_SOCKET", default_value = "/run/landfall/landfall.sock")]
    #[arg(value_name = "PATH", help_heading = "Everywhere")]
    pub(super) socket: PathBuf,
    /// How to print what was read: tables for people, or JSON for scripts. Example: -o json
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    #[arg(value_name = "FORMAT", help_heading = "Everywhere")]
    pub(super) output: Format,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How to print what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns.
    Table,
    /// The agent's answer, one line.
    Json,
}

/// The file of one node.
#[derive(Debug, Args)]
pub(super) struct NodeFile {
    /// The node's file, TOML. Example: --config /etc/landfall/r1.toml
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs both clusters on this machine and tells the whole story; exit 0 only if every step held.
    Demo(Demo),
    /// Runs the daemon of a node, and its `directory` VM service where none runs.
    Agent(NodeFile),
    /// Runs the `directory` VM service by itself.
    VmService(NodeFile),
    /// The file of a node.
    Config {
        #[command(subcommand)]
        verb: noun::config::Verb,
    },
    /// The cluster: found it, join it, look at it.
    Cluster {
        #[command(subcommand)]
        verb: noun::cluster::Verb,
    },
    /// Tokens with which nodes join.
    Token {
        #[command(subcommand)]
        verb: noun::token::Verb,
    },
    /// The nodes of the cluster.
    Node {
        #[command(subcommand)]
        verb: noun::node::Verb,
    },
    /// Who answers primaries: the owner of the client access point (CAP).
    Broker {
        #[command(subcommand)]
        verb: noun::broker::Verb,
    },
    /// The cluster's replication settings.
    Settings {
        #[command(subcommand)]
        verb: noun::settings::Verb,
    },
    /// Which primaries may replicate into this cluster.
    Authorization {
        #[command(subcommand)]
        verb: noun::authorization::Verb,
    },
    /// The clusters that this one is paired with.
    Peer {
        #[command(subcommand)]
        verb: noun::peer::Verb,
    },
    /// Virtual machines and their replication. VM is a UUID, or a name that only one VM has.
    Vm {
        #[command(subcommand)]
        verb: noun::vm::Verb,
    },
    /// Recovery points.
    Point {
        #[command(subcommand)]
        verb: noun::point::Verb,
    },
    /// Failover: running a replica.
    Failover {
        #[command(subcommand)]
        verb: noun::failover::Verb,
    },
    /// Failover addresses of a VM's adapters.
    Network {
        #[command(subcommand)]
        verb: noun::network::Verb,
    },
    /// What happened.
    Event {
        #[command(subcommand)]
        verb: noun::event::Verb,
    },
    /// Looks for faults of this node, its cluster and its peers, one line each with the remedy. Exit 0 where there is none,
    /// else 1.
    Doctor(noun::doctor::Doctor),
    /// Prints the completion script of a shell. Example: landfall completions bash > /etc/bash_completion.d/landfall
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    Guest {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// A command line that does not parse, as a refusal.
pub(super) fn usage(error: &clap::Error) -> Refusal {
    let text = error.render().to_string();
    // The first paragraph says what is wrong; the usage that follows is for people.
    let message = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    let message = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => "a command is missing",
        _ => message,
    };
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let refusal = Refusal::new(Class::Usage, "usage", message).remedy("add --help to the command to see what it takes");
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => refusal.field(argument),
        Some(ContextValue::Strings(arguments)) => refusal.field(&arguments.join(", ")),
        _ => refusal,
    }
}
