//! The `landfall` binary: the command line, and the processes that it starts.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use landfall_agent::cli::{self, Console, Demo, Hooks};
use landfall_agent::{daemon, demo, guest};
use landfall_proto::Refusal;

struct Here;

impl Hooks for Here {
    fn agent(&self, config: &Path) -> Result<(), Vec<Refusal>> {
        daemon::agent(config)
    }

    fn vm_service(&self, config: &Path) -> Result<(), Vec<Refusal>> {
        daemon::vm_service(config)
    }

    fn demo(&self, asked: &Demo) -> Result<(), Vec<Refusal>> {
        demo::run(asked)
    }

    fn config_check(&self, file: &Path) -> Result<(), Vec<Refusal>> {
        daemon::check(file)
    }

    fn guest(&self, arguments: &[OsString]) -> Result<(), Vec<Refusal>> {
        guest::command(arguments)
    }

    fn settings_help(&self) -> String {
        landfall_store::settings::help()
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // How the VM service starts a VM's command; see `drive::directory`.
    if arguments.get(1).is_some_and(|verb| verb == "vm-exec") {
        return landfall_agent::drive::directory::launch();
    }
    ExitCode::from(cli::run(arguments, &mut Console::process(), &Here))
}
