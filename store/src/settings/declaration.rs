//! The one table of settings: key, type, bounds, default, prose, and the name that Hyper-V gives the same thing.

use std::time::Duration;

use landfall_proto::Refusal;

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// One of these words; the refused ones come with what to do instead.
    Choice {
        /// What can be chosen.
        allowed: &'static [&'static str],
        /// What people may try, and the answer.
        refused: &'static [(&'static str, &'static str)],
    },
    /// A whole number.
    Count {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A length of time: a whole number with a unit.
    Span {
        /// The shortest.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// A time of day, `HH:MM`, UTC.
    TimeOfDay,
    /// The name of a storage location.
    Storage,
    /// `always`, `never`, or a part of each day, `HH:MM-HH:MM`, UTC.
    Daily,
    /// Mbit/s by the time of the week, UTC.
    Bandwidth,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// Its name.
    pub key: &'static str,
    /// Its values.
    pub kind: Kind,
    /// Its value where none is set.
    pub default: Option<&'static str>,
    /// What Hyper-V calls it; empty where Hyper-V has no such setting.
    pub hyper_v: &'static str,
    /// What it does.
    pub prose: &'static str,
}

impl Declaration {
    /// Refuses `text` as a value of this setting.
    pub(crate) fn refuse(&self, text: &str) -> Refusal {
        Refusal::invalid(self.key, text, &format!("use {}", self.kind.allowed()))
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Every setting, in the order in which people are shown them.
pub const DECLARATIONS: &[Declaration] = &[
    Declaration {
        key: "replication_enabled",
        kind: Kind::Flag,
        default: Some("false"),
        hyper_v: "ReplicationEnabled",
        prose: "Whether this cluster accepts replicas from other clusters.",
    },
    Declaration {
        key: "authentication",
        kind: Kind::Choice {
            allowed: &["certificate"],
            refused: &[
                ("kerberos", "use certificate: node certificates replace Kerberos, no domain is needed"),
                (
                    "certificate_and_kerberos",
                    "use certificate: node certificates replace Kerberos, no domain is needed",
                ),
            ],
        },
        default: Some("certificate"),
        hyper_v: "AllowedAuthenticationType",
        prose: "How primaries prove who they are. Certificates of a paired cluster's own CA are the only way.",
    },
    Declaration {
        key: "allowed_from_any_server",
        kind: Kind::Flag,
        default: Some("false"),
        hyper_v: "ReplicationAllowedFromAnyServer",
        prose: "Whether every paired cluster may replicate here. Their replicas get the trust group DEFAULT and go to \
                default_storage_location, which must be set; the authorization table then takes no entries.",
    },
    Declaration {
        key: "default_storage_location",
        kind: Kind::Storage,
        default: None,
        hyper_v: "DefaultStorageLocation",
        prose: "Where replicas are stored when allowed_from_any_server is on: the name of a storage location that the \
                nodes' files define.",
    },
    Declaration {
        key: "monitoring_interval",
        kind: Kind::Span { least: HOUR, most: Duration::from_secs(7 * 24 * 3600) },
        default: Some("12h"),
        hyper_v: "MonitoringInterval",
        prose: "Over how long replication statistics are gathered before they start from zero.",
    },
    Declaration {
        key: "monitoring_start_time",
        kind: Kind::TimeOfDay,
        default: Some("09:00"),
        hyper_v: "MonitoringStartTime",
        prose: "When, in UTC, a monitoring interval begins; the others follow from it.",
    },
    Declaration {
        key: "auto_resync",
        kind: Kind::Daily,
        default: Some("18:30-06:00"),
        hyper_v: "AutoResynchronizeEnabled, AutoResynchronizeIntervalStart, AutoResynchronizeIntervalEnd",
        prose: "When, in UTC, a sender of this cluster may compare both sides by itself because its index is lost or the \
                replica is of another line: the VM's state is waiting_to_resynchronize until then, and `landfall vm resync` \
                begins it at once. What needs a comparison in the ordinary course (a migration, a new home of the replica, \
                a disk that has grown) never waits.",
    },
    Declaration {
        key: "compression",
        kind: Kind::Choice { allowed: &["auto", "off"], refused: &[] },
        default: Some("auto"),
        hyper_v: "CompressionEnabled",
        prose: "Whether the senders of this cluster compress what they send (zstd, level 1): with auto each piece of up to \
                512 KiB is compressed where a sample of it gets smaller by an eighth. Of use on lines below about 4 Gbit/s.",
    },
    Declaration {
        key: "maximum_active_transfers",
        kind: Kind::Count { least: 1, most: 1024 },
        default: Some("3"),
        hyper_v: "MaximumActiveTransfers (registry)",
        prose: "How many change sets a node sends at the same time. It does not limit what a node receives. Where more VMs \
                have something to send, each has the line for two seconds at a time: one whose change set takes long, \
                because of its size or of a limit of its own, keeps no other from its cycles.",
    },
    Declaration {
        key: "maximum_initial_copies",
        kind: Kind::Count { least: 1, most: 1024 },
        default: Some("2"),
        hyper_v: "",
        prose: "How many first copies a node sends at the same time; the others wait for their turn, and change sets of \
                other VMs do not. One fills most lines, and a second one uses them while the first freezes its VM and has \
                its point verified; more would only make all of them later.",
    },
    Declaration {
        key: "bandwidth_limit",
        kind: Kind::Bandwidth,
        default: Some("unlimited"),
        hyper_v: "",
        prose: "What all senders of this cluster together may take of the line, in Mbit/s: a number, unlimited, or a calendar \
                in UTC such as mon-fri 08:00-18:00=5, else=50. Each node that sends has an equal part of it, by what is \
                committed and without asking the others, so that all of them stay below it; what one node does not use \
                the others do not get. Held within 5 % over 10 s of steady sending, counted in the frames of data sessions \
                (QUIC's own headers add about 3 %); a change counts within a second. Gossip, consensus and all other \
                control traffic are never held back. `landfall vm set VM --limit` limits one VM beside it.",
    },
    Declaration {
        key: "apply_disk_limit",
        kind: Kind::Count { least: 0, most: 260 },
        default: Some("4"),
        hyper_v: "ApplyVHDLimit (registry)",
        prose: "How many disks of one VM a holder writes at the same time; 0 stands for 4.",
    },
    Declaration {
        key: "apply_vm_limit",
        kind: Kind::Count { least: 0, most: 1024 },
        default: Some("0"),
        hyper_v: "ApplyVMLimit (registry)",
        prose: "For how many VMs of one primary cluster a holder writes at the same time; 0 sets no limit.",
    },
    Declaration {
        key: "copies",
        kind: Kind::Count { least: 1, most: 2 },
        default: Some("2"),
        hyper_v: "",
        prose: "On how many nodes each replica is kept. With 2 every recovery point is on both before it is acknowledged, \
                and either of them goes on at once when the other is lost; the primary sends everything once. Where no \
                second node can take a replica there is one copy, and health says so where there is another node.",
    },
    Declaration {
        key: "point_interval",
        kind: Kind::Span { least: Duration::from_secs(60), most: DAY },
        default: Some("1h"),
        hyper_v: "hourly, not to be changed",
        prose: "How far apart the older recovery points of a replica are (`vm enable --recovery-points`). The newest point \
                is always the last acknowledged change set; what changed between two older points is part of the later \
                one. Set it at the replicas' cluster.",
    },
    Declaration {
        key: "scrub_interval",
        kind: Kind::Span { least: HOUR, most: Duration::from_secs(90 * DAY.as_secs()) },
        default: Some("7d"),
        hyper_v: "",
        prose: "How long after it was made, or read back last, a recovery point is read back and compared with its hashes \
                by its node itself. A damaged point is shown as such and cannot be failed over to.",
    },
    Declaration {
        key: "scrub_rate",
        kind: Kind::Count { least: 0, most: 10_000 },
        default: Some("10"),
        hyper_v: "",
        prose: "How fast a node reads points back by itself, in MiB/s; 0 turns it off. It pauses while a failover or a \
                copy reads the replica.",
    },
    Declaration {
        key: "placement",
        kind: Kind::Choice { allowed: &["random"], refused: &[] },
        default: Some("random"),
        hyper_v: "",
        prose: "How the node of a new replica is drawn from those that could take it.",
    },
    Declaration {
        key: "node_down_after",
        kind: Kind::Span { least: Duration::from_secs(2), most: HOUR },
        default: Some("5s"),
        hyper_v: "",
        prose: "For how long a node must be unreachable, for the owner and for those it asks, before its replicas get \
                another holder.",
    },
    Declaration {
        key: "rehome_without_copy_after",
        kind: Kind::Span { least: Duration::from_secs(1), most: Duration::from_secs(7 * DAY.as_secs()) },
        default: Some("15m"),
        hyper_v: "",
        prose: "For how long a replica of which no reachable node has every acknowledged byte waits for such a node to \
                come back, before another one is filled from the primary.",
    },
];
