//! What each sender of this node counts in the monitoring window, kept beside its indexes.
//!
//! A restart of the agent goes on counting. The file is written without waiting for the disk: after a power cut the last
//! cycles may be missing from the statistics, which nothing is decided by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use landfall_proto::codec;
use landfall_proto::id::{Position, SenderEpoch, UnixMillis, VmId};
use landfall_proto::message::control::{Statistics, Traffic};
use landfall_proto::model::Primary;
use landfall_store::State;
use serde::{Deserialize, Serialize};

use crate::decide::window::{self, Ended, Window};
use crate::drive::events::Happening;
use crate::drive::image::durable;
use crate::drive::node::Node;
use crate::drive::send::capture::blocking;
use crate::surface::Utc;

/// What is kept of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The relationship that was counted.
    relationship: UnixMillis,
    /// The sender that counted.
    sender: SenderEpoch,
    /// What it counted; `None` until it has begun.
    statistics: Option<Statistics>,
    /// The wish to compare both sides that was carried out last.
    resynced: Option<Position>,
    /// What this node has sent in this relationship, whichever its sender's epoch.
    traffic: Traffic,
    /// What other nodes have, as far as they could be asked.
    elsewhere: Traffic,
}

/// What one sender counts. Clones count together.
#[derive(Clone, Debug)]
pub struct Tally {
    kept: Arc<Mutex<Kept>>,
    loaded: Arc<Mutex<bool>>,
}

impl Tally {
    fn new(primary: &Primary) -> Self {
        let kept = Kept { relationship: primary.created_at, sender: primary.sender_epoch, ..Kept::default() };
        Self { kept: Arc::new(Mutex::new(kept)), loaded: Arc::default() }
    }

    /// Goes on with the traffic of an earlier epoch's tally.
    fn follow(&self, earlier: &Self) {
        let (was_loaded, before) = (*lock(&earlier.loaded), lock(&earlier.kept).clone());
        let mut kept = lock(&self.kept);
        if was_loaded && before.relationship == kept.relationship {
            kept.traffic = before.traffic;
            kept.elsewhere = before.elsewhere;
            kept.resynced = before.resynced;
            *lock(&self.loaded) = true;
        }
    }

    /// Goes on with what an earlier life of the agent counted, where that was the same sender.
    pub async fn load(&self, folder: &Path) {
        if std::mem::replace(&mut *lock(&self.loaded), true) {
            return;
        }
        let path = folder.join(FILE);
        let read = blocking(move || Ok(std::fs::read(&path).unwrap_or_default())).await.unwrap_or_default();
        let Ok(before) = codec::decode::<Kept>(&read) else { return };
        let mut kept = lock(&self.kept);
        if before.relationship != kept.relationship {
            return;
        }
        kept.resynced = before.resynced;
        kept.traffic = kept.traffic.and(before.traffic);
        kept.elsewhere = most(kept.elsewhere, before.elsewhere);
        if before.sender == kept.sender {
            kept.statistics = before.statistics.or(kept.statistics);
        }
    }

    /// Writes it, so that the next life of the agent goes on with it. A failure costs statistics only.
    pub async fn save(&self, folder: &Path) {
        let (kept, path) = (lock(&self.kept).clone(), folder.join(FILE));
        let saved = blocking(move || {
            let bytes = codec::encode(&kept).unwrap_or_default();
            let temporary = durable::temporary(&path);
            std::fs::write(&temporary, bytes).map_err(|error| durable::fault("write", &temporary, &error))?;
            std::fs::rename(&temporary, &path).map_err(|error| durable::fault("rename", &temporary, &error))
        });
        if let Err(refusal) = saved.await {
            tracing::debug!(%refusal, "statistics not written");
        }
    }

    /// Counts a cycle that has ended.
    pub fn ended(&self, cycle: &Ended) {
        if let Some(statistics) = &mut lock(&self.kept).statistics {
            *statistics = window::counted(statistics, cycle);
        }
    }

    /// Counts a try that has failed.
    pub fn failed(&self) {
        if let Some(statistics) = &mut lock(&self.kept).statistics {
            statistics.failures = statistics.failures.saturating_add(1);
        }
    }

    /// Counts what goes over the line: bytes of a frame, and of the content in it.
    pub fn carried(&self, content: u64, frame: u64) {
        let mut kept = lock(&self.kept);
        kept.traffic = kept.traffic.and(Traffic { sent_bytes: content, wire_bytes: frame });
    }

    /// What was sent of the VM, by this node and by others before it.
    pub fn traffic(&self) -> Traffic {
        let kept = lock(&self.kept);
        kept.traffic.and(kept.elsewhere)
    }

    /// Takes in what other nodes say that they have sent; one that does not answer this time may have before.
    pub fn sent_elsewhere(&self, traffic: Traffic) {
        let mut kept = lock(&self.kept);
        kept.elsewhere = most(kept.elsewhere, traffic);
    }

    /// Whether an operator's wish at `position` is still to be carried out.
    pub fn is_to_resync(&self, position: Position) -> bool {
        lock(&self.kept).resynced.is_none_or(|done| done < position)
    }

    /// Notes that the wish at `position` is carried out.
    pub fn resynced(&self, position: Option<Position>) {
        let mut kept = lock(&self.kept);
        kept.resynced = kept.resynced.max(position);
    }

    /// Begins a new window where a boundary has passed; what was counted in the one before.
    fn roll(&self, now: UnixMillis, window: Window) -> Option<Statistics> {
        let mut kept = lock(&self.kept);
        let Some(statistics) = kept.statistics else {
            if *lock(&self.loaded) {
                kept.statistics = Some(window::begun(now, window));
            }
            return None;
        };
        if let Some(new) = window::next(&statistics, window) {
            kept.statistics = Some(new);
            return Some(statistics);
        }
        // The settings may have moved the end.
        kept.statistics = Some(Statistics { until: window.until, ..statistics });
        None
    }
}

const FILE: &str = "statistics";

fn most(one: Traffic, other: Traffic) -> Traffic {
    Traffic { sent_bytes: one.sent_bytes.max(other.sent_bytes), wire_bytes: one.wire_bytes.max(other.wire_bytes) }
}

/// What an earlier life of the agent wrote into `folder` that this node had sent since `relationship` began. Blocks.
fn traffic_in(folder: &Path, relationship: UnixMillis) -> Traffic {
    let read = std::fs::read(folder.join(FILE)).unwrap_or_default();
    let kept = codec::decode::<Kept>(&read).ok().filter(|kept| kept.relationship == relationship);
    kept.map(|kept| kept.traffic).unwrap_or_default()
}

/// What the senders of this node count, by VM.
#[derive(Clone, Debug, Default)]
pub struct Tallies(Arc<Mutex<BTreeMap<VmId, Tally>>>);

impl Tallies {
    /// The tally of the sender that `primary` names; another one's is not gone on with.
    pub fn of(&self, primary: &Primary) -> Tally {
        let mut tallies = lock(&self.0);
        let known = tallies.get(&primary.vm.id).filter(|tally| {
            let kept = lock(&tally.kept);
            kept.relationship == primary.created_at && kept.sender == primary.sender_epoch
        });
        let tally = known.cloned().unwrap_or_else(|| Tally::new(primary));
        // An earlier epoch of the same relationship, perhaps not written yet: what it counts beyond its file goes on here.
        if let Some(earlier) = tallies.get(&primary.vm.id).filter(|earlier| !Arc::ptr_eq(&earlier.kept, &tally.kept)) {
            tally.follow(earlier);
        }
        tallies.insert(primary.vm.id, tally.clone());
        tally
    }

    /// What this node has sent of `primary`'s VM since its replication was enabled, as the counters or the file in `folder`
    /// say.
    pub async fn traffic(&self, primary: &Primary, folder: PathBuf) -> Traffic {
        let tally = lock(&self.0).get(&primary.vm.id).cloned();
        if let Some(tally) = tally.filter(|tally| *lock(&tally.loaded)) {
            let kept = lock(&tally.kept);
            return if kept.relationship == primary.created_at { kept.traffic } else { Traffic::default() };
        }
        let relationship = primary.created_at;
        blocking(move || Ok(traffic_in(&folder, relationship))).await.unwrap_or_default()
    }

    /// What was sent of `vm`, as this node knows.
    pub fn sent(&self, vm: VmId) -> Traffic {
        lock(&self.0).get(&vm).map(Tally::traffic).unwrap_or_default()
    }

    /// What is counted of `vm`.
    pub fn statistics(&self, vm: VmId) -> Statistics {
        let tally = lock(&self.0).get(&vm).cloned();
        tally.and_then(|tally| lock(&tally.kept).statistics).unwrap_or_default()
    }

    /// Counts `vm` from zero.
    pub fn reset(&self, vm: VmId, now: UnixMillis) {
        let Some(tally) = lock(&self.0).get(&vm).cloned() else { return };
        let mut kept = lock(&tally.kept);
        let until = kept.statistics.map(|statistics| statistics.until).unwrap_or_default();
        kept.statistics = Some(Statistics { since: now, until, ..Statistics::default() });
    }

    /// Begins new windows where a boundary has passed. What was counted before survives as an event, as in Hyper-V.
    pub fn roll(&self, node: &Node, state: &State) {
        let settings = state.resolved_settings();
        let now = node.outside.clock.wall();
        let window = window::window(now, settings.monitoring_start_time, settings.monitoring_interval);
        let mut tallies = lock(&self.0);
        tallies.retain(|vm, _| state.primaries.contains(vm));
        for (vm, tally) in tallies.iter() {
            let Some(primary) = state.primaries.get(vm) else { continue };
            let Some(before) = tally.roll(now, window) else { continue };
            let name = &primary.vm.name;
            let told = format!(
                "{name} from {} to {}: {} cycles, {} missed, {} failures, {} bytes",
                Utc::from(before.since),
                Utc::from(before.until),
                before.cycles,
                before.missed,
                before.failures,
                before.bytes
            );
            let event = Happening::info("statistics", told).vm(*vm).node(&node.name);
            let event = event.with("cycles", &before.cycles).with("missed", &before.missed);
            let event = event.with("failures", &before.failures).with("bytes", &before.bytes);
            let event = event.with("bytes_max", &before.bytes_max).with("latency_ms", &before.latency_ms);
            node.events.record(event.with("latency_max_ms", &before.latency_max_ms));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use landfall_proto::model::{Frequency, VmSpec};

    use super::*;

    fn primary(sender: u64) -> Primary {
        let id = VmId(uuid::Uuid::from_u128(7));
        Primary {
            vm: VmSpec { id, name: "vm".parse().unwrap(), disks: vec![], adapters: vec![], launch: Default::default() },
            to: "r.contoso.com".parse().unwrap(),
            frequency: Frequency::HalfMinute,
            recovery_points: 0,
            sender: None,
            sender_epoch: SenderEpoch::from_number(sender),
            rivals: BTreeSet::new(),
            stopped: None,
            created_at: UnixMillis(5),
            paused: None,
            resync: None,
            starts_at: None,
            limit: None,
            excluded: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_restart_goes_on_counting_and_another_sender_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let window = Window { from: UnixMillis(0), until: UnixMillis(100) };
        let (tallies, vm) = (Tallies::default(), primary(3).vm.id);
        let tally = tallies.of(&primary(3));
        assert_eq!(tally.roll(UnixMillis(10), window), None);
        assert_eq!(tallies.statistics(vm), Statistics::default(), "nothing is counted before the file was looked at");
        tally.load(folder.path()).await;
        tally.roll(UnixMillis(10), window);
        tally.ended(&Ended { missed: 2, bytes: 9, latency: Duration::from_millis(4) });
        tally.failed();
        tally.resynced(Some(Position::new(0, 8)));
        tally.save(folder.path()).await;
        let counted = tallies.statistics(vm);
        assert_eq!((counted.since, counted.cycles, counted.failures), (UnixMillis(10), 1, 1));

        let next_life = Tallies::default();
        next_life.of(&primary(3)).load(folder.path()).await;
        assert_eq!(next_life.statistics(vm), counted);
        assert!(!next_life.of(&primary(3)).is_to_resync(Position::new(0, 8)));
        assert!(next_life.of(&primary(3)).is_to_resync(Position::new(0, 9)));
        next_life.reset(vm, UnixMillis(20));
        let reset = Statistics { since: UnixMillis(20), until: UnixMillis(100), ..Statistics::default() };
        assert_eq!(next_life.statistics(vm), reset);

        let other = Tallies::default();
        other.of(&primary(4)).load(folder.path()).await;
        assert_eq!(other.statistics(vm), Statistics::default());
    }

    #[tokio::test]
    async fn traffic_is_counted_over_epochs_restarts_and_nodes_of_one_relationship() {
        let folder = tempfile::tempdir().unwrap();
        let of = |sent_bytes, wire_bytes| Traffic { sent_bytes, wire_bytes };
        let (tallies, vm) = (Tallies::default(), primary(3).vm.id);
        let tally = tallies.of(&primary(3));
        tally.load(folder.path()).await;
        tally.carried(4096, 3000);
        tally.carried(0, 100);
        assert_eq!(tallies.sent(vm), of(4096, 3100));
        // Back after another node had it: counted on, not twice, and what that node says is added.
        let again = tallies.of(&primary(9));
        again.load(folder.path()).await;
        again.carried(4096, 500);
        again.sent_elsewhere(of(10_000, 9_000));
        again.sent_elsewhere(Traffic::default());
        assert_eq!(tallies.sent(vm), of(18_192, 12_600), "who does not answer once was not forgotten");
        assert_eq!(tallies.traffic(&primary(9), folder.path().into()).await, of(8192, 3600), "its own share");
        again.save(folder.path()).await;

        let next_life = Tallies::default();
        assert_eq!(next_life.traffic(&primary(9), folder.path().into()).await, of(8192, 3600), "from the file");
        next_life.of(&primary(9)).load(folder.path()).await;
        assert_eq!(next_life.sent(vm), of(18_192, 12_600));
        let anew = Primary { created_at: UnixMillis(6), ..primary(10) };
        next_life.of(&anew).load(folder.path()).await;
        assert_eq!(next_life.sent(vm), Traffic::default(), "another relationship");
    }

    #[tokio::test]
    async fn a_boundary_ends_what_was_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (tallies, vm) = (Tallies::default(), primary(3).vm.id);
        let tally = tallies.of(&primary(3));
        tally.load(folder.path()).await;
        tally.roll(UnixMillis(10), Window { from: UnixMillis(0), until: UnixMillis(100) });
        tally.ended(&Ended { bytes: 9, ..Ended::default() });
        let next = Window { from: UnixMillis(100), until: UnixMillis(200) };
        assert_eq!(tally.roll(UnixMillis(130), next).unwrap().bytes, 9);
        let now = tallies.statistics(vm);
        assert_eq!((now.since, now.until, now.bytes), (UnixMillis(100), UnixMillis(200), 0));
    }
}
