//! `landfall failover`.

use clap::{Args, Subcommand};
use hyper::Method;
use landfall_proto::Refusal;
use landfall_proto::model::Side;

use crate::cli::amount::{Waiting, bytes};
use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, or_dash, word};
use crate::surface::failover::{FailoverAction, FailoverPlan, FailoverRequest, FailoverStatus};
use crate::surface::vm::VmSelector;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Runs a copy of the replica from a point, adapters not connected, while replication goes on. At the replica's
    /// cluster.
    Test {
        /// Its UUID or name.
        vm: VmSelector,
        /// The point, by its number in `point list`. Default: the newest. Example: --point 41
        #[arg(long, value_name = "POINT", conflicts_with = "stop")]
        point: Option<u64>,
        /// Ends the test and removes what it wrote. Default: off.
        #[arg(long)]
        stop: bool,
        /// Begins at once from a point that nobody has read back, instead of reading it first. Default: off.
        #[arg(long, conflicts_with = "stop")]
        skip_verify: bool,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Stops the VM, sends its last changes and hands the right to run it over, without loss. At the primary's cluster.
    Planned {
        /// Its UUID or name.
        vm: VmSelector,
        #[command(flatten)]
        sure: Sure,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Runs the replica from a point, when the primary is gone. At the replica's cluster.
    Unplanned {
        /// Its UUID or name.
        vm: VmSelector,
        /// The point, by its number in `point list`. Default: the newest. Example: --point 41
        #[arg(long, value_name = "POINT")]
        point: Option<u64>,
        #[command(flatten)]
        sure: Sure,
        /// Fails over although the primary answers and runs, so that the VM runs twice, or the point is damaged. Default:
        /// off.
        #[arg(long)]
        force: bool,
        /// Begins at once from a point that nobody has read back, instead of reading it first. Default: off.
        #[arg(long)]
        skip_verify: bool,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Makes a failover final: the other points of the replica go. At the replica's cluster.
    Complete {
        /// Its UUID or name.
        vm: VmSelector,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
    },
    /// Takes a failover back. What a failed-over VM wrote is discarded, and replication goes on.
    Cancel {
        /// Its UUID or name.
        vm: VmSelector,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Replicates the other way: the other cluster keeps a replica made of the disks that the VM had there, and only what
    /// differs is sent. At the cluster where the VM runs now, after a planned or a completed failover.
    Reverse {
        /// Its UUID or name.
        vm: VmSelector,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Chooses between two branches of a VM, or says which cluster may run it where that is not known since `cluster recover`.
    /// What the other branch wrote is kept aside. At either cluster.
    Resolve {
        /// Its UUID or name.
        vm: VmSelector,
        /// The branch to keep, or the cluster that may run it: the one that is asked, or the other. Example: --keep there
        #[arg(long, value_name = "here|there", value_parser = side)]
        keep: Side,
        #[command(flatten)]
        sure: Sure,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Removes what a branch that gave way had written: nothing else has it. At the cluster that keeps it.
    Discard {
        /// Its UUID or name.
        vm: VmSelector,
        /// The branch, as `failover status` shows it. Example: --branch 1f6a0c3e5b7d48298d0f4a6c2e18b395
        #[arg(long, value_name = "BRANCH")]
        branch: String,
        #[command(flatten)]
        sure: Sure,
        /// Only says what would be done, and what stands in the way. Default: off.
        #[arg(long)]
        dry_run: bool,
    },
    /// How far a failover is.
    Status {
        /// Its UUID or name.
        vm: VmSelector,
    },
}

fn side(text: &str) -> Result<Side, Refusal> {
    match text {
        "here" => Ok(Side::Here),
        "there" => Ok(Side::There),
        other => Err(Refusal::invalid("keep", other, "use here or there")),
    }
}

/// How an operator says that it is no mistake.
#[derive(Debug, Args)]
pub(in crate::cli) struct Sure {
    /// Is sure without typing the VM's name. Default: off.
    #[arg(long)]
    yes: bool,
    /// The VM's name, as a proof that it is this one. Example: --name web
    #[arg(long, value_name = "NAME", conflicts_with = "yes")]
    name: Option<String>,
}

/// For images to be made and a VM to start: a quarter of an hour.
const RUN_WAIT_SECONDS: u64 = 900;
/// For the last changes to cross a line and be taken: an hour.
const PLANNED_WAIT_SECONDS: u64 = 3600;
/// For a VM to stop.
const STOP_WAIT_SECONDS: u64 = 60;

fn plain(action: FailoverAction) -> FailoverRequest {
    FailoverRequest {
        action,
        point: None,
        name: None,
        yes: false,
        force: false,
        skip_verify: false,
        dry_run: false,
        keep: None,
        branch: None,
        wait_seconds: None,
    }
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    let (vm, request, doing) = match verb {
        Verb::Test { vm, stop: true, waiting, dry_run, .. } => {
            let wait_seconds = waiting.or(STOP_WAIT_SECONDS);
            (vm, FailoverRequest { wait_seconds, dry_run, ..plain(FailoverAction::StopTest) }, "ending the test")
        }
        Verb::Test { vm, point, skip_verify, dry_run, waiting, .. } => {
            let wait_seconds = waiting.or(RUN_WAIT_SECONDS);
            let request = FailoverRequest { point, skip_verify, dry_run, wait_seconds, ..plain(FailoverAction::Test) };
            (vm, request, "waiting for the test to run")
        }
        Verb::Planned { vm, sure, dry_run, waiting } => {
            let (wait_seconds, Sure { yes, name }) = (waiting.or(PLANNED_WAIT_SECONDS), sure);
            let request = FailoverRequest { yes, name, dry_run, wait_seconds, ..plain(FailoverAction::Planned) };
            (vm, request, "waiting for the other cluster to take it")
        }
        Verb::Unplanned { vm, point, sure, force, skip_verify, dry_run, waiting } => {
            let (action, wait_seconds) = (FailoverAction::Unplanned, waiting.or(RUN_WAIT_SECONDS));
            let Sure { yes, name } = sure;
            let request =
                FailoverRequest { point, name, yes, force, skip_verify, dry_run, wait_seconds, ..plain(action) };
            (vm, request, "waiting for it to run")
        }
        Verb::Complete { vm, dry_run } => {
            (vm, FailoverRequest { dry_run, ..plain(FailoverAction::Complete) }, "completing")
        }
        Verb::Cancel { vm, dry_run, waiting } => {
            let wait_seconds = waiting.or(STOP_WAIT_SECONDS);
            (vm, FailoverRequest { dry_run, wait_seconds, ..plain(FailoverAction::Cancel) }, "taking it back")
        }
        Verb::Reverse { vm, dry_run, waiting } => {
            let wait_seconds = waiting.or(RUN_WAIT_SECONDS);
            let request = FailoverRequest { dry_run, wait_seconds, ..plain(FailoverAction::Reverse) };
            (vm, request, "waiting for the other cluster to keep the replica")
        }
        Verb::Resolve { vm, keep, sure, dry_run, waiting } => {
            let (wait_seconds, Sure { yes, name }) = (waiting.or(STOP_WAIT_SECONDS), sure);
            let keep = Some(keep);
            let request = FailoverRequest { keep, yes, name, dry_run, wait_seconds, ..plain(FailoverAction::Resolve) };
            (vm, request, "waiting for the other branch to end")
        }
        Verb::Discard { vm, branch, sure, dry_run } => {
            let (branch, Sure { yes, name }) = (Some(branch), sure);
            (
                vm,
                FailoverRequest { branch, yes, name, dry_run, ..plain(FailoverAction::Discard) },
                "removing the branch",
            )
        }
        Verb::Status { vm } => {
            return session.read::<FailoverStatus>(&route(&["vms", &vm.to_string(), "failover"])).await;
        }
    };
    let path = route(&["vms", &vm.to_string(), "failover"]);
    let answer = session.ask(Method::POST, &path, Some(&request), request.wait_seconds, doing).await?;
    if request.dry_run { session.print::<FailoverPlan>(&answer) } else { session.print::<FailoverStatus>(&answer) }
}

impl Shown for FailoverStatus {
    fn text(&self) -> String {
        let text = Facts::default()
            .fact("uuid", self.uuid)
            .fact("name", &self.name)
            .fact("kind", self.kind.map_or_else(|| "-".to_owned(), |kind| word(&kind)))
            .fact("step", &self.step)
            .fact("right to run here", if self.right_to_run { "yes" } else { "no" })
            .fact("point", or_dash(self.point))
            .fact("point verified", self.point_verified_at.map_or_else(|| "unverified".to_owned(), |at| at.to_string()))
            .fact("started", or_dash(self.started_at))
            .fact("loss", self.loss_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s")))
            .fact("lost changes", self.loss_bytes.map_or_else(|| "-".to_owned(), bytes))
            .fact("node", or_dash(self.node.as_ref()))
            .fact("runs as", or_dash(self.run_vm))
            .fact("parent", or_dash(self.parent.as_ref()))
            .each("branch there", self.branch.iter().map(|branch| format!("{} at {}", branch.promotion, branch.at)))
            .each("branch kept", &self.branches);
        match &self.fault {
            Some(fault) => text.fact("fault", &fault.message).text(),
            None => text.text(),
        }
    }
}

impl Shown for FailoverPlan {
    fn text(&self) -> String {
        let mut text = Facts::default()
            .fact("uuid", self.uuid)
            .fact("name", &self.name)
            .fact("point", or_dash(self.point))
            .fact("taken", or_dash(self.taken_at))
            .fact("verified", self.verified_at.map_or_else(|| "unverified".to_owned(), |at| at.to_string()))
            .fact("node", or_dash(self.node.as_ref()))
            .fact("loss", self.loss_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s")))
            .fact("lost changes", self.loss_bytes.map_or_else(|| "-".to_owned(), bytes))
            .fact("command", self.command.join(" "));
        for (number, step) in self.steps.iter().enumerate() {
            text = text.fact(&format!("step {}", number + 1), step);
        }
        for warning in &self.warnings {
            text = text.fact("warning", warning);
        }
        for blocker in &self.blockers {
            text = text.fact("blocked", &blocker.message);
        }
        text.text()
    }
}
