//! Power cuts under `DurableSled`: what a commit has acknowledged is there, whole, and the store opens.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_kit::power::{Medium, PowerCuts, PowerDisk, Workload};
use landfall_proto::id::NodeName;
use landfall_store::durable_sled::{DurableSled, OpenError};
use landfall_store::kv::{Batch, Health, Kv, KvError};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use tokio::runtime::Runtime;

/// One store at a time: sled's threads are shared by every store of a process, and a store whose disk has gone dark has
/// been seen to keep another one's writes waiting for ever. A node has one store.
static ONE_STORE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_STORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Batches committed at once: the store writes together what waits together.
const TOGETHER: u64 = 4;

/// Keys of one batch.
const KEYS: u8 = 5;

/// What the store has said, and what was asked of it.
#[derive(Default)]
struct Said {
    /// Batches that were acknowledged.
    durable: Vec<u64>,
    /// Batches that were ever given to the store: after a cut one of the last may be there or not, but whole.
    asked: u64,
}

struct Store {
    synced: bool,
    runtime: Runtime,
    /// Acknowledged over all disks: a workload that got nowhere has shown nothing.
    acknowledged: u64,
}

impl Store {
    fn new(synced: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { synced, runtime, acknowledged: 0 }
    }

    fn open(&self, folder: &Path) -> Result<DurableSled, OpenError> {
        let (folder, node) = (folder.join("store"), "r1".parse::<NodeName>().unwrap());
        if self.synced { DurableSled::open(&folder, &node) } else { DurableSled::open_without_sync(&folder, &node) }
    }
}

fn key(batch: u64, number: u8) -> Vec<u8> {
    [b"batch/".as_slice(), &batch.to_be_bytes(), &[number]].concat()
}

fn value(batch: u64, number: u8, length: usize) -> Vec<u8> {
    let mut value = vec![0; length];
    blake3::Hasher::new().update(&batch.to_le_bytes()).update(&[number]).finalize_xof().fill(&mut value);
    value
}

/// Its length follows from its number, so that a check needs nothing else: from a few bytes to more than a page.
fn length(batch: u64) -> usize {
    [40, 300, 900, 5000][batch as usize % 4]
}

/// Five keys, and a mark that takes the place of the batch's before it.
fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    (0..KEYS).for_each(|at| batch.put(key(number, at), value(number, at, length(number))));
    batch.put([b"mark/".as_slice(), &number.to_be_bytes()].concat(), "here");
    if let Some(before) = number.checked_sub(TOGETHER) {
        batch.delete([b"mark/".as_slice(), &before.to_be_bytes()].concat());
    }
    batch
}

impl Workload for Store {
    type Acknowledged = Said;

    fn write(&mut self, folder: &Path, random: &mut ChaCha12Rng, said: &mut Said) {
        let Ok(store) = self.open(folder) else { return };
        loop {
            let count = random.random_range(1..=TOGETHER);
            let numbers: Vec<u64> = (said.asked..said.asked + count).collect();
            said.asked += count;
            let results = self.runtime.block_on(async {
                let mut results = Vec::new();
                let (one, two, three, four) = tokio::join!(
                    store.commit(numbers.first().map_or_else(Batch::new, |number| batch(*number))),
                    store.commit(numbers.get(1).map_or_else(Batch::new, |number| batch(*number))),
                    store.commit(numbers.get(2).map_or_else(Batch::new, |number| batch(*number))),
                    store.commit(numbers.get(3).map_or_else(Batch::new, |number| batch(*number))),
                );
                results.extend([one, two, three, four]);
                results
            });
            let all = results.iter().all(Result::is_ok);
            let durable = numbers.into_iter().zip(results).filter(|(_, result)| result.is_ok());
            let durable: Vec<u64> = durable.map(|(number, _)| number).collect();
            self.acknowledged += durable.len() as u64;
            said.durable.extend(durable);
            if !all {
                return;
            }
        }
    }

    fn check(&mut self, folder: &Path, said: &Said) -> Result<(), String> {
        let store = self.open(folder).map_err(|error| format!("the store does not open: {error}"))?;
        for number in 0..said.asked {
            let there = (0..KEYS).map(|at| store.get(&key(number, at)).map_err(|error| error.to_string()));
            let there: Vec<Option<Vec<u8>>> = there.collect::<Result<_, _>>()?;
            let whole = (0..KEYS).all(|at| there[usize::from(at)] == Some(value(number, at, length(number))));
            if said.durable.binary_search(&number).is_ok() && !whole {
                return Err(format!("batch {number} was acknowledged and is not there"));
            }
            if !whole && there.iter().any(Option::is_some) {
                return Err(format!("batch {number} is there only in part"));
            }
            let mark = store.get(&[b"mark/".as_slice(), &number.to_be_bytes()].concat()).map_err(|e| e.to_string())?;
            let replaced = said.durable.binary_search(&(number + TOGETHER)).is_ok();
            if whole && replaced == mark.is_some() && (replaced || number + TOGETHER >= said.asked) {
                return Err(format!("the mark of batch {number}: {mark:?}, though {replaced} that it was replaced"));
            }
        }
        Ok(())
    }
}

fn under_cuts() -> PowerCuts {
    PowerCuts { cuts: crate::cuts(), ..PowerCuts::thirty(20_261_122) }
}

#[test]
fn every_acknowledged_batch_survives_the_cuts() {
    let _alone = alone();
    let mut store = Store::new(true);
    let Some(survived) = under_cuts().run("every_acknowledged_batch_survives_the_cuts", &mut store).unwrap() else {
        return;
    };
    assert!(survived.cuts * 10 >= crate::cuts() * 9, "{survived:?}");
    assert!(survived.toll.pages_dropped > 0 && survived.toll.pages_torn > 0, "{survived:?}");
    assert!(store.acknowledged > crate::cuts() * 5, "{} batches were acknowledged", store.acknowledged);
    println!("{} batches acknowledged, {survived:?}", store.acknowledged);
}

#[test]
fn without_the_extra_sync_acknowledged_batches_are_lost() {
    let _alone = alone();
    let test = "without_the_extra_sync_acknowledged_batches_are_lost";
    match under_cuts().run(test, &mut Store::new(false)) {
        Ok(None) => {}
        Ok(Some(survived)) => panic!("nothing was lost: {survived:?}"),
        Err(fault) => println!("{fault}"),
    }
}

#[test]
fn every_acknowledged_batch_survives_the_cuts_under_ext4() {
    let _alone = alone();
    let mut store = Store::new(true);
    let cuts = PowerCuts { on: Medium::Ext4, cuts: crate::cuts_under_ext4(), ..PowerCuts::thirty(20_261_130) };
    let run = cuts.run("every_acknowledged_batch_survives_the_cuts_under_ext4", &mut store);
    let Some(survived) = run.unwrap() else { return };
    assert!(survived.toll.pages_dropped > 0 && survived.toll.pages_torn > 0, "{survived:?}");
    assert!(store.acknowledged > crate::cuts_under_ext4(), "{} batches were acknowledged", store.acknowledged);
    println!("{} batches acknowledged, {survived:?}", store.acknowledged);
}

#[test]
fn without_the_extra_sync_acknowledged_batches_are_lost_under_ext4() {
    let _alone = alone();
    let cuts = PowerCuts { on: Medium::Ext4, ..PowerCuts::thirty(20_261_130) };
    match cuts.run("without_the_extra_sync_acknowledged_batches_are_lost_under_ext4", &mut Store::new(false)) {
        Ok(None) => {}
        Ok(Some(survived)) => panic!("nothing was lost: {survived:?}"),
        Err(fault) => println!("{fault}"),
    }
}

/// How long a commit on a full disk may take to fail: sled does not always say by itself that a write has failed.
const FAILURE_DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn a_full_disk_fails_the_store_and_costs_nothing_that_was_acknowledged() {
    let _alone = alone();
    for spare_pages in 0..12 {
        let Some(disk) = PowerDisk::mount_or_skip("a_full_disk_fails_the_store") else { return };
        let (mut workload, mut said) = (Store::new(true), Said::default());
        let store = workload.open(disk.path()).unwrap();
        disk.limit(Some((40 + spare_pages * 7) * 4096));
        let failure = workload.runtime.block_on(async {
            loop {
                let commit = tokio::time::timeout(FAILURE_DEADLINE, store.commit(batch(said.asked))).await;
                said.asked += 1;
                match commit.expect("a commit hangs on a full disk") {
                    Ok(()) => said.durable.push(said.asked - 1),
                    Err(error) => break error,
                }
            }
        });
        assert!(matches!(failure, KvError::Poisoned(_)), "{failure:?}");
        assert!(matches!(&*store.health().borrow(), Health::Poisoned(_)), "the store does not say that it failed");
        drop(store);
        disk.limit(None);
        workload.check(disk.path(), &said).unwrap();
    }
}
