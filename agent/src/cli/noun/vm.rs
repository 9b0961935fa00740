//! `landfall vm`.

use clap::Subcommand;
use hyper::Method;
use landfall_proto::Refusal;
use landfall_proto::id::{DiskTarget, Fqdn, NodeName, UnixMillis};
use landfall_proto::model::{Bandwidth, Frequency};

use crate::cli::amount::{Start, Waiting, bytes, query, seconds};
use crate::cli::client::route;
use crate::cli::session::{Ended, Session};
use crate::cli::table::{Facts, Shown, Table, joined, or_dash, printable, word};
use crate::surface::disabled::VmDisabled;
use crate::surface::vm::{
    PointMark, RecoveryPoints, ReplicationStatistics, VmDetail, VmEnable, VmLocation, VmMove, VmSelector, VmStatus,
    replication_target,
};
use crate::surface::vm_set::VmSet;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// The VMs of this cluster, primaries and replicas.
    List,
    /// One VM with all that is known of its replication.
    Show {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Where the replica of a VM is received.
    Locate {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Replicates a VM of this cluster to another one.
    Enable {
        /// Its UUID or name.
        vm: VmSelector,
        /// The other cluster's CAP, or a standalone server's FQDN; a name, never an address. Example: --to
        /// r-broker-cap.contoso.com
        #[arg(long, value_name = "CAP", value_parser = replication_target)]
        to: Fqdn,
        /// Seconds between change sets: 30, 300 or 900. Default: 300. Example: --frequency 30
        #[arg(long, value_name = "SECONDS", default_value = "300", hide_default_value = true, value_parser = frequency)]
        frequency: Frequency,
        /// Older recovery points to keep beside the newest, 0 to 24. Default: 0. Example: --recovery-points 4
        #[arg(long, value_name = "COUNT", default_value = "0", hide_default_value = true, value_parser = points)]
        recovery_points: RecoveryPoints,
        /// When the first copy begins, up to seven days ahead: an RFC 3339 time, or + and a duration. Default: at once.
        /// Example: --start +8h
        #[arg(long, value_name = "TIME")]
        start: Option<Start>,
        /// What its sender may take of the line, in Mbit/s, perhaps by a calendar in UTC. Default: unlimited. Example: --limit
        /// "mon-fri 08:00-18:00=5, else=50"
        #[arg(long, value_name = "MBIT", value_parser = limit)]
        limit: Option<Bandwidth>,
        /// A disk that is not replicated, by its target; may be given more than once. It is in no form at the replica, and
        /// has to be made anew there after a failover. Default: all disks are replicated. Example: --exclude vdb
        #[arg(long, value_name = "DISK")]
        exclude: Vec<DiskTarget>,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Changes how a VM is replicated while it is; given at the primary's side. What is not given stays as it is.
    Set {
        /// Its UUID or name.
        vm: VmSelector,
        /// What its sender may take of the line, in Mbit/s, perhaps by a calendar in UTC; unlimited takes the limit away.
        /// Counts at once. Default: as it is. Example: --limit "08:00-18:00=5, else=unlimited"
        #[arg(long, value_name = "MBIT", value_parser = limit)]
        limit: Option<Bandwidth>,
        /// Seconds between change sets: 30, 300 or 900. Default: as it is. Example: --frequency 30
        #[arg(long, value_name = "SECONDS", value_parser = frequency)]
        frequency: Option<Frequency>,
        /// Older recovery points to keep beside the newest, 0 to 24. Default: as it is. Example: --recovery-points 4
        #[arg(long, value_name = "COUNT", value_parser = points)]
        recovery_points: Option<RecoveryPoints>,
    },
    /// Ends the replication of a VM: at the primary's side on both, at the replica's on that one. No file is removed. Where the
    /// replica's cluster does not answer, its half ends by itself once it does. A VM that is failed over for good, and whose
    /// other site does not answer, becomes this cluster's own and runs on.
    Disable {
        /// Its UUID or name.
        vm: VmSelector,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Pauses the replication of a VM at this side, until it is resumed. The VM runs on; what changes is found afterwards.
    Pause {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Goes on with it. Where it is not paused, a first copy that waits for its time begins now.
    Resume {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Compares the contents of both sides now, and sends what differs; given at the primary's side.
    Resync {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Counts the statistics of this monitoring window from zero; given at the primary's side.
    ResetStatistics {
        /// Its UUID or name.
        vm: VmSelector,
    },
    /// Hands the replica of a VM to another node of this cluster, while replication goes on.
    Move {
        /// Its UUID or name.
        vm: VmSelector,
        /// The node. Example: --to r2
        #[arg(long, value_name = "NODE")]
        to: NodeName,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Carries the first copy on a disk instead of sending it.
    #[command(subcommand)]
    Seed(super::seed::Verb),
}

/// How long `--wait` waits for the first complete point where no time is given: an hour of initial copy.
const ENABLE_WAIT_SECONDS: u64 = 3600;
/// For the other cluster to know that replication has ended.
const DISABLE_WAIT_SECONDS: u64 = 60;
/// For the replica's files to reach the other node: a quarter of an hour.
const MOVE_WAIT_SECONDS: u64 = 900;

fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn frequency(text: &str) -> Result<Frequency, Refusal> {
    let number = text.parse::<u32>().map_err(|_| Refusal::invalid("frequency", text, "use 30, 300 or 900 seconds"))?;
    Frequency::try_from(number)
}

fn limit(text: &str) -> Result<Bandwidth, Refusal> {
    Bandwidth::parse(text)
}

fn points(text: &str) -> Result<RecoveryPoints, Refusal> {
    // A number too large for its type is as wrong as 25.
    RecoveryPoints::try_from(
        text.parse::<u64>().map_err(|_| Refusal::invalid("recovery_points", text, "keep from 0 to 24 older points"))?,
    )
}

pub(in crate::cli) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Ended> {
    let at = |vm: VmSelector, verb: &[&str]| route(&[&["vms", &vm.to_string()], verb].concat());
    match verb {
        Verb::List => session.read::<Vec<VmStatus>>("/v1/vms").await,
        Verb::Show { vm } => session.read::<VmDetail>(&at(vm, &[])).await,
        Verb::Locate { vm } => session.read::<VmLocation>(&at(vm, &["location"])).await,
        Verb::Enable { vm, to, frequency, recovery_points, start, limit, exclude, waiting } => {
            let wait = waiting.or(ENABLE_WAIT_SECONDS);
            let (frequency_seconds, start_at) = (frequency, start.map(|start| start.at(now())));
            let request =
                VmEnable { to, frequency_seconds, recovery_points, start_at, limit, exclude, wait_seconds: wait };
            let (path, doing) = (at(vm, &["replication"]), "waiting for the first complete point");
            let answer = session.ask(Method::PUT, &path, Some(&request), wait, doing).await?;
            session.print::<VmDetail>(&answer)
        }
        Verb::Set { vm, limit, frequency, recovery_points } => {
            let request = VmSet { frequency_seconds: frequency, recovery_points, limit };
            let answer = session
                .ask(Method::PATCH, &at(vm, &["replication"]), Some(&request), None, "changing replication")
                .await?;
            session.print::<VmDetail>(&answer)
        }
        Verb::Disable { vm, waiting } => {
            let wait = waiting.or(DISABLE_WAIT_SECONDS);
            let path = at(vm, &["replication"]) + &query(wait);
            let answer = session.ask(Method::DELETE, &path, None::<&()>, wait, "disabling").await?;
            session.print::<VmDisabled>(&answer)
        }
        Verb::Move { vm, to, waiting } => {
            let wait = waiting.or(MOVE_WAIT_SECONDS);
            let doing = format!("waiting for {to} to hold the replica");
            let request = VmMove { to: to.clone(), wait_seconds: wait };
            let answer = session.ask(Method::POST, &at(vm, &["move"]), Some(&request), wait, &doing).await?;
            if answer.shape::<VmLocation>()?.node != to {
                session.console().note(&format!("the hand-over to {to} has begun; --wait waits for its end"));
            }
            session.print::<VmLocation>(&answer)
        }
        Verb::Pause { vm } => change(session, Method::POST, &at(vm, &["pause"]), "pausing").await,
        Verb::Resume { vm } => change(session, Method::POST, &at(vm, &["resume"]), "resuming").await,
        Verb::Resync { vm } => change(session, Method::POST, &at(vm, &["resync"]), "asking for a comparison").await,
        Verb::ResetStatistics { vm } => {
            change(session, Method::DELETE, &at(vm, &["statistics"]), "resetting statistics").await
        }
        Verb::Seed(verb) => super::seed::run(verb, session).await,
    }
}

/// Asks for what takes no arguments and is answered with the VM as it stands then.
async fn change(session: &mut Session<'_>, method: Method, path: &str, doing: &str) -> Result<(), Ended> {
    let answer = session.ask(method, path, None::<&()>, None, doing).await?;
    session.print::<VmDetail>(&answer)
}

impl Shown for VmDisabled {
    fn text(&self) -> String {
        let uuid = self.uuid;
        let ended = format!("{} ({uuid}) is not replicated any more\n", printable(&self.name));
        let Some(why) = &self.replica_left else { return ended };
        let then = match self.ends_by_itself {
            true => "it is told by itself as soon as it answers; to end it there at once",
            false => "to end it there",
        };
        // Whoever reads this without a terminal must not take the other half for ended, too.
        ended
            + &format!(
                "the replica's cluster keeps the replica: {}; {then}: `landfall vm disable {uuid}`\n",
                printable(why)
            )
    }
}

impl Shown for VmLocation {
    fn text(&self) -> String {
        Facts::default()
            .fact("uuid", self.uuid)
            .fact("node", &self.node)
            .fact("address", self.address)
            .fact("epoch", self.epoch)
            .text()
    }
}

impl Shown for VmStatus {
    fn text(&self) -> String {
        facts(self).text()
    }
}

impl Shown for Vec<VmStatus> {
    fn text(&self) -> String {
        let mut table =
            Table::new(["NAME", "ROLE", "STATE", "HEALTH", "PRIMARY", "REPLICA", "IN SYNC", "LAG", "RPO", "UUID"]);
        for vm in self {
            table.row([
                vm.name.clone(),
                word(&vm.role),
                word(&vm.state),
                word(&vm.health),
                or_dash(vm.primary_host.as_ref()),
                or_dash(vm.replica_host.as_ref()),
                joined(&vm.in_sync),
                or_dash(vm.lag_seconds.map(seconds)),
                or_dash(vm.recoverable_rpo_seconds.map(seconds)),
                vm.uuid.to_string(),
            ]);
        }
        table.text()
    }
}

fn mark(mark: PointMark) -> String {
    format!("{} of {}", mark.point, mark.taken_at)
}

fn statistics(counted: &ReplicationStatistics) -> [String; 4] {
    let average = |value: Option<u64>| value.unwrap_or_default();
    [
        format!("{} until {}", counted.since, counted.until),
        format!("{} cycles, {} missed, {} failures", counted.cycles, counted.missed, counted.failures),
        format!(
            "sent {}, at most {}, on average {}",
            bytes(counted.sent_bytes),
            bytes(counted.sent_bytes_max),
            bytes(average(counted.sent_bytes_average))
        ),
        format!("latency at most {} ms, on average {} ms", counted.latency_max_ms, average(counted.latency_average_ms)),
    ]
}

fn facts(vm: &VmStatus) -> Facts {
    Facts::default()
        .fact("name", &vm.name)
        .fact("uuid", vm.uuid)
        .fact("role", word(&vm.role))
        .fact("state", word(&vm.state))
        .fact("health", word(&vm.health))
        .each("reason", vm.health_details.iter().map(|reason| format!("{}: {}", reason.message, reason.command)))
        .fact("connection point", or_dash(vm.connection_point.as_ref()))
        .fact("primary host", or_dash(vm.primary_host.as_ref()))
        .fact("replica cluster", or_dash(vm.replica_cluster.as_ref()))
        .fact("replica host", or_dash(vm.replica_host.as_ref()))
        .fact("in sync", joined(&vm.in_sync))
        .fact("epoch", or_dash(vm.epoch))
        .fact("last point", or_dash(vm.last_point_at))
        .fact("consistency", or_dash(vm.consistency.map(|consistency| word(&consistency))))
        .fact("lag", or_dash(vm.lag_seconds.map(seconds)))
        .fact("recoverable rpo", or_dash(vm.recoverable_rpo_seconds.map(seconds)))
        .fact("sent", bytes(vm.sent_bytes))
        .fact("on the wire", bytes(vm.wire_bytes))
}

impl Shown for VmDetail {
    fn text(&self) -> String {
        let interval = self.frequency_seconds.map(|frequency| seconds(u32::from(frequency).into()));
        let frozen = self.frozen_micros.map(|micros| format!("{}.{:03} ms", micros / 1000, micros % 1000));
        facts(&self.status)
            .fact("vm", or_dash(self.vm_state.map(|state| word(&state))))
            .fact("frequency", or_dash(interval))
            .each("testing interval", self.testing_interval_ms.map(|interval| format!("{interval} ms")))
            .fact("recovery points", or_dash(self.recovery_points))
            .fact("storage", or_dash(self.storage.as_ref()))
            .fact("trust group", or_dash(self.trust_group.as_ref()))
            .fact("sender epoch", or_dash(self.sender_epoch))
            .each("disk", self.disks.iter().map(|disk| format!("{} {}", disk.target, bytes(disk.bytes))))
            .each(
                "adapter",
                self.adapters.iter().map(|adapter| format!("{} {} {}", adapter.name, word(&adapter.kind), adapter.mac)),
            )
            .fact("activity", or_dash(self.activity.as_ref()))
            .fact("frozen by", or_dash(self.freeze.as_ref()))
            .fact("frozen for", or_dash(frozen))
            .fact("changes from", or_dash(self.source.as_ref()))
            .each("compared", self.compared.iter().map(|compared| format!("{}: {}", compared.at, compared.message)))
            .each("paused since", self.paused_since)
            .each("first copy begins", self.starts_at)
            .each("limit", self.bandwidth_limit.iter().map(|limit| format!("{limit} Mbit/s")))
            .each(
                "limited now to",
                self.limited_to_kbit.map(|kbit| format!("{}.{:03} Mbit/s", kbit / 1000, kbit % 1000)),
            )
            .each("excluded disk", &self.excluded_disks)
            .each("sent point", self.sent_point.map(mark))
            .each("durable point", self.durable_point.map(mark))
            .each("verified point", self.verified_point.map(mark))
            .each("pending", self.pending_bytes.map(bytes))
            .each("clock skew", self.clock_skew_ms.map(|skew| format!("{skew} ms")))
            .each("statistics", self.statistics.iter().flat_map(statistics))
            .fact("missed cycles", or_dash(self.missed_cycles))
            .each("fault", self.fault.iter().map(|fault| &fault.message))
            .each("moving to", &self.moving_to)
            .each("copies wanted", self.copies_wanted)
            .each("copying to", &self.copying_to)
            .each("rival", &self.rivals)
            .each("passed over", self.passed_over.iter().map(|passed| format!("{}: {}", passed.node, passed.reason)))
            .text()
    }
}
