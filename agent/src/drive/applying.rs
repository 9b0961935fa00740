//! How many replicas this node applies change sets to at once: `apply_vm_limit`, as it stands at the moment.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting applier looks at the limit again, which may have been raised meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The replicas that are being applied.
#[derive(Clone, Debug, Default)]
pub struct Applying(Arc<(Mutex<usize>, Condvar)>);

/// One place among them, free again when dropped.
#[derive(Debug)]
pub struct Place(Applying);

impl Applying {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place; `limit` is asked anew each time, and `None` means that there is no bound. Blocks.
    pub fn enter(&self, limit: impl Fn() -> Option<usize>) -> Place {
        let mut count = self.count();
        while limit().is_some_and(|limit| *count >= limit.max(1)) {
            let waited = self.0.1.wait_timeout(count, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner);
            count = waited.0;
        }
        *count += 1;
        drop(count);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.0.1.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn no_more_than_the_limit_apply_at_once() {
        let applying = Applying::default();
        let first = applying.enter(|| Some(1));
        let (entered, heard) = mpsc::channel();
        let other = applying.clone();
        let waiting = std::thread::spawn(move || {
            let place = other.enter(|| Some(1));
            entered.send(()).unwrap();
            drop(place);
        });
        assert!(heard.try_recv().is_err());
        assert_eq!(*applying.count(), 1);
        drop(first);
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
        waiting.join().unwrap();
        assert_eq!(*applying.count(), 0);
    }
}
