//! Settings as code reads them: typed, complete, always valid.

use std::time::Duration;

use landfall_proto::id::StorageName;
use landfall_proto::model::Bandwidth;

use super::value::{AutoResync, TimeOfDay, parse_span};
use super::{Values, effective};

/// How primaries prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// By certificates of a paired cluster's CA.
    Certificate,
}

/// Whether senders compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Where a sample gets smaller.
    Auto,
    /// Never.
    Off,
}

/// How the node of a new replica is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At random among the nodes that could take it.
    Random,
}

/// All settings of a cluster. `docs/settings.md` says what each one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether replicas are accepted.
    pub replication_enabled: bool,
    /// How primaries prove who they are.
    pub authentication: Authentication,
    /// Whether every paired cluster may replicate here.
    pub allowed_from_any_server: bool,
    /// Where replicas go when any server is allowed.
    pub default_storage_location: Option<StorageName>,
    /// Over how long statistics are gathered.
    pub monitoring_interval: Duration,
    /// When an interval begins.
    pub monitoring_start_time: TimeOfDay,
    /// When a comparison that waits may begin.
    pub auto_resync: AutoResync,
    /// Whether senders compress.
    pub compression: Compression,
    /// Change sets that a node sends at a time.
    pub maximum_active_transfers: usize,
    /// First copies that a node sends at a time.
    pub maximum_initial_copies: usize,
    /// What all senders together may take of the line.
    pub bandwidth_limit: Bandwidth,
    /// Disks of one VM written at a time; never 0 here.
    pub apply_disk_limit: usize,
    /// VMs of one primary cluster written at a time; `None` is no limit.
    pub apply_vm_limit: Option<usize>,
    /// On how many nodes each replica is kept: 1 or 2.
    pub copies: usize,
    /// How far apart older points are.
    pub point_interval: Duration,
    /// How long a point goes unread.
    pub scrub_interval: Duration,
    /// How fast points are read back, in bytes a second; `None` is not at all.
    pub scrub_rate: Option<u64>,
    /// How a node is drawn.
    pub placement: Placement,
    /// When a silent node loses its replicas.
    pub node_down_after: Duration,
    /// When a replica without a live copy is filled anew.
    pub rehome_without_copy_after: Duration,
}

const MIB: u64 = 1 << 20;

/// What `apply_disk_limit` 0 stands for, as in Hyper-V.
const DISK_LIMIT: usize = 4;

impl Settings {
    /// The settings that `values` and the defaults give. Values were validated before they were committed.
    pub fn resolve(values: &Values) -> Self {
        let text = |key| effective(values, key).unwrap_or_default();
        let count = |key| text(key).parse::<usize>().unwrap_or_default();
        let span = |key| parse_span(&text(key)).unwrap_or_default();
        Self {
            replication_enabled: text("replication_enabled") == "true",
            authentication: Authentication::Certificate,
            allowed_from_any_server: text("allowed_from_any_server") == "true",
            default_storage_location: text("default_storage_location").parse().ok(),
            monitoring_interval: span("monitoring_interval"),
            monitoring_start_time: TimeOfDay::parse(&text("monitoring_start_time")).unwrap_or_default(),
            auto_resync: AutoResync::parse(&text("auto_resync")).unwrap_or_default(),
            compression: if text("compression") == "off" { Compression::Off } else { Compression::Auto },
            maximum_active_transfers: count("maximum_active_transfers").max(1),
            maximum_initial_copies: count("maximum_initial_copies").max(1),
            bandwidth_limit: Bandwidth::read(&text("bandwidth_limit")).unwrap_or_default(),
            apply_disk_limit: Some(count("apply_disk_limit")).filter(|limit| *limit > 0).unwrap_or(DISK_LIMIT),
            apply_vm_limit: Some(count("apply_vm_limit")).filter(|limit| *limit > 0),
            copies: count("copies").max(1),
            point_interval: span("point_interval"),
            scrub_interval: span("scrub_interval"),
            scrub_rate: Some(count("scrub_rate") as u64 * MIB).filter(|rate| *rate > 0),
            placement: Placement::Random,
            node_down_after: span("node_down_after"),
            rehome_without_copy_after: span("rehome_without_copy_after"),
        }
    }
}

impl Default for Settings {
    /// Every setting at its default.
    fn default() -> Self {
        Self::resolve(&Values::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_declarations() {
        let settings = Settings::default();
        assert!(!settings.replication_enabled);
        assert_eq!(settings.monitoring_interval, Duration::from_secs(12 * 3600));
        assert_eq!(settings.monitoring_start_time, TimeOfDay { hour: 9, minute: 0 });
        assert_eq!(settings.auto_resync.to_string(), "18:30-06:00");
        assert_eq!((settings.maximum_active_transfers, settings.apply_disk_limit), (3, 4));
        assert!(settings.bandwidth_limit.is_unlimited() && settings.maximum_initial_copies == 2);
        assert_eq!((settings.apply_vm_limit, settings.compression), (None, Compression::Auto));
        assert_eq!(settings.copies, 2);
        assert_eq!(settings.node_down_after, Duration::from_secs(5));
        assert_eq!(settings.rehome_without_copy_after, Duration::from_secs(900));
    }
}
