//! `landfall point`.

use std::path::PathBuf;

use clap::Subcommand;
use hyper::Method;
use landfall_proto::message::control::PointState;
use landfall_proto::{Class, Refusal};

use crate::cli::amount::{Waiting, bytes, timeout};
use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, Table, joined, or_dash, word};
use crate::surface::WaitSeconds;
use crate::surface::point::{
    CopyProof, PointDiff, PointDifference, PointExport, PointExported, PointProof, PointStatus, PointVerify,
    RANGES_LISTED,
};
use crate::surface::vm::VmSelector;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// The recovery points of a VM, oldest first.
    List {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Writes each disk of a point as one raw image, DIR/vda.raw, and compares it with the point's root.
    Export {
        /// Its UUID or name.
        vm: VmSelector,
        /// The point, by its number in `point list`. Default: the newest. Example: --point 41
        #[arg(long, value_name = "POINT")]
        point: Option<u64>,
        /// Give up after this long (s, m, h, d). Default: as long as it takes. Example: --timeout 2h
        #[arg(long, value_name = "DURATION", value_parser = timeout)]
        timeout: Option<WaitSeconds>,
        /// The folder, made where it is missing; an image that exists there is never overwritten.
        dir: PathBuf,
    },
    /// Reads a point back on every node that has it and compares every byte with its hashes. Without --wait it begins, and says how far
    /// it is when it is given again.
    Verify {
        /// Its UUID or name.
        vm: VmSelector,
        /// The point, by its number in `point list`. Default: the newest. Example: --point 41
        #[arg(long, value_name = "POINT")]
        point: Option<u64>,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Which bytes of each disk differ between two points, in blocks of 4 KiB.
    Diff {
        /// Its UUID or name.
        vm: VmSelector,
        /// One point, by its number in `point list`.
        from: u64,
        /// The other.
        to: u64,
        /// Ranges to list at most, over all disks; the rest is counted. Default: 100. Example: --limit 1000
        #[arg(long, value_name = "COUNT", default_value_t = RANGES_LISTED, hide_default_value = true)]
        limit: u32,
    },
}

/// For a point to be read: a terabyte at 100 MB/s.
const VERIFY_WAIT_SECONDS: u64 = 3 * 3600;

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    match verb {
        Verb::List { vm } => session.read::<Vec<PointStatus>>(&route(&["vms", &vm.to_string(), "points"])).await,
        Verb::Export { vm, point, timeout, dir } => {
            // The agent has another working directory than we have.
            let dir = std::path::absolute(&dir).map_err(|error| {
                let message = format!("{}: {error}", dir.display());
                Refusal::new(Class::Usage, "invalid_value", message).field("dir")
            })?;
            let path = route(&["vms", &vm.to_string(), "points", "export"]);
            let request = PointExport { point, dir, wait_seconds: timeout };
            let answer = match timeout {
                Some(_) => session.ask(Method::POST, &path, Some(&request), timeout, "exporting").await?,
                None => session.ask_endlessly(Method::POST, &path, &request, "exporting").await?,
            };
            session.print::<PointExported>(&answer)
        }
        Verb::Verify { vm, point, waiting } => {
            let request = PointVerify { point, wait_seconds: waiting.or(VERIFY_WAIT_SECONDS) };
            let path = route(&["vms", &vm.to_string(), "points", "verify"]);
            let answer = session.ask(Method::POST, &path, Some(&request), request.wait_seconds, "verifying").await?;
            session.print::<PointProof>(&answer)
        }
        Verb::Diff { vm, from, to, limit } => {
            let path = route(&["vms", &vm.to_string(), "points", "diff"]);
            let request = PointDiff { from, to, limit };
            let answer = session.ask_endlessly(Method::POST, &path, &request, "comparing").await?;
            session.print::<PointDifference>(&answer)
        }
    }
}

/// How a point stands, and on which nodes it is damaged.
fn state(point: &PointStatus) -> String {
    match point.damaged_at.is_empty() {
        true => word(&point.state),
        false if point.state == PointState::Damaged => format!("damaged at {}", joined(&point.damaged_at)),
        false => format!("{}, damaged at {}", word(&point.state), joined(&point.damaged_at)),
    }
}

impl Shown for Vec<PointStatus> {
    fn text(&self) -> String {
        let mut table = Table::new(["POINT", "TAKEN", "CONSISTENCY", "CHANGED", "COPIES", "VERIFIED", "STATE", "ROOT"]);
        for point in self {
            table.row([
                point.point.to_string(),
                point.taken_at.to_string(),
                word(&point.consistency),
                bytes(point.bytes),
                joined(&point.copies),
                or_dash(point.verified_at),
                state(point),
                point.root.to_string(),
            ]);
        }
        table.text()
    }
}

fn copy(copy: &CopyProof) -> String {
    let CopyProof { node, read_bytes, verified_at, repaired, fault } = copy;
    let state = match (fault, verified_at) {
        (Some(fault), _) => format!("not read: {fault}"),
        (None, Some(at)) => format!("verified at {at}"),
        (None, None) => format!("{} read", bytes(*read_bytes)),
    };
    let repaired = repaired.as_ref().map_or_else(String::new, |repaired| format!(", repaired {repaired}"));
    format!("{node}: {state}{repaired}")
}

impl Shown for PointProof {
    fn text(&self) -> String {
        Facts::default()
            .fact("uuid", self.uuid)
            .fact("point", self.point)
            .fact("read", format!("{} of {}", bytes(self.read_bytes), bytes(self.bytes)))
            .fact("verified at", or_dash(self.verified_at))
            .each("repaired", &self.repaired)
            .each("on", self.copies.iter().map(copy))
            .fact("root", self.root)
            .text()
    }
}

impl Shown for PointDifference {
    fn text(&self) -> String {
        let mut table = Table::new(["DISK", "OFFSET", "BYTES"]);
        for disk in &self.disks {
            for range in &disk.ranges {
                table.row([disk.target.to_string(), range.offset.to_string(), range.bytes.to_string()]);
            }
            let rest = match disk.left_out {
                0 => String::new(),
                left_out => format!(", {left_out} ranges not listed"),
            };
            table.row([disk.target.to_string(), "all".to_owned(), format!("{}{rest}", bytes(disk.differing_bytes))]);
        }
        table.text()
    }
}

impl Shown for PointExported {
    fn text(&self) -> String {
        let mut table = Table::new(["POINT", "DISK", "SIZE", "FILE", "ROOT"]);
        for file in &self.files {
            let path = file.path.display().to_string();
            table.row([
                self.point.to_string(),
                file.target.to_string(),
                bytes(file.bytes),
                path,
                file.root.to_string(),
            ]);
        }
        table.text()
    }
}
