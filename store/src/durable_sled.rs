//! sled 0.34.7, made to keep what it says it keeps. The only module that names sled.
//!
//! sled's `flush` ends in `sync_file_range`, which asks the kernel to start writing and promises nothing: power cuts
//! lost acknowledged writes in almost every trial. So one thread applies the batches that wait, flushes, and then syncs
//! the log file through a handle of its own; only then are the callers answered. At creation the folders are synced
//! too. Once a write or sync has failed nobody can know what is on disk: every later call fails.
//!
//! A folder belongs to one node, whose name stands in it, and one process at a time has it open. A store that will not
//! open is never repaired and never replaced here: the error says how to set it aside.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use landfall_proto::id::NodeName;
use landfall_proto::planted::{self, Bug};
use tokio::sync::{mpsc, oneshot, watch};

use crate::kv::{Batch, Change, Health, Kv, KvError, Pair};
use crate::limits;
pub use crate::unopened::OpenError;

/// The layout of the keys. A store of another one is refused.
pub(crate) const FORMAT: u32 = 2;
const FORMAT_KEY: &[u8] = b"!format";
const NODE_KEY: &[u8] = b"!node";
/// Held for as long as the store is open.
const LOCK_FILE: &str = "landfall.lock";
/// How long a flush may take until it is looked after: sled forgets to wake it when the write of a full buffer has failed,
/// and it would wait for ever. The failure is reported this much late at most.
const NUDGE_AFTER: Duration = Duration::from_millis(500);
/// sled's log, where every record is.
const SLED_LOG: &str = "db";

/// Syncs the log file; a test puts in one that fails.
type Sync = Box<dyn Fn(&File) -> io::Result<()> + Send>;

/// What one commit changes.
enum Writes {
    /// One key, to a value or to nothing: sled needs no record of a batch for it, and half the writes.
    One(Vec<u8>, Option<Vec<u8>>),
    Many(sled::Batch),
}

impl Writes {
    fn of(batch: Batch) -> Self {
        let mut changes = batch.into_changes();
        if changes.len() == 1 {
            match changes.pop() {
                Some(Change::Put(key, value)) => return Self::One(key, Some(value)),
                Some(Change::Delete(key)) => return Self::One(key, None),
                None => {}
            }
        }
        let mut many = sled::Batch::default();
        for change in changes {
            match change {
                Change::Put(key, value) => many.insert(key, value),
                Change::Delete(key) => many.remove(key),
            }
        }
        Self::Many(many)
    }

    fn apply(self, db: &sled::Db) -> sled::Result<()> {
        match self {
            Self::One(key, Some(value)) => db.insert(key, value).map(drop),
            Self::One(key, None) => db.remove(key).map(drop),
            Self::Many(batch) => db.apply_batch(batch),
        }
    }
}

struct Work {
    writes: Writes,
    done: oneshot::Sender<Result<(), KvError>>,
}

/// A key-value store on disk.
#[derive(Debug)]
pub struct DurableSled {
    db: Option<sled::Db>,
    work: Option<mpsc::Sender<Work>>,
    health: watch::Receiver<Health>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    nudger: Mutex<Option<Nudger>>,
    /// Dropped last: the folder is free only when everything else is closed.
    _lock: File,
}

impl DurableSled {
    /// Opens the store of `node` in `folder`, or makes one where the folder is empty or missing. Blocks on the disk.
    pub fn open(folder: &Path, node: &NodeName) -> Result<Self, OpenError> {
        Self::open_with(folder, node, Box::new(|file| file.sync_data()))
    }

    /// As [`DurableSled::open`], but trusts sled's flush alone: it exists so that a test can show what the sync prevents.
    #[doc(hidden)]
    pub fn open_without_sync(folder: &Path, node: &NodeName) -> Result<Self, OpenError> {
        Self::open_with(folder, node, Box::new(|_| Ok(())))
    }

    fn open_with(folder: &Path, node: &NodeName, sync: Sync) -> Result<Self, OpenError> {
        let damaged = |why: String| OpenError::Damaged { folder: folder.to_owned(), node: node.clone(), why };
        let failed = |error: io::Error| damaged(error.to_string());
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = lock(folder)?;
        let fresh = is_fresh(folder)?;
        let db = open_sled(folder).map_err(damaged)?;
        let prepared = || -> Result<File, OpenError> {
            check_owner(&db, folder, node, fresh)?;
            db.flush().map_err(|error| damaged(error.to_string()))?;
            let log = File::open(folder.join(SLED_LOG)).map_err(failed)?;
            log.sync_all().map_err(failed)?;
            if fresh {
                sync_folders(folder, parent).map_err(failed)?;
            }
            Ok(log)
        };
        let log = match prepared() {
            Ok(log) => log,
            Err(error) => {
                // sled syncs once more while it closes, and panics where that fails.
                drop(thread::spawn(move || drop(db)).join());
                return Err(error);
            }
        };

        let (work, waiting) = mpsc::channel(limits::COMMITS_WAITING);
        let (health_in, health) = watch::channel(Health::Good);
        let flushes = Arc::new(AtomicU64::new(0));
        let nudger = Nudger::start(db.clone(), flushes.clone()).map_err(failed)?;
        let writer = Writer { db: db.clone(), log, sync, flushes, health: health_in };
        let thread = thread::Builder::new().name("store".into()).spawn(move || writer.run(waiting)).map_err(failed)?;
        let (thread, nudger) = (Mutex::new(Some(thread)), Mutex::new(Some(nudger)));
        Ok(Self { db: Some(db), work: Some(work), health, thread, nudger, _lock: lock })
    }

    fn db(&self) -> Result<&sled::Db, KvError> {
        self.db.as_ref().ok_or(KvError::Closed)
    }
}

impl Drop for DurableSled {
    /// Finishes what was accepted and closes the files, so that the folder can be opened again at once.
    fn drop(&mut self) {
        self.work = None;
        self.db = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
        // Last: it wakes the other one where that hangs.
        let nudger = self.nudger.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(nudger) = nudger {
            nudger.stop();
        }
    }
}

/// Looks after flushes that hang: a second one sees the failure and wakes the first.
#[derive(Debug)]
struct Nudger {
    stop: std::sync::mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Nudger {
    /// `flushes` is odd while one is under way.
    fn start(db: sled::Db, flushes: Arc<AtomicU64>) -> io::Result<Self> {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = thread::Builder::new().name("store-nudger".into()).spawn(move || {
            let mut seen = 0;
            while stopped.recv_timeout(NUDGE_AFTER) == Err(RecvTimeoutError::Timeout) {
                let now = flushes.load(Ordering::SeqCst);
                if now == seen && now % 2 == 1 {
                    // What it returns, the one that hangs returns too.
                    drop(db.flush());
                }
                seen = now;
            }
        })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread that looks after the store's flushes panicked");
        }
    }
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let in_use = || OpenError::InUse { folder: folder.to_owned() };
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK_FILE));
    let file = file.map_err(|_| in_use())?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| in_use())?;
    Ok(file)
}

/// Whether the folder has no store yet; one with other files in it is refused.
fn is_fresh(folder: &Path) -> Result<bool, OpenError> {
    if folder.join(SLED_LOG).exists() {
        return Ok(false);
    }
    let others = fs::read_dir(folder).map(|entries| entries.flatten().any(|entry| entry.file_name() != LOCK_FILE));
    if matches!(others, Ok(false)) { Ok(true) } else { Err(OpenError::NotAStore { folder: folder.to_owned() }) }
}

/// How long sled may take to let go of its file after an earlier opening by this process failed: a thread of its own
/// drops it some time later.
const LET_GO: Duration = Duration::from_secs(2);

/// Opens sled. Our own lock is held already, so sled's can only be held by a leftover of this very process, which goes.
fn open_sled(folder: &Path) -> Result<sled::Db, String> {
    let mut waited = Duration::ZERO;
    loop {
        match try_open_sled(folder) {
            Err(why) if why.contains("could not acquire lock") && waited < LET_GO => {
                let pause = Duration::from_millis(20);
                thread::sleep(pause);
                waited += pause;
            }
            opened => return opened,
        }
    }
}

/// Opens sled on a thread of its own: on damage it has been seen to panic.
fn try_open_sled(folder: &Path) -> Result<sled::Db, String> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(limits::SLED_CACHE)
        .mode(sled::Mode::LowSpace)
        // Only the writer's thread flushes: a flush that nobody waits for has a failure that nobody hears of.
        .flush_every_ms(None);
    match thread::spawn(move || config.open()).join() {
        Ok(opened) => opened.map_err(|error| error.to_string()),
        Err(_) => Err("reading its log failed in an unforeseen way".to_owned()),
    }
}

fn check_owner(db: &sled::Db, folder: &Path, node: &NodeName, fresh: bool) -> Result<(), OpenError> {
    let damaged = |why: String| OpenError::Damaged { folder: folder.to_owned(), node: node.clone(), why };
    let read = |key| db.get(key).map_err(|error: sled::Error| damaged(error.to_string()));
    match (read(FORMAT_KEY)?, read(NODE_KEY)?) {
        // A creation that was cut short has left no key at all: nothing was ever answered from it.
        (None, None) if fresh || db.is_empty() => {
            let mut batch = sled::Batch::default();
            batch.insert(FORMAT_KEY, &FORMAT.to_be_bytes());
            batch.insert(NODE_KEY, node.as_str().as_bytes());
            db.apply_batch(batch).map_err(|error| damaged(error.to_string()))
        }
        (Some(format), Some(owner)) if *format == FORMAT.to_be_bytes() => {
            if *owner == *node.as_str().as_bytes() {
                return Ok(());
            }
            let owner = String::from_utf8_lossy(&owner).into_owned();
            Err(OpenError::OtherNode { folder: folder.to_owned(), owner, node: node.clone() })
        }
        (format, _) => {
            let number = format.as_deref().and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
            let found = number.map_or("of no known kind".to_owned(), |number| number.to_string());
            Err(OpenError::OtherFormat { folder: folder.to_owned(), found })
        }
    }
}

/// Makes the names of a new store durable: its files, its folder, and the folder's own entry.
fn sync_folders(folder: &Path, parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()?;
    File::open(parent)?.sync_all()
}

/// The one thread that writes.
struct Writer {
    db: sled::Db,
    log: File,
    sync: Sync,
    /// Odd while a flush is under way.
    flushes: Arc<AtomicU64>,
    health: watch::Sender<Health>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if thread::panicking() {
            self.health.send_replace(Health::Poisoned("the store's thread panicked".to_owned()));
        }
    }
}

impl Writer {
    fn run(self, mut waiting: mpsc::Receiver<Work>) {
        let mut failure: Option<KvError> = None;
        let mut answers = Vec::new();
        while let Some(first) = waiting.blocking_recv() {
            let mut next = Some(first);
            while let Some(work) = next {
                if failure.is_none() {
                    failure = work.writes.apply(&self.db).err().map(|error| self.poison("write", &error.to_string()));
                }
                answers.push(work.done);
                next = if answers.len() < limits::COMMITS_TOGETHER { waiting.try_recv().ok() } else { None };
            }
            if failure.is_none() {
                failure = self.make_durable().err().map(|why| self.poison("sync", &why));
            }
            for answer in answers.drain(..) {
                // A caller that gave up does not hear of it; the write stands all the same.
                let _ = answer.send(failure.clone().map_or(Ok(()), Err));
            }
        }
    }

    fn make_durable(&self) -> Result<(), String> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let flushed = self.db.flush();
        self.flushes.fetch_add(1, Ordering::SeqCst);
        flushed.map_err(|error| error.to_string())?;
        if planted::is(Bug::StoreSyncSkipped) {
            return Ok(());
        }
        (self.sync)(&self.log).map_err(|error| error.to_string())
    }

    fn poison(&self, step: &str, why: &str) -> KvError {
        let why = format!("{step} failed: {why}");
        tracing::error!(%why, "the store takes nothing more");
        self.health.send_replace(Health::Poisoned(why.clone()));
        KvError::Poisoned(why)
    }
}

#[async_trait]
impl Kv for DurableSled {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let value = self.db()?.get(key).map_err(|error| KvError::Read(error.to_string()))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], bound: usize) -> Result<Vec<Pair>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let pairs = self.db()?.range(from..to).take(bound);
        pairs
            .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<_, _>>()
            .map_err(|error: sled::Error| KvError::Read(error.to_string()))
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, KvError> {
        if from >= to {
            return Ok(None);
        }
        let pair = self.db()?.range(from..to).next_back().transpose();
        let pair = pair.map_err(|error| KvError::Read(error.to_string()))?;
        Ok(pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    async fn commit(&self, batch: Batch) -> Result<(), KvError> {
        if let Health::Poisoned(why) = &*self.health.borrow() {
            return Err(KvError::Poisoned(why.clone()));
        }
        let (done, answer) = oneshot::channel();
        let work = self.work.as_ref().ok_or(KvError::Closed)?;
        work.send(Work { writes: Writes::of(batch), done }).await.map_err(|_| KvError::Closed)?;
        answer.await.map_err(|_| KvError::Closed)?
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

#[cfg(test)]
#[path = "durable_sled_tests.rs"]
mod tests;
