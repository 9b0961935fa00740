//! Reading points back and proving them: when somebody asks, before a failover, and slowly by itself.
//!
//! What is damaged is repaired out of another copy (`mending`); else it is marked with every point that shows it, told as a
//! critical event, and cannot be failed over to. A point is read beside replication, which goes on: it is pinned meanwhile.
//! Every node does so that has a copy.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use landfall_proto::id::VmId;
use landfall_proto::message::control::ProofFigures;
use landfall_proto::model::Replica;
use landfall_proto::{Class, Refusal};
use landfall_store::State;

use crate::decide::points::{Scrubbable, next_scrub};
use crate::drive::events::Happening;
use crate::drive::replica::PointEntry;
use crate::drive::replicas::Replicas;
use crate::drive::send::capture::blocking;

/// How often it is looked whether a point is due to be read back.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often a slow reading looks whether it is still wanted.
const PACE_BYTES: u64 = 1 << 20;

/// The points that are being read back, the last one of each VM.
#[derive(Clone, Debug, Default)]
pub struct Proving(Arc<Mutex<BTreeMap<VmId, Arc<Reading>>>>);

/// A point that is being read back, or was.
#[derive(Debug)]
struct Reading {
    point: PointEntry,
    bytes: u64,
    read: AtomicU64,
    ended: Mutex<Option<Result<Proven, Refusal>>>,
}

/// What reading a point back found.
#[derive(Clone, Debug)]
struct Proven {
    at: landfall_proto::id::UnixMillis,
    /// What is damaged, and which points; `None` where it is whole.
    damage: Option<String>,
    /// What was damaged and is repaired.
    repaired: Option<String>,
}

impl Reading {
    fn figures(&self) -> Result<ProofFigures, Refusal> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone().transpose()?;
        Ok(ProofFigures {
            point: self.point.sequence,
            root: self.point.root,
            bytes: self.bytes,
            read_bytes: self.read.load(Ordering::Relaxed),
            verified_at: ended.as_ref().filter(|proven| proven.damage.is_none()).map(|proven| proven.at),
            damage: ended.as_ref().and_then(|proven| proven.damage.clone()),
            repaired: ended.and_then(|proven| proven.repaired),
        })
    }

    fn is_over(&self) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// How fast a point is read.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// As fast as the disk gives it: somebody waits.
    Full,
    /// So many bytes a second.
    Slow(u64),
}

impl Replicas {
    /// Begins to read a point back, the newest where none is named, or says how far that is where it has begun. With
    /// `begin` false it only says.
    pub async fn prove(&self, vm: VmId, point: Option<u64>, begin: bool) -> Result<ProofFigures, Refusal> {
        let found = self.proving.0.lock().unwrap_or_else(PoisonError::into_inner).get(&vm).cloned();
        let named = found.filter(|found| point.is_none_or(|point| found.point.sequence == point));
        match named.filter(|found| !begin || !found.is_over()) {
            Some(found) => found.figures(),
            None if !begin => Err(Refusal::not_found("point", &point.map_or("newest".to_owned(), |at| at.to_string()))),
            None => {
                let state = self.node().state();
                let replica = state.replicas.get(&vm).ok_or_else(|| Refusal::not_found("vm", &vm.to_string()))?;
                let reading = self.begin_reading(replica, point, Pace::Full).await?;
                reading.figures()
            }
        }
    }

    async fn begin_reading(&self, replica: &Replica, point: Option<u64>, pace: Pace) -> Result<Arc<Reading>, Refusal> {
        let store = self.store(replica).await?;
        let pinned = store.lock().await.pin(point)?;
        let bytes = pinned.entry().disks.iter().map(|disk| disk.bytes).sum();
        let (read, ended) = (AtomicU64::new(0), Mutex::new(None));
        let reading = Arc::new(Reading { point: pinned.entry().clone(), bytes, read, ended });
        let (this, shown, replica) = (self.clone(), Arc::clone(&reading), replica.clone());
        self.proving.0.lock().unwrap_or_else(PoisonError::into_inner).insert(replica.vm.id, Arc::clone(&reading));
        let in_use = self.read(replica.vm.id);
        tokio::spawn(async move {
            let (looks, seen) = (this.clone(), Arc::clone(&shown));
            let vm = replica.vm.id;
            let examined = blocking(move || {
                let mut paced = Paced::new(pace);
                pinned.examine(&mut |read| {
                    seen.read.store(read, Ordering::Relaxed);
                    paced.wait(read, &|| looks.is_wanted(vm, pace))
                })
            })
            .await;
            drop(in_use);
            let proven = match examined {
                Ok(damage) => this.take_proof(&replica, &shown.point, damage).await,
                Err(refusal) => Err(refusal),
            };
            *shown.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(proven);
        });
        Ok(reading)
    }

    /// Whether a reading may go on: one that nobody waits for makes room for failovers, copies and exports.
    fn is_wanted(&self, vm: VmId, pace: Pace) -> Wanted {
        let state = self.node().state();
        if state.replicas.get(&vm).is_none_or(|replica| !replica.is_kept_at(self.node().me)) {
            return Wanted::Never;
        }
        let slow = matches!(pace, Pace::Slow(_));
        if slow && (is_busy(&state, vm) || self.reader_count(vm) > 1) { Wanted::Later } else { Wanted::Now }
    }

    async fn take_proof(
        &self,
        replica: &Replica,
        point: &PointEntry,
        damage: Vec<crate::drive::replica::proofs::Damage>,
    ) -> Result<Proven, Refusal> {
        let (vm, at) = (replica.vm.id, self.node().outside.clock.wall());
        let (repaired, damage) = self.mend_point(replica, point, damage).await?;
        let found: Vec<String> = damage.iter().take(3).map(ToString::to_string).collect();
        let store = self.store(replica).await?;
        let (mut guard, entry) = (store.lock_owned().await, point.clone());
        let (guard, damaged) = blocking(move || {
            let damaged = guard.take_examined(&entry, at, &damage)?;
            Ok((guard, damaged))
        })
        .await?;
        self.note(vm, replica.epoch, &guard);
        if found.is_empty() {
            return Ok(Proven { at, damage: None, repaired });
        }
        let points: Vec<String> = damaged.iter().map(u64::to_string).collect();
        let told = format!("{}; damaged points: {}", found.join("; "), points.join(", "));
        let event = format!("the replica of {} is damaged here: {told}", replica.vm.name);
        let event = Happening::critical("point_damaged", event).vm(vm).node(&self.node().name);
        self.node().events.record(event.with("points", &points.join(",")));
        Ok(Proven { at, damage: Some(told), repaired })
    }

    /// Reads back what was not read for a while, one point at a time, slowly. Never ends.
    pub async fn scrub(&self) {
        let mut look = self.node().rhythm(LOOK_INTERVAL);
        loop {
            look.tick().await;
            let state = self.node().state();
            let settings = state.resolved_settings();
            let Some(rate) = settings.scrub_rate else { continue };
            let now = self.node().outside.clock.wall();
            let Some((vm, point)) = next_scrub(&self.scrubbable(&state), now, settings.scrub_interval) else {
                continue;
            };
            let Some(replica) = state.replicas.get(&vm) else { continue };
            match self.begin_reading(replica, Some(point), Pace::Slow(rate)).await {
                Ok(reading) => {
                    while !reading.is_over() {
                        look.tick().await;
                    }
                    if let Err(refusal) = reading.figures() {
                        tracing::info!(%vm, point, %refusal, "a point is not read back now");
                    }
                }
                Err(refusal) => tracing::info!(%vm, point, %refusal, "a point cannot be read back"),
            }
        }
    }

    /// The points here that nobody else is busy with.
    fn scrubbable(&self, state: &State) -> Vec<Scrubbable> {
        let mine = state.replicas.values().filter(|replica| replica.is_kept_at(self.node().me));
        let idle = mine.map(|replica| replica.vm.id).filter(|vm| !is_busy(state, *vm) && self.reader_count(*vm) == 0);
        idle.flat_map(|vm| self.scrubbable_of(vm)).collect()
    }
}

/// Whether a failover or a copy is under way.
fn is_busy(state: &State, vm: VmId) -> bool {
    let moving = state.replicas.get(&vm).is_some_and(|replica| replica.handover.is_some());
    moving || state.promotions.contains(&vm) || state.returns.contains(&vm) || state.tests.contains(&vm)
}

/// What is to become of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Now,
    Later,
    Never,
}

/// Keeps a reading to its pace.
struct Paced {
    pace: Pace,
    begun: Instant,
    looked: u64,
}

impl Paced {
    fn new(pace: Pace) -> Self {
        Self { pace, begun: Instant::now(), looked: 0 }
    }

    /// Waits until the byte `read` is due. Blocks.
    fn wait(&mut self, read: u64, wanted: &dyn Fn() -> Wanted) -> Result<(), Refusal> {
        if read < self.looked + PACE_BYTES {
            return Ok(());
        }
        self.looked = read;
        loop {
            match wanted() {
                Wanted::Never => {
                    return Err(Refusal::new(Class::Failed, "moved", "the replica is received elsewhere now")
                        .remedy("ask where it is: `landfall vm locate`"));
                }
                Wanted::Later => {
                    std::thread::sleep(LOOK_INTERVAL);
                    // What was waited for is not made up for.
                    self.begun += LOOK_INTERVAL;
                }
                Wanted::Now => break,
            }
        }
        if let Pace::Slow(rate) = self.pace {
            let due = Duration::from_secs_f64(read as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(self.begun.elapsed()).min(LOOK_INTERVAL));
        }
        Ok(())
    }
}
