//! A key-value store in memory that models what a sync means: until a commit has returned, a power cut loses it.
//!
//! No threads and no clock but tokio's, so that a simulator that pauses time replays it exactly.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::kv::{Batch, Change, Health, Kv, KvError, Pair};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store in memory. Clones are handles on the same store.
#[derive(Clone, Debug)]
pub struct MemoryKv {
    inner: Arc<Mutex<Inner>>,
    health: watch::Sender<Health>,
    hung: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What reads see.
    live: Map,
    /// What a power cut leaves.
    durable: Map,
    /// Accepted but not durable, in order, each with its ticket.
    waiting: VecDeque<(u64, Batch)>,
    /// The ticket of the next commit.
    next: u64,
    /// Power cuts so far: a commit of an earlier life has failed.
    life: u64,
    /// How long a sync takes.
    latency: Duration,
    /// Syncs that succeed before one fails.
    fail_after: Option<u64>,
    poisoned: Option<String>,
}

impl Default for MemoryKv {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryKv {
    /// An empty store whose syncs take no time.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner::default())),
            health: watch::channel(Health::Good).0,
            hung: watch::channel(false).0,
        }
    }

    /// Cuts the power: everything that is not durable is gone, commits under way fail, a failed disk works again.
    pub fn cut(&self) {
        let mut inner = self.lock();
        inner.live = inner.durable.clone();
        inner.waiting.clear();
        inner.life += 1;
        inner.fail_after = None;
        inner.poisoned = None;
        drop(inner);
        self.health.send_replace(Health::Good);
        self.hung.send_replace(false);
    }

    /// Makes every later sync take `latency`.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Makes the sync after the next `successes` fail, and with it the store.
    pub fn fail_sync_after(&self, successes: u64) {
        self.lock().fail_after = Some(successes);
    }

    /// Makes syncs hang until this is called with `false`, or the power is cut.
    pub fn hang(&self, hung: bool) {
        self.hung.send_replace(hung);
    }

    /// What would be left after a power cut.
    pub fn durable(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.lock().durable.clone()
    }

    /// Puts an earlier [`MemoryKv::durable`] in the place of everything, as an operator who copies a folder back does.
    pub fn put_back(&self, copy: BTreeMap<Vec<u8>, Vec<u8>>) {
        self.lock().durable = copy;
        self.cut();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn check(&self) -> Result<(), KvError> {
        match &self.poisoned {
            Some(why) => Err(KvError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    /// The sync of ticket `mine` returned: everything accepted up to it is durable, unless this is the one to fail.
    fn synced(&mut self, mine: u64) -> Result<(), KvError> {
        self.check()?;
        match &mut self.fail_after {
            Some(0) => {
                self.poisoned = Some("sync failed: Input/output error".to_owned());
                self.check()?;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        while let Some((ticket, batch)) = self.waiting.pop_front() {
            if ticket > mine {
                self.waiting.push_front((ticket, batch));
                break;
            }
            apply(&mut self.durable, batch);
        }
        Ok(())
    }
}

fn apply(map: &mut Map, batch: Batch) {
    for change in batch.into_changes() {
        match change {
            Change::Put(key, value) => drop(map.insert(key, value)),
            Change::Delete(key) => drop(map.remove(&key)),
        }
    }
}

#[async_trait]
impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.lock().live.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], bound: usize) -> Result<Vec<Pair>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let inner = self.lock();
        let range = inner.live.range(from.to_vec()..to.to_vec());
        Ok(range.take(bound).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, KvError> {
        if from >= to {
            return Ok(None);
        }
        let inner = self.lock();
        Ok(inner.live.range(from.to_vec()..to.to_vec()).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    async fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let (life, mine, latency) = {
            let mut inner = self.lock();
            inner.check()?;
            let mine = inner.next;
            inner.next += 1;
            apply(&mut inner.live, batch.clone());
            inner.waiting.push_back((mine, batch));
            (inner.life, mine, inner.latency)
        };
        if latency > Duration::ZERO {
            tokio::time::sleep(latency).await;
        } else {
            tokio::task::yield_now().await;
        }
        let mut hung = self.hung.subscribe();
        if hung.wait_for(|hung| !hung).await.is_err() {
            return Err(KvError::Closed);
        }
        let mut inner = self.lock();
        if inner.life != life {
            return Err(KvError::Closed);
        }
        let result = inner.synced(mine);
        if let (Err(_), Some(why)) = (&result, &inner.poisoned) {
            self.health.send_replace(Health::Poisoned(why.clone()));
        }
        result
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Batch {
        let mut batch = Batch::new();
        batch.put(key, value);
        batch
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_drops_what_has_not_returned_and_keeps_what_has() {
        let kv = MemoryKv::new();
        kv.set_latency(Duration::from_millis(10));
        kv.commit(put("a", "1")).await.unwrap();
        let other = kv.clone();
        let pending = tokio::spawn(async move { other.commit(put("b", "2")).await });
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(kv.get(b"b").unwrap(), Some(b"2".to_vec()), "reads see what is accepted");
        kv.cut();
        assert_eq!(kv.get(b"b").unwrap(), None);
        assert_eq!(kv.get(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(pending.await.unwrap(), Err(KvError::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_sync_nothing_more_is_taken() {
        let kv = MemoryKv::new();
        let mut health = kv.health();
        kv.fail_sync_after(1);
        kv.commit(put("a", "1")).await.unwrap();
        assert!(matches!(kv.commit(put("b", "2")).await, Err(KvError::Poisoned(_))));
        assert!(matches!(kv.commit(put("c", "3")).await, Err(KvError::Poisoned(_))));
        health.wait_for(|health| *health != Health::Good).await.unwrap();
        kv.cut();
        assert_eq!(kv.durable().len(), 1);
    }
}
