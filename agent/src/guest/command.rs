//! The guest's command line: `landfall guest write|check`, hidden from the help because only tests and the demo run it.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use landfall_proto::{Class, Refusal};

use super::{Guest, Region, check};

#[derive(Parser)]
#[command(name = "landfall guest")]
struct GuestCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Writes records for ever.
    Write {
        #[command(flatten)]
        place: Place,
        /// Microseconds between two records.
        #[arg(long, default_value_t = 2000)]
        pause_us: u64,
        /// Records between two syncs; 0 syncs never.
        #[arg(long, default_value_t = 64)]
        sync_every: u64,
        /// Blank the region first.
        #[arg(long)]
        format: bool,
    },
    /// Says how many records the disks hold, if they were read at one instant.
    Check {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
struct Place {
    /// A raw disk; give it once for each disk, in order.
    #[arg(long = "disk", required = true)]
    disks: Vec<PathBuf>,
    /// Where the region begins on each disk, in bytes.
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// How long it is, in bytes.
    #[arg(long)]
    length: u64,
}

impl Place {
    fn region(&self) -> Region {
        Region { offset: self.offset, length: self.length }
    }
}

/// Runs the guest's command line.
pub fn command(arguments: &[OsString]) -> Result<(), Vec<Refusal>> {
    let words = std::iter::once(OsString::from("landfall guest")).chain(arguments.iter().cloned());
    let parsed = GuestCommand::try_parse_from(words)
        .map_err(|error| vec![Refusal::new(Class::Usage, "usage", error.to_string())])?;
    run(parsed.verb).map_err(|refusal| vec![refusal])
}

fn run(verb: Verb) -> Result<(), Refusal> {
    match verb {
        Verb::Write { place, pause_us, sync_every, format } => {
            let guest = Guest::open(&place.disks, place.region(), format)?;
            match guest.run(Duration::from_micros(pause_us), sync_every)? {}
        }
        Verb::Check { place } => {
            let open = |path: &PathBuf| {
                File::open(path).map_err(|error| {
                    let shown = path.to_string_lossy();
                    Refusal::new(Class::Failed, "unreadable", format!("disk: {shown} cannot be read: {error}"))
                        .field("disk")
                })
            };
            let disks: Vec<File> = place.disks.iter().map(open).collect::<Result<_, _>>()?;
            let records = check(&disks, place.region())?;
            println!("{records}");
            Ok(())
        }
    }
}
