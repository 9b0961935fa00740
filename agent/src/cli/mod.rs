//! The command line: noun, then verb.
//!
//! ```text
//! arguments -> Command -> a noun's run() -> Client -> the agent's socket
//!                      -> Hooks, for what runs in this process: the agent, the VM service, the demo
//! ```
//!
//! Data goes to standard output, talk to standard error. There is no private way into an agent: every command is one
//! request of docs/api.md. [`run`] never ends the process; its answer is the exit code: 0 done, 1 failed, 2 usage, 3
//! refused for safety, 4 not found, 5 no quorum or unreachable.

mod amount;
pub mod client;
mod command;
mod console;
mod noun;
mod session;
mod table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches};
use landfall_proto::{Class, Refusal};

use command::{Cli, Command};
pub use console::Console;
use console::Speech;
use session::{Ended, Session};

/// What runs in this process rather than in an agent, or comes from elsewhere.
///
/// Each call blocks until its work is done, and writes to standard output and error by itself. Several faults are
/// returned together; the first one's class is the exit code.
pub trait Hooks {
    /// `landfall agent`: runs the daemon until it is told to stop.
    fn agent(&self, config: &Path) -> Result<(), Vec<Refusal>>;
    /// `landfall vm-service`: runs the `directory` VM service until it is told to stop.
    fn vm_service(&self, config: &Path) -> Result<(), Vec<Refusal>>;
    /// `landfall demo`.
    fn demo(&self, demo: &Demo) -> Result<(), Vec<Refusal>>;
    /// `landfall config check`: every fault of the file.
    fn config_check(&self, file: &Path) -> Result<(), Vec<Refusal>>;
    /// `landfall guest`, which is not in the help: the guest of tests and of the demo.
    fn guest(&self, arguments: &[OsString]) -> Result<(), Vec<Refusal>>;
    /// The list of settings for `landfall settings set --help`: one a line, with values and default.
    fn settings_help(&self) -> String;
}

/// The options of `landfall demo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Demo {
    /// A disk image to replicate, raw or qcow2; it is copied, never written. Default: one made for the demo. Example:
    /// --disk debian.qcow2
    #[arg(long, value_name = "IMAGE")]
    pub disk: Option<PathBuf>,
    /// Skips the parts that only take time: smaller disks, shorter intervals. Default: off.
    #[arg(long)]
    pub fast: bool,
}

/// The command line as clap knows it, with the settings in the help of `settings set`.
pub fn command(hooks: &dyn Hooks) -> clap::Command {
    let settings = hooks.settings_help();
    Cli::command().mut_subcommand("settings", |noun| {
        noun.mut_subcommand("set", |verb| verb.after_help(settings.trim_end().to_owned()))
    })
}

/// Runs one command line (with the program's name first) and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>, console: &mut Console, hooks: &dyn Hooks) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Known before parsing, since a command line that does not parse fails in the same form.
    console.speech(asks_for_json(&arguments));
    let parsed = command(hooks).try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let outcome = match parsed {
        Ok(cli) => dispatch(cli, console, hooks),
        // Help and version were asked for: they are data.
        Err(text) if !text.use_stderr() => console.data(text.render().to_string().as_bytes()).map_err(Ended::from),
        Err(error) if console.speech == Speech::Plain => {
            console.talk(&error.render().to_string());
            return Class::Usage.exit_code();
        }
        Err(error) => Err(command::usage(&error).into()),
    };
    finish(console, outcome)
}

fn finish(console: &mut Console, outcome: Result<(), Ended>) -> u8 {
    match outcome {
        // Whoever closed our output has read all that it wanted.
        Ok(()) | Err(Ended::OutputClosed) => 0,
        Err(Ended::Found) => Class::Failed.exit_code(),
        Err(Ended::Failed(faults)) => {
            for fault in &faults {
                console.failure(fault);
            }
            faults.first().map_or(Class::Failed, |first| first.class).exit_code()
        }
    }
}

fn dispatch(cli: Cli, console: &mut Console, hooks: &dyn Hooks) -> Result<(), Ended> {
    let Cli { socket, output, command } = cli;
    match command {
        Command::Agent(file) => Ok(hooks.agent(&file.config)?),
        Command::VmService(file) => Ok(hooks.vm_service(&file.config)?),
        Command::Demo(demo) => Ok(hooks.demo(&demo)?),
        Command::Guest { arguments } => Ok(hooks.guest(&arguments)?),
        Command::Config { verb } => noun::config::run(&verb, output, console, hooks),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut self::command(hooks), "landfall", &mut script);
            Ok(console.data(&script)?)
        }
        asked => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| {
                Refusal::new(Class::Failed, "no_runtime", format!("this process cannot wait for events: {error}"))
            })?;
            runtime.block_on(ask(asked, Session::new(socket, output, console)))
        }
    }
}

/// The commands that an agent answers.
async fn ask(command: Command, mut session: Session<'_>) -> Result<(), Ended> {
    let session = &mut session;
    match command {
        Command::Cluster { verb } => noun::cluster::run(verb, session).await,
        Command::Token { verb } => noun::token::run(verb, session).await,
        Command::Node { verb } => noun::node::run(verb, session).await,
        Command::Broker { verb } => noun::broker::run(verb, session).await,
        Command::Settings { verb } => noun::settings::run(verb, session).await,
        Command::Authorization { verb } => noun::authorization::run(verb, session).await,
        Command::Peer { verb } => noun::peer::run(verb, session).await,
        Command::Vm { verb } => noun::vm::run(verb, session).await,
        Command::Point { verb } => noun::point::run(verb, session).await,
        Command::Event { verb } => noun::event::run(verb, session).await,
        Command::Failover { verb } => noun::failover::run(verb, session).await,
        Command::Doctor(asked) => noun::doctor::run(asked, session).await,
        Command::Network { verb } => noun::network::run(verb, session).await,
        Command::Agent(_)
        | Command::VmService(_)
        | Command::Demo(_)
        | Command::Guest { .. }
        | Command::Config { .. }
        | Command::Completions { .. } => Ok(()),
    }
}

/// Whether `-o json` is among the arguments, in any of its spellings.
fn asks_for_json(arguments: &[OsString]) -> bool {
    let spelled = |argument: &OsString| matches!(argument.to_str(), Some("-ojson" | "-o=json" | "--output=json"));
    let apart = |pair: &[OsString]| matches!(pair[0].to_str(), Some("-o" | "--output")) && pair[1] == "json";
    arguments.iter().any(spelled) || arguments.windows(2).any(apart)
}

#[cfg(test)]
mod tests;
