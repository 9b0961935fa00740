//! How many replicas of one primary cluster this node applies change sets to at once: `apply_vm_limit`, as it stands at
//! the moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_proto::id::Fqdn;

/// How often a waiting applier looks at the limit again, which may have been raised meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How many replicas are being applied, by primary cluster.
#[derive(Clone, Debug, Default)]
pub struct Applying(Arc<(Mutex<BTreeMap<Fqdn, usize>>, Condvar)>);

/// One place among those of a primary cluster, free again when dropped.
#[derive(Debug)]
pub struct Place(Applying, Fqdn);

impl Applying {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<Fqdn, usize>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for a replica of `primary`; `limit` is asked anew each time, and `None` means that there is no
    /// bound. Blocks.
    pub fn enter(&self, primary: &Fqdn, limit: impl Fn() -> Option<usize>) -> Place {
        let mut counts = self.counts();
        while limit().is_some_and(|limit| counts.get(primary).is_some_and(|count| *count >= limit.max(1))) {
            let waited = self.0.1.wait_timeout(counts, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner);
            counts = waited.0;
        }
        *counts.entry(primary.clone()).or_default() += 1;
        drop(counts);
        Place(self.clone(), primary.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
        drop(counts);
        // Whoever is woken may wait for a place of another cluster.
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn no_more_than_the_limit_apply_at_once_for_each_primary() {
        let applying = Applying::default();
        let [one, other]: [Fqdn; 2] = ["p.contoso.com", "q.contoso.com"].map(|cap| cap.parse().unwrap());
        let first = applying.enter(&one, || Some(1));
        // Another primary's replicas do not wait for this one's: here there would be nobody to wake it.
        let beside = applying.enter(&other, || Some(1));
        let (entered, heard) = mpsc::channel();
        let (waiter, cap) = (applying.clone(), one.clone());
        let waiting = std::thread::spawn(move || {
            let place = waiter.enter(&cap, || Some(1));
            entered.send(()).unwrap();
            drop(place);
        });
        assert!(heard.try_recv().is_err());
        assert_eq!(applying.counts()[&one], 1);
        drop(first);
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
        waiting.join().unwrap();
        drop(beside);
        assert!(applying.counts().is_empty());
    }
}
